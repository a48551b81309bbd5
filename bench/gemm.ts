/** Matrix products: GFLOP/s by size and by who computes, OpenBLAS (where there is one, or PIPE_OPENBLAS names it) beside the built-in GEMM. */
import { fileURLToPath } from 'node:url'
import { openBackend } from '../native/index.js'
import type { Ops } from '../native/ops.js'
import { printTable, type Row } from './table.js'

const sizes: readonly [name: string, m: number, n: number, k: number][] = [
  ['square', 256, 256, 256],
  ['square', 1024, 1024, 1024],
  ['square', 2048, 2048, 2048],
  ['linear, 512 tokens', 512, 4096, 4096],
  ['linear, 512 tokens', 512, 688, 256],
  ['LDLQ feedback', 4096, 16, 112],
  ['LDLQ buffer', 4096, 3968, 128],
  ['Gram tile', 256, 256, 512],
]
const budget = 0.4 // seconds a case

/** A device with these variables set while it opens. */
const open = async (settings: Record<string, string>): Promise<Ops> => {
  const before = { ...process.env }
  Object.assign(process.env, settings)
  try {
    return await openBackend('cpu')
  } finally {
    for (const name of Object.keys(settings)) {
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
    }
  }
}

/** Seconds of one call on the queue's own thread: the least of several, after one to warm up. */
const seconds = async (ops: Ops, op: string, call: () => void): Promise<number> => {
  let least = Number.POSITIVE_INFINITY
  const spent = () => ops.device.stats()[op]?.seconds ?? 0
  for (let total = 0, runs = 0; total < budget || runs < 4; runs++) {
    const start = spent()
    call()
    await ops.finish()
    const time = spent() - start
    if (runs > 0) least = Math.min(least, time)
    total += time
  }
  return least
}

export async function run(): Promise<Row[]> {
  const rows: Row[] = []
  const devices: Ops[] = []
  for (const PIPE_THREADS of ['1', '']) {
    devices.push(await open({ PIPE_THREADS, PIPE_OPENBLAS: 'off' }))
    const blas = await open({ PIPE_THREADS })
    if (blas.device.info().blas !== 'built-in') devices.push(blas)
  }
  for (const [name, m, n, k] of sizes) {
    const row: Record<string, string | number> = { case: name, m, n, k }
    for (const ops of devices) {
      const { isa, threads, blas } = ops.device.info()
      using a = ops.zeros('f32', [m, k])
      using b = ops.zeros('f32', [k, n])
      using c = ops.zeros('f32', [m, n])
      const time = await seconds(ops, 'gemm', () => ops.gemm(c, a, b, {}))
      row[`${blas === 'built-in' ? isa : 'OpenBLAS'} × ${threads}, GFLOP/s`] = (2 * m * n * k) / time / 1e9
    }
    rows.push(row)
  }
  return rows
}

if (process.argv[1] === fileURLToPath(import.meta.url)) printTable(await run())
