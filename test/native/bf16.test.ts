/**
 * The ops of the forward pass on bf16: against their definitions in float64 on the same bf16 inputs. What is left is the
 * rounding of the result, at most 2⁻⁸ of each element and evenly spread: NMSE (2⁻⁸)²/3 ≈ 5.1e-6 at most, half of it as a rule.
 */
import t, { type Test } from 'tap'
import { openBackend } from '../../native/index.js'
import { addBiasReference } from '../../native/ops/add-bias/reference.js'
import { attentionReference } from '../../native/ops/attention/reference.js'
import { embedReference } from '../../native/ops/embed/reference.js'
import { gemmReference } from '../../native/ops/gemm/reference.js'
import { gramReference } from '../../native/ops/gram/reference.js'
import { mirrorReference } from '../../native/ops/mirror/reference.js'
import { rmsnormReference } from '../../native/ops/rmsnorm/reference.js'
import { ropeReference } from '../../native/ops/rope/reference.js'
import { siluMulReference } from '../../native/ops/silu-mul/reference.js'
import type { Tensor } from '../../native/tensor.js'
import { testDevice } from '../helpers.js'
import { gaussian, nmse, same, values } from './devices.js'

const ops = await openBackend(testDevice)
/** The rounding of a result to bf16. */
const rounding = 5.1e-6

/** The upper halves of f32, rounded to nearest even: what a bf16 array holds, and the numbers that stand for it. */
const bits = (x: Float32Array): Uint16Array =>
  Uint16Array.from(new Uint32Array(x.buffer, x.byteOffset, x.length), word =>
    (word & 0x7fffffff) > 0x7f800000 ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16,
  )
const widened = (x: Uint16Array): Float32Array => new Float32Array(Uint32Array.from(x, half => half << 16).buffer)
const rounded = (x: Float32Array): Float32Array => widened(bits(x))

/** A bf16 tensor of these numbers. */
const bf16 = (x: Float32Array, shape: readonly number[]): Tensor => {
  const halves = bits(x)
  return ops.device.upload(new Uint8Array(halves.buffer), 'bf16', shape)
}
const numbers = async (x: Tensor): Promise<Float32Array> => {
  const found = await values(x)
  return x.dtype === 'bf16' ? widened(found as Uint16Array) : Float32Array.from(found)
}

/** Error below the bound, and the same bits on a second run. */
const check = async (t: Test, label: string, run: () => Tensor, expected: Float64Array, bound: number) => {
  using out = run()
  using again = run()
  const error = nmse(await numbers(out), expected)
  t.ok(error <= bound, `${label}: NMSE ${error}, allowed ${bound}`)
  t.ok(same(await out.read(), await again.read()), `${label}: the same bits again`)
}

t.test('matmul: both transposes, results in bf16 and in f32', async t => {
  for (const [m, n, k] of [
    [1, 1, 1],
    [7, 9, 3],
    [1, 20, 701],
    [3, 33, 140],
    [64, 33, 100],
    [16, 128, 264],
    [70, 130, 313],
    // One row by whole runs of eight, as a GPU multiplies in a step of decoding: less than it takes at once, as much, and more.
    [1, 5, 8],
    [1, 16, 1024],
    [1, 37, 2200],
  ] as const) {
    for (const [transposeA, transposeB] of [
      [false, true],
      [true, false],
      [false, false],
      [true, true],
    ] as const) {
      const [x, y] = [rounded(gaussian(m * k, 1)), rounded(gaussian(k * n, 2))]
      using a = bf16(x, transposeA ? [k, m] : [m, k])
      using b = bf16(y, transposeB ? [n, k] : [k, n])
      const expected = gemmReference(x, y, m, n, k, {
        lda: transposeA ? m : k,
        ldb: transposeB ? k : n,
        transposeA,
        transposeB,
        alpha: 0.5,
      })
      const label = `m=${m} n=${n} k=${k} ${transposeA ? 'T' : 'N'}${transposeB ? 'T' : 'N'}`
      await check(t, label, () => ops.matmul(a, b, { transposeA, transposeB, alpha: 0.5 }), expected, rounding)
      await check(t, `${label}, f32`, () => ops.matmul(a, b, { transposeA, transposeB, alpha: 0.5, dtype: 'f32' }), expected, 1e-11)
    }
  }
})

