/**
 * The ops of training. Each definition in float64 against central differences of what it is the gradient of, and each op
 * against its definition: on every instruction set and thread count, to the same bits every time.
 */
import t, { type Test } from 'tap'
import { openBackend } from '../../native/index.js'
import { adamReference } from '../../native/ops/adam/reference.js'
import { attentionReference } from '../../native/ops/attention/reference.js'
import { attentionBackwardReference } from '../../native/ops/attention-backward/reference.js'
import { columnDotsReference } from '../../native/ops/column-dots/reference.js'
import { crossEntropyReference } from '../../native/ops/cross-entropy/reference.js'
import { crossEntropyGradientReference } from '../../native/ops/cross-entropy-gradient/reference.js'
import { klDivergenceReference } from '../../native/ops/kl-divergence/reference.js'
import { klGradientReference } from '../../native/ops/kl-gradient/reference.js'
import { rmsnormReference } from '../../native/ops/rmsnorm/reference.js'
import { rmsnormBackwardReference } from '../../native/ops/rmsnorm-backward/reference.js'
import { siluMulReference } from '../../native/ops/silu-mul/reference.js'
import { siluMulBackwardReference } from '../../native/ops/silu-mul-backward/reference.js'
import { tableGradientReference } from '../../native/ops/table-gradient/reference.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { testDevice } from '../helpers.js'
import { affordable, checkAll, everyDevice, gaussian, nmse, uniform, values, withTensors } from './devices.js'

const devices = await everyDevice()

/** ∂f/∂x by central differences. */
const slopes = (x: ArrayLike<number>, f: (x: Float64Array) => number): Float64Array => {
  const [at, h] = [Float64Array.from(x), 1e-5]
  return Float64Array.from(x, (value, i) => {
    at[i] = value + h
    const above = f(at)
    at[i] = value - h
    const below = f(at)
    at[i] = value
    return (above - below) / (2 * h)
  })
}
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((sum, x, i) => sum + x * b[i]!, 0)
const integers = (length: number, below: number, seed: number): Int32Array => {
  const next = uniform(seed)
  return Int32Array.from({ length }, () => Math.floor(next() * below))
}
const near = (t: Test, actual: Float64Array, expected: Float64Array, label: string) => {
  const error = nmse(actual, expected)
  t.ok(error <= 1e-14, `${label} by differences: NMSE ${error}`)
}

t.test('rmsnormBackward', async t => {
  {
    const [x, weight, dy] = [gaussian(15, 1), gaussian(5, 2), gaussian(15, 3)]
    const { dx, gradient } = rmsnormBackwardReference(x, weight, dy, 1e-2)
    near(
      t,
      dx,
      slopes(x, z => dot(rmsnormReference(z, weight, 1e-2), dy)),
      'dx',
    )
    near(
      t,
      gradient,
      slopes(weight, z => dot(rmsnormReference(x, z, 1e-2), dy)),
      'gradient',
    )
  }
  for (const [rows, n, w] of [
    [1, 2, 2],
    [3, 7, 7],
    [70, 64, 16],
    [130, 688, 688],
  ] as const) {
    const [x, weight, dy, before] = [gaussian(rows * n, 1), gaussian(w, 2), gaussian(rows * n, 3), gaussian(w, 4)]
    const { dx, gradient } = rmsnormBackwardReference(x, weight, dy, 1e-5)
    const run = (ops: Ops) => {
      const into = ops.tensor(before, [w])
      const inputs = [
        [x, [rows, n]],
        [weight, [w]],
        [dy, [rows, n]],
      ] as const
      return withTensors(ops, inputs, (a, b, c) => [ops.rmsnormBackward(a!, b!, c!, into, { eps: 1e-5 }), into])
    }
    await checkAll(t, `[${rows}, ${n}] by ${w}`, run, [dx, gradient.map((g, j) => g + before[j]!)], 1e-12)
  }
})

