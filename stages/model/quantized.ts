/**
 * quantized: the form in which quantized linears are stored, and dense weights out of either form.
 *
 *   W = diag(SV) · H_m · Ŵ · H_nᵀ · diag(SU)      QTIP (arXiv:2406.11235) §3; RHT as in QuIP# (arXiv:2402.04396) §3
 *
 * config.json says "quantization_config": { quant_method: "pipe", version: 1, codebook: { use, … }, modules:
 * { linear: { m, n, transform: { m, n } } } }, the transform being the orders of H_m and H_n (repeated along the diagonal
 * where smaller than m, n). A linear P is stored as P.trellis i16 [tiles, words], P.SU [n], P.SV [m] with the scale
 * folded in, where they were trained real vectors and f32; the code's tables once, as codebook.NAME. Version 2: a module may
 * say "table": NAME, and then has its own, P.NAME, in place of the code's. Version 3: "more": [{ use, … }, …] are further
 * codes, with tables codebook.1.NAME and so on, and a module may say "code": 1 and so on in place of the first. Everything else is stored
 * as in the dense model.
 */
import { type Static, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import type { Codec } from '../../native/codebook.js'
import { codebooks } from '../../native/codebooks/index.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import { hadamardFactor } from '../../native/ops/hadamard/hadamard.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor, TensorRef } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import { type ExpectedTensor, headName } from './architecture.js'
import type { Checkpoint } from './checkpoint.js'
import type { ModelConfig } from './config.js'
import { toDense } from './incoherence.js'
import type { PackedWeights } from './linear.js'
import { decodeQtip, expectedQtip, openPackedQtip, type QtipQuantization, readQtip, type StoredTensor } from './qtip.js'
import type { Entry } from './safetensors.js'

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
  version: Type.Union([Type.Literal(1), Type.Literal(2), Type.Literal(3)]),
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
/** A further code's number begins the rest of a table's name, and no table's own name has a dot. */
const tableNames = (checkpoint: Checkpoint, i: number): string[] =>
  [...checkpoint.tensors.keys()]
    .filter(name => name.startsWith(tablesOf(i)))
    .map(name => name.slice(tablesOf(i).length))
    .filter(name => !name.includes('.'))

/** What config.json says of the model's quantization, checked against its linears; undefined when it says nothing. */
export function readQuantization(config: ModelConfig, expected: readonly ExpectedTensor[], where: string): Quantization | undefined {
  const value: unknown = config.raw.quantization_config
  if (value === undefined || value === null) return readQtip(config, where)
  const fail = (message: string, hint?: string): never => {
    throw new PipeError('input', { where, message, hint })
  }
  const method = (value as { quant_method?: unknown }).quant_method
  if (method !== 'pipe') fail(`the model is quantized by ${JSON.stringify(method)} already.`, 'Give the model it was made from.')
  if (!Value.Check(schema, value)) {
    const first = Value.Errors(schema, value).First()
    return fail(`"quantization_config"${first?.path ?? ''}: ${first?.message ?? 'malformed'}.`)
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
      if (module === undefined) return [{ name, shape }]
      const table = module.table === undefined ? [] : [asStored(`${linear}.${module.table}`)]
      return [
        asStored(`${linear}.trellis`),
        { name: `${linear}.SU`, shape: [module.n] },
        { name: `${linear}.SV`, shape: [module.m] },
        ...table,
      ]
    }),
  ]
}

/** Where the forward pass takes its weights from. Disposing lets go of the code's tables. */
export interface Weights extends Disposable {
  readonly checkpoint: Checkpoint
  /** A tensor of the dense model by its full name, f32 unless asked for in bf16; quantized linears are decoded. The caller disposes it. */
  open(name: string, dtype?: 'f32' | 'bf16'): Promise<Tensor>
  /** A linear (its name without .weight) as it is packed; undefined where there is no kernel for its code or its shape. The caller disposes its tensors. */
  packed?(linear: string): Promise<PackedWeights | undefined>
}

/** Dense weights of a checkpoint, whether it is stored dense or quantized. Raises PipeError when codes don't fit their linear. */
export async function openWeights(ops: Ops, checkpoint: Checkpoint): Promise<Weights> {
  const { quantization } = checkpoint
  if (quantization?.quant_method === 'qtip') return openQtip(ops, checkpoint, quantization)
  const codecs: Codec[] = []
  const own: Codec[] = [] // of packed linears with a table of their own
  const dispose = (): void => {
    for (const codec of [...codecs.splice(0), ...own.splice(0)]) codec[Symbol.dispose]()
  }
  try {
    for (const i of quantization === undefined ? [] : [quantization.codebook, ...(quantization.more ?? [])].keys())
      codecs.push(await openCodec(ops, checkpoint, quantization as PipeQuantization, i))
  } catch (error) {
    dispose()
    throw error
  }
  const moduleOf = (linear: string) =>
    quantization !== undefined && Object.hasOwn(quantization.modules, linear) ? quantization.modules[linear] : undefined
  return {
    checkpoint,
    async packed(linear) {
      const module = moduleOf(linear)
      const common = codecs[module?.code ?? 0]
      if (common?.packed === undefined || module === undefined) return undefined
      const { m, n, transform, code = 0, table } = module
      if (m % common.tile[0] !== 0 || n % common.tile[1] !== 0) return undefined // padded ones are decoded
      if (table !== undefined) own.push(await openCodec(ops, checkpoint, quantization as PipeQuantization, code, { linear, table }))
      const codec = table === undefined ? common : (own.at(-1) as Codec)
      const trellis = await storedCodes(checkpoint, codec, linear, m, n).open(ops)
      const [su, sv] = [await checkpoint.ref(`${linear}.SU`).open(ops, 'f32'), await checkpoint.ref(`${linear}.SV`).open(ops, 'f32')]
      return { linear, m, n, transform, codec, trellis, su, sv }
    },
    open(name, dtype = 'f32') {
      const linear = name.replace(/\.weight$/, '')
      const module = moduleOf(linear)
      const codec = codecs[module?.code ?? 0]
      return codec === undefined || module === undefined
        ? checkpoint.ref(name).open(ops, dtype)
        : decode(ops, checkpoint, codec, quantization as PipeQuantization, linear, module).then(dense => as(ops, dense, dtype))
    },
    [Symbol.dispose]: dispose,
  }
}