t.test('matmul: f32 times bf16, of any number of rows', { skip: ops.device.kind !== 'cpu' && 'the CPU only' }, async t => {
  for (const [m, n, k] of [
    [1, 33, 70],
    [16, 48, 64],
    [37, 5, 129],
  ] as const) {
    const [x, y] = [gaussian(m * k, 1), rounded(gaussian(n * k, 2))]
    using a = ops.tensor(x, [m, k])
    using b = bf16(y, [n, k])
    const expected = gemmReference(x, y, m, n, k, { lda: k, ldb: k, transposeB: true })
    await check(t, `[${m}, ${n}, ${k}]`, () => ops.matmul(a, b, { transposeB: true }), expected, 1e-12)
    t.throws(() => ops.matmul(a, b), { message: /^matmul: b must be f32/ }, 'as it lies')
  }
})

t.test('gemm: windows, beta, both types of c, an empty sum, and nothing written outside', async t => {
  const [x, y, z] = [rounded(gaussian(40 * 50, 1)), rounded(gaussian(60 * 45, 2)), rounded(gaussian(37 * 70, 3))]
  using a = bf16(x, [40, 50])
  using b = bf16(y, [60, 45])
  for (const k of [29, 0]) {
    const [m, n] = [33, 41]
    const product = gemmReference(x.subarray(3 * 50 + 7), y.subarray(11 * 45 + 1), m, n, k, { lda: 50, ldb: 45, alpha: -1 })
    const inside = (i: number): boolean => i >= 140 && i < 70 * (2 + m) && i % 70 >= 5 && i % 70 < 5 + n
    const expected = Float64Array.from(z, (old, i) => (inside(i) ? product[(Math.floor(i / 70) - 2) * n + (i % 70) - 5]! + 2 * old : old))
    for (const dtype of ['f32', 'bf16'] as const) {
      using c = dtype === 'f32' ? ops.tensor(z, [37, 70]) : bf16(z, [37, 70])
      ops.gemm(c, a, b, {
        window: { rows: [2, 2 + m], columns: [5, 5 + n] },
        aWindow: { rows: [3, 3 + m], columns: [7, 7 + k] },
        bWindow: { rows: [11, 11 + k], columns: [1, 1 + n] },
        alpha: -1,
        beta: 2,
      })
      const result = await numbers(c)
      t.ok(nmse(result, expected) <= (dtype === 'f32' ? 1e-11 : rounding), `k=${k}, ${dtype}: ${nmse(result, expected)}`)
      t.ok(
        result.every((value, i) => inside(i) || value === z[i]),
        `k=${k}, ${dtype}: sentinels`,
      )
    }
  }
})

t.test('gemm: one row of a window, added', async t => {
  const [x, y, z] = [rounded(gaussian(3 * 64, 1)), rounded(gaussian(20 * 96, 2)), rounded(gaussian(4 * 30, 3))]
  using a = bf16(x, [3, 64])
  using b = bf16(y, [20, 96])
  const [n, k] = [17, 40]
  const product = gemmReference(x.subarray(64 + 8), y.subarray(96 + 16), 1, n, k, { lda: 64, ldb: 96, transposeB: true, alpha: 3 })
  const expected = Float64Array.from(z, (old, i) => (i >= 2 * 30 + 4 && i < 2 * 30 + 4 + n ? product[i - 64]! - old : old))
  for (const dtype of ['f32', 'bf16'] as const) {
    using c = dtype === 'f32' ? ops.tensor(z, [4, 30]) : bf16(z, [4, 30])
    ops.gemm(c, a, b, {
      window: { rows: [2, 3], columns: [4, 4 + n] },
      aWindow: { rows: [1, 2], columns: [8, 8 + k] },
      bWindow: { rows: [1, 1 + n], columns: [16, 16 + k] },
      transposeB: true,
      alpha: 3,
      beta: -1,
    })
    const error = nmse(await numbers(c), expected)
    t.ok(error <= (dtype === 'f32' ? 1e-11 : rounding), `${dtype}: ${error}`)
  }
})

