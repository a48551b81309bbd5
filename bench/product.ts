/**
 * Products with packed weights, by code and K, beside the same matrix in bf16 through `matmul`: one vector, then several. More
 * matrices than any cache holds take turns. `--device cuda:0`, `--sizes 4096x4096,8192x28672` (rows × columns), `--codes hyb,mul1`.
 *
 * The read bandwidth is what the same run measures with the faster of a copy (both directions) and an f32 matrix times a vector.
 */
import { randomFillSync } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { codebooks } from '../native/codebooks/index.js'
import { hadamardBlock } from '../native/ops/hadamard/hadamard.js'
import type { Ops } from '../native/ops.js'
import type { Tensor } from '../native/tensor.js'
import { cardOf, openDevice } from './gpu.js'
import { type Figures, type Options, printTable, type Row } from './table.js'

const repeats = 9
const manyVectors = [1, 4, 8, 16]
/** Bytes that take turns: several times the largest caches. */
const turns = 160e6
const codes: readonly (readonly [name: string, code: string, params: Record<string, unknown>, precision?: 'int8'])[] = [
  ['hyb', 'trellis/hyb', { Q: 9 }],
  ['hyb, int8', 'trellis/hyb', { Q: 9 }, 'int8'],
  ['hyb, tensor-core', 'trellis/hyb', { Q: 9, order: 'tensor-core' }],
  ['hyb, tensor-core, int8', 'trellis/hyb', { Q: 9, order: 'tensor-core' }, 'int8'],
  ['1mad', 'trellis/1mad', {}],
  ['1mad, int8', 'trellis/1mad', {}, 'int8'],
  ['3inst', 'trellis/3inst', {}],
  ['3inst, int8', 'trellis/3inst', {}, 'int8'],
  ['mul1', 'trellis/mul1', {}],
  ['mul1, int8', 'trellis/mul1', {}, 'int8'],
  ['mcg', 'trellis/mcg', {}],
  ['mcg, int8', 'trellis/mcg', {}, 'int8'],
]

/** The clock, in GHz: a chain of multiplications of integers, three cycles each on every core there is. */
const clock = (): number => {
  const chain = (n: number, factor: number): number => {
    let x = 1
    for (let i = 0; i < n; i++) x = Math.imul(x, factor)
    return x
  }
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i < 20; i++) {
    const start = process.hrtime.bigint()
    chain(2e6, 3 + 2 * i)
    least = Math.min(least, Number(process.hrtime.bigint() - start))
  }
  return (2e6 * 3) / least
}

/**
 * Seconds of a call, by these ops. On a CPU the device's own clock, the least of several calls, the first of which warms up; on a GPU
 * a recorded program of all turns, run again and again: what decoding runs, and no launch is waited for.
 */
const least = async (ops: Ops, names: readonly string[], turns: number, call: (turn: number) => Disposable): Promise<number> => {
  let best = Number.POSITIVE_INFINITY
  const seconds = (): number => {
    const stats = ops.device.stats()
    return names.reduce((sum, name) => sum + (stats[name]?.seconds ?? 0), 0)
  }
  if (ops.device.kind === 'cpu') {
    for (let turn = 0; turn <= repeats; turn++) {
      await ops.finish()
      const before = seconds()
      call(turn)[Symbol.dispose]()
      await ops.finish()
      if (turn > 0) best = Math.min(best, seconds() - before)
    }
    return best
  }
  using program = ops.device.record(() => {
    for (let turn = 0; turn < turns; turn++) call(turn)[Symbol.dispose]()
  })
  const runs = Math.ceil(100 / turns)
  for (let i = 0; i <= repeats; i++) {
    const start = process.hrtime.bigint()
    for (let run = 0; run < runs; run++) program.run()
    await ops.finish()
    // The first two make the graph.
    if (i > 1) best = Math.min(best, Number(process.hrtime.bigint() - start) / 1e9 / (runs * turns))
  }
  return best
}