t.test('siluMulBackward', async t => {
  {
    const [gate, up, dy] = [gaussian(9, 1), gaussian(9, 2), gaussian(9, 3)]
    const { dGate, dUp } = siluMulBackwardReference(gate, up, dy)
    near(
      t,
      dGate,
      slopes(gate, z => dot(siluMulReference(z, up), dy)),
      'dGate',
    )
    near(
      t,
      dUp,
      slopes(up, z => dot(siluMulReference(gate, z), dy)),
      'dUp',
    )
  }
  for (const n of affordable([1, 15, 513, 70000], n => n)) {
    const [gate, up, dy] = [gaussian(n, 1).map(x => 10 * x), gaussian(n, 2), gaussian(n, 3)]
    if (n > 1) gate.set([-200, 200])
    const { dGate, dUp } = siluMulBackwardReference(gate, up, dy)
    const inputs = [gate, up, dy].map(x => [x, [n]] as const)
    const run = (ops: Ops) => {
      const out = withTensors(ops, inputs, (a, b, c) => ops.siluMulBackward(a!, b!, c!))
      return [out.dGate, out.dUp]
    }
    await checkAll(t, `n=${n}`, run, [dGate, dUp], 1e-12)
  }
})

t.test('attentionBackward: lengths around the blocks, groups, windows, several sequences', async t => {
  const cases = [
    { sequences: 1, length: 1, heads: 1, kvHeads: 1, e: 2 },
    { sequences: 2, length: 3, heads: 2, kvHeads: 1, e: 3 },
    { sequences: 2, length: 33, heads: 4, kvHeads: 2, e: 8 },
    { sequences: 3, length: 32, heads: 2, kvHeads: 2, e: 24 },
    { sequences: 1, length: 129, heads: 6, kvHeads: 2, e: 32 },
    { sequences: 2, length: 70, heads: 2, kvHeads: 1, e: 20, window: 1 },
    { sequences: 1, length: 100, heads: 2, kvHeads: 1, e: 17, window: 37 },
    { sequences: 1, length: 65, heads: 2, kvHeads: 1, e: 64, window: 1000 },
    { sequences: 1, length: 34, heads: 1, kvHeads: 1, e: 80 },
    { sequences: 1, length: 34, heads: 1, kvHeads: 1, e: 130, window: 9 },
  ]
  for (const { sequences, ...shape } of affordable(cases, ({ length, heads, e }) => (length * length * heads * e) / 10)) {
    const { length, heads, kvHeads, e } = shape
    const rows = sequences * length
    const sizes = { q: rows * heads * e, kv: rows * kvHeads * e }
    const [q, k, v, dy] = [gaussian(sizes.q, 1), gaussian(sizes.kv, 2), gaussian(sizes.kv, 3), gaussian(sizes.q, 4)]
    const whole = { ...shape, scale: 1 / Math.sqrt(e) }
    const { dq, dk, dv } = attentionBackwardReference(q, k, v, dy, whole)
    if (length === 3) {
      near(
        t,
        dq,
        slopes(q, z => dot(attentionReference(z, k, v, whole), dy)),
        'dq',
      )
      near(
        t,
        dk,
        slopes(k, z => dot(attentionReference(q, z, v, whole), dy)),
        'dk',
      )
      near(
        t,
        dv,
        slopes(v, z => dot(attentionReference(q, k, z, whole), dy)),
        'dv',
      )
    }
    const [wide, narrow] = [
      [rows, heads * e],
      [rows, kvHeads * e],
    ] as const
    const inputs = [
      [q, wide],
      [k, narrow],
      [v, narrow],
      [dy, wide],
    ] as const
    const run = (ops: Ops) => {
      const out = withTensors(ops, inputs, (a, b, c, d) => ops.attentionBackward(a!, b!, c!, d!, whole))
      return [out.dq, out.dk, out.dv]
    }
    // One key in reach: its probability is 1, and the gradients by q and k are 0 but for rounding.
    const alone = length === 1 || shape.window === 1
    if (!alone) await checkAll(t, JSON.stringify({ sequences, ...shape }), run, [dq, dk, dv], 1e-11)
    for (const [name, ops] of alone ? devices : []) {
      const outputs = run(ops)
      const [q0, k0, v0] = await Promise.all(outputs.map(values))
      for (const out of outputs) out[Symbol.dispose]()
      for (const x of [q0!, k0!])
        t.ok(
          x.every(value => Math.abs(value) < 1e-5),
          `${name}: one key in reach, no gradient by q and k`,
        )
      t.ok(nmse(v0!, dv) < 1e-12, `${name}: dv of one key`)
    }
  }
})

