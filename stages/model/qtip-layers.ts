/**
 * qtip-layers: what QTIP's quantizer leaves behind, a PyTorch file for each linear, put together with the original model
 * to a checkpoint in QTIP's form (qtip.ts).
 *
 *   3_q.pt … 3_down.pt   trellis, SU, SV, Wscale, tlut or None, rcp, tp_rank
 *   3_layernorm.pt       input_layernorm, post_attention_layernorm, as fine-tuned; lmhead.pt, if there: lm_head, norm
 *
 * Wscale goes into SV; where the inputs are split for tensor parallelism (rcp = 1) into SU, block by block; where the
 * outputs are (rcp = 2) into SV block by block. The quantizer's own config.pt is made of Python objects and not read: the
 * parameters have to be told.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fromHalf } from '../../native/codebooks/half.js'
import { hasTable, packedShape } from '../../native/codebooks/trellis/published.js'
import type { DType } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { PipeError } from '../../pipeline/define.js'
import { blockName, type ExpectedTensor, headName } from './architecture.js'
import type { Checkpoint } from './checkpoint.js'
import { writeFolder } from './folder.js'
import { codeOf, misfit, parseQuipParams, type QtipQuantization, shortName } from './qtip-config.js'
import type { NewEntry } from './safetensors.js'
import { readTorchFile, TorchTensor, type Value } from './torch-file.js'
import { asEntry, configFor, scalarEntry } from './write-qtip.js'

/** Whether a folder holds such files. */
export const holdsLayers = async (folder: string): Promise<boolean> =>
  (await readdir(folder).catch(() => [])).some(name => /^\d+_(q|k|v|o|up|gate|down|layernorm)\.pt$/.test(name))

/** Writes the checkpoint, whole or not at all. params: path of a JSON file with quip_params. Raises PipeError where files are missing or don't fit. */
export async function writeLayers(
  folder: string,
  base: Checkpoint,
  params: string,
  out: string,
): Promise<{ files: string[]; bytes: number }> {
  if (base.quantization !== undefined)
    throw new PipeError('input', { where: base.path, message: 'the model is quantized already.', hint: 'Give the model it was made from.' })
  const quantization = await readParams(params)
  const files = new Set(await readdir(folder))
  const skipped: string[] = [...(quantization.params.skip_list ?? [])]
  const entries: NewEntry[] = []
  const tuned = await tunedTensors(folder, files, base)
  for (const tensor of base.expected) {
    const linear = tensor.name.replace(/\.weight$/, '')
    const name = `${tensor.layer}_${shortName(linear)}`
    if (tensor.role === 'linear' && !skipped.includes(name)) {
      if (!files.has(`${name}.pt`)) throw missing(folder, `${name}.pt`, `${linear} is not in skip_list, so it must be quantized.`)
      entries.push(...(await linearEntries(join(folder, `${name}.pt`), quantization, linear, tensor)))
    } else {
      const ref = tuned.get(tensor.name) ?? base.ref(tensor.name)
      if (String(ref.shape) !== String(tensor.shape))
        throw new PipeError('input', { where: folder, message: `"${tensor.name}" is [${ref.shape}], and the model has [${tensor.shape}].` })
      entries.push(asEntry(tensor.name, ref))
    }
  }
  return writeFolder(out, base, entries, configFor(base.config.raw, quantization.params))
}

const missing = (folder: string, name: string, hint: string): PipeError =>
  new PipeError('input', { where: folder, message: `expected ${name} and found none.`, hint })

async function readParams(path: string): Promise<QtipQuantization> {
  const fail = (message: string): never => {
    throw new PipeError('input', {
      where: path,
      message,
      hint: 'A JSON file with L, K, V, tlut_bits, decode_mode, td_x, td_y is expected.',
    })
  }
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => fail(`could not be read (${error.code}).`))
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    fail(`is not valid JSON: ${(error as Error).message}.`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail('is no JSON object.')
  return parseQuipParams({ codebook: 'bitshift', codebook_version: 0, ...value }, path)
}

/** Norms, and the head where it was tuned, by their names in the model. */
async function tunedTensors(folder: string, files: ReadonlySet<string>, { config }: Checkpoint): Promise<Map<string, TensorRef>> {
  const { architecture, sizes, tied } = config
  const found = new Map<string, TensorRef>()
  const take = async (file: string, names: Readonly<Record<string, string>>): Promise<void> => {
    const values = await dictOf(join(folder, file))
    for (const [key, name] of Object.entries(names)) found.set(name, tensorOf(join(folder, file), values, key))
  }
  for (let layer = 0; layer < sizes.layers; layer++) {
    const file = `${layer}_layernorm.pt`
    if (!files.has(file)) throw missing(folder, file, 'The quantizer writes it when a layer is finished: let it run to its end.')
    const block = blockName(architecture, layer)
    const norms = ['input_layernorm', 'post_attention_layernorm'].map(key => [key, `${block}.${key}.weight`])
    await take(file, Object.fromEntries(norms) as Record<string, string>)
  }
  // A tied head is the embedding, which the quantizer leaves alone.
  if (files.has('lmhead.pt'))
    await take('lmhead.pt', { ...(!tied && { lm_head: `${headName(architecture, tied)}.weight` }), norm: `${architecture.norm}.weight` })
  return found
}

