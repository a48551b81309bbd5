import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Ops } from '../../native/ops.js'
import { gemmReference } from '../../native/ops/gemm/reference.js'
import { everyDevice, gaussian, nmse, openWith, same, values } from './devices.js'

const shapes: [number, number, number][] = [
  [1, 1, 1],
  [2, 2, 2],
  [1, 7, 3],
  [7, 1, 5],
  [3, 5, 0],
  [13, 31, 17],
  [14, 32, 256],
  [15, 33, 257],
  [28, 64, 31],
  [129, 16, 300],
  [16, 300, 129],
  [1, 64, 700],
  [9, 48, 70],
  [100, 33, 30],
  [4, 65, 20],
]

t.test('matmul: every transpose and shape, every instruction set', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [m, n, k] of shapes) {
      for (const [transposeA, transposeB] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ] as const) {
        const [x, y] = [gaussian(m * k, 1), gaussian(k * n, 2)]
        using a = ops.tensor(x, transposeA ? [k, m] : [m, k])
        using b = ops.tensor(y, transposeB ? [n, k] : [k, n])
        using c = ops.matmul(a, b, { transposeA, transposeB, alpha: 0.5 })
        const expected = gemmReference(x, y, m, n, k, {
          lda: transposeA ? m : k,
          ldb: transposeB ? k : n,
          transposeA,
          transposeB,
          alpha: 0.5,
        })
        const error = nmse(await values(c), expected)
        t.ok(error < 1e-12, `${name} m=${m} n=${n} k=${k} ${transposeA ? 'T' : 'N'}${transposeB ? 'T' : 'N'}: ${error}`)
      }
    }
  }
})

t.test('gemm: windows, beta, and nothing written outside', async t => {
  for (const [name, ops] of await everyDevice()) {
    const [x, y, z] = [gaussian(40 * 50, 1), gaussian(60 * 45, 2), gaussian(37 * 70, 3)]
    using a = ops.tensor(x, [40, 50])
    using b = ops.tensor(y, [60, 45])
    using c = ops.tensor(z, [37, 70])
    const [m, n, k] = [33, 41, 29]
    ops.gemm(c, a, b, {
      window: { rows: [2, 2 + m], columns: [5, 5 + n] },
      aWindow: { rows: [3, 3 + m], columns: [7, 7 + k] },
      bWindow: { rows: [11, 11 + k], columns: [1, 1 + n] },
      alpha: -1,
      beta: 2,
    })
    const product = gemmReference(x.subarray(3 * 50 + 7), y.subarray(11 * 45 + 1), m, n, k, { lda: 50, ldb: 45, alpha: -1 })
    const expected = Float64Array.from(z, (old, i) => {
      const [row, column] = [Math.floor(i / 70) - 2, (i % 70) - 5]
      return row >= 0 && row < m && column >= 0 && column < n ? product[row * n + column]! + 2 * old : old
    })
    const result = await values(c)
    t.ok(nmse(result, expected) < 1e-12, name)
    t.ok(
      expected.every((value, i) => (Math.floor(i / 70) >= 2 && i % 70 >= 5 && i % 70 < 5 + n) || result[i] === value),
      `${name}: sentinels`,
    )
  }
})

t.test('gemm: the number of threads and a second run change no bit', async t => {
  const results = new Map<string, Uint8Array>()
  for (const [name, ops] of await everyDevice()) {
    using a = ops.tensor(gaussian(700 * 520, 1), [700, 520])
    using b = ops.tensor(gaussian(520 * 600, 2), [520, 600])
    for (let run = 0; run < 2; run++) {
      using c = ops.matmul(a, b)
      const bytes = await c.read()
      const level = name.split(' ')[0]!
      const before = results.get(level)
      if (before) t.ok(same(before, bytes), `${name}, run ${run}`)
      results.set(level, bytes)
    }
  }
})

const found = await openBackend('cpu').then(ops => ops.device.info().blas)

t.test(
  'gemm: OpenBLAS and the built-in one agree; threads change no bit',
  { skip: found === 'built-in' && 'no OpenBLAS here' },
  async t => {
    const [one, two] = [await openWith({ PIPE_THREADS: '1' }), await openWith({ PIPE_THREADS: '2' })]
    const builtIn = await openWith({ PIPE_OPENBLAS: 'off' })
    for (const [m, n, k] of [...shapes, [700, 600, 520] as const]) {
      for (const [transposeA, transposeB] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ] as const) {
        const product = (ops: Ops) => {
          const a = ops.tensor(gaussian(m * k, 1), transposeA ? [k, m] : [m, k])
          const b = ops.tensor(gaussian(k * n, 2), transposeB ? [n, k] : [k, n])
          return values(ops.matmul(a, b, { transposeA, transposeB, alpha: 2 }))
        }
        const [x, y, z] = [await product(one), await product(two), await product(builtIn)]
        t.ok(same(x, y), `threads, m=${m} n=${n} k=${k}`)
        t.ok(nmse(x, z) < 1e-12, `built-in, m=${m} n=${n} k=${k}: ${nmse(x, z)}`)
      }
    }
  },
)

t.test('gemm: wrong arguments are refused with a sentence', async t => {
  const ops = await openBackend('cpu')
  const x = ops.zeros('f32', [2, 3])
  const y = ops.zeros('f64', [3, 2])
  t.throws(() => ops.matmul(x, x), { message: 'gemm: op(a) [2, 3] times op(b) [2, 3] does not give c [2, 3]' })
  t.throws(() => ops.matmul(x, y), { message: 'matmul: b must be f32 [?, ?], got f64 [3, 2]' })
  t.throws(() => ops.gemm(x, x, x, { window: { rows: [0, 3] } }), { message: 'gemm: window rows 0…3, columns 0…3 is not within [2, 3]' })
  await ops.finish()
})

t.test('x·Wᵀ of one row is that of the same row among eight, to the bit', async t => {
  const [n, k] = [37, 301]
  for (const [name, ops] of await everyDevice()) {
    if (ops.device.kind !== 'cpu') continue
    using x = ops.tensor(gaussian(8 * k, 1), [8, k])
    using w = ops.tensor(gaussian(n * k, 2), [n, k])
    for (const dtype of ['f32', 'bf16'] as const) {
      using a = ops.cast(x, dtype)
      using b = ops.cast(w, dtype)
      using all = ops.matmul(a, b, { transposeB: true, dtype: 'f32' })
      for (const rows of [1, 2, 3, 5]) {
        using some = ops.copy(a, { rows: [8 - rows, 8] })
        using y = ops.matmul(some, b, { transposeB: true, dtype: 'f32' })
        using expected = ops.copy(all, { rows: [8 - rows, 8] })
        t.ok(same(await values(y), await values(expected)), `${name}, ${dtype}: ${rows}`)
      }
    }
  }
})
