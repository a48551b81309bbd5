/** The ops of the forward pass against their definitions in float64, on every instruction set and thread count of this machine. */
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { addBiasReference } from '../../native/ops/add-bias/reference.js'
import { argmaxReference } from '../../native/ops/argmax/reference.js'
import { attentionReference } from '../../native/ops/attention/reference.js'
import { crossEntropyReference } from '../../native/ops/cross-entropy/reference.js'
import { embedReference } from '../../native/ops/embed/reference.js'
import { klDivergenceReference } from '../../native/ops/kl-divergence/reference.js'
import { rmsnormReference } from '../../native/ops/rmsnorm/reference.js'
import { ropeReference } from '../../native/ops/rope/reference.js'
import { siluMulReference } from '../../native/ops/silu-mul/reference.js'
import { affordable, check, everyDevice, gaussian, uniform, values, withTensors } from './devices.js'
import { testDevice } from '../helpers.js'

const integers = (length: number, below: number, seed: number): Int32Array => {
  const next = uniform(seed)
  return Int32Array.from({ length }, () => Math.floor(next() * below))
}

t.test('embed: rows of the table', async t => {
  for (const [v, d, n] of affordable(
    [
      [1, 1, 1],
      [2, 3, 5],
      [257, 64, 130],
    ] as const,
    ([, d, n]) => d * n,
  )) {
    const [table, ids] = [gaussian(v * d, 1), integers(n, v, 2)]
    await check(
      t,
      `v=${v} d=${d} t=${n}`,
      ops =>
        withTensors(
          ops,
          [
            [table, [v, d]],
            [ids, [n]],
          ],
          (a, b) => ops.embed(a!, b!),
        ),
      embedReference(table, ids, d),
      0,
    )
  }
})

t.test('rmsnorm: whole rows, and heads of a row', async t => {
  for (const [rows, n, w] of affordable(
    [
      [1, 1, 1],
      [3, 7, 7],
      [5, 64, 16],
      [130, 688, 688],
      [9, 96, 32],
    ] as const,
    ([rows, n]) => rows * n,
  )) {
    const [x, weight] = [gaussian(rows * n, 1), gaussian(w, 2)]
    await check(
      t,
      `[${rows}, ${n}] by ${w}`,
      ops =>
        withTensors(
          ops,
          [
            [x, [rows, n]],
            [weight, [w]],
          ],
          (a, b) => ops.rmsnorm(a!, b!, { eps: 1e-5 }),
        ),
      rmsnormReference(x, weight, 1e-5),
      1e-13,
    )
  }
})

t.test('addBias', async t => {
  for (const [rows, n] of affordable(
    [
      [1, 1],
      [3, 5],
      [301, 344],
    ] as const,
    ([rows, n]) => rows * n,
  )) {
    const [x, bias] = [gaussian(rows * n, 1), gaussian(n, 2)]
    await check(
      t,
      `[${rows}, ${n}]`,
      ops =>
        withTensors(
          ops,
          [
            [x, [rows, n]],
            [bias, [n]],
          ],
          (a, b) => ops.addBias(a!, b!),
        ),
      addBiasReference(x, bias),
      1e-14,
    )
  }
})

t.test('rope: every position, several heads', async t => {
  for (const [n, heads, e] of affordable(
    [
      [1, 1, 2],
      [7, 3, 6],
      [200, 8, 32],
    ] as const,
    ([n, heads, e]) => n * heads * e,
  )) {
    const angles = gaussian(n * (e / 2), 3)
    const [x, cos, sin, positions] = [gaussian(n * heads * e, 1), angles.map(Math.cos), angles.map(Math.sin), integers(n, n, 4)]
    await check(
      t,
      `t=${n} heads=${heads} e=${e}`,
      ops =>
        withTensors(
          ops,
          [
            [x, [n, heads * e]],
            [cos, [n, e / 2]],
            [sin, [n, e / 2]],
            [positions, [n]],
          ],
          (a, b, c, d) => ops.rope(a!, b!, c!, d!, { heads }),
        ),
      ropeReference(x, cos, sin, positions, heads),
      1e-13,
    )
  }
})

