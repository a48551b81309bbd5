/**
 * The operators stages are made of: each (row → row), spread (row → many), fold (rows of one key → one), runs
 * (neighbours of one key → an array). A stage may use any other RxJS; these keep order and never lose a row.
 */
import { Observable, type OperatorFunction } from 'rxjs'

export interface EachOptions {
  /** Only rows of this role are worked on; the others pass as they are. */
  readonly role?: string
  /** Rows worked on at the same time. Default 1. Order is kept at any. */
  readonly concurrency?: number
}

type Awaitable<T> = T | Promise<T>

/** Row → row, in order. `undefined` drops the row. */
export function each<A extends object, B>(f: (row: A) => Awaitable<B | undefined>): OperatorFunction<A, B>
export function each<A extends object, B>(options: EachOptions, f: (row: A) => Awaitable<B | undefined>): OperatorFunction<A, B>
export function each<A extends object, B>(
  ...args: [f: (row: A) => Awaitable<B | undefined>] | [options: EachOptions, f: (row: A) => Awaitable<B | undefined>]
): OperatorFunction<A, B> {
  const [{ role, concurrency = 1 }, f] = args.length === 1 ? [{}, args[0]] : args
  // A row that passes already is what the next table asks for; encoding the batch checks it.
  return inOrder(concurrency, async (row, emit) => {
    const out = roleOf(row) === role || role === undefined ? await f(row) : (row as unknown as B)
    if (out !== undefined) emit(out)
  })
}

/**
 * Row → many rows, by an async generator. The next value is asked for when the one before has been handed on; whoever
 * makes tensors in it waits for context.room first, as RxJS itself does not hold a producer back. On unsubscription the
 * generator is ended at its last yield, so that its `finally` and `using` run.
 */
export const spread = <A, B>(f: (row: A) => AsyncIterable<B>): OperatorFunction<A, B> =>
  inOrder(1, async (row, emit, stopped) => {
    for await (const value of f(row)) {
      if (stopped()) return
      emit(value)
      if (stopped()) return
    }
  })

export interface FoldOptions<A> {
  readonly key: (row: A) => string
  /**
   * Without: neighbours of one key become one row. With: rows of this role are taken in by key, keys may interleave,
   * and every row of another role comes out as `end` makes it from the state of its key (or passes, where there is none).
   */
  readonly role?: string
}

export interface Folding<A, S, B> {
  zero(row: A): Awaitable<S>
  /** Takes a row in; may return a new state. */
  step(state: S, row: A): Awaitable<S | undefined> | Awaitable<void>
  /** Without role: `row` is the last of its key. With role: called for each row of another role, the state being the same. */
  end(state: S, row: A): Awaitable<B>
}

/**
 * Rows of one key → one. A state with [Symbol.dispose] is disposed when its key is over: when another key ends (with
 * role), at the end, on failure, on unsubscription.
 */
export const fold =
  <A extends object, S, B>({ key, role }: FoldOptions<A>, { zero, step, end }: Folding<A, S, B>): OperatorFunction<A, B> =>
  source =>
    new Observable<B>(out => {
      const open = new Map<string, { state: S; last: A }>()
      let ending: string | undefined
      const close = (name: string): void => {
        const state = open.get(name)?.state as Partial<Disposable> | undefined
        open.delete(name)
        state?.[Symbol.dispose]?.()
      }
      const take = async (name: string, row: A): Promise<void> => {
        const before = open.get(name)
        const state = before === undefined ? await zero(row) : before.state
        open.set(name, { state, last: row })
        const next = await step(state, row)
        if (next !== undefined) open.set(name, { state: next as S, last: row })
      }
      const finish = async (emit: (row: B) => void): Promise<void> => {
        for (const [name, { state, last }] of [...open]) {
          if (role === undefined) emit(await end(state, last))
          close(name)
        }
      }
      const fold1 = inOrder<A, B>(
        1,
        async (row, emit) => {
          const name = key(row)
          if (role === undefined) {
            if (!open.has(name)) await finish(emit)
            return take(name, row)
          }
          if (roleOf(row) === role) return take(name, row)
          if (ending !== undefined && ending !== name) close(ending)
          const group = open.get(name)
          ending = group === undefined ? undefined : name
          emit(group === undefined ? (row as unknown as B) : await end(group.state, row))
        },
        finish,
      )
      const inner = fold1(source).subscribe(out)
      return () => {
        inner.unsubscribe()
        for (const name of [...open.keys()]) close(name)
      }
    })

/** Neighbours with one key → an array. Unlike groupBy, holds one group at a time and loses none. */
export const runs = <A>(key: (row: A) => string | number): OperatorFunction<A, A[]> => {
  return source =>
    new Observable<A[]>(out => {
      let group: A[] = []
      let name: string | number | undefined
      return source.subscribe({
        next: row => {
          let next: string | number
          try {
            next = key(row)
          } catch (error) {
            out.error(error)
            return
          }
          if (group.length > 0 && next !== name) {
            const done = group
            group = []
            out.next(done)
          }
          name = next
          group.push(row)
        },
        error: error => out.error(error),
        complete: () => {
          if (group.length > 0) out.next(group)
          out.complete()
        },
      })
    })
}

type Emit<B> = (row: B) => void

/**
 * f for every row, at most `concurrency` at a time; what row i emits comes out before what row i+1 emits. With
 * concurrency 1 values come out at once, with more they wait for the rows before them.
 */
function inOrder<A, B>(
  concurrency: number,
  f: (row: A, emit: Emit<B>, stopped: () => boolean) => Promise<void>,
  atEnd?: (emit: Emit<B>) => Promise<void>,
): OperatorFunction<A, B> {
  return source =>
    new Observable<B>(out => {
      const waiting: A[] = []
      const lanes: { values: B[]; done: boolean }[] = []
      let running = 0
      let ended = false

      const drain = (): void => {
        for (let first = lanes[0]; first !== undefined; first = lanes[0]) {
          for (const value of first.values.splice(0)) out.next(value)
          if (!first.done) return
          lanes.shift()
        }
      }
      const start = (row: A): void => {
        const lane = { values: [] as B[], done: false }
        lanes.push(lane)
        running++
        const emit = (value: B): void => {
          lane.values.push(value)
          if (lanes[0] === lane) drain()
        }
        run(f, row, emit).then(
          () => {
            running--
            lane.done = true
            drain()
            advance()
          },
          error => out.error(error),
        )
      }
      const run = async (g: typeof f, row: A, emit: Emit<B>): Promise<void> => g(row, emit, () => out.closed)
      const advance = (): void => {
        while (running < concurrency && waiting.length > 0 && !out.closed) start(waiting.shift() as A)
        if (!ended || running > 0 || waiting.length > 0 || out.closed) return
        if (atEnd === undefined) out.complete()
        else
          atEnd(value => out.next(value)).then(
            () => out.complete(),
            error => out.error(error),
          )
      }
      const inner = source.subscribe({
        next: row => {
          waiting.push(row)
          advance()
        },
        error: error => out.error(error),
        complete: () => {
          ended = true
          advance()
        },
      })
      return () => {
        inner.unsubscribe()
        waiting.length = 0
      }
    })
}

const roleOf = (row: object): unknown => (row as { role?: unknown }).role
