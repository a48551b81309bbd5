/**
 * write: the quantized checkpoint in Hugging Face layout.
 *
 *   model/config.json         of the original, plus "quantization_config"
 *   model/*.safetensors       for each linear P:  P.trellis i16 [tiles, words], P.SU f16 [n] = su (f32 where no longer signs),
 *                             P.SV f32 [m] = sv·scale, P.<name> its own table where it was trained;
 *                             a codebook's tables once, as codebook.<name>; every other tensor as it was
 *   model/tokenizer*, …       copied
 *
 * A head that was the embedding and was rounded is a tensor of its own, and config.json says so.
 *
 *   W = diag(SV)·Hₘ·decode(trellis)·Hₙᵀ·diag(SU)        orders of Hₘ and Hₙ in quantization_config.modules
 *
 * The recipe (graph, versions, parameters, seed, input hashes; no times, no paths) goes into the safetensors
 * metadata, so that equal runs give equal bytes. The folder appears whole or not at all.
 */
import { Type } from '@sinclair/typebox'
import { concatMap, pipe, toArray } from 'rxjs'
import { codebookOf } from '../../native/codebooks/settings.js'
import type { Ops } from '../../native/ops.js'
import { defineStage, PipeError, type Row } from '../../pipeline/define.js'
import { written } from '../../schemas/tables/checkpoint.js'
import { packed } from '../../schemas/tables/rounded.js'
import { headName } from '../model/architecture.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { tablesOf } from '../model/quantization.js'
import { bytesOfCodes, sizesOf } from '../model/sizes.js'
import { type Entry, entryBytes, expectOurs, folderHash, writeCheckpoint } from './folder.js'

const params = Type.Object(
  {
    shardBytes: Type.Integer({ default: 5e9, minimum: 1e6, description: 'Largest safetensors file; more go into several with an index' }),
  },
  { additionalProperties: false },
)

type In = Row<typeof packed>

