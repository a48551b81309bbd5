/** Whether two runs stored the same. */
import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** How many stored batches there are, the same on both sides; throws where they differ. `on`: what the second run had that the first had not. */
export function equalFiles(a: string, b: string, on: string): number {
  const stored = (folder: string): string[] =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter(name => name.endsWith('.parquet'))
      .sort()
  const names = stored(a)
  if (names.join() !== stored(b).join()) throw new Error(`other batches are stored ${on}`)
  for (const name of names) if (!equalBytes(join(a, name), join(b, name))) throw new Error(`${name} differs ${on}`)
  return names.length
}

function equalBytes(a: string, b: string): boolean {
  const left = statSync(a).size
  if (left !== statSync(b).size) return false
  const [one, other] = [Buffer.alloc(2 ** 24), Buffer.alloc(2 ** 24)]
  const [x, y] = [openSync(a, 'r'), openSync(b, 'r')]
  try {
    for (let at = 0; at < left; ) {
      const got = readSync(x, one, 0, one.length, at)
      if (got === 0 || readSync(y, other, 0, got, at) !== got || !one.subarray(0, got).equals(other.subarray(0, got))) return false
      at += got
    }
    return true
  } finally {
    closeSync(x)
    closeSync(y)
  }
}
