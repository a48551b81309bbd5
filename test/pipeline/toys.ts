/** Stages of numbers: what the engine's tests run. They know nothing of models, as the engine does. */
import { readFile, writeFile } from 'node:fs/promises'
import { Type } from '@sinclair/typebox'
import { map, toArray } from 'rxjs'
import type { Ops } from '../../native/ops.js'
import {
  type AnyStage,
  defineStage,
  defineTable,
  each,
  f64,
  file,
  nothing,
  optional,
  spread,
  tensor,
  u32,
  utf8,
} from '../../pipeline/define.js'
import type { BuiltInStages } from '../../pipeline/graph.js'

export const numbersTable = defineTable('numbers', 1, { i: u32('which'), name: utf8('its batch'), x: tensor('f32', 'k', 'values') })
const sums = numbersTable.without('x').and({ sum: f64('Σ x') })
const floats = (x: Float32Array): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength)

/** How often each operator has been given a row, by stage; tests clear it. */
export const calls: Record<string, number> = {}
export const called = (name: string): void => {
  calls[name] = (calls[name] ?? 0) + 1
}
/** Tests may make a stage fail, wait or look around at a row. */
export const hooks: { onRow?: (stage: string, row: { i: number }, device: string) => void | Promise<void> } = {}
const seen = async (stage: string, row: { i: number }, { device }: Ops): Promise<void> => {
  called(stage)
  await hooks.onRow?.(stage, row, device.name)
}

/** A source: `count` rows of `size` numbers from the named generator, `rows` of them a batch. */
const numbers = defineStage({
  name: 'numbers',
  version: 1,
  about: 'Makes numbers.',
  params: Type.Object(
    {
      count: Type.Integer({ description: 'How many' }),
      size: Type.Integer({ default: 8 }),
      rows: Type.Integer({ default: 2, description: 'Rows a batch' }),
    },
    { additionalProperties: false },
  ),
  input: nothing,
  output: numbersTable,
  scope: 'stream',
  batch: row => row.name,
  operator: ({ count, size, rows }, { ops, rng, room }) =>
    spread(async function* () {
      for (let i = 0; i < count; i++) {
        using _ = await room(4 * size)
        await seen('numbers', { i }, ops)
        yield { i, name: `b${Math.floor(i / rows)}`, x: ops.device.upload(floats(rng('x', i).normal(size)), 'f32', [size]) }
      }
    }),
})

const scale = defineStage({
  name: 'scale',
  version: 1,
  about: 'x · by.',
  params: Type.Object({ by: Type.Number({ default: 2 }) }, { additionalProperties: false }),
  input: numbersTable,
  output: numbersTable,
  operator: ({ by }, { ops }) =>
    each(async row => {
      await seen('scale', row, ops)
      using x = await row.x.open(ops)
      const values = new Float32Array((await x.read()).slice().buffer)
      return { ...row, x: ops.device.upload(floats(values.map(v => v * by)), 'f32', x.shape) }
    }),
})

const sum = defineStage({
  name: 'sum',
  version: 1,
  about: 'Σ x.',
  params: Type.Object({}, { additionalProperties: false }),
  input: numbersTable.without('name'),
  output: sums.without('name'),
  operator: (_, { ops }) =>
    each(async row => {
      await seen('sum', row, ops)
      using x = await row.x.open(ops)
      return { i: row.i, sum: new Float32Array((await x.read()).slice().buffer).reduce((a, b) => a + b, 0), ...batchOf(row) }
    }),
})
/** The engine keeps a row's batch in a symbol that {...row} copies. */
const batchOf = (row: object): object =>
  Object.fromEntries(Object.getOwnPropertySymbols(row).map(s => [s, (row as Record<symbol, unknown>)[s]]))

/** All rows → one. */
const total = defineStage({
  name: 'total',
  version: 1,
  about: 'The sum of sums.',
  params: Type.Object({}, { additionalProperties: false }),
  input: sums.without('name'),
  output: defineTable('total', 1, { total: f64('Σ sum'), rows: u32('how many') }),
  scope: 'stream',
  batch: () => 'all',
  report: row => ({ result: { total: row.total }, table: { columns: ['total'], rows: [['sum', row.total.toFixed(4)]] } }),
  operator: () => source =>
    source.pipe(
      toArray(),
      map(rows => {
        called('total')
        return { total: rows.reduce((a, row) => a + row.sum, 0), rows: rows.length }
      }),
    ),
})