t.test('attentionBackward of bf16: f32 sums of rounded inputs', async t => {
  const cases = [
    { sequences: 2, length: 33, heads: 4, kvHeads: 2, e: 8 },
    { sequences: 1, length: 200, heads: 6, kvHeads: 2, e: 32 },
    { sequences: 2, length: 150, heads: 2, kvHeads: 1, e: 20, window: 37 },
    { sequences: 1, length: 130, heads: 2, kvHeads: 1, e: 64, window: 64 },
    { sequences: 1, length: 65, heads: 1, kvHeads: 1, e: 96 },
    { sequences: 3, length: 64, heads: 2, kvHeads: 2, e: 128 },
    { sequences: 1, length: 34, heads: 1, kvHeads: 1, e: 136 },
  ]
  /** Numbers that bf16 has. */
  const rounded = (length: number, seed: number): Float32Array => {
    const bits = new Uint32Array(gaussian(length, seed).buffer).map(x => x & 0xffff0000)
    return new Float32Array(bits.buffer)
  }
  for (const { sequences, ...shape } of affordable(cases, ({ length, heads, e }) => (length * length * heads * e) / 60)) {
    const { length, heads, kvHeads, e } = shape
    const rows = sequences * length
    const [q, k, v, dy] = [
      rounded(rows * heads * e, 1),
      rounded(rows * kvHeads * e, 2),
      rounded(rows * kvHeads * e, 3),
      rounded(rows * heads * e, 4),
    ]
    const whole = { ...shape, scale: 1 / Math.sqrt(e) }
    const { dq, dk, dv } = attentionBackwardReference(q, k, v, dy, whole)
    const inputs = [q, k, v, dy].map(x => [x, [rows, x.length / rows]] as const)
    const run = (ops: Ops) => {
      const out = withTensors(ops, inputs, (...wide) => {
        const [a, b, c, d] = wide.map(x => ops.cast(x, 'bf16')) as [Tensor, Tensor, Tensor, Tensor]
        const gradients = ops.attentionBackward(a, b, c, d, whole)
        for (const x of [a, b, c, d]) x[Symbol.dispose]()
        return gradients
      })
      return [out.dq, out.dk, out.dv]
    }
    // On a GPU P and S have 8 bits: their rounding errors are 2⁻⁹ of them, independent.
    await checkAll(t, JSON.stringify({ sequences, ...shape }), run, [dq, dk, dv], testDevice === 'cpu' ? 1e-11 : 2e-5)
  }
})

t.test('attentionBackward: large scores do not overflow', async t => {
  const [q, k, v, dy] = [
    gaussian(40 * 8, 1).map(x => x * 20),
    gaussian(40 * 8, 2).map(x => x * 3),
    gaussian(40 * 8, 3),
    gaussian(40 * 8, 4),
  ]
  const shape = { heads: 1, kvHeads: 1, e: 8, length: 40, scale: 1 }
  const { dq, dk, dv } = attentionBackwardReference(q, k, v, dy, { ...shape })
  const run = (ops: Ops) => {
    const inputs = [q, k, v, dy].map(x => [x, [40, 8]] as const)
    const out = withTensors(ops, inputs, (a, b, c, d) => ops.attentionBackward(a!, b!, c!, d!, shape))
    return [out.dq, out.dk, out.dv]
  }
  await checkAll(t, 'scores of hundreds', run, [dq, dk, dv], 1e-8) // f32 scores of hundreds are good to 1e-5
})

