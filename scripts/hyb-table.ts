/** Writes native/codebooks/trellis/hyb-table-9.ts, the trained table of HYB: node dist/scripts/hyb-table.js (a minute or two). */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { trainHybTable } from '../native/codebooks/trellis/hyb-table.js'

const table = trainHybTable(9, 2 ** 20, 1000)
const lines =
  Buffer.from(table.buffer)
    .toString('base64')
    .match(/.{1,128}/g) ?? []
writeFileSync(
  join(process.cwd(), 'native/codebooks/trellis/hyb-table-9.ts'),
  `/** f16 bits of 512 pairs, little-endian, in base64: trainHybTable(9, 2 ** 20, 1000), written by scripts/hyb-table.ts. */
export const hybTable9 = [
${lines.map(line => `  '${line}',`).join('\n')}
].join('')
`,
)