const lines = defineStage({
  name: 'lines',
  version: 1,
  about: "A file's lines.",
  params: Type.Object(
    { text: file('Text'), also: Type.Optional(file('More')), inline: Type.Optional(file('More')) },
    { additionalProperties: false },
  ),
  input: nothing,
  output: defineTable('lines', 1, { i: u32('which'), line: utf8('text') }),
  scope: 'stream',
  batch: row => `l${row.i}`,
  operator: ({ text }) =>
    spread(async function* () {
      called('lines')
      for (const [i, line] of (await readFile(text, 'utf8')).split('\n').entries()) yield { i, line }
    }),
})

const code = defineStage({
  name: 'code',
  version: 1,
  about: 'Has a choice.',
  params: Type.Object(
    {
      code: Type.Union([
        Type.Object(
          { use: Type.Literal('a'), K: Type.Integer({ minimum: 1, maximum: 4 }), deep: Type.Integer({ default: 1 }) },
          { additionalProperties: false },
        ),
        Type.Object({ use: Type.Literal('b'), L: Type.Integer({ default: 16 }) }, { additionalProperties: false }),
      ]),
    },
    { additionalProperties: false },
  ),
  input: numbersTable,
  output: numbersTable,
  operator: _ => each(async row => ({ ...row })),
})

const halves = defineStage({
  name: 'halves',
  version: 1,
  about: 'Wants f16.',
  params: Type.Object({}),
  input: numbersTable.and({ x: tensor('f16', 'k', 'x') }),
  output: numbersTable,
  operator: _ => each(async row => ({ ...row })),
})

/** Live chunks of every row: two halves of x. */
const chunks = defineTable(
  'chunks',
  1,
  { ...numbersTable.without('x').columns, role: utf8('chunk or end'), half: optional(tensor('f32', 'k', 'half of x')) },
  { live: true },
)
const live = defineStage({
  name: 'live',
  version: 1,
  about: 'Gives chunks.',
  params: Type.Object({}),
  input: numbersTable,
  output: chunks,
  scope: 'stream',
  operator: (_, { ops, room, wanted }) =>
    spread(async function* (row) {
      if (!wanted(row.name)) return
      await seen('live', row, ops)
      using x = await row.x.open(ops)
      const bytes = await x.read()
      for (const part of [bytes.slice(0, bytes.length / 2), bytes.slice(bytes.length / 2)]) {
        using _ = await room(part.byteLength)
        yield { ...row, role: 'chunk', half: ops.device.upload(part, 'f32', [part.byteLength / 4]) }
      }
      yield { ...row, role: 'end', half: undefined }
    }),
})
/** Sums of chunks: reads live tensors, is stored. */
const gather = defineStage({
  name: 'gather',
  version: 1,
  about: 'Σ over chunks.',
  params: Type.Object({}),
  input: chunks,
  output: sums,
  scope: 'stream',
  operator: (_, { ops }) => {
    let sum = 0
    return each(async row => {
      if (row.half !== undefined) {
        using half = await row.half.open(ops)
        sum += new Float32Array((await half.read()).slice().buffer).reduce((a, b) => a + b, 0)
        return undefined
      }
      await seen('gather', row, ops)
      const done = sum
      sum = 0
      return { ...row, sum: done }
    })
  },
})

/** Writes the total to a file, and gives the row on. */
const print = defineStage({
  name: 'print',
  version: 1,
  about: 'Writes total.txt.',
  params: Type.Object({}),
  input: total.output,
  output: total.output,
  intact: async (row, { out }) => (await readFile(`${out}/total.txt`, 'utf8').catch(() => '')) === String(row.total),
  operator: (_, { out }) =>
    each(async row => {
      called('print')
      await writeFile(`${out}/total.txt`, String(row.total))
      return { ...row }
    }),
})
const read = defineStage({
  name: 'read',
  version: 1,
  about: 'Reads rows.',
  params: Type.Object({}),
  input: total.output,
  output: total.output,
  operator: _ =>
    each(async row => {
      called('read')
      return { ...row }
    }),
})

const all: AnyStage[] = [numbers, scale, sum, total, lines, code, halves, live, gather, print, read]
export const stages: BuiltInStages = Object.fromEntries(all.map(stage => [stage.name, async () => ({ default: stage })]))
export const withStages = (...more: AnyStage[]): BuiltInStages => ({
  ...stages,
  ...Object.fromEntries(more.map(stage => [stage.name, async () => ({ default: stage })])),
})

/** A stage that passes rows on, and what a test wants of it besides. */
export const numbered = (name: string, more: Partial<AnyStage>): AnyStage => ({
  ...(defineStage({
    name,
    version: 1,
    about: 'Rows as they are.',
    params: Type.Object({}),
    input: numbersTable,
    output: numbersTable,
    operator: _ => each(async row => ({ ...row })),
  }) as AnyStage),
  ...more,
})