t.test('addColumnDots: gradients of a bias and of a scale', async t => {
  for (const [rows, n] of affordable(
    [
      [1, 1],
      [3, 5],
      [301, 344],
      [2000, 33],
    ] as const,
    ([rows, n]) => rows * n,
  )) {
    const [x, y, before] = [gaussian(rows * n, 1), gaussian(rows * n, 2), gaussian(n, 3)]
    const run = (both: boolean) => (ops: Ops) => {
      const into = ops.tensor(before, [n])
      const inputs = [x, y].map(z => [z, [rows, n]] as const)
      withTensors(ops, inputs, (a, b) => ops.addColumnDots(into, a!, both ? b : undefined))
      return [into]
    }
    await checkAll(t, `sums [${rows}, ${n}]`, run(false), [columnDotsReference(before, x)], 1e-12)
    await checkAll(t, `dots [${rows}, ${n}]`, run(true), [columnDotsReference(before, x, y)], 1e-12)
  }
})

t.test('crossEntropyGradient: hard labels, and the top k of a teacher', async t => {
  {
    const [logits, targets] = [gaussian(12, 1), Int32Array.of(2, -1, 0)]
    const { loss, gradient } = crossEntropyGradientReference(logits, targets, [1, 1, 1], 3, 0.5)
    const sum = (z: Float64Array) => crossEntropyReference(z, targets).reduce((a, b) => a + b, 0)
    near(t, loss, crossEntropyReference(logits, targets), 'loss')
    near(
      t,
      gradient,
      slopes(logits, z => 0.5 * sum(z)),
      'hard',
    )
    const soft = { targets: Int32Array.of(2, 1, -1, 0, 3, 3), weights: [0.5, 0.2, 0.9, 0.4, 0.3, 0.1] }
    const by = crossEntropyGradientReference(logits, soft.targets, soft.weights, 3, 2).gradient
    const total = (z: Float64Array) => {
      const row = (l: number) => Int32Array.from([0, 1, 2], i => (i === Math.floor(l / 2) ? soft.targets[l]! : -1))
      return soft.weights.reduce((all, w, l) => all + w * crossEntropyReference(z, row(l)).reduce((a, b) => a + b), 0)
    }
    near(
      t,
      by,
      slopes(logits, z => 2 * total(z)),
      'soft',
    )
  }
  for (const [n, v, k] of affordable(
    [
      [1, 2, 1],
      [5, 513, 1],
      [40, 2049, 8],
    ] as const,
    ([n, v]) => n * v,
  )) {
    const [logits, targets, weights] = [gaussian(n * v, 1).map(x => 5 * x), integers(n * k, v, 2), gaussian(n * k, 3).map(Math.abs)]
    if (n > 1) targets[1] = -1
    const { loss, gradient } = crossEntropyGradientReference(logits, targets, k === 1 ? weights.map(() => 1) : weights, n, 0.25)
    const run = (ops: Ops) => {
      const inputs = [
        [logits, [n, v]],
        [targets, [n, k]],
        [weights, [n, k]],
      ] as const
      const out = withTensors(ops, inputs, (a, b, c) => ops.crossEntropyGradient(a!, b!, { factor: 0.25, ...(k > 1 && { weights: c! }) }))
      return [out.loss, out.gradient]
    }
    await checkAll(t, `[${n}, ${v}], ${k} labels`, run, [loss, gradient], 1e-12)
  }
})

t.test('klGradient: divergence and soft cross-entropy, whose gradient is one', async t => {
  {
    const [p, q] = [gaussian(10, 1), gaussian(10, 2)]
    const { divergence, crossEntropy, gradient } = klGradientReference(p, q, 5, 3)
    near(t, divergence, klDivergenceReference(p, q, 5), 'divergence')
    near(
      t,
      gradient,
      slopes(q, z => 3 * klDivergenceReference(p, z, 5).reduce((a, b) => a + b)),
      'gradient',
    )
    const soft = p.map((x, i) => Math.exp(x) / p.slice(i - (i % 5), i - (i % 5) + 5).reduce((sum, z) => sum + Math.exp(z), 0))
    const every = Int32Array.from({ length: 10 }, (_, i) => i % 5)
    const sparse = crossEntropyGradientReference(q, every, soft, 2, 3)
    t.ok(nmse(crossEntropy, sparse.loss) < 1e-12, 'soft labels for every token are the same loss')
    t.ok(nmse(gradient, sparse.gradient) < 1e-12, 'and the same gradient')
  }
  for (const [n, v] of affordable(
    [
      [1, 2],
      [5, 513],
      [40, 2049],
    ] as const,
    ([n, v]) => n * v,
  )) {
    const [p, q] = [gaussian(n * v, 1).map(x => 3 * x), gaussian(n * v, 2).map(x => 3 * x)]
    const { divergence, crossEntropy, gradient } = klGradientReference(p, q, v, 0.5)
    const run = (ops: Ops) => {
      const inputs = [p, q].map(x => [x, [n, v]] as const)
      const out = withTensors(ops, inputs, (a, b) => ops.klGradient(a!, b!, { factor: 0.5 }))
      return [out.divergence, out.crossEntropy, out.gradient]
    }
    await checkAll(t, `[${n}, ${v}]`, run, [divergence, crossEntropy, gradient], 1e-12)
  }
})

