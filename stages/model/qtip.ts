/**
 * qtip: quantized linears in the form of QTIP's published checkpoints (the "hfized" folders), read as any other model.
 *
 *   W = diag(SV) · H_m · Ŵ · H_nᵀ · diag(SU)      QTIP (arXiv:2406.11235) section 3
 *
 * config.json says "quip_params": { codebook: "bitshift", L, K, V, tlut_bits, decode_mode, td_x, td_y, … }. A linear P is
 * stored as P.trellis i16 [tiles, words], P.SU [n], P.SV [m] with the scale folded in, P.tlut [2^Q, V] for codes with a
 * table, and the scalars P.rcp and P.tp_rank; linears of skip_list are dense. rcp says whether a transform was split for
 * tensor parallelism: 1 that of the inputs, 2 that of the outputs, into tp_rank blocks.
 * The program computes with SU, SV and f16 values and divides by 32 before the product what it multiplies by 32 after it,
 * against overflow: a power of two, so that nothing of it is seen here.
 */
import { createHash } from 'node:crypto'
import { type Static, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import type { Codec } from '../../native/codebook.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import {
  contradiction,
  decodeModes,
  decodePublished,
  hasKernel,
  hasTable,
  type PublishedCode,
  naturalWords,
  packedShape,
  settingsOf,
} from '../../native/codebooks/trellis/published.js'
import { hadamardFactor } from '../../native/ops/hadamard/hadamard.js'
import type { Ops } from '../../native/ops.js'
import type { DType, Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import type { ExpectedTensor } from './architecture.js'
import type { Checkpoint } from './checkpoint.js'
import type { ModelConfig } from './config.js'
import { toDense } from './incoherence.js'
import type { PackedWeights } from './linear.js'
import type { Entry } from './safetensors.js'

const count = Type.Integer({ minimum: 1, maximum: 65536 })
export const quipParams = Type.Object({
  codebook: Type.String(),
  codebook_version: Type.Optional(Type.Integer()),
  L: count,
  K: count,
  V: count,
  tlut_bits: Type.Integer({ minimum: 0, maximum: 65536 }),
  decode_mode: Type.String(),
  td_x: count,
  td_y: count,
  split_for_tp: Type.Optional(Type.Boolean()),
  /** Dense linears: '3_q' … '3_down'. */
  skip_list: Type.Optional(Type.Union([Type.Null(), Type.Array(Type.String())])),
  K_v_proj: Type.Optional(count),
})
export type QuipParams = Static<typeof quipParams>

/** What config.json of such a checkpoint says. */
export interface QtipQuantization {
  readonly quant_method: 'qtip'
  readonly params: QuipParams
}

/** What is stored in place of a tensor of the dense model, or beside it. */
export interface StoredTensor {
  readonly name: string
  readonly shape: readonly number[]
  /** Left out: any. */
  readonly dtypes?: readonly DType[]
}

const floats: readonly DType[] = ['f32', 'f16', 'bf16']
const i64: readonly DType[] = ['i64']

/** How the published programs call a linear: 'q' … 'down'. */
export const shortName = (linear: string): string => linear.slice(linear.lastIndexOf('.') + 1).replace(/_proj$/, '')
/** Blocks that a transform is split into for tensor parallelism, unless tp_rank says otherwise. */
const usualRank = 8

/** The quip_params of a model, checked; undefined when it has none. */
export function readQtip(config: ModelConfig, where: string): QtipQuantization | undefined {
  const value: unknown = config.raw.quip_params
  return value === undefined || value === null ? undefined : parseQuipParams(value, where)
}

/** Checks quip_params. Raises PipeError with a sentence where they are none, or contradict each other. */
export function parseQuipParams(value: unknown, where: string): QtipQuantization {
  const fail = (message: string, hint?: string): never => {
    throw new PipeError('input', { where, message, hint })
  }
  const named = (value as { codebook?: unknown }).codebook
  if (named !== 'bitshift')
    fail(`"quip_params" has the codebook ${JSON.stringify(named)}; "bitshift", QTIP's, is read.`, 'Export it to a dense model first.')
  if (!Value.Check(quipParams, value)) {
    const first = Value.Errors(quipParams, value).First()
    return fail(`"quip_params"${first?.path ?? ''}: ${first?.message ?? 'malformed'}, got ${JSON.stringify(first?.value)}.`)
  }
  if (!decodeModes.some(mode => mode === value.decode_mode))
    fail(`"quip_params" has the decode_mode ${JSON.stringify(value.decode_mode)}.`, `Known: ${decodeModes.join(', ')}.`)
  const quantization = { quant_method: 'qtip', params: value } as const
  for (const linear of ['q_proj', 'v_proj']) {
    const wrong = contradiction(codeOf(quantization, linear))
    if (wrong !== undefined) fail(`"quip_params": the code ${wrong}.`)
  }
  return quantization
}

/** The code of a linear: v_proj may have bits of its own. */
export function codeOf({ params }: QtipQuantization, linear: string): PublishedCode {
  const { decode_mode, L, V, tlut_bits, td_x, td_y } = params
  const K = linear.endsWith('v_proj') ? (params.K_v_proj ?? params.K) : params.K
  return { mode: decode_mode as PublishedCode['mode'], L, K, V, Q: tlut_bits, Tx: td_x, Ty: td_y }
}

/** Whether a linear of the model is stored as codes: not named in skip_list, nor there with its weight alone. */
const isCoded = ({ params }: QtipQuantization, { name, layer }: ExpectedTensor, tensors: ReadonlyMap<string, Entry>): boolean => {
  const linear = name.replace(/\.weight$/, '')
  return !(params.skip_list ?? []).includes(`${layer}_${shortName(linear)}`) && (!tensors.has(name) || tensors.has(`${linear}.trellis`))
}

/** The tensors that such a checkpoint holds in place of the dense model's. Raises PipeError where a linear can't be of the code. */
export function expectedQtip(
  quantization: QtipQuantization,
  expected: readonly ExpectedTensor[],
  tensors: ReadonlyMap<string, Entry>,
  where: string,
): StoredTensor[] {
  return expected.flatMap((tensor): StoredTensor[] => {
    if (tensor.role !== 'linear' || !isCoded(quantization, tensor, tensors)) return [tensor]
    const linear = tensor.name.replace(/\.weight$/, '')
    const [m = 0, n = 0] = tensor.shape
    const code = codeOf(quantization, linear)
    const wrong = misfit(code, m, n)
    if (wrong !== undefined) throw new PipeError('input', { where, message: `"${linear}" [${m}, ${n}]: ${wrong}.`, hint: mismatch })
    const scalars = ['rcp', 'tp_rank'].filter(name => tensors.has(`${linear}.${name}`)) // fine-tuned checkpoints lack rcp
    return [
      { name: `${linear}.trellis`, shape: packedShape(code, m, n), dtypes: ['i16'] },
      { name: `${linear}.SU`, shape: [n], dtypes: floats },
      { name: `${linear}.SV`, shape: [m], dtypes: floats },
      ...(hasTable(code) ? [{ name: `${linear}.tlut`, shape: [2 ** code.Q, code.V], dtypes: floats }] : []),
      ...scalars.map(name => ({ name: `${linear}.${name}`, shape: [], dtypes: i64 })),
    ]
  })
}

const mismatch = 'config.json and the safetensors files must be of the same model.'

/** Why a linear [m, n] can't be stored in the code, if it can't. */
export function misfit(code: PublishedCode, m: number, n: number): string | undefined {
  const { Tx, Ty } = code
  if (m % Tx !== 0 || n % Ty !== 0) return `tiles of td_x × td_y = ${Tx} × ${Ty} don't divide it`
  if (hasKernel(code) && (m % 32 !== 0 || n % 32 !== 0)) return "the kernel's layout has blocks of 32 × 32, which don't divide it"
  return undefined
}

/** Ŵ of one linear turned back: f32 [m, n]. Raises PipeError when rcp or tp_rank make no sense for it. */
export async function decodeQtip(
  ops: Ops,
  checkpoint: Checkpoint,
  quantization: QtipQuantization,
  linear: string,
  [m, n]: readonly [number, number],
): Promise<Tensor> {
  const transform = await transformOf(checkpoint, quantization, linear, m, n)
  const code = codeOf(quantization, linear)
  const open = (name: string): Promise<Tensor> => checkpoint.ref(`${linear}.${name}`).open(ops, 'f32')
  const packed = await checkpoint.ref(`${linear}.trellis`).read()
  using tlut = hasTable(code) ? await open('tlut') : undefined
  using values = decodePublished(ops, code, packed, tlut, m, n)
  using su = await open('SU')
  using sv = await open('SV')
  return toDense(ops, values, su, sv, transform)
}

/**
 * A linear as it is packed, in natural words; undefined where its code has no products here. Codecs are kept in `codecs`,
 * one for each table there is. Raises PipeError as decodeQtip does.
 */
export async function openPackedQtip(
  ops: Ops,
  checkpoint: Checkpoint,
  quantization: QtipQuantization,
  linear: string,
  [m, n]: readonly [number, number],
  codecs: Map<string, Codec>,
): Promise<PackedWeights | undefined> {
  const code = codeOf(quantization, linear)
  const settings = settingsOf(code)
  if (settings === undefined || m % code.Tx !== 0 || n % code.Ty !== 0) return undefined
  const transform = await transformOf(checkpoint, quantization, linear, m, n)
  const table = hasTable(code) ? checkpoint.ref(`${linear}.tlut`) : undefined
  const key = JSON.stringify([
    settings,
    table &&
      createHash('sha256')
        .update(await table.read())
        .digest('hex'),
  ])
  let codec = codecs.get(key)
  if (codec === undefined) {
    const { codebook, params } = codebookOf(settings)
    codec = codebook.open(ops, params, table && { tlut: await table.open(ops) })
    codecs.set(key, codec)
  }
  if (codec.packed === undefined) return undefined
  const words = await checkpoint.ref(`${linear}.trellis`).read()
  return {
    linear,
    m,
    n,
    transform,
    codec,
    trellis: ops.device.upload(naturalWords(code, words, m, n), 'i16', packedShape(code, m, n)),
    su: await checkpoint.ref(`${linear}.SU`).open(ops, 'f32'),
    sv: await checkpoint.ref(`${linear}.SV`).open(ops, 'f32'),
  }
}

/** Orders of the transforms of outputs and inputs. */
async function transformOf(
  checkpoint: Checkpoint,
  { params }: QtipQuantization,
  linear: string,
  m: number,
  n: number,
): Promise<{ m: number; n: number }> {
  const fail = (message: string): never => {
    throw new PipeError('input', { where: checkpoint.path, message: `"${linear}" [${m}, ${n}]: ${message}.`, hint: mismatch })
  }
  const scalar = async (name: string): Promise<number | undefined> => {
    if (!checkpoint.tensors.has(`${linear}.${name}`)) return undefined
    const bytes = await checkpoint.ref(`${linear}.${name}`).read()
    return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigInt64(0, true))
  }
  // Where rcp was lost, a checkpoint that was split says by a linear's name how: o and down have their inputs split.
  const split = params.split_for_tp === true ? (['o', 'down'].includes(shortName(linear)) ? 1 : 2) : 0
  const rcp = (await scalar('rcp')) ?? split
  if (![0, 1, 2].includes(rcp)) fail(`rcp is ${rcp}; 0, 1 and 2 mean something`)
  const rank = rcp === 0 ? 1 : ((await scalar('tp_rank')) ?? usualRank)
  const side = rcp === 1 ? n : m
  if (rank < 1 || side % rank !== 0) fail(`its ${rcp === 1 ? 'inputs' : 'outputs'} can't be split into tp_rank = ${rank} blocks`)
  const transform = { m: rcp === 2 ? m / rank : m, n: rcp === 1 ? n / rank : n }
  for (const order of [transform.m, transform.n])
    if (hadamardFactor(order) === undefined) fail(`no Hadamard matrix of order ${order} is known`)
  return transform
}