t.test('attention: lengths around the blocks, groups, windows, several sequences', async t => {
  const cases = [
    { sequences: 1, length: 1, heads: 1, kvHeads: 1, e: 1 },
    { sequences: 2, length: 2, heads: 2, kvHeads: 1, e: 3 },
    { sequences: 1, length: 31, heads: 4, kvHeads: 2, e: 8 },
    { sequences: 3, length: 32, heads: 2, kvHeads: 2, e: 24 },
    { sequences: 1, length: 33, heads: 3, kvHeads: 1, e: 16 },
    { sequences: 2, length: 129, heads: 8, kvHeads: 4, e: 32 },
    { sequences: 2, length: 100, heads: 2, kvHeads: 1, e: 20, window: 1 },
    { sequences: 1, length: 100, heads: 2, kvHeads: 1, e: 17, window: 37 },
    { sequences: 1, length: 65, heads: 2, kvHeads: 2, e: 64, window: 1000 },
  ]
  for (const { sequences, ...shape } of affordable(cases, ({ length, heads, e }) => (length * length * heads * e) / 20)) {
    const { length, heads, kvHeads, e } = shape
    const rows = sequences * length
    const [q, k, v] = [gaussian(rows * heads * e, 1), gaussian(rows * kvHeads * e, 2), gaussian(rows * kvHeads * e, 3)]
    const scale = 1 / Math.sqrt(e)
    await check(
      t,
      JSON.stringify({ sequences, ...shape }),
      ops =>
        withTensors(
          ops,
          [
            [q, [rows, heads * e]],
            [k, [rows, kvHeads * e]],
            [v, [rows, kvHeads * e]],
          ],
          (a, b, c) => ops.attention(a!, b!, c!, { ...shape, scale }),
        ),
      attentionReference(q, k, v, { ...shape, scale }),
      1e-12,
    )
  }
})

t.test('attention of queries that go on after rows of a cache', async t => {
  const cases = [
    { length: 1, before: 1, row: 0, heads: 1, kvHeads: 1, e: 1 },
    { length: 5, before: 27, row: 3, heads: 4, kvHeads: 2, e: 8 },
    { length: 33, before: 64, row: 7, heads: 2, kvHeads: 1, e: 17 },
    { length: 70, before: 31, row: 100, heads: 2, kvHeads: 2, e: 64 },
    { length: 70, before: 150, row: 1, heads: 3, kvHeads: 1, e: 20, window: 33 },
    { length: 40, before: 90, row: 0, heads: 2, kvHeads: 2, e: 32, window: 1 },
    { length: 3, before: 200, row: 9, heads: 8, kvHeads: 2, e: 128, window: 1000 },
  ]
  for (const { length, before, row, ...shape } of cases) {
    const { heads, kvHeads, e } = shape
    const held = row + before + length + 2 // what stands behind is not read
    const [q, k, v] = [gaussian(length * heads * e, 1), gaussian(held * kvHeads * e, 2), gaussian(held * kvHeads * e, 3)]
    for (const x of [k, v]) x.fill(Number.NaN, 0, row * kvHeads * e).fill(Number.NaN, (held - 2) * kvHeads * e)
    const scale = 1 / Math.sqrt(e)
    for (const dtype of ['f32', 'bf16'] as const)
      await check(
        t,
        JSON.stringify({ length, before, row, ...shape, dtype }),
        ops =>
          withTensors(
            ops,
            [
              [q, [length, heads * e]],
              [k, [held, kvHeads * e]],
              [v, [held, kvHeads * e]],
            ],
            (a, b, c) => {
              using wq = ops.cast(a!, dtype)
              using wk = ops.cast(b!, dtype)
              using wv = ops.cast(c!, dtype)
              return ops.attention(wq, wk, wv, { ...shape, length, scale, dtype: 'f32', after: { row, before } })
            },
          ),
        attentionReference(q, k, v, { ...shape, length, before, row, scale }),
        dtype === 'f32' ? 1e-12 : 1e-4,
      )
  }
  const ops = await openBackend(testDevice)
  using x = ops.zeros('f32', [4, 8])
  const shape = { heads: 1, kvHeads: 1, scale: 1 }
  t.throws(() => ops.attention(x, x, x, { ...shape, length: 4, after: { row: 0, before: 1 } }), {
    message: 'attention: 4 rows after 1 from 0 on are more than the 4 of k and v',
  })
  t.throws(() => ops.attention(x, x, x, { ...shape, length: 2, after: { row: 0, before: 0 } }), RangeError)
  t.throws(() => ops.attention(x, x, x, { ...shape, length: 4, after: { row: -1, before: 0 } }), RangeError)
})

