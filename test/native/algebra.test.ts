import t from 'tap'
import type { Ops } from '../../native/ops.js'
import { addReference } from '../../native/ops/add/reference.js'
import { blockLdlReference } from '../../native/ops/block-ldl/reference.js'
import { goldenSectionReference } from '../../native/ops/golden-section/reference.js'
import { gramReference } from '../../native/ops/gram/reference.js'
import { proxyErrorReference } from '../../native/ops/proxy-error/reference.js'
import { affordable, everyDevice, gaussian, nmse, same, values } from './devices.js'

const first = async (): Promise<Ops> => (await everyDevice())[0]![1]

/** A positive definite matrix: xᵀx/rows + 0.01·I of correlated columns. */
const covariance = (n: number, seed: number): Float32Array => {
  const rows = n + 8
  const x = gaussian(rows * n, seed)
  for (let t = 0; t < rows; t++) for (let i = 1; i < n; i++) x[t * n + i] = x[t * n + i]! + 0.7 * x[t * n + i - 1]!
  const { h } = gramReference(new Float64Array(n * n), x, rows, n)
  return Float32Array.from(h, (value, i) => value / rows + (i % (n + 1) === 0 ? 0.01 : 0))
}

t.test('goldenSection, scale by what it found', async t => {
  const sum = (s: number): number => s * s * (0.07 + (s - 0.87) ** 2 + 0.1 * (s - 0.87) ** 4)
  for (const [name, ops] of await everyDevice()) {
    for (const [points, range, shrink] of [
      [7, [0.7, 1.3], 0],
      [2, [0.5, 0.9], 0],
      [30, [0.1, 3], 0],
      [7, [0.7, 1.3], 3],
      [7, [0.7, 1.3], 1e3], // at least by half
    ] as const) {
      const sums: number[] = [] // what the reference measured, for the op to be told in the same order
      const measured = (s: number): number => {
        sums.push(sum(s))
        return sum(s)
      }
      const expected = goldenSectionReference(range, points, measured, shrink)
      using found = ops.goldenSection(range, points, () => ops.tensor(Float64Array.of(sums.shift() ?? 0), [1]), shrink)
      const [s = 0] = new Float64Array((await found.read()).slice().buffer)
      t.ok(Math.abs(s - expected) <= 4e-16 * expected, `${name}: ${points} points in ${range}, shrink ${shrink}: ${s}, ${expected}`)
      using x = ops.tensor(Float32Array.of(1, -3), [2])
      const factor = Math.fround(0.3 * s)
      t.same([...(await values(ops.scale(x, { factor: 0.3, by: found })))], [factor, Math.fround(-3 * factor)])
    }
    t.throws(() => ops.goldenSection([1, 1], 7, s => s), /no interval/)
    t.throws(() => ops.goldenSection([1, 2], 1, s => s), /points/)
    t.throws(() => ops.goldenSection([1, 2], 3, () => ops.zeros('f32', [1])), { message: /sum must be f64 \[1\]/ })
  }
})

t.test('add, scale', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const n of affordable([1, 2, 17, 300_001], n => n)) {
      const [x, y] = [gaussian(n, 1), gaussian(n, 2)]
      const sum = await values(ops.add(ops.tensor(x, [n]), ops.tensor(y, [n]), { alpha: 2, beta: -0.5 }))
      t.ok(nmse(sum, addReference(x, y, 2, -0.5)) < 1e-14, `${name} add ${n}`)
    }
    const [m, n] = [37, 53]
    const [x, rows, columns] = [gaussian(m * n, 1), gaussian(m, 2), gaussian(n, 3)]
    const at = (i: number) => [Math.floor(i / n), i % n] as const
    const a = ops.tensor(x, [m, n])
    const both = await values(ops.scale(a, { rows: ops.tensor(rows, [m]), columns: ops.tensor(columns, [n]), factor: 3 }))
    t.ok(
      nmse(
        both,
        x.map((value, i) => value * rows[at(i)[0]]! * columns[at(i)[1]]! * 3),
      ) < 1e-13,
      `${name} scale`,
    )
    t.ok(
      nmse(
        await values(ops.scale(a, { rows: ops.tensor(rows, [m]) })),
        x.map((value, i) => value * rows[at(i)[0]]!),
      ) < 1e-14,
      `${name} rows`,
    )
    t.ok(
      same(
        await values(ops.scale(ops.tensor(x, [m * n]), { factor: 0.5 })),
        x.map(value => value * 0.5),
      ),
      `${name} factor, any shape`,
    )
  }
  const ops = await first()
  t.throws(() => ops.scale(ops.zeros('f32', [2, 3]), { rows: ops.zeros('f32', [3]) }), {
    message: 'scale: rows must be f32 [2], got f32 [3]',
  })
  t.throws(() => ops.add(ops.zeros('f32', [2]), ops.zeros('f32', [3])), { message: 'add: y must be f32 [2], got f32 [3]' })
})

