/** What stages' schemas say, in other words: rows of a table of parameters, and the JSON Schema of graph files. */
import type { TObject, TSchema } from '@sinclair/typebox'
import type { AnyStage, Column } from './define.js'
import { whyNotInner } from './inner.js'

export interface Parameter {
  /** Dotted, as for --set: 'codebook.K'. */
  readonly name: string
  readonly type: string
  /** As JSON; '' = must be given; 'none' = may be left out. */
  readonly default: string
  readonly about: string
}

/** A row a parameter. Objects are taken apart; a choice of objects that differ in "use" gives the rows of each. */
export function parameters(schema: TObject): Parameter[] {
  const required = new Set<string>(schema.required ?? [])
  return Object.entries<TSchema>(schema.properties).flatMap(([name, property]) => {
    const row: Parameter = {
      name,
      type: typeText(property),
      about: property.description ?? '',
      default: property.default !== undefined ? JSON.stringify(property.default) : required.has(name) ? '' : 'none',
    }
    const inner = objects(property).flatMap(variant =>
      parameters(variant)
        .filter(parameter => parameter.name !== 'use')
        .map(parameter => ({
          ...parameter,
          name: `${name}.${parameter.name}`,
          about: of(variant, objects(property).length) + parameter.about,
        })),
    )
    return [row, ...merge(inner)]
  })
}

/** The object schemas that a property may hold. */
const objects = (schema: TSchema): TObject[] =>
  schema.type === 'object' && schema.properties !== undefined
    ? [schema as TObject]
    : ((schema.anyOf as TSchema[] | undefined) ?? []).flatMap(objects)

const of = (variant: TObject, variants: number): string => {
  const use: unknown = variant.properties.use?.const
  return variants > 1 && typeof use === 'string' ? `(${use}) ` : ''
}

/** Rows that say the same for several variants become one. */
function merge(rows: readonly Parameter[]): Parameter[] {
  const merged = new Map<string, { row: Parameter; uses: string[]; about: string }>()
  for (const row of rows) {
    const [, use, about = row.about] = /^\(([^)]*)\) (.*)$/s.exec(row.about) ?? []
    const key = JSON.stringify([row.name, row.type, row.default, about])
    const known = merged.get(key) ?? { row, uses: [], about }
    if (use !== undefined) known.uses.push(use)
    merged.set(key, known)
  }
  return [...merged.values()].map(({ row, uses, about }) => ({ ...row, about: uses.length > 0 ? `${about} (${uses.join(', ')})` : about }))
}

function typeText(schema: TSchema): string {
  if (schema.pipe !== undefined) return `${schema.pipe}`
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (Array.isArray(schema.enum)) return schema.enum.map(value => JSON.stringify(value)).join(' or ')
  if (Array.isArray(schema.anyOf)) {
    const uses = objects(schema)
      .map(variant => variant.properties.use?.const)
      .filter(use => typeof use === 'string')
    const rest = (schema.anyOf as TSchema[]).filter(inner => inner.type !== 'object').map(typeText)
    return [...new Set([...rest, ...(uses.length > 0 ? [`{ use: ${uses.join(' or ')} }`] : [])])].join(' or ')
  }
  if (schema.type === 'array') return `list of ${typeText(schema.items as TSchema)}`
  if (schema.type === 'number' || schema.type === 'integer') return `${schema.type}${range(schema)}`
  return `${schema.type ?? 'anything'}`
}

function range({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: TSchema): string {
  const low = minimum !== undefined ? `≥ ${minimum}` : exclusiveMinimum !== undefined ? `> ${exclusiveMinimum}` : ''
  const high = maximum !== undefined ? `≤ ${maximum}` : exclusiveMaximum !== undefined ? `< ${exclusiveMaximum}` : ''
  if (minimum !== undefined && maximum !== undefined) return ` ${minimum}–${maximum}`
  return [low, high]
    .filter(text => text !== '')
    .map(text => ` ${text}`)
    .join(',')
}

/** 'f32 [m n]', 'utf8', 'f64, optional'. */
export function columnText({ kind, dtype, shape, optional }: Column<unknown>): string {
  const type = kind === 'tensor' ? `${dtype} [${shape}]` : kind
  return optional ? `${type}, optional` : type
}

/** As TypeBox has it, except that what has a default may be left out: a graph is checked before defaults are filled in. */
function asWritten(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(asWritten)
  if (typeof schema !== 'object' || schema === null) return schema
  const { pipe, ...rest } = schema as TSchema
  if (pipe === 'stages') return { ...rest, pipe, items: { $ref: '#/definitions/inner' } }
  const copy = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, asWritten(value)])) as TSchema
  if (Array.isArray(copy.required) && typeof copy.properties === 'object') {
    copy.required = copy.required.filter(name => copy.properties[name]?.default === undefined)
  }
  return copy
}

/** The JSON Schema of graph files (draft 7), so that an editor completes and checks them. */
export function graphSchema(stages: readonly AnyStage[]): object {
  const place = {
    use: { description: 'A built-in stage, a module relative to this file (./mine.js), or a package' },
    id: { type: 'string', description: 'Name of this stage in the graph; default: the name of the stage' },
    from: {
      description: 'The stages whose rows it reads, by id; default: the stage above',
      type: 'array',
      items: { type: 'string' },
      minItems: 1,
    },
  }
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'A graph of pipe',
    type: 'object',
    required: ['name', 'stages'],
    additionalProperties: false,
    properties: {
      $schema: { type: 'string' },
      name: { type: 'string', pattern: '^[\\w-][\\w.-]*$', description: 'A word; the output folder is called so' },
      about: { type: 'string', description: 'What it does, in a sentence or two' },
      inputs: {
        description: 'What the user sets with --set name=value; "$name" as the value of a parameter stands for it',
        type: 'object',
        additionalProperties: {
          anyOf: [
            { type: 'string', description: 'What it is' },
            {
              type: 'object',
              required: ['about'],
              additionalProperties: false,
              properties: {
                about: { type: 'string', description: 'What it is' },
                default: { type: 'string', description: 'Used when not set; relative to this file' },
                follows: { type: 'string', description: 'Takes the value of this other input when that is set and this one is not' },
              },
            },
          ],
        },
      },
      seed: { type: 'integer', minimum: 0, default: 0, description: 'Of all random numbers' },
      stages: {
        type: 'array',
        minItems: 1,
        items: oneOfStages(stages, place),
      },
    },
    ...(stages.every(stage => stage.inner === undefined)
      ? {}
      : {
          definitions: {
            inner: oneOfStages(
              stages.filter(stage => whyNotInner(stage) === undefined),
              { use: place.use },
            ),
          },
        }),
  }
}

/** An entry of a list of stages: `place` says what all have, "use" decides what else. */
const oneOfStages = (stages: readonly AnyStage[], place: { readonly use: object }): object => ({
  type: 'object',
  required: ['use'],
  properties: {
    ...place,
    use: { ...place.use, anyOf: [{ enum: stages.map(({ name }) => name) }, { type: 'string', pattern: '[./@-]' }] },
  },
  allOf: stages.map(({ name, about, params }) => {
    const { required = [], properties } = asWritten(params) as TSchema
    return {
      if: { properties: { use: { const: name } } },
      // biome-ignore lint/suspicious/noThenProperty: a word of JSON Schema
      then: { description: about, required, additionalProperties: false, properties: { ...place, ...properties } },
    }
  }),
})