t.test('attention: large scores do not overflow', async t => {
  const [q, k, v] = [gaussian(40 * 8, 1).map(x => x * 100), gaussian(40 * 8, 2).map(x => x * 3), gaussian(40 * 8, 3)]
  const shape = { heads: 1, kvHeads: 1, e: 8, length: 40, scale: 1 }
  // The definition takes e^score as it is; shifting the scores of a query changes nothing but that.
  const expected = new Float64Array(40 * 8)
  for (let i = 0; i < 40; i++) {
    const scores = Array.from({ length: i + 1 }, (_, j) =>
      Array.from({ length: 8 }, (_, l) => q[i * 8 + l]! * k[j * 8 + l]!).reduce((a, b) => a + b, 0),
    )
    const max = Math.max(...scores)
    const weights = scores.map(score => Math.exp(score - max))
    const sum = weights.reduce((a, b) => a + b, 0)
    for (const [j, weight] of weights.entries())
      for (let l = 0; l < 8; l++) expected[i * 8 + l] = expected[i * 8 + l]! + (weight / sum) * v[j * 8 + l]!
  }
  await check(
    t,
    'scores of hundreds',
    ops =>
      withTensors(
        ops,
        [
          [q, [40, 8]],
          [k, [40, 8]],
          [v, [40, 8]],
        ],
        (a, b, c) => ops.attention(a!, b!, c!, shape),
      ),
    expected,
    1e-8,
  ) // f32 scores of hundreds are good to 1e-5
})

t.test('siluMul', async t => {
  for (const n of affordable([1, 2, 15, 511, 513, 70000], n => n)) {
    const [gate, up] = [gaussian(n, 1).map(x => 10 * x), gaussian(n, 2)]
    await check(
      t,
      `n=${n}`,
      ops =>
        withTensors(
          ops,
          [
            [gate, [n]],
            [up, [n]],
          ],
          (a, b) => ops.siluMul(a!, b!),
        ),
      siluMulReference(gate, up),
      1e-13,
    )
  }
})

t.test('crossEntropy and klDivergence', async t => {
  for (const [n, v] of affordable(
    [
      [1, 1],
      [3, 2],
      [5, 513],
      [40, 2049],
    ] as const,
    ([n, v]) => n * v,
  )) {
    const [p, q, targets] = [gaussian(n * v, 1).map(x => 5 * x), gaussian(n * v, 2).map(x => 5 * x), integers(n, v, 3)]
    if (n > 1) targets[1] = -1
    await check(
      t,
      `cross-entropy [${n}, ${v}]`,
      ops =>
        withTensors(
          ops,
          [
            [p, [n, v]],
            [targets, [n]],
          ],
          (a, b) => ops.crossEntropy(a!, b!),
        ),
      crossEntropyReference(p, targets),
      1e-13,
    )
    await check(
      t,
      `KL [${n}, ${v}]`,
      ops =>
        withTensors(
          ops,
          [
            [p, [n, v]],
            [q, [n, v]],
          ],
          (a, b) => ops.klDivergence(a!, b!),
        ),
      klDivergenceReference(p, q, v),
      1e-13,
    )
    await check(
      t,
      `KL of equal rows [${n}, ${v}]`,
      ops => withTensors(ops, [[p, [n, v]]], a => ops.klDivergence(a!, a!)),
      new Float64Array(n),
      0,
    )
  }
})

