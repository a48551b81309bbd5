/** The batch store in units of its floors: writing against a plain file of the same bytes (written and fsynced), reading against memcpy. */
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ParquetFile, writeParquet } from '../pipeline/parquet.js'
import { printTable, type Row } from './table.js'

const MiB = 2 ** 20
const cases = [
  { tensors: 1, bytes: 128 * MiB },
  { tensors: 8, bytes: 16 * MiB },
  { tensors: 64, bytes: MiB / 4 },
]
const repeats = 3

/** Everything is repeated in turns and the best taken, as the machine's speed drifts. */
export async function run(): Promise<Row[]> {
  const folder = await mkdtemp(join(tmpdir(), 'pipe-bench-'))
  try {
    const rows: Row[] = []
    for (const { tensors, bytes } of cases) {
      const data = Array.from({ length: tensors }, (_, i) => new Uint8Array(bytes).fill(i + 1))
      const path = join(folder, 'b.parquet')
      const plain = async (): Promise<void> => {
        const file = await open(join(folder, 'plain'), 'w')
        for (const one of data) await file.writev([one])
        await file.sync()
        await file.close()
      }
      const write = (): Promise<number> =>
        writeParquet(
          path,
          {},
          data.map(one => ({ bytes, read: async () => one.slice() })), // the writer's own, as from a device
        )
      const read = async (): Promise<void> => {
        const file = await ParquetFile.open(path)
        for (let i = 0; i < tensors; i++) await file.read(i)
      }
      const target = new Uint8Array(bytes)
      const copy = async (): Promise<void> => {
        for (const one of data) target.set(one)
      }
      const [plainSeconds = 0, writeSeconds = 0, readSeconds = 0, copySeconds = 0] = await best([plain, write, read, copy])
      const total = (tensors * bytes) / MiB
      rows.push({
        tensors,
        'MiB each': bytes / MiB,
        'write, MiB/s': total / writeSeconds,
        'plain write, MiB/s': total / plainSeconds,
        'write, × plain': writeSeconds / plainSeconds,
        'checked read, MiB/s': total / readSeconds,
        'memcpy, MiB/s': total / copySeconds,
        'read, × memcpy': readSeconds / copySeconds,
      })
    }
    return rows
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function best(calls: readonly (() => Promise<unknown>)[]): Promise<number[]> {
  const least = calls.map(() => Number.POSITIVE_INFINITY)
  for (let i = 0; i < repeats; i++) {
    for (const [index, call] of calls.entries()) {
      const begin = performance.now()
      await call()
      least[index] = Math.min(least[index] as number, (performance.now() - begin) / 1000)
    }
  }
  return least
}

if (process.argv[1] === fileURLToPath(import.meta.url)) printTable(await run())
