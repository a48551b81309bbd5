/** Writes native/codebooks/trellis/hyb-table-9.ts, the trained tables of HYB: node dist/scripts/hyb-table.js (some minutes). */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { trainHybTable } from '../native/codebooks/trellis/hyb-table.js'

const base64 = (table: Uint16Array): string =>
  (
    Buffer.from(table.buffer)
      .toString('base64')
      .match(/.{1,128}/g) ?? []
  )
    .map(line => `  '${line}',\n`)
    .join('')

writeFileSync(
  join(process.cwd(), 'native/codebooks/trellis/hyb-table-9.ts'),
  `/** f16 bits of 512 pairs, little-endian, in base64: trainHybTable({ Q: 9, V: 2, domain: 'plane' }, 2 ** 20, 1000), written by scripts/hyb-table.ts. */
export const hybTable9 = [
${base64(trainHybTable({ Q: 9, V: 2, domain: 'plane' }, 2 ** 20, 1000))}].join('')

/** The same for trainHybTable({ Q: 9, V: 2, domain: 'half-plane' }, 2 ** 19, 200). */
export const halfPlaneTable9 = [
${base64(trainHybTable({ Q: 9, V: 2, domain: 'half-plane' }, 2 ** 19, 200))}].join('')
`,
)
