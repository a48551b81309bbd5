import {
  concat,
  EMPTY,
  firstValueFrom,
  from,
  lastValueFrom,
  NEVER,
  Observable,
  type OperatorFunction,
  of,
  take,
  throwError,
  toArray,
} from 'rxjs'
import t from 'tap'
import { each, fold, runs, spread } from '../../pipeline/define.js'

interface R {
  key: string
  role: string
  value: number
}
const row = (key: string, value: number, role = 'linear'): R => ({ key, role, value })
const collect = <A, B>(rows: A[], operator: OperatorFunction<A, B>): Promise<B[]> => lastValueFrom(from(rows).pipe(operator, toArray()))
const later = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))
const boom = new Error('boom')

/** A source that knows whether somebody still listens. */
const watched = <A>(...rows: A[]): { source: Observable<A>; ended: () => boolean } => {
  let ended = false
  const source = new Observable<A>(out => {
    for (const r of rows) out.next(r)
    return () => {
      ended = true
    }
  })
  return { source, ended: () => ended }
}

const operators: [name: string, operator: (f: (r: R) => void) => OperatorFunction<R, unknown>][] = [
  [
    'each',
    f =>
      each(async (r: R) => {
        f(r)
        return r
      }),
  ],
  [
    'each, concurrency 3',
    f =>
      each({ concurrency: 3 }, async (r: R) => {
        f(r)
        return r
      }),
  ],
  [
    'spread',
    f =>
      spread(async function* (r: R) {
        f(r)
        yield r
      }),
  ],
  [
    'fold',
    f =>
      fold(
        { key: (r: R) => r.key },
        {
          zero: () => 0,
          step: (_, r) => {
            f(r)
          },
          end: s => s,
        },
      ),
  ],
  [
    'fold by role',
    f =>
      fold(
        { key: (r: R) => r.key, role: 'x' },
        {
          zero: () => 0,
          step: () => 1,
          end: (s, r) => {
            f(r)
            return s
          },
        },
      ),
  ],
  [
    'runs',
    f =>
      runs((r: R) => {
        f(r)
        return r.key
      }),
  ],
]
for (const [name, operator] of operators) {
  t.test(`${name}: empty, errors, unsubscription`, async t => {
    t.same(
      await collect(
        [],
        operator(() => {}),
      ),
      [],
      'nothing gives nothing',
    )
    const failing = concat(
      of(row('a', 1, 'x'), row('a', 1)),
      throwError(() => boom),
    ).pipe(operator(() => {}))
    await t.rejects(lastValueFrom(failing), boom, 'an error of the source comes through')
    const throwing = from([row('a', 1, 'x'), row('a', 1)]).pipe(
      operator(() => {
        throw boom
      }),
    )
    await t.rejects(lastValueFrom(throwing), boom, 'an error of the callback comes through')
    const { source, ended } = watched(row('a', 1, 'x'), row('a', 2), row('b', 3, 'x'), row('b', 4), row('c', 5))
    await firstValueFrom(source.pipe(operator(() => {})))
    t.ok(ended(), 'unsubscribing ends the source')
  })
}

t.test('each', async t => {
  t.test('keeps order at any concurrency, and never exceeds it', async t => {
    for (const concurrency of [1, 2, 5]) {
      let now = 0
      let most = 0
      const out = await collect(
        [0, 1, 2, 3, 4, 5, 6].map(i => row('a', i)),
        each({ concurrency }, async r => {
          most = Math.max(most, ++now)
          await later((7 - r.value) * 2)
          now--
          return r.value
        }),
      )
      t.same(out, [0, 1, 2, 3, 4, 5, 6])
      t.equal(most, concurrency)
    }
  })
  t.test('undefined drops the row, other roles pass', async t => {
    const rows = [row('a', 1), row('b', 2, 'kept'), row('c', 3)]
    t.same(
      await collect(
        rows,
        each({ role: 'linear' }, r => (r.value === 1 ? undefined : { ...r, value: -r.value })),
      ),
      [row('b', 2, 'kept'), row('c', -3)],
    )
  })
  t.test('starts nothing after unsubscription', async t => {
    let started = 0
    await lastValueFrom(
      from([1, 2, 3, 4].map(i => row('a', i))).pipe(
        each(async r => {
          started++
          return r
        }),
        take(1),
      ),
    )
    await later(5)
    t.equal(started, 1)
  })
})