t.test('argmax: of equal elements the first, NaN never', async t => {
  for (const [n, v] of affordable(
    [
      [1, 1],
      [3, 2],
      [70, 515],
      [3, 40_000],
    ] as const,
    ([n, v]) => n * v,
  )) {
    const x = gaussian(n * v, 1).map(z => Math.round(4 * z)) // many are equal
    const special = n > 1
    if (special) {
      x.fill(Number.NaN, 0, v)
      x.fill(Number.NEGATIVE_INFINITY, v, 2 * v)
      x[2 * v] = Number.NaN
    }
    await check(t, `[${n}, ${v}]`, ops => withTensors(ops, [[x, [n, v]]], a => ops.argmax(a!)), argmaxReference(x, v), 0)
  }
})

t.test('KL of nearly equal rows keeps its precision', async t => {
  const p = gaussian(8 * 1000, 1)
  const noise = gaussian(8 * 1000, 2)
  const q = p.map((x, i) => x + 0.01 * noise[i]!)
  await check(
    t,
    'KL around 5e-5',
    ops =>
      withTensors(
        ops,
        [
          [p, [8, 1000]],
          [q, [8, 1000]],
        ],
        (a, b) => ops.klDivergence(a!, b!),
      ),
    klDivergenceReference(p, q, 1000),
    1e-6,
  )
})

t.test('NaN goes in, NaN comes out', async t => {
  for (const [name, ops] of await everyDevice()) {
    const x = gaussian(40 * 16, 1)
    x[5] = Number.NaN
    using a = ops.tensor(x, [40, 16])
    using b = ops.attention(a, a, a, { heads: 1, kvHeads: 1, length: 40, scale: 1 })
    using c = ops.siluMul(a, a)
    t.ok((await values(b)).some(Number.isNaN), `${name}: attention`)
    t.ok(Number.isNaN((await values(c))[5]), `${name}: siluMul`)
  }
})

t.test('wrong arguments are refused with a sentence', async t => {
  const ops = await openBackend(testDevice)
  const x = ops.zeros('f32', [6, 8])
  t.throws(() => ops.attention(x, x, x, { heads: 3, kvHeads: 1, length: 6, scale: 1 }), {
    message: 'attention: 8 columns, 3 heads, 1 of keys do not divide',
  })
  t.throws(() => ops.attention(x, x, x, { heads: 2, kvHeads: 2, length: 4, scale: 1 }), {
    message: 'attention: 6 rows are no whole number of sequences of 4',
  })
  t.throws(() => ops.rmsnorm(x, ops.zeros('f32', [3]), { eps: 1 }), { message: "rmsnorm: rows of 8 can't be cut into groups of 3" })
  t.throws(() => ops.addBias(x, ops.zeros('f32', [7])), { message: 'addBias: bias must be f32 [8], got f32 [7]' })
  const embedded = ops.embed(x, ops.tensor(Int32Array.of(0, 6), [2]))
  await t.rejects(embedded.read(), { message: /token 1 is 6, and the table has 6 rows/ })
  const loss = ops.crossEntropy(x, ops.tensor(Int32Array.of(0, 1, 2, 8, 3, 4), [6]))
  await t.rejects(loss.read(), { message: /target 3 is 8, and there are 8 logits/ })
  const turned = ops.rope(x, ops.zeros('f32', [2, 2]), ops.zeros('f32', [2, 2]), ops.tensor(Int32Array.of(0, 1, 2, 0, 0, 0), [6]), {
    heads: 2,
  })
  await t.rejects(turned.read(), { message: /row 2 is at position 2, and there are cosines for 2/ })
})