export default defineStage({
  name: 'write',
  version: 2,
  about: 'Write the quantized checkpoint in Hugging Face layout.',
  params,
  input: packed,
  output: written,
  scope: 'stream',
  batch: () => 'all',
  intact: async (row, { out }) => (await folderHash(`${out}/${row.path}`).catch(() => '')) === row.sha256,
  mayWrite: ({ out }) => expectOurs(`${out}/model`),
  estimate(rows) {
    const { keptBytes, head } = sizesOf(rows)
    const disk = bytesOfCodes(rows) + keptBytes
    return { operations: 3e9 + 200 * disk, memory: 4 * head, disk } // files to sync; bytes read, written and hashed by one thread
  },
  report: row => ({
    result: {
      bitsPerWeight: row.bitsPerWeight,
      bytes: { original: row.bytesOriginal, quantized: row.bytesQuantized },
      proxyError: {
        mean: row.proxyErrorMean,
        max: row.proxyErrorMax,
        byLinear: JSON.parse(row.proxyErrorByLinear) as Record<string, number>,
      },
    },
    table: {
      columns: ['', 'value'],
      rows: [
        ['bits a weight', row.bitsPerWeight.toFixed(3)],
        ['proxy error, mean', row.proxyErrorMean.toExponential(3)],
        ['proxy error, worst', row.proxyErrorMax.toExponential(3)],
      ],
    },
  }),
  operator: ({ shardBytes }, { ops, out, recipe, progress }) =>
    pipe(
      toArray<In>(),
      concatMap(async rows => {
        const linears = rows.filter(row => row.role === 'linear')
        const first = rows[0]
        const codes = await codesOf(ops, linears)
        const source = await openCheckpoint(first?.source ?? '')

        const modules: Record<string, unknown> = {}
        const quantized = codes.flatMap(code => code.tables)
        for (const row of linears) {
          if (!row.trellis || !row.su || !row.sv)
            throw new PipeError('failed', {
              where: `write  ${row.linear}`,
              message: 'The row has no trellis, su or sv.',
              hint: 'Put "rht", "round" and "pack" before "write".',
            })
          const { trellis, su, sv, scale, table } = row
          const code = codes.findIndex(({ settings }) => settings === row.codebook)
          const tableName = codes[code]?.tableName
          const suType = areSigns(await su.read()) ? 'f16' : 'f32'
          quantized.push(
            { name: `${row.linear}.trellis`, dtype: trellis.dtype, shape: trellis.shape, read: () => trellis.read() },
            {
              name: `${row.linear}.SU`,
              dtype: suType,
              shape: su.shape,
              read: async () => {
                using x = await su.open(ops, suType)
                return await x.read()
              },
            },
            {
              name: `${row.linear}.SV`,
              dtype: 'f32',
              shape: sv.shape,
              read: async () => {
                using x = await sv.open(ops, 'f32')
                using y = ops.scale(x, { factor: scale })
                return await y.read()
              },
            },
          )
          modules[row.linear] = {
            m: row.m,
            n: row.n,
            transform: JSON.parse(row.transform) as unknown,
            ...(code > 0 && { code }),
            ...(table && { table: tableName }),
          }
          if (table === undefined) continue
          if (tableName === undefined) throw new Error(`${row.linear} has a table, and its code reads none`)
          quantized.push({
            name: `${row.linear}.${tableName}`,
            dtype: 'f16',
            shape: table.shape,
            read: async () => {
              using x = await table.open(ops, 'f16')
              return await x.read()
            },
          })
        }
        const kept = rows.flatMap(({ role, linear, weight }): Entry[] =>
          role === 'kept' && weight ? [{ name: linear, dtype: weight.dtype, shape: weight.shape, read: () => weight.read() }] : [],
        )
        const entries = [...quantized, ...kept]

        const { sha256 } = await writeCheckpoint({
          folder: `${out}/model`,
          source: source.path,
          entries,
          shardBytes,
          recipe,
          untied: source.config.tied && entries.some(({ name }) => name.startsWith(`${headName(source.config.architecture, false)}.`)),
          config: {
            quant_method: 'pipe',
            version: codes.length > 1 ? 3 : linears.some(row => row.table) ? 2 : 1,
            codebook: codes[0]?.json,
            ...(codes.length > 1 && { more: codes.slice(1).map(({ json }) => json) }),
            modules,
          },
          progress: (done, total) => progress(done, total, 'bytes'),
        })
        const weights = linears.reduce((sum, row) => sum + row.m * row.n, 0)
        const errors = linears.map(row => row.proxyError)
        return {
          source: source.path,
          path: 'model',
          sha256,
          weights,
          bitsPerWeight: (8 * quantized.reduce((sum, entry) => sum + entryBytes(entry), 0)) / weights,
          bytesOriginal: [...source.tensors].reduce((sum, [name, { bytes }]) => sum + (source.unused.includes(name) ? 0 : bytes), 0),
          bytesQuantized: entries.reduce((sum, entry) => sum + entryBytes(entry), 0),
          proxyErrorMean: errors.reduce((a, b) => a + b, 0) / errors.length,
          proxyErrorMax: Math.max(...errors),
          proxyErrorByLinear: JSON.stringify(Object.fromEntries(linears.map(row => [row.linear, row.proxyError]))),
        }
      }),
    ),
})

interface Code {
  /** JSON of the codebook, as rows have it; and what it says. */
  readonly settings: string
  readonly json: unknown
  /** What decoding needs besides the codes, as tensors of the checkpoint: codebook.<name>, of further codes codebook.<nr>.<name>. */
  readonly tables: readonly Entry[]
  readonly tableName: string | undefined
}

/** The codes that linears were rounded with, the one of the first linear first. */
async function codesOf(ops: Ops, linears: readonly In[]): Promise<Code[]> {
  const all = [...new Set(linears.map(row => row.codebook))]
  if (all.length === 0 || all.includes(''))
    throw new PipeError('failed', {
      where: 'write',
      message: all.length === 0 ? 'No quantized linear came in.' : 'A linear came in that was not rounded.',
      hint: 'Put "model" … "round", "pack" before "write".',
    })
  const codes: Code[] = []
  for (const [i, settings] of all.entries()) {
    const { codebook, params } = codebookOf(settings)
    using codec = codebook.open(ops, params)
    const tables: Entry[] = []
    for (const [name, table] of Object.entries(codec.tables)) {
      const bytes = await table.read()
      tables.push({ name: `${tablesOf(i)}${name}`, dtype: table.dtype, shape: table.shape, read: () => Promise.resolve(bytes) })
    }
    codes.push({ settings, json: JSON.parse(settings) as unknown, tables, tableName: Object.keys(codec.tables)[0] })
  }
  return codes
}

/** f32, each 1 or −1: exact in f16. */
const areSigns = (su: Uint8Array): boolean => new Float32Array(su.slice().buffer).every(x => x === 1 || x === -1)
