/** Parameters of a stage: defaults filled in, checked against its schema, every mistake a sentence. */
import { Ajv, type ErrorObject } from 'ajv'
import { didYouMean } from './error.js'

/** A JSON Schema as TypeBox makes them, as far as it is looked at here. */
export interface Schema {
  readonly type?: string
  readonly properties?: Readonly<Record<string, Schema>>
  /** Of an object with any names: one, for all. */
  readonly patternProperties?: Readonly<Record<string, Schema>>
  readonly items?: Schema
  readonly anyOf?: readonly Schema[]
  readonly const?: unknown
  readonly description?: string
  /** 'file' or 'directory': the value is a path, and its content part of the cache key. 'stages': a list of inner stages. */
  readonly pipe?: 'file' | 'directory' | 'stages'
  /** Of a directory: which of its files count. */
  readonly endings?: readonly string[]
}

// strictNumbers: JSON's 1e400 is Infinity, which is no number here.
const ajv = new Ajv({ allErrors: true, useDefaults: true, strict: false, strictNumbers: true, verbose: true })

/** Fills defaults into `params`, in place, and returns what is wrong. `owner`: whose parameters they are, for the sentences. */
export function checkParams(owner: string, schema: Schema, params: Record<string, unknown>): string[] {
  const mistakes: string[] = []
  const narrowed = narrow(schema, params, '', mistakes)
  const validate = ajv.compile(narrowed)
  if (!validate(params)) for (const error of withoutBranches(validate.errors ?? [])) mistakes.push(told(error, narrowed, owner))
  const known = Object.keys(schema.properties ?? {}) // a schema need not say additionalProperties: false
  for (const name of Object.keys(params)) {
    if (!known.includes(name)) mistakes.push(unknown(name, known, owner))
  }
  return [...new Set(mistakes)]
}

/**
 * A choice between objects that differ in "use" becomes the one the value names: so that defaults are filled in, and
 * the mistakes told are those of that one. So does a choice between one object and words; and an object of any names, the names it has.
 */
function narrow(schema: Schema, value: unknown, path: string, mistakes: string[]): Schema {
  if (schema.anyOf?.every(branch => branch.properties?.use?.const !== undefined)) {
    const uses = schema.anyOf.map(branch => String(branch.properties?.use?.const))
    const use = (value as { use?: unknown } | undefined)?.use
    const branch = schema.anyOf[uses.indexOf(String(use))]
    if (branch !== undefined) return narrow(branch, value, path, mistakes)
    if (value === undefined) return schema
    const came =
      use === undefined ? `an object with "use" is expected, and ${JSON.stringify(value)} came.` : `unknown ${JSON.stringify(use)}.`
    mistakes.push(`${path}: ${came}${typeof use === 'string' ? didYouMean(use, uses) : ''}\nKnown: ${uses.join(', ')}`)
    return {}
  }
  const variants = schema.anyOf?.filter(({ type }) => type === 'object') ?? []
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const others = schema.anyOf?.filter(branch => !variants.includes(branch)) ?? []
    return value === undefined || variants.length === 0 || others.length === 0 ? schema : { ...schema, anyOf: others }
  }
  if (variants.length === 1) return narrow(variants[0] as Schema, value, path, mistakes)
  const [each] = Object.values(schema.patternProperties ?? {})
  if (each !== undefined) {
    const properties = Object.entries(value).map(([name, one]) => [name, narrow(each, one, `${path}.${name}`, mistakes)])
    return { ...schema, patternProperties: {}, properties: Object.fromEntries(properties) }
  }
  if (schema.properties === undefined) return schema
  const properties = Object.entries(schema.properties).map(([name, property]) => {
    const inner = (value as Record<string, unknown>)[name]
    return [name, narrow(property, inner ?? (property as { default?: unknown }).default, path === '' ? name : `${path}.${name}`, mistakes)]
  })
  return { ...schema, properties: Object.fromEntries(properties) }
}