export async function run(options: Options): Promise<Figures> {
  const ops = await openDevice(options)
  const { isa, threads } = ops.device.info()
  const isCpu = ops.device.kind === 'cpu'
  const sizes = (options.sizes ?? (isCpu ? '8192x8192' : '4096x4096,11008x4096,8192x28672'))
    .split(',')
    .map(size => size.split('x').map(Number))
  const wanted = codes.filter(([name]) => options.codes === undefined || options.codes.split(',').includes(name.split(',')[0]!))
  const rows: Row[] = []
  const GHz = isCpu ? clock() : undefined
  let readGBps = 0
  for (const [m = 0, n = 0] of sizes) {
    using su = ops.tensor(new Float32Array(n).fill(1), [n])
    using sv = ops.tensor(new Float32Array(m).fill(1), [m])
    const vectors = (t: number): Tensor =>
      ops.tensor(
        Float32Array.from({ length: t * n }, (_, i) => Math.cos(i * i)),
        [t, n],
      )
    using x = vectors(1)
    {
      using w = ops.zeros('f32', [m, n])
      const product = await least(ops, ['gemm'], 1, () => ops.matmul(x, w, { transposeB: true }))
      const copied = await least(ops, ['paste'], 1, () => ops.copy(w))
      readGBps = Math.max(readGBps, (4 * m * n) / product / 1e9, (8 * m * n) / copied / 1e9)
    }
    /** By the number of vectors: the times of the same matrix in bf16. */
    const dense = new Map<number, number>()
    {
      const matrices = Array.from({ length: Math.max(2, Math.ceil(turns / (2 * m * n))) }, () => ops.zeros('bf16', [m, n]))
      for (const t of manyVectors) {
        using input = vectors(t)
        using half = ops.cast(input, 'bf16')
        const seconds = await least(ops, ['gemm'], matrices.length, turn =>
          ops.matmul(half, matrices[turn % matrices.length]!, { transposeB: true, dtype: 'f32' }),
        )
        dense.set(t, seconds)
        rows.push({ code: 'bf16', K: 16, m, n, t, µs: seconds * 1e6, 'GB/s': (2 * m * n) / seconds / 1e9 })
      }
      for (const matrix of matrices) matrix[Symbol.dispose]()
    }
    for (const [name, code, params, precision] of wanted) {
      if (precision !== undefined && !isCpu) continue
      for (const K of [1, 2, 3, 4]) {
        using codec = codebooks[code]!.open(ops, { L: 16, K, Tx: 16, Ty: 16, ...params })
        const packed = codec.packed!
        const bytes = (m * n * K) / 8
        using trellis = ops.device.upload(randomFillSync(new Uint8Array(bytes)), 'i16', [(m * n) / 256, 16 * K])
        const matrices = Array.from({ length: Math.max(2, Math.ceil(turns / bytes)) }, () => packed.arrange(trellis, m, n))
        for (const t of K === 2 ? manyVectors : [1]) {
          using input = vectors(t)
          const seconds = await least(ops, ['trellis_product'], matrices.length, turn =>
            packed.product(input, matrices[turn % matrices.length]!, { rows: m, columns: n, ...(precision && { precision }) }),
          )
          const whole = await least(ops, ['trellis_linear', 'trellis_finish'], matrices.length, turn => {
            const o = { rows: m, columns: n, su, block: hadamardBlock(n), precision }
            using z = packed.linear(input, matrices[turn % matrices.length]!, o).z
            return packed.finish([{ z, first: 0, rows: m, sv, block: hadamardBlock(m) }])[0]!
          })
          rows.push({
            code: name,
            K,
            m,
            n,
            t,
            µs: seconds * 1e6,
            'with Hadamards, µs': whole * 1e6,
            'GB/s': bytes / seconds / 1e9,
            ...(GHz && { 'cycles a weight': (seconds * GHz * 1e9 * threads) / (m * n) }),
            '× bf16': dense.get(t)! / seconds,
          })
        }
        for (const matrix of matrices) matrix[Symbol.dispose]()
      }
    }
  }
  const shares = rows.map(row => ({ ...row, 'share of read bandwidth': (row['GB/s'] as number) / readGBps }))
  console.log(`${isa} × ${threads}${GHz ? `, ${GHz.toFixed(2)} GHz` : ''}, read bandwidth ${readGBps.toFixed(1)} GB/s`)
  return { ...cardOf(ops), isa, threads, ...(GHz && { GHz }), readGBps, rows: shares }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) printTable((await run({})).rows)
