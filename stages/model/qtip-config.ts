/**
 * qtip-config: what config.json says of a checkpoint in the form of QTIP's published ones, checked, and the tensors that it
 * has to hold.
 *
 *   "quip_params": { codebook: "bitshift", L, K, V, tlut_bits, decode_mode, td_x, td_y, … }
 *
 * A linear P is stored as P.trellis i16 [tiles, words], P.SU [n], P.SV [m] with the scale folded in, P.tlut [2^Q, V] for codes
 * with a table, and the scalars P.rcp and P.tp_rank; linears of skip_list are dense. qtip.ts opens them.
 */
import { type Static, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import {
  contradiction,
  decodeModes,
  hasKernel,
  hasTable,
  type PublishedCode,
  packedShape,
} from '../../native/codebooks/trellis/published.js'
import type { DType } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import type { ExpectedTensor } from './architecture.js'
import type { ModelConfig } from './config.js'
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

/** Of scales and tables. */
export const floats: readonly DType[] = ['f32', 'f16', 'bf16']
/** Of dense weights. */
export const weightTypes: readonly DType[] = ['f64', ...floats]
const i64: readonly DType[] = ['i64']

/** How the published programs call a linear: 'q' … 'down'. */
export const shortName = (linear: string): string => linear.slice(linear.lastIndexOf('.') + 1).replace(/_proj$/, '')

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
    fail(
      `"quip_params" has the codebook ${JSON.stringify(named) ?? '(none)'}; "bitshift", QTIP's, is read.`,
      'Export it to a dense model first.',
    )
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
    if (tensor.role !== 'linear' || !isCoded(quantization, tensor, tensors)) return [{ ...tensor, dtypes: weightTypes }]
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

export const mismatch = 'config.json and the safetensors files must be of the same model.'

/** Why a linear [m, n] can't be stored in the code, if it can't. */
export function misfit(code: PublishedCode, m: number, n: number): string | undefined {
  const { Tx, Ty } = code
  if (m % Tx !== 0 || n % Ty !== 0) return `tiles of td_x × td_y = ${Tx} × ${Ty} don't divide it`
  if (hasKernel(code) && (m % 32 !== 0 || n % 32 !== 0)) return "the kernel's layout has blocks of 32 × 32, which don't divide it"
  return undefined
}