t.test('embed: rows of bf16 are widened', async t => {
  for (const [v, d] of [
    [5, 3],
    [7, 20],
    [9, 64],
  ] as const) {
    const table = rounded(gaussian(v * d, 1))
    const ids = Int32Array.from({ length: 11 }, (_, i) => (i * 7) % v)
    using held = bf16(table, [v, d])
    using at = ops.tensor(ids, [11])
    using rows = ops.embed(held, at)
    t.strictSame(await numbers(rows), Float32Array.from(embedReference(table, ids, d)), `[${v}, ${d}]`)
  }
})

t.test('attention: odd lengths, windows, groups, heads of every size', async t => {
  const cases = [
    { sequences: 1, length: 1, heads: 1, kvHeads: 1, e: 1 },
    { sequences: 2, length: 2, heads: 2, kvHeads: 1, e: 3 },
    { sequences: 2, length: 63, heads: 2, kvHeads: 1, e: 20, window: 1 },
    { sequences: 1, length: 65, heads: 4, kvHeads: 2, e: 8 },
    { sequences: 2, length: 129, heads: 2, kvHeads: 2, e: 32 },
    { sequences: 1, length: 200, heads: 2, kvHeads: 1, e: 17, window: 37 },
    { sequences: 1, length: 131, heads: 2, kvHeads: 2, e: 64, window: 64 },
    { sequences: 1, length: 193, heads: 3, kvHeads: 1, e: 80 },
    { sequences: 1, length: 150, heads: 2, kvHeads: 2, e: 96, window: 65 },
    { sequences: 1, length: 200, heads: 4, kvHeads: 2, e: 128 },
    { sequences: 1, length: 270, heads: 1, kvHeads: 1, e: 128, window: 70 },
    { sequences: 1, length: 67, heads: 2, kvHeads: 1, e: 160 },
    { sequences: 1, length: 130, heads: 1, kvHeads: 1, e: 256 },
  ]
  for (const { sequences, ...shape } of cases) {
    const { length, heads, kvHeads, e } = shape
    const rows = sequences * length
    const [q, k, v] = [gaussian(rows * heads * e, 1), gaussian(rows * kvHeads * e, 2), gaussian(rows * kvHeads * e, 3)].map(rounded) as [
      Float32Array,
      Float32Array,
      Float32Array,
    ]
    const scale = 1 / Math.sqrt(e)
    using a = bf16(q, [rows, heads * e])
    using b = bf16(k, [rows, kvHeads * e])
    using c = bf16(v, [rows, kvHeads * e])
    // The weights of the softmax may be rounded as well, but errors of many keys average out.
    const expected = attentionReference(q, k, v, { ...shape, scale })
    await check(t, JSON.stringify({ sequences, ...shape }), () => ops.attention(a, b, c, { ...shape, scale }), expected, 1.5 * rounding)
  }
})

t.test('attention: scores of hundreds, and long rows', async t => {
  const [length, e] = [700, 16]
  const shape = { heads: 1, kvHeads: 1, e, length, scale: 1 }
  const [q, k, v] = [gaussian(length * e, 1).map(x => x * 5), gaussian(length * e, 2).map(x => x * 5), gaussian(length * e, 3)].map(
    rounded,
  ) as [Float32Array, Float32Array, Float32Array]
  using a = bf16(q, [length, e])
  using b = bf16(k, [length, e])
  using c = bf16(v, [length, e])
  // The definition takes e^score as it is, up to e^700: here no score is higher.
  const expected = attentionReference(q, k, v, shape)
  t.ok(expected.every(Number.isFinite))
  await check(t, 'sharp', () => ops.attention(a, b, c, shape), expected, 1e-5)
  // All keys alike: the mean of 700 values, each weight 1/700.
  using zeros = ops.zeros('bf16', [length, e])
  using mean = ops.attention(zeros, zeros, c, shape)
  const last = (await numbers(mean)).subarray((length - 1) * e)
  const means = Float64Array.from(
    { length: e },
    (_, l) => Array.from({ length }, (_, j) => v[j * e + l]!).reduce((x, y) => x + y, 0) / length,
  )
  t.ok(nmse(last, means) <= rounding, `flat: ${nmse(last, means)}`)
})

