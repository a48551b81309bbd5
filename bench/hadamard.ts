/** Hadamard transforms in units of their floor: the time to copy the same matrix (read once, written once) on the same threads. */
import { fileURLToPath } from 'node:url'
import { openBackend } from '../native/index.js'
import { hadamardBlock, hadamardText } from '../native/ops/hadamard/hadamard.js'
import { printTable, type Row } from './table.js'

const sizes: readonly (readonly [m: number, n: number])[] = [
  [256, 688],
  [1024, 1024],
  [4096, 4096],
  [11008, 4096],
  [4096, 11008],
  [4096, 14336],
  [2048, 5632],
]
const repeats = 5

export async function run(): Promise<Row[]> {
  const ops = await openBackend('cpu')
  const { isa, threads } = ops.device.info()
  /** The least seconds of one call on the queue's own thread; the two are measured in turns, as the machine's speed drifts. */
  const least = async (calls: Record<string, () => { [Symbol.dispose](): void }>): Promise<number[]> => {
    const best = Object.keys(calls).map(() => Number.POSITIVE_INFINITY)
    for (let i = 0; i < repeats; i++) {
      for (const [index, [op, call]] of Object.entries(calls).entries()) {
        const spent = () => ops.device.stats()[op.split(' ')[0]!]?.seconds ?? 0
        const before = spent()
        call()[Symbol.dispose]()
        await ops.finish()
        best[index] = Math.min(best[index]!, spent() - before)
      }
    }
    return best
  }
  const rows: Row[] = []
  for (const [m, n] of sizes) {
    using x = ops.zeros('f32', [m, n])
    using columns = ops.zeros('f32', [n])
    using lines = ops.zeros('f32', [m])
    const [right, left] = [hadamardBlock(n), hadamardBlock(m)]
    const [copied, a, b] = await least({
      paste: () => ops.copy(x),
      'hadamard right': () => ops.hadamard(x, { side: 'right', signs: columns, block: right }),
      'hadamard left': () => ops.hadamard(x, { side: 'left', signs: lines, block: left }),
    })
    rows.push({
      m,
      n,
      'copy, GB/s': (8 * m * n) / copied! / 1e9,
      right: hadamardText(n, right),
      'right, × copy': a! / copied!,
      left: hadamardText(m, left),
      'left, × copy': b! / copied!,
      isa,
      threads,
    })
  }
  return rows
}

if (process.argv[1] === fileURLToPath(import.meta.url)) printTable(await run())