async function dictOf(path: string): Promise<ReadonlyMap<Value, Value>> {
  const value = await readTorchFile(path)
  if (value instanceof Map) return value
  throw new PipeError('input', { where: path, message: 'expected a dict of tensors.' })
}

function tensorOf(path: string, values: ReadonlyMap<Value, Value>, key: string): TensorRef {
  const value = values.get(key)
  if (value instanceof TorchTensor) return value.ref
  throw new PipeError('input', {
    where: path,
    message: `expected the tensor "${key}" and found ${value === undefined ? 'none' : 'something else'}.`,
  })
}

async function linearEntries(
  path: string,
  quantization: QtipQuantization,
  linear: string,
  { shape: [m = 0, n = 0] }: ExpectedTensor,
): Promise<NewEntry[]> {
  const fail = (message: string): never => {
    throw new PipeError('input', { where: path, message, hint: 'The files, the model and the parameters must be of one run.' })
  }
  const code = codeOf(quantization, linear)
  const wrong = misfit(code, m, n)
  if (wrong !== undefined) fail(`"${linear}" [${m}, ${n}]: ${wrong}.`)
  const values = await dictOf(path)
  const tensor = (key: string, shape: readonly number[], dtypes: readonly DType[]): TensorRef => {
    const ref = tensorOf(path, values, key)
    if (String(ref.shape) !== String(shape)) fail(`"${key}" is [${ref.shape}], and ${linear} needs [${shape}].`)
    if (!dtypes.includes(ref.dtype)) fail(`"${key}" is ${ref.dtype}, not ${dtypes.join(' or ')}.`)
    return ref
  }
  const whole = (key: string, otherwise: number): number => {
    const value = values.get(key) ?? otherwise
    return typeof value === 'number' && Number.isInteger(value) ? value : fail(`"${key}" is no whole number.`)
  }
  const floats: readonly DType[] = ['f32', 'f16', 'bf16']
  const [rcp, rank] = [whole('rcp', 0), whole('tp_rank', 8)]
  const wscale = tensorOf(path, values, 'Wscale')
  if (!floats.includes(wscale.dtype)) fail(`"Wscale" is ${wscale.dtype}, not ${floats.join(' or ')}.`)
  const scales = await numbers(wscale)
  const split = rcp === 0 ? 1 : rank
  if (![0, 1, 2].includes(rcp) || scales.length !== split || (rcp === 1 ? n : m) % split !== 0)
    fail(`rcp = ${rcp} and tp_rank = ${rank} don't go with ${scales.length} scales for [${m}, ${n}].`)
  const scaled = async (ref: TensorRef): Promise<Uint8Array> => {
    const x = await numbers(ref)
    return new Uint8Array(Float32Array.from(x, (value, i) => value * (scales[Math.floor((i * split) / x.length)] as number)).buffer)
  }
  const [su, sv] = [tensor('SU', [n], floats), tensor('SV', [m], floats)]
  const folded = (key: string, ref: TensorRef): NewEntry => ({
    name: `${linear}.${key}`,
    dtype: 'f32',
    shape: ref.shape,
    read: () => scaled(ref),
  })
  return [
    asEntry(`${linear}.trellis`, tensor('trellis', packedShape(code, m, n), ['i16'])),
    rcp === 1 ? folded('SU', su) : asEntry(`${linear}.SU`, su),
    rcp === 1 ? asEntry(`${linear}.SV`, sv) : folded('SV', sv),
    ...(hasTable(code) ? [asEntry(`${linear}.tlut`, tensor('tlut', [2 ** code.Q, code.V], floats))] : []),
    scalarEntry(`${linear}.rcp`, rcp),
    scalarEntry(`${linear}.tp_rank`, rank),
  ]
}

async function numbers(ref: TensorRef): Promise<Float32Array> {
  const bytes = (await ref.read()).slice().buffer
  if (ref.dtype === 'f32') return new Float32Array(bytes)
  const halves = new Uint16Array(bytes)
  return ref.dtype === 'f16' ? Float32Array.from(halves, fromHalf) : new Float32Array(Uint32Array.from(halves, bits => bits << 16).buffer)
}