/** One error for a choice, in place of one for each of its branches: that of the branch which takes what came, as far as that goes, else its own. */
function withoutBranches(errors: readonly ErrorObject[]): ErrorObject[] {
  const dropped = new Set<ErrorObject>()
  for (const choice of errors.filter(({ keyword }) => keyword === 'anyOf')) {
    const branches = errors.filter(
      error => error !== choice && error.instancePath === choice.instancePath && error.schemaPath.startsWith(`${choice.schemaPath}/`),
    )
    const near = branches.filter(({ keyword }) => keyword !== 'type' && keyword !== 'const')
    const isOfWords = (choice.parentSchema as Schema).anyOf?.every(branch => branch.const !== undefined)
    if (near.length > 0) dropped.add(choice)
    if (near.length > 0 || isOfWords) for (const error of branches) if (!near.includes(error)) dropped.add(error)
  }
  return errors.filter(error => !dropped.has(error))
}

function told({ instancePath, keyword, params, message, data, parentSchema }: ErrorObject, schema: Schema, owner: string): string {
  const path = instancePath.slice(1).replaceAll('/', '.')
  const at = (name: string): string => (path === '' ? name : `${path}.${name}`)
  const came = `${typeof data === 'number' ? data : JSON.stringify(data)} came`
  if (keyword === 'additionalProperties') {
    const known = Object.keys((parentSchema as Schema | undefined)?.properties ?? {}).filter(name => name !== 'use')
    return unknown(String(params.additionalProperty), known, path === '' ? owner : `${owner}, in "${path}"`)
  }
  if (keyword === 'required') {
    const name = String(params.missingProperty)
    const about = within(schema, instancePath)?.properties?.[name]?.description
    return `${at(name)}: missing${about === undefined ? '' : ` (${about})`}.`
  }
  if (keyword === 'enum' || keyword === 'const' || keyword === 'anyOf') {
    const branches = (parentSchema as Schema & { enum?: unknown[] }).enum ??
      (parentSchema as Schema).anyOf?.map(branch => branch.const) ?? [params.allowedValue]
    const choices = branches.filter(choice => choice !== undefined)
    const words = choices.filter(choice => typeof choice === 'string')
    const meant = typeof data === 'string' ? didYouMean(data, words) : ''
    return `${path}: expected one of ${choices.map(choice => JSON.stringify(choice)).join(', ')}, and ${came}.${meant}`
  }
  return `${path}: ${message}, and ${came}.`
}

const unknown = (name: string, known: readonly string[], owner: string): string =>
  `"${name}" is no parameter of ${owner}.${didYouMean(name, known)}${known.length > 0 ? `\nKnown: ${known.join(', ')}` : ''}`

const within = (schema: Schema, instancePath: string): Schema | undefined =>
  instancePath
    .split('/')
    .slice(1)
    .reduce<Schema | undefined>((at, name) => at?.properties?.[name] ?? at?.items, schema)

/** Where the parameter of a path stands: holder[key]. */
export function placeOf(
  params: unknown,
  path: readonly (string | number)[],
): { holder: Record<string | number, unknown>; key: string | number } {
  const holder = path.slice(0, -1).reduce((at, key) => (at as Record<string | number, unknown>)[key], params)
  return { holder: holder as Record<string | number, unknown>, key: path.at(-1) as string | number }
}

/** The parameters that are paths: 'text', 'inner.file'; with their kind. */
export function* pathParams(
  schema: Schema,
  value: unknown,
  path: readonly (string | number)[] = [],
): Generator<{ path: (string | number)[]; kind: 'file' | 'directory'; endings?: readonly string[] | undefined }> {
  if (schema.pipe === 'file' || schema.pipe === 'directory') {
    if (typeof value === 'string') yield { path: [...path], kind: schema.pipe, endings: schema.endings }
    return
  }
  for (const branch of schema.anyOf ?? []) yield* pathParams(branch, value, path)
  if (Array.isArray(value) && schema.items !== undefined) {
    for (const [i, item] of value.entries()) yield* pathParams(schema.items, item, [...path, i])
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, property] of Object.entries(schema.properties ?? {})) {
      yield* pathParams(property, (value as Record<string, unknown>)[name], [...path, name])
    }
  }
}
