import { Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import t from 'tap'
import { defineStage, defineTable, each, file, nothing, optional, tensor, u32 } from '../../pipeline/define.js'
import { columnText, graphSchema, parameters } from '../../pipeline/schema.js'

const code = (use: string, more: object) =>
  Type.Object({ use: Type.Literal(use), K: Type.Integer({ minimum: 1, maximum: 4, default: 2, description: 'bits' }), ...more })
const params = Type.Object(
  {
    text: file('What to read'),
    damp: Type.Number({ minimum: 0, default: 0.01, description: 'Damping' }),
    mode: Type.Union([Type.Literal('fast'), Type.Literal('slow')], { default: 'fast', description: 'How' }),
    scale: Type.Optional(Type.Number({ description: 'Fixed' })),
    codebook: Type.Union([code('scalar', {}), code('hyb', { L: Type.Integer({ default: 16, description: 'state bits' }) })], {
      description: 'The code',
    }),
    skip: Type.Array(Type.String(), { default: [], description: 'Names' }),
  },
  { additionalProperties: false },
)
const stage = defineStage({
  name: 'toy',
  version: 1,
  about: 'A toy.',
  params,
  input: nothing,
  output: defineTable('numbers', 1, { n: u32('a number') }),
  operator: () => each(row => ({ ...row, n: 1 })),
})

t.test('a row a parameter; choices of objects are taken apart, equal rows once', async t => {
  t.strictSame(
    parameters(params).map(row => [row.name, row.type, row.default, row.about]),
    [
      ['text', 'file', '', 'What to read'],
      ['damp', 'number ≥ 0', '0.01', 'Damping'],
      ['mode', '"fast" or "slow"', '"fast"', 'How'],
      ['scale', 'number', 'none', 'Fixed'],
      ['codebook', '{ use: scalar or hyb }', '', 'The code'],
      ['codebook.K', 'integer 1–4', '2', 'bits (scalar, hyb)'],
      ['codebook.L', 'integer', '16', 'state bits (hyb)'],
      ['skip', 'list of string', '[]', 'Names'],
    ],
  )
})

t.test('columns', async t => {
  t.equal(columnText(u32('')), 'u32')
  t.equal(columnText(optional(tensor('f32', 'n n', ''))), 'f32 [n n], optional')
})

t.test('the schema of graphs takes what is right and refuses what is not', async t => {
  const check = new Ajv({ strict: false }).compile(graphSchema([stage]))
  const graph = (...stages: object[]) => ({
    $schema: 'x',
    name: 'g',
    about: 'a',
    seed: 0,
    inputs: { text: { about: 'Text', default: 'x.txt' } },
    stages,
  })
  const toy = { use: 'toy', text: '$text', codebook: { use: 'scalar', K: 3 } }
  for (const good of [graph(toy), graph(toy, { use: './mine.js', anything: 1 }, { ...toy, id: 'again', from: ['mine'] })]) {
    t.ok(check(good), JSON.stringify(check.errors))
  }
  for (const bad of [
    graph(),
    graph({ use: 'tyo' }),
    graph({ use: 'toy' }),
    graph({ ...toy, dmap: 1 }),
    graph({ ...toy, damp: -1 }),
    graph({ ...toy, codebook: { use: 'scalar', K: 5 } }),
    { ...graph(toy), sed: 1 },
  ])
    t.notOk(check(bad), JSON.stringify(bad))
})
