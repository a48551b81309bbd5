/**
 * quantization: what config.json says of quantized linears, checked, and the tensors that they are stored as.
 *
 * "quantization_config": { quant_method: "pipe", version: 1, codebook: { use, … }, modules: { linear: { m, n, transform:
 * { m, n } } } }, the transform being the orders of H_m and H_n (repeated along the diagonal where smaller than m, n). A
 * linear P is stored as P.trellis i16 [tiles, words], P.SU [n], P.SV [m] with the scale folded in, where they were trained
 * real vectors and f32; the code's tables once, as codebook.NAME. Version 2: a module may say "table": NAME, and then has its
 * own, P.NAME, in place of the code's. Version 3: "more": [{ use, … }, …] are further codes, with tables codebook.1.NAME and
 * so on, and a module may say "code": 1 and so on in place of the first. Everything else is stored as in the dense model.
 */
import { type Static, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { codebooks } from '../../native/codebooks/index.js'
import { hadamardFactor } from '../../native/ops/hadamard/hadamard.js'
import { PipeError } from '../../pipeline/define.js'
import { type ExpectedTensor, headName } from './architecture.js'
import type { ModelConfig } from './config.js'
import { expectedQtip, floats, type QtipQuantization, readQtip, type StoredTensor, weightTypes } from './qtip-config.js'
import type { Entry } from './safetensors.js'

const versions = [1, 2, 3] as const
const size = Type.Integer({ minimum: 1 })
const code = Type.Object({ use: Type.String() })
const transformed = Type.Object({
  m: size,
  n: size,
  transform: Type.Object({ m: size, n: size }),
  code: Type.Optional(Type.Integer({ minimum: 1 })),
  table: Type.Optional(Type.String()),
})
const schema = Type.Object({
  quant_method: Type.Literal('pipe'),
  version: Type.Union(versions.map(version => Type.Literal(version))),
  codebook: code,
  more: Type.Optional(Type.Array(code, { maxItems: 1000 })),
  modules: Type.Record(Type.String(), transformed),
})

/** What config.json says about quantized linears, in this project's form. */
export type PipeQuantization = Static<typeof schema>
/** In this project's form, or in that of a published program. */
export type Quantization = PipeQuantization | QtipQuantization

/** With this begins every tensor that holds a code's table; and those of code nr. i, the first being 0. */
const tablePrefix = 'codebook.'
export const tablesOf = (i: number): string => (i === 0 ? tablePrefix : `${tablePrefix}${i}.`)

/** What config.json says of the model's quantization, checked against its linears; undefined when it says nothing. */
export function readQuantization(config: ModelConfig, expected: readonly ExpectedTensor[], where: string): Quantization | undefined {
  const value: unknown = config.raw.quantization_config
  if (value === undefined || value === null) return readQtip(config, where)
  const fail = (message: string, hint?: string): never => {
    throw new PipeError('input', { where, message, hint })
  }
  const method = (value as { quant_method?: unknown }).quant_method
  if (typeof method !== 'string') fail(`"quantization_config" has no "quant_method" that says by what the model is quantized.`)
  if (method !== 'pipe') fail(`the model is quantized by ${JSON.stringify(method)} already.`, 'Give the model it was made from.')
  const { version } = value as { version?: unknown }
  if (!versions.some(known => known === version))
    fail(
      `"quantization_config" is of version ${JSON.stringify(version) ?? '(none)'}; read are ${versions.join(', ')}.`,
      'If a newer pipe has made the model, take that.',
    )
  if (!Value.Check(schema, value)) {
    const first = Value.Errors(schema, value).First()
    const came = JSON.stringify(first?.value)?.slice(0, 60) ?? 'nothing'
    return fail(`"quantization_config"${first?.path ?? ''}: ${first?.message ?? 'malformed'}, and ${came} came.`)
  }
  for (const { use } of [value.codebook, ...(value.more ?? [])])
    if (!Object.hasOwn(codebooks, use)) fail(`the codebook "${use}" is not known.`, `Known: ${Object.keys(codebooks).join(', ')}.`)
  const head = `${headName(config.architecture, false)}.weight` // it may be rounded as linears are, where it is no embedding
  const linears = new Map(expected.filter(({ role, name }) => role === 'linear' || name === head).map(({ name, shape }) => [name, shape]))
  for (const [name, { m, n, transform, code = 0 }] of Object.entries(value.modules)) {
    if (code > (value.more?.length ?? 0)) fail(`"${name}" has code ${code}, and "more" has ${value.more?.length ?? 0}.`)
    const shape = linears.get(`${name}.weight`)
    if (shape === undefined) fail(`"${name}" is no linear of this model.`)
    else if (shape[0] !== m || shape[1] !== n) fail(`"${name}" is said to be [${m}, ${n}] but is [${shape}] by the sizes of the model.`)
    for (const order of [transform.m, transform.n])
      if (hadamardFactor(order) === undefined) fail(`"${name}": no Hadamard matrix of order ${order} is known.`)
    if (m % transform.m !== 0 || n % transform.n !== 0)
      fail(`"${name}" [${m}, ${n}] can't be made of transforms of ${transform.m} and ${transform.n}.`)
  }
  return value
}

/** The tensors that a quantized checkpoint holds in place of the dense model's. */
export function expectedQuantized(
  quantization: Quantization,
  expected: readonly ExpectedTensor[],
  tensors: ReadonlyMap<string, Entry>,
  where: string,
): StoredTensor[] {
  if (quantization.quant_method === 'qtip') return expectedQtip(quantization, expected, tensors, where)
  const { modules } = quantization
  // Shapes of codes and tables depend on the code, which checks them when it is opened.
  const asStored = (name: string) => ({ name, shape: tensors.get(name)?.shape ?? [] })
  return [
    ...[...tensors.keys()].filter(name => name.startsWith(tablePrefix)).map(asStored),
    ...expected.flatMap(({ name, shape }) => {
      const linear = name.replace(/\.weight$/, '')
      const module = Object.hasOwn(modules, linear) ? modules[linear] : undefined
      if (module === undefined) return [{ name, shape, dtypes: weightTypes }]
      const table = module.table === undefined ? [] : [asStored(`${linear}.${module.table}`)]
      return [
        asStored(`${linear}.trellis`),
        { name: `${linear}.SU`, shape: [module.n], dtypes: floats },
        { name: `${linear}.SV`, shape: [module.m], dtypes: floats },
        ...table,
      ]
    }),
  ]
}