t.test('sumSquares, countNonFinite', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const n of affordable([0, 1, 7, 65_536, 200_003], n => n)) {
      const x = gaussian(n, 5)
      const [sum] = await values(ops.sumSquares(ops.tensor(x, [n])))
      const expected = x.reduce((total, value) => total + value * value, 0)
      t.ok(Math.abs(sum! - expected) <= 1e-13 * expected, `${name} ${n}`)
      t.same([...(await values(ops.countNonFinite(ops.tensor(x, [n]))))], [0])
    }
    const bad = Float32Array.of(Number.NaN, 1, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3.4e38, 1e-40, 0)
    const x = ops.tensor(bad, [7])
    for (const dtype of ['f64', 'f32', 'bf16'] as const) {
      const narrowed = dtype === 'bf16' ? 4 : 3 // 3.4e38 rounds to infinity in bf16
      t.same([...(await values(ops.countNonFinite(ops.cast(x, dtype))))], [narrowed], `${name} ${dtype}`)
    }
    t.same([...(await values(ops.countNonFinite(ops.cast(x, 'f16'))))], [4], `${name} f16`)
  }
})

t.test('damp: the check vector, and nothing beside the diagonal', async t => {
  for (const [name, ops] of await everyDevice()) {
    const h = Float32Array.of(4, 1, 0.5, 0.25, 1, 3, 0.75, 0.5, 0.5, 0.75, 2, 1, 0.25, 0.5, 1, 5)
    const damped = await values(ops.damp(ops.tensor(h, [4, 4]), 0.01))
    t.ok(
      same(
        damped,
        h.map((value, i) => Math.fround(i % 5 === 0 ? value + 0.035 : value)),
      ),
      name,
    )
  }
  const ops = await first()
  t.throws(() => ops.damp(ops.zeros('f32', [2, 3]), 1), { message: 'damp: h must be square, got f32 [2, 3]' })
})

t.test('gram: sums in f64, symmetric to the bit, rows with non-finite elements left out', async t => {
  const bits = new Map<string, Uint8Array>()
  for (const [name, ops] of await everyDevice()) {
    for (const [rows, n] of affordable(
      [
        [1, 1],
        [3, 2],
        [5, 31],
        [513, 40],
        [1030, 33],
        [64, 300],
      ] as const,
      ([rows, n]) => rows * n,
    )) {
      const x = gaussian(rows * n, 6)
      if (rows > 4) x[2 * n] = Number.NaN
      if (rows > 600) x[601 * n + n - 1] = Number.NEGATIVE_INFINITY
      const start = Float64Array.from({ length: n * n }, (_, i) => (Math.floor(i / n) + 1) * ((i % n) + 1))
      const [h, skipped] = [ops.tensor(start, [n, n]), ops.tensor(Float64Array.of(10), [1])]
      ops.gram(h, ops.tensor(x, [rows, n]), skipped)
      const expected = gramReference(start, x, rows, n)
      const result = await values(h)
      t.ok(nmse(result, expected.h) < 1e-13, `${name} t=${rows} n=${n}: ${nmse(result, expected.h)}`)
      t.ok(
        result.every((value, i) => value === result[(i % n) * n + Math.floor(i / n)]),
        'symmetric',
      )
      t.same([...(await values(skipped))], [10 + expected.skipped], 'skipped')
      const key = `${name.split(' ')[0]} ${rows} ${n}`
      const before = bits.get(key)
      const bytes = await h.read()
      if (before) t.ok(same(before, bytes), 'threads change nothing')
      bits.set(key, bytes)
    }
  }
})

t.test('gram: f64 sums beat f32 sums by far over many tokens', async t => {
  const ops = await first()
  const [rows, n] = [20_000, 3]
  const x = gaussian(rows * n, 8).map(value => value + 3)
  const [h, skipped] = [ops.zeros('f64', [n, n]), ops.zeros('f64', [1])]
  ops.gram(h, ops.tensor(x, [rows, n]), skipped)
  const naive = new Float32Array(n * n)
  for (let r = 0; r < rows; r++) for (let i = 0; i < n * n; i++) naive[i] = naive[i]! + x[r * n + Math.floor(i / n)]! * x[r * n + (i % n)]!
  const expected = gramReference(new Float64Array(n * n), x, rows, n).h
  t.ok(nmse(await values(h), expected) < 0.05 * nmse(naive, expected))
})