t.test('spread', async t => {
  t.same(
    await collect(
      [2, 0, 3].map(n => row('a', n)),
      spread(async function* (r) {
        for (let i = 0; i < r.value; i++) yield i
      }),
    ),
    [0, 1, 0, 1, 2],
  )
  t.test('asks for the next value only after the last has been handed on', async t => {
    const log: string[] = []
    const numbers = spread(async function* (_: R) {
      for (let i = 0; i < 3; i++) {
        log.push(`make ${i}`)
        yield i
      }
    })
    await new Promise<void>(done =>
      from([row('a', 0)])
        .pipe(numbers)
        .subscribe({ next: i => log.push(`take ${i}`), complete: done }),
    )
    t.same(log, ['make 0', 'take 0', 'make 1', 'take 1', 'make 2', 'take 2'])
  })
  t.test('ends the generator at its yield when nobody listens any more', async t => {
    let cleaned = false
    let made = 0
    await lastValueFrom(
      of(row('a', 0)).pipe(
        spread(async function* () {
          try {
            for (;;) yield made++
          } finally {
            cleaned = true
          }
        }),
        take(2),
      ),
    )
    await later(5)
    t.ok(cleaned)
    t.equal(made, 2)
  })
})

t.test('fold', async t => {
  const sum = { zero: () => 0, step: (s: number, r: R) => s + r.value, end: (s: number, r: R) => ({ key: r.key, sum: s }) }
  const key = (r: R): string => r.key
  t.same(
    await collect([row('a', 1), row('a', 2), row('b', 5), row('a', 7)], fold({ key }, sum)),
    [
      { key: 'a', sum: 3 },
      { key: 'b', sum: 5 },
      { key: 'a', sum: 7 },
    ],
    'neighbours of one key',
  )
  t.test('by role: interleaved keys, each other row gets its state, rows without one pass', async t => {
    const rows = [
      row('k', 9, 'kept'),
      row('a', 1, 'x'),
      row('b', 10, 'x'),
      row('a', 2, 'x'),
      row('b', 20, 'x'),
      row('a', 0),
      row('a', 1),
      row('b', 0),
    ]
    t.same(await collect(rows, fold({ key, role: 'x' }, sum)), [
      row('k', 9, 'kept'),
      { key: 'a', sum: 3 },
      { key: 'a', sum: 3 },
      { key: 'b', sum: 30 },
    ])
  })
  t.test('states are disposed: when another key ends, at the end, on failure, on unsubscription', async t => {
    const disposed: string[] = []
    const disposing = {
      zero: (r: R) => ({
        [Symbol.dispose]: () => {
          disposed.push(r.key)
        },
      }),
      step: () => {},
      end: (_: unknown, r: R) => {
        if (r.value < 0) throw boom
        return [r.key, disposed.length]
      },
    }
    const rows = [row('a', 1, 'x'), row('b', 1, 'x'), row('c', 1, 'x'), row('a', 1), row('b', 1)]
    t.same(await collect(rows, fold({ key, role: 'x' }, disposing)), [
      ['a', 0],
      ['b', 1],
    ])
    t.same(disposed.splice(0), ['a', 'b', 'c'])
    await t.rejects(collect([...rows, row('b', -1)], fold({ key, role: 'x' }, disposing)), boom)
    t.same(disposed.splice(0).sort(), ['a', 'b', 'c'])
    await firstValueFrom(concat(from(rows), NEVER).pipe(fold({ key, role: 'x' }, disposing)))
    t.same(disposed.sort(), ['a', 'b', 'c'])
  })
})

t.test('runs', async t => {
  t.same(
    await collect(
      [1, 1, 2, 3, 3, 1],
      runs(x => x),
    ),
    [[1, 1], [2], [3, 3], [1]],
  )
  t.same(
    await lastValueFrom(
      EMPTY.pipe(
        runs(() => 'a'),
        toArray(),
      ),
    ),
    [],
  )
})