t.test('rmsnorm: every pair of types, rows and heads', async t => {
  for (const [rows, n, w] of [
    [1, 1, 1],
    [3, 7, 7],
    [40, 688, 688],
    [9, 256, 128],
    [2, 4096, 4096],
  ] as const) {
    const [x, weight] = [rounded(gaussian(rows * n, 1)), gaussian(w, 2)]
    using wide = ops.tensor(x, [rows, n])
    using half = bf16(x, [rows, n])
    using by = ops.tensor(weight, [w])
    const expected = rmsnormReference(x, weight, 1e-5)
    for (const input of [wide, half]) {
      for (const dtype of ['f32', 'bf16'] as const) {
        const label = `[${rows}, ${n}] by ${w}, ${input.dtype} → ${dtype}`
        await check(t, label, () => ops.rmsnorm(input, by, { eps: 1e-5, dtype }), expected, dtype === 'f32' ? 1e-12 : rounding)
      }
    }
  }
})

t.test('rope: positions given, and in order', async t => {
  for (const [sequences, length, heads, e] of [
    [1, 1, 1, 2],
    [3, 7, 3, 6],
    [2, 100, 8, 32],
  ] as const) {
    const n = sequences * length
    const angles = gaussian(length * (e / 2), 3)
    const [x, cos, sin] = [rounded(gaussian(n * heads * e, 1)), angles.map(Math.cos), angles.map(Math.sin)]
    const positions = Int32Array.from({ length: n }, (_, i) => i % length)
    const expected = ropeReference(x, cos, sin, positions, heads)
    using c = ops.tensor(cos, [length, e / 2])
    using s = ops.tensor(sin, [length, e / 2])
    using p = ops.tensor(positions, [n])
    using wide = ops.tensor(x, [n, heads * e])
    using half = bf16(x, [n, heads * e])
    for (const [input, bound] of [
      [wide, 1e-13],
      [half, rounding],
    ] as const) {
      await check(t, `${n} × ${heads} × ${e}, ${input.dtype}, positions`, () => ops.rope(input, c, s, p, { heads }), expected, bound)
      await check(t, `${n} × ${heads} × ${e}, ${input.dtype}, in order`, () => ops.rope(input, c, s, undefined, { heads }), expected, bound)
    }
  }
})

t.test('siluMul and addBias', async t => {
  for (const n of [1, 7, 8, 513, 20000]) {
    const [gate, up] = [rounded(gaussian(n, 1).map(x => 10 * x)), rounded(gaussian(n, 2))]
    using a = bf16(gate, [n])
    using b = bf16(up, [n])
    await check(t, `siluMul ${n}`, () => ops.siluMul(a, b), siluMulReference(gate, up), rounding)
  }
  const [x, bias] = [rounded(gaussian(31 * 45, 1)), gaussian(45, 2)]
  using a = bf16(x, [31, 45])
  using b = ops.tensor(bias, [45])
  await check(t, 'addBias', () => ops.addBias(a, b), addBiasReference(x, bias), rounding)
})

