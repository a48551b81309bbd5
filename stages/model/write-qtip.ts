/**
 * write-qtip: this project's quantized checkpoint in the form of QTIP's published ones (qtip.ts), for its program.
 *
 * The codes are the same bits; hyb with L = 16, Q = 9, K = 2…4 goes into the kernel's layout, everything else stays in
 * natural order. SU and SV are as stored, each linear gets the table (its own, where it trained one), rcp = 0. What that form can't express is
 * refused with a sentence: other codes, padded linears, transforms in blocks, other architectures than Llama.
 */
import { hadamardText } from '../../native/ops/hadamard/hadamard.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import { toKernelLayout } from '../../native/codebooks/trellis/kernel-layout.js'
import { contradiction, type DecodeMode, hasKernel, hasTable, type PublishedCode } from '../../native/codebooks/trellis/published.js'
import { PipeError } from '../../pipeline/define.js'
import { headName } from './architecture.js'
import type { Checkpoint } from './checkpoint.js'
import { writeFolder } from './folder.js'
import { misfit, type QuipParams, shortName } from './qtip-config.js'
import type { PipeQuantization } from './quantization.js'
import type { NewEntry } from './safetensors.js'

/** Names of the codes there and here. */
const modes: Readonly<Record<string, DecodeMode>> = {
  'trellis/hyb': 'quantlut_sym',
  'trellis/1mad': '1mad',
  'trellis/2mad': '2mad',
  'trellis/3inst': '3inst',
  'trellis/quantlut': 'quantlut',
  'trellis/lut': 'lut',
}
/** Blocks for tensor parallelism, which the program expects to be told even where nothing is split. */
const rank = 8

/** Writes the folder, whole or not at all. Raises PipeError when the model is not quantized in this project's form, or can't be expressed. */
export async function writeQtip(
  checkpoint: Checkpoint,
  folder: string,
  o: { signal?: AbortSignal; shardBytes?: number } = {},
): Promise<{ files: string[]; bytes: number }> {
  const { quantization, config, expected } = checkpoint
  const refuse: Refuse = (message, hint) => {
    throw new PipeError('input', { where: checkpoint.path, message: `QTIP's form can't express it: ${message}.`, hint })
  }
  if (quantization === undefined) return refuse('the model is not quantized', 'Give the folder that "pipe run" wrote.')
  if (quantization.quant_method === 'qtip') return refuse('it is in that form already', 'Copy the folder.')
  const { model_type: kind } = config.raw
  if (kind !== 'llama') refuse(`its program reads models of the type "llama", and this is ${JSON.stringify(kind)}`)
  const head = headName(config.architecture, false)
  if (Object.hasOwn(quantization.modules, head))
    refuse(`the head "${head}" is rounded, and there it is dense`, 'Export it with --to dense, or round without "head".')
  const code = codeOf(quantization, refuse)
  checkModules(quantization, code, refuse)
  checkOrder(quantization, code, refuse)

  const skipped: string[] = []
  const entries = expected.flatMap((tensor): NewEntry[] => {
    const linear = tensor.name.replace(/\.weight$/, '')
    const module = Object.hasOwn(quantization.modules, linear) ? quantization.modules[linear] : undefined
    if (module !== undefined) return linearEntries(checkpoint, linear, module, code, o.signal)
    if (tensor.role === 'linear') skipped.push(`${tensor.layer}_${shortName(linear)}`)
    return [asEntry(tensor.name, checkpoint.ref(tensor.name))]
  })
  return writeFolder(folder, checkpoint, entries, configFor(config.raw, paramsOf(code, skipped)), o.shardBytes)
}

type Refuse = (message: string, hint?: string) => never

/** The code in the published program's words. */
function codeOf({ codebook, more = [] }: PipeQuantization, refuse: Refuse): PublishedCode {
  if (more.length > 0) refuse(`its linears have ${more.length + 1} codes, and there is one for all`, 'Export it with --to dense.')
  const { params } = codebookOf(codebook)
  const { L, K, V = 1, Q = 0, Tx, Ty } = params as Record<string, number>
  const mode = Object.hasOwn(modes, codebook.use) ? modes[codebook.use] : undefined
  if (mode === undefined || L === undefined || K === undefined || Tx === undefined || Ty === undefined)
    return refuse(`it has no code like ${codebook.use}`, `Round with one of ${Object.keys(modes).join(', ')}.`)
  const code = { mode, L, K, V, Q: mode === 'lut' ? L : Q, Tx, Ty }
  const wrong = contradiction(code)
  if (wrong !== undefined) refuse(`the code ${wrong}`)
  return code
}

