/**
 * quantized: weights out of a checkpoint, dense whichever form they are stored in, or packed.
 *
 *   W = diag(SV) · H_m · Ŵ · H_nᵀ · diag(SU)      QTIP (arXiv:2406.11235) §3; RHT as in QuIP# (arXiv:2402.04396) §3
 *
 * quantization.ts has the names and shapes.
 */
import type { Codec } from '../../native/codebook.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { PipeError } from '../../pipeline/define.js'
import type { Checkpoint } from './checkpoint.js'
import { expectFinite } from './finite.js'
import { toDense } from './incoherence.js'
import type { PackedWeights } from './linear.js'
import { decodeQtip, openPackedQtip } from './qtip.js'
import { type QtipQuantization, weightTypes } from './qtip-config.js'
import { type PipeQuantization, tablesOf } from './quantization.js'

/** A further code's number begins the rest of a table's name, and no table's own name has a dot. */
const tableNames = (checkpoint: Checkpoint, i: number): string[] =>
  [...checkpoint.tensors.keys()]
    .filter(name => name.startsWith(tablesOf(i)))
    .map(name => name.slice(tablesOf(i).length))
    .filter(name => !name.includes('.'))

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
  if (own !== undefined && !shared.includes(own.table)) {
    const known = shared.length === 0 ? 'has none' : `has ${shared.map(name => `"${name}"`).join(', ')}`
    throw new PipeError('input', {
      where: checkpoint.path,
      message: `"${own.linear}" is said to have a table "${own.table}" of its own, and its code ${known}.`,
    })
  }
  const place = (name: string): string => (name === own?.table ? `${own.linear}.${name}` : `${tablesOf(i)}${name}`)
  const tables = await Promise.all(shared.map(async name => [name, await checkpoint.ref(place(name)).open(ops)] as const))
  try {
    const { codebook, params } = codebookOf((i === 0 ? quantization.codebook : quantization.more?.[i - 1]) ?? quantization.codebook)
    await expectFinite(
      ops,
      checkpoint.path,
      tables.filter(([, table]) => weightTypes.includes(table.dtype)).map(([name, table]) => [place(name), table]),
    )
    const codec = codebook.open(ops, params, tables.length > 0 ? Object.fromEntries(tables) : undefined) // takes over its tables
    for (const [name, table] of tables) if (codec.tables[name] !== table) table[Symbol.dispose]()
    return codec
  } catch (error) {
    for (const [, table] of tables) table[Symbol.dispose]()
    if (error instanceof PipeError) throw error
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