t.test('gram: sums of bf16, half of them; mirror makes the other half', async t => {
  for (const [tokens, n] of [
    [1, 1],
    [3, 5],
    [200, 33],
    [700, 136],
    [64, 300],
  ] as const) {
    const x = rounded(gaussian(tokens * n, 1))
    const start = gaussian(n * n, 2)
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) start[i * n + j] = start[j * n + i]!
    const { h } = gramReference(start, x, tokens, n)
    const run = (): Tensor => {
      using input = bf16(x, [tokens, n])
      using skipped = ops.zeros('f64', [1])
      const sum = ops.tensor(start, [n, n])
      ops.gram(sum, input, skipped)
      ops.mirror(sum, { factor: 0.25 })
      return sum
    }
    await check(
      t,
      `[${tokens}, ${n}]`,
      run,
      h.map(value => value / 4),
      1e-11,
    )
    using sum = run()
    const found = await numbers(sum)
    t.ok(
      found.every((value, i) => value === found[(i % n) * n + Math.floor(i / n)]),
      `[${tokens}, ${n}]: symmetric to the bit`,
    )
  }
  const half = gaussian(70 * 70, 4)
  using h = ops.tensor(half, [70, 70])
  ops.mirror(h)
  t.same(await values(h), Float32Array.from(mirrorReference(half, 70, 1)), 'mirror alone')
})

t.test('gram: rows that are not finite are left out and counted', async t => {
  for (const n of [40, 37]) {
    const x = rounded(gaussian(90 * n, 1))
    x[3 * n + 5] = Number.NaN
    x[50 * n] = Number.POSITIVE_INFINITY
    x[90 * n - 1] = Number.NEGATIVE_INFINITY
    const { h } = gramReference(new Float64Array(n * n), x, 90, n)
    using input = bf16(x, [90, n])
    using skipped = ops.zeros('f64', [1])
    using sum = ops.zeros('f32', [n, n])
    ops.gram(sum, input, skipped)
    ops.mirror(sum)
    t.equal((await values(skipped))[0], 3)
    const error = nmse(await numbers(sum), h)
    t.ok(error <= 1e-11, `n=${n}: ${error}`)
  }
})

t.test('what is not a number stays visible', async t => {
  const x = gaussian(40 * 16, 1)
  x[5] = Number.NaN
  x[16 * 7] = Number.POSITIVE_INFINITY
  using a = bf16(x, [40, 16])
  using weight = ops.tensor(gaussian(16, 2), [16])
  using w = bf16(gaussian(16 * 16, 3), [16, 16])
  const rows = async (y: Tensor): Promise<number[]> => {
    using out = y
    const found = await numbers(out)
    return Array.from({ length: 40 }, (_, i) => i).filter(i => !found.subarray(i * 16, i * 16 + 16).every(Number.isFinite))
  }
  t.same(await rows(ops.rmsnorm(a, weight, { eps: 1e-5 })), [0, 7], 'rmsnorm')
  t.same(await rows(ops.matmul(a, w)), [0, 7], 'matmul')
  t.same(await rows(ops.siluMul(a, a)), [0, 7], 'siluMul')
  t.ok((await rows(ops.attention(a, a, a, { heads: 1, kvHeads: 1, length: 40, scale: 1 }))).includes(0), 'attention')
})

t.test('types that do not go together are refused with a sentence', async t => {
  using a = ops.zeros('bf16', [4, 4])
  using b = ops.zeros('f32', [4, 4])
  using skipped = ops.zeros('f64', [1])
  t.throws(() => ops.matmul(a, b), { message: 'matmul: b must be bf16 [?, ?], got f32 [4, 4]' })
  t.throws(() => ops.gemm(a, b, b, {}), { message: 'gemm: c must be f32 [?, ?], got bf16 [4, 4]' })
  t.throws(() => ops.siluMul(a, b), { message: 'siluMul: up must be bf16 [4, 4], got f32 [4, 4]' })
  t.throws(() => ops.attention(a, b, a, { heads: 1, kvHeads: 1, length: 4, scale: 1 }), {
    message: 'attention: k must be bf16 [4, 4], got f32 [4, 4]',
  })
  using sums = ops.zeros('f64', [4, 4])
  t.throws(() => ops.gram(sums, a, skipped), { message: 'gram: h must be f32 [4, 4], got f64 [4, 4]' })
})

t.test('nothing is left on the device', async t => {
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