function openQtip(ops: Ops, checkpoint: Checkpoint, quantization: QtipQuantization): Weights {
  const shapes = new Map(checkpoint.expected.map(({ name, shape }) => [name, shape]))
  const codecs = new Map<string, Codec>()
  return {
    checkpoint,
    packed: linear =>
      checkpoint.tensors.has(`${linear}.trellis`)
        ? openPackedQtip(ops, checkpoint, quantization, linear, shapes.get(`${linear}.weight`) as [number, number], codecs)
        : Promise.resolve(undefined),
    open(name, dtype = 'f32') {
      const linear = name.replace(/\.weight$/, '')
      const [m = 0, n = 0] = shapes.get(name) ?? []
      return checkpoint.tensors.has(`${linear}.trellis`)
        ? decodeQtip(ops, checkpoint, quantization, linear, [m, n]).then(dense => as(ops, dense, dtype))
        : checkpoint.ref(name).open(ops, dtype)
    },
    [Symbol.dispose]() {
      for (const codec of codecs.values()) codec[Symbol.dispose]()
      codecs.clear()
    },
  }
}

/** Takes over x f32. */
function as(ops: Ops, x: Tensor, dtype: 'f32' | 'bf16'): Tensor {
  if (dtype === 'f32') return x
  using wide = x
  return ops.cast(wide, dtype)
}

/** Code nr. i with the checkpoint's tables; with the linear's own in place of the code's, where it has one. */
async function openCodec(
  ops: Ops,
  checkpoint: Checkpoint,
  quantization: PipeQuantization,
  i: number,
  own?: { linear: string; table: string },
): Promise<Codec> {
  const shared = tableNames(checkpoint, i)
  const place = (name: string): string => (name === own?.table ? `${own.linear}.${name}` : `${tablesOf(i)}${name}`)
  const tables = await Promise.all(shared.map(async name => [name, await checkpoint.ref(place(name)).open(ops)] as const))
  try {
    const { codebook, params } = codebookOf((i === 0 ? quantization.codebook : quantization.more?.[i - 1]) ?? quantization.codebook)
    const codec = codebook.open(ops, params, tables.length > 0 ? Object.fromEntries(tables) : undefined) // takes over its tables
    for (const [name, table] of tables) if (codec.tables[name] !== table) table[Symbol.dispose]()
    return codec
  } catch (error) {
    for (const [, table] of tables) table[Symbol.dispose]()
    throw new PipeError(
      'input',
      { where: checkpoint.path, message: `the codebook can't be opened: ${(error as Error).message}.` },
      { cause: error },
    )
  }
}

/** Linears that tiles do not divide are padded with zero weights. */
const paddedShape = ({ tile: [Tx, Ty] }: Codec, m: number, n: number): [number, number] => [Math.ceil(m / Tx) * Tx, Math.ceil(n / Ty) * Ty]

/** The words of a linear, as its code makes them. */
function storedCodes(checkpoint: Checkpoint, codec: Codec, linear: string, m: number, n: number): TensorRef {
  const stored = checkpoint.ref(`${linear}.trellis`)
  const [Tx, Ty] = codec.tile
  const [rows, columns] = paddedShape(codec, m, n)
  const shape = [(rows / Tx) * (columns / Ty), (codec.bitsPerWeight * Tx * Ty) / 16]
  if (stored.dtype === 'i16' && String(stored.shape) === String(shape)) return stored
  throw new PipeError('input', {
    where: checkpoint.path,
    message: `"${linear}.trellis" is ${stored.dtype} [${stored.shape}], not i16 [${shape}] as its codebook makes it for [${m}, ${n}].`,
  })
}

async function decode(
  ops: Ops,
  checkpoint: Checkpoint,
  common: Codec,
  quantization: PipeQuantization,
  linear: string,
  { m, n, transform, code = 0, table }: PipeQuantization['modules'][string],
): Promise<Tensor> {
  using own = table === undefined ? undefined : await openCodec(ops, checkpoint, quantization, code, { linear, table })
  const codec = own ?? common
  const stored = storedCodes(checkpoint, codec, linear, m, n)
  const [rows, columns] = paddedShape(codec, m, n)
  using trellis = await stored.open(ops)
  using codes = codec.unpack(trellis)
  using padded = codec.decode(codes, rows, columns)
  using values = ops.copy(padded, { rows: [0, m], columns: [0, n] })
  using su = await checkpoint.ref(`${linear}.SU`).open(ops, 'f32')
  using sv = await checkpoint.ref(`${linear}.SV`).open(ops, 'f32')
  return toDense(ops, values, su, sv, transform)
}