t.test('meanSquaredError', async t => {
  const [y, target] = [gaussian(77, 1), gaussian(77, 2)]
  const sum = (z: ArrayLike<number>) => target.reduce((all, x, i) => all + (z[i]! - x) ** 2, 0)
  const gradient = slopes(y, z => (3 * sum(z)) / 77)
  const run = (ops: Ops) => {
    const inputs = [y, target].map(x => [x, [7, 11]] as const)
    const out = withTensors(ops, inputs, (a, b) => ops.meanSquaredError(a!, b!, { factor: 3 }))
    return [out.sum, out.gradient]
  }
  await checkAll(t, '[7, 11]', run, [Float64Array.of(sum(y)), gradient], 1e-13)
})

t.test('adam: three steps', async t => {
  const n = 33000
  const o = { rate: 0.01, beta1: 0.8, beta2: 0.99, eps: 1e-6 }
  const [start, zeros] = [gaussian(n, 1), new Float32Array(n)]
  const gradients = [2, 3, 4].map(seed => gaussian(n, seed).map(x => 0.1 * x))
  gradients[0]?.fill(0, 0, 7)
  let expected: ReturnType<typeof adamReference> = {
    value: Float64Array.from(start),
    m: Float64Array.from(zeros),
    v: Float64Array.from(zeros),
  }
  for (const [i, gradient] of gradients.entries())
    expected = adamReference(expected.value, gradient, expected.m, expected.v, { ...o, step: i + 1 })
  const run = (ops: Ops) => {
    const [value, m, v] = [ops.tensor(start, [n]), ops.tensor(zeros, [n]), ops.tensor(zeros, [n])]
    for (const [i, gradient] of gradients.entries())
      withTensors(ops, [[gradient, [n]]], g => ops.adam(value, g!, m, v, { ...o, step: i + 1 }))
    return [value, m, v]
  }
  await checkAll(t, `n=${n}`, run, [expected.value, expected.m, expected.v], 1e-12)
})

t.test('addTableGradient: signs, tiles cut off at the edges, tables small and large', async t => {
  for (const { m, n, tile, V, L, rows } of affordable(
    [
      { m: 5, n: 7, tile: [4, 4], V: 2, L: 6, rows: 8 },
      { m: 32, n: 48, tile: [16, 16], V: 1, L: 10, rows: 1024 },
      { m: 64, n: 64, tile: [8, 32], V: 2, L: 16, rows: 65536 },
    ] as const,
    ({ rows }) => rows,
  )) {
    const [Tx, Ty] = tile
    const codes = integers(Math.ceil(m / Tx) * Math.ceil(n / Ty) * ((Tx * Ty) / V), 2 ** L, 1)
    const [rowOf, sign] = [integers(2 ** L, rows, 2), integers(2 ** L, 2, 3)]
    const index = rowOf.map((row, s) => row + 65536 * sign[s]!)
    const [slope, before] = [gaussian(m * n, 4), gaussian(rows * V, 5)]
    // Walks the even places first, then the odd ones.
    const order = V === 2 ? Int32Array.from({ length: Tx * Ty }, (_, e) => (e % 2) * ((Tx * Ty) / 2) + Math.floor(e / 2)) : undefined
    const expected = tableGradientReference(rows, codes, index, slope, { m, n, tile, V, order })
    const run = (ops: Ops) => {
      const into = ops.tensor(before, [rows, V])
      using coded = ops.tensor(Uint16Array.from(codes), [codes.length / ((Tx * Ty) / V), (Tx * Ty) / V])
      const inputs = [
        [index, [2 ** L]],
        [slope, [m, n]],
      ] as const
      using walked = order && ops.tensor(order, [Tx * Ty])
      withTensors(ops, inputs, (a, b) => ops.addTableGradient(into, coded, a!, b!, { tile, order: walked }))
      return [into]
    }
    await checkAll(t, `[${m}, ${n}] in ${tile} of ${rows}`, run, [expected.map((x, i) => x + before[i]!)], 1e-13)
  }
})