/** Last of all: who is told to round again for it has nothing else in the way. */
function checkOrder({ codebook }: PipeQuantization, code: PublishedCode, refuse: Refuse): void {
  const { order = 'rows' } = codebookOf(codebook).params as { order?: string }
  const wanted = hasKernel(code) ? 'tensor-core' : 'rows'
  if (order !== wanted)
    refuse(
      `there the weights of a tile with L = ${code.L}, Q = ${code.Q}, K = ${code.K} follow each other in the order "${wanted}", ` +
        `and here they were rounded in the order "${order}"`,
      `Round again with --set round.codebook.order=${wanted}: the quality is the same.`,
    )
}

function checkModules({ modules }: PipeQuantization, code: PublishedCode, refuse: Refuse): void {
  for (const [linear, { m, n, transform }] of Object.entries(modules)) {
    const wrong = misfit(code, m, n)
    if (wrong !== undefined) refuse(`"${linear}" [${m}, ${n}]: ${wrong}`, 'Export it with --to dense.')
    for (const [size, order] of [
      [m, transform.m],
      [n, transform.n],
    ] as const) {
      if (order !== size) refuse(`"${linear}" is transformed by ${hadamardText(size, order)}, and there is one matrix for all of a side`)
    }
  }
}

function linearEntries(
  checkpoint: Checkpoint,
  linear: string,
  { m, n, table }: PipeQuantization['modules'][string],
  code: PublishedCode,
  signal?: AbortSignal,
): NewEntry[] {
  const ref = (name: string): TensorRef => checkpoint.ref(`${linear}.${name}`)
  const trellis = asEntry(`${linear}.trellis`, ref('trellis'))
  const packed = async (): Promise<Uint8Array> => {
    signal?.throwIfAborted()
    const natural = await trellis.read()
    return hasKernel(code) ? toKernelLayout(natural, m, n, code.K) : natural
  }
  return [
    { ...trellis, read: packed },
    asEntry(`${linear}.SU`, ref('SU')),
    asEntry(`${linear}.SV`, ref('SV')),
    ...(hasTable(code) ? [asEntry(`${linear}.tlut`, table === undefined ? checkpoint.ref('codebook.tlut') : ref(table))] : []),
    scalarEntry(`${linear}.rcp`, 0),
    scalarEntry(`${linear}.tp_rank`, rank),
  ]
}

export const asEntry = (name: string, ref: TensorRef): NewEntry => ({ name, dtype: ref.dtype, shape: ref.shape, read: () => ref.read() })

/** An i64 of no dimensions. */
export const scalarEntry = (name: string, value: number): NewEntry => ({
  name,
  dtype: 'i64',
  shape: [],
  read: async () => new Uint8Array(BigInt64Array.of(BigInt(value)).buffer),
})

const paramsOf = ({ mode, L, K, V, Q, Tx, Ty }: PublishedCode, skipped: readonly string[]): QuipParams => ({
  codebook: 'bitshift',
  codebook_version: 0,
  L,
  K,
  V,
  tlut_bits: Q,
  decode_mode: mode,
  td_x: Tx,
  td_y: Ty,
  split_for_tp: false,
  skip_list: [...skipped],
})

/** config.json in the words of transformers 4.45, which the program is written for. */
export function configFor(raw: Readonly<Record<string, unknown>>, quip_params: QuipParams): Record<string, unknown> {
  const { quantization_config: _, dtype, rope_parameters, ...config } = raw
  const { rope_theta, ...scaling } = (rope_parameters ?? {}) as Record<string, unknown>
  return {
    ...config,
    ...(dtype !== undefined && { torch_dtype: dtype }),
    ...(rope_theta !== undefined && { rope_theta }),
    ...(Object.keys(scaling).length > 0 && { rope_scaling: scaling.rope_type === 'default' ? null : scaling }),
    quip_params,
  }
}