t.test('blockLdl: the check vector', async t => {
  const h = Float32Array.of(2, 1, 1.2, 0.6, 1, 3, 0.9, 1.1, 1.2, 0.9, 2, 0.8, 0.6, 1.1, 0.8, 2.5)
  for (const [name, ops] of await everyDevice()) {
    const { l, pivot } = ops.blockLdl(ops.tensor(h, [4, 4]), 2)
    const expected = Float32Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0.54, 0.12, 0, 0, 0.14, 0.32, 0, 0)
    t.ok(
      (await values(l)).every((value, i) => Math.abs(value - expected[i]!) < 1e-6),
      name,
    )
    t.same([...(await values(pivot))], [-1, 0])
  }
})

t.test('blockLdl: every size against the definition; H = L·D·Lᵀ', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [n, b] of affordable(
      [
        [1, 1],
        [2, 1],
        [2, 2],
        [16, 16],
        [48, 16],
        [33, 3],
        [64, 1],
        [80, 40],
        [288, 16],
        [304, 8],
      ] as const,
      ([n]) => 3 * n * n,
    )) {
      const h = covariance(n, n)
      const { l, pivot } = ops.blockLdl(ops.tensor(h, [n, n]), b)
      const result = await values(l)
      const expected = blockLdlReference(h, n, b)
      const error = nmse(result, expected)
      t.ok(error < 1e-9, `${name} n=${n} b=${b}: ${error}`)
      t.ok(
        result.every((value, i) => value === 0 || Math.floor(i / n / b) > Math.floor((i % n) / b)),
        'zero in and above the diagonal blocks',
      )
      t.same([...(await values(pivot))], [-1, 0])
    }
  }
})

t.test('blockLdl: a pivot that is not positive is told, not thrown', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [n, row] of affordable(
      [
        [4, 2],
        [70, 69],
        [300, 280],
      ] as const,
      ([n]) => 3 * n * n,
    )) {
      const h = covariance(n, 3)
      h[row * n + row] = -5
      const { l, pivot } = ops.blockLdl(ops.tensor(h, [n, n]), 1)
      const [at, value] = await values(pivot)
      t.equal(at, row, `${name} n=${n}`)
      t.ok(value! < -5, `${value}`)
      t.ok((await values(l)).every(value => value === 0))
    }
    const h = covariance(20, 3)
    h[7 * 20 + 2] = Number.NaN
    const [at, value] = await values(ops.blockLdl(ops.tensor(h, [20, 20]), 4).pivot)
    t.equal(at, 7)
    t.ok(Number.isNaN(value), 'NaN is no positive pivot')
  }
  const ops = await first()
  t.throws(() => ops.blockLdl(ops.zeros('f32', [6, 6]), 4), { message: 'blockLdl: block 4 does not divide 6' })
})

t.test('proxyError', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [m, n] of affordable(
      [
        [1, 1],
        [3, 2],
        [17, 33],
        [300, 20],
        [5, 300],
      ] as const,
      ([m, n]) => m * n + n * n,
    )) {
      const [w, noise, h] = [gaussian(m * n, 1), gaussian(m * n, 2), covariance(n, 4)]
      const v = w.map((value, i) => value + 0.1 * noise[i]!)
      const result = await values(ops.proxyError(ops.tensor(w, [m, n]), ops.tensor(v, [m, n]), ops.tensor(h, [n, n])))
      const expected = proxyErrorReference(w, v, h, m, n)
      t.ok(
        expected.every((value, i) => Math.abs(result[i]! - value) < 2e-6 * value),
        `${name} m=${m} n=${n}: ${result} ${expected}`,
      )
    }
  }
  const h = Float32Array.of(2, 1, 1.2, 0.6, 1, 3, 0.9, 1.1, 1.2, 0.9, 2, 0.8, 0.6, 1.1, 0.8, 2.5)
  const w = Float32Array.of(0.4, -1.35, 2.4, 0.45, 1.7, 0.3, -0.55, -1.4)
  const ops = await first()
  const relative = async (v: number[]): Promise<number> => {
    const [error, scale] = await values(
      ops.proxyError(ops.tensor(w, [2, 4]), ops.tensor(Float32Array.from(v), [2, 4]), ops.tensor(h, [4, 4])),
    )
    return error! / scale!
  }
  t.ok(Math.abs((await relative([1, -1, 2, 0, 2, 0, -1, -1])) - 0.0802493046) < 1e-6, 'LDLQ of the check vector')
  t.ok(Math.abs((await relative([0, -1, 2, 0, 2, 0, -1, -1])) - 0.0990293085) < 1e-6, 'nearest rounding of the check vector')
})