t.test('clear', async t => {
  const ops = await openBackend(testDevice)
  using x = ops.tensor(gaussian(5, 1), [5])
  ops.clear(x)
  t.strictSame([...(await values(x))], [0, 0, 0, 0, 0])
})

t.test('NaN goes in, NaN comes out', async t => {
  for (const [name, ops] of devices) {
    const x = gaussian(40 * 16, 1)
    x[5] = Number.NaN
    using a = ops.tensor(x, [40, 16])
    using into = ops.zeros('f32', [16])
    using entries = ops.zeros('f32', [4, 1])
    using codes = ops.tensor(new Uint16Array(640), [40, 16])
    using index = ops.tensor(new Int32Array(16), [16])
    ops.addTableGradient(entries, codes, index, a, { tile: [1, 16] })
    ops.addColumnDots(into, a)
    const { dq, dk, dv } = ops.attentionBackward(a, a, a, a, { heads: 1, kvHeads: 1, length: 40, scale: 1 })
    for (const [label, out] of Object.entries({ entries, into, dq, dk, dv }))
      t.ok((await values(out)).some(Number.isNaN), `${name}: ${label}`)
    for (const out of [dq, dk, dv]) out[Symbol.dispose]()
  }
})

t.test('wrong arguments are refused with a sentence', async t => {
  const ops = await openBackend(testDevice)
  const x = ops.zeros('f32', [6, 8])
  t.throws(() => ops.attentionBackward(x, x, x, x, { heads: 3, kvHeads: 1, length: 6, scale: 1 }), {
    message: 'attentionBackward: 8 columns, 3 heads, 1 of keys do not divide',
  })
  t.throws(() => ops.addColumnDots(x, x), { message: 'addColumnDots: into must be f32 [8], got f32 [6, 8]' })
  t.throws(() => ops.adam(x, x, x, ops.zeros('f32', [8]), { step: 1, rate: 1 }), { message: 'adam: v must be f32 [6, 8], got f32 [8]' })
  t.throws(() => ops.adam(x, x, x, x, { step: 0, rate: 1 }), { message: 'adam: step must be a whole number from 1, got 0' })
  const { loss } = ops.crossEntropyGradient(x, ops.tensor(Int32Array.of(0, 1, 2, 8, 3, 4), [6]))
  await t.rejects(loss.read(), { message: /target 3 is 8, and there are 8 logits/ })
  t.throws(() => ops.crossEntropyGradient(x, ops.zeros('i32', [6, 2]), { weights: ops.zeros('f32', [6]) }), {
    message: 'crossEntropyGradient: weights must be f32 [6, 2], got f32 [6]',
  })
})

t.test('a state beyond the table', async t => {
  const ops = await openBackend(testDevice)
  const [into, x] = [ops.zeros('f32', [2, 1]), ops.zeros('f32', [1, 4])]
  const codes = ops.tensor(Uint16Array.of(0, 1, 7, 0), [1, 4])
  ops.addTableGradient(into, codes, ops.zeros('i32', [4]), x, { tile: [1, 4] })
  if (testDevice === 'cpu') await t.rejects(into.read(), { message: /code 2 of tile 0 is 7, beyond the last of 4 entries/ })
  else t.ok((await values(into)).every(Number.isNaN), 'NaN in all of the gradient')
})
