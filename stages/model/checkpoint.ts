/**
 * checkpoint: a Hugging Face folder, opened: config.json, the tensors of its safetensors files as lazy references, and
 * proof that every tensor the architecture needs is there with its shape. Only headers are read.
 */
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { TensorRef } from '../../native/tensor-ref.js'
import { fileTensor, PipeError } from '../../pipeline/define.js'
import { type ExpectedTensor, expectedTensors, headName } from './architecture.js'
import { type ModelConfig, readConfig } from './config.js'
import { expectedQuantized, type Quantization, readQuantization } from './quantization.js'
import { type StoredTensor, weightTypes } from './qtip-config.js'
import { type Entry, readSafetensors } from './safetensors.js'

export interface Checkpoint {
  readonly path: string
  readonly config: ModelConfig
  /** What the architecture asks for, in the order of use, by the dense model's names. */
  readonly expected: readonly ExpectedTensor[]
  /** What the files hold, by name. */
  readonly tensors: ReadonlyMap<string, Entry>
  /** How linears are stored, in a quantized checkpoint. */
  readonly quantization?: Quantization
  /** Tensors in the files that the model does not use. */
  readonly unused: readonly string[]
  /** A lazy reference. Throws when there is no such tensor: a bug, since everything expected was checked. */
  ref(name: string): TensorRef
}

/** Opens a folder and checks it. Raises PipeError: folder, config.json or files missing, unknown architecture, tensors that do not fit. */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const folder = await stat(path).catch(() => undefined)
  if (!folder?.isDirectory()) {
    throw new PipeError('input', {
      where: path,
      message: `expected a folder with config.json and *.safetensors and found ${folder === undefined ? 'nothing' : 'a file'}.`,
      hint: 'Give the folder of a model in Hugging Face layout.',
    })
  }
  const raw = await readJson(join(path, 'config.json'))
  const config = readConfig(raw, join(path, 'config.json'))
  const expected = expectedTensors(config.architecture, config.sizes, config.steps, config.tied)
  // Before the files: those of other programs may have types that are not read, and are not damaged for that.
  const quantization = readQuantization(config, expected, join(path, 'config.json'))
  const tensors = await readTensors(path)
  const stored =
    quantization === undefined
      ? expected.map(tensor => ({ ...tensor, dtypes: weightTypes }))
      : expectedQuantized(quantization, expected, tensors, path)
  const unused = checkTensors(path, config, stored, tensors)
  return {
    path,
    config,
    expected,
    tensors,
    quantization,
    unused,
    ref(name) {
      const entry = tensors.get(name)
      if (entry === undefined) throw new Error(`${path} has no tensor "${name}"`)
      return fileTensor(entry.path, entry.offset, entry.dtype, entry.shape)
    },
  }
}

/** A JSON file of the folder, parsed. */
async function readJson(path: string): Promise<unknown> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new PipeError('input', {
      where: path,
      message: error.code === 'ENOENT' ? 'expected this file and found none.' : `could not be read (${error.code}).`,
      hint: 'Give the folder of a model in Hugging Face layout: config.json, *.safetensors, tokenizer.json.',
    })
  })
  try {
    return JSON.parse(text.replace(/^\uFEFF/, '')) // which some editors put there
  } catch (error) {
    throw new PipeError('input', { where: path, message: `is not valid JSON: ${(error as Error).message}.` })
  }
}

const single = 'model.safetensors'
const index = 'model.safetensors.index.json'

async function readTensors(path: string): Promise<Map<string, Entry>> {
  const exists = async (name: string): Promise<boolean> => (await stat(join(path, name)).catch(() => undefined)) !== undefined
  if (await exists(single)) return new Map((await readSafetensors(join(path, single))).entries)
  if (!(await exists(index))) {
    throw new PipeError('input', {
      where: path,
      message: `expected ${single} or ${index} and found neither.`,
      hint: 'Only safetensors files are read; convert a .bin or .pth checkpoint first.',
    })
  }
  const listed = ((await readJson(join(path, index))) as { weight_map?: unknown } | null)?.weight_map
  const where = join(path, index)
  if (typeof listed !== 'object' || listed === null || Object.values(listed).some(file => typeof file !== 'string')) {
    throw new PipeError('input', { where, message: 'expected "weight_map": a map from tensor to file.' })
  }
  const shards = [...new Set(Object.values(listed as Record<string, string>))].sort()
  const tensors = new Map<string, Entry>()
  for (const shard of shards) {
    if (/[/\\]|^\.{0,2}$/.test(shard))
      throw new PipeError('input', { where, message: `names the file "${shard}", which is not in the folder itself.` })
    if (!(await exists(shard))) {
      const count = Object.values(listed).filter(file => file === shard).length
      throw new PipeError('input', {
        where,
        message: `the shard ${shard} (${count} tensors) is missing: ${shards.length} files are listed.`,
        hint: 'Download the missing file into the folder.',
      })
    }
    for (const [name, entry] of (await readSafetensors(join(path, shard))).entries) {
      const file = Object.hasOwn(listed, name) ? (listed as Record<string, string>)[name] : undefined
      // The index decides where a tensor is taken from; what it does not list is not part of the model.
      if (file === shard) tensors.set(name, entry)
    }
  }
  const absent = Object.entries(listed as Record<string, string>).filter(([name]) => !tensors.has(name))
  if (absent.length > 0) {
    const [name, file] = absent[0] as [string, string]
    throw new PipeError('input', {
      where,
      message: `lists "${name}" in ${file}, which does not hold it${absent.length > 1 ? ` (and ${absent.length - 1} more)` : ''}.`,
      hint: 'The index and the shards are of different versions: download them again.',
    })
  }
  return tensors
}

/** Compares what the architecture needs with what is there; returns the names that are there for nothing. */
function checkTensors(path: string, config: ModelConfig, expected: readonly StoredTensor[], tensors: ReadonlyMap<string, Entry>): string[] {
  const { architecture } = config
  const mistakes: string[] = []
  for (const { name, shape, dtypes } of expected) {
    const entry = tensors.get(name)
    if (entry === undefined) mistakes.push(`"${name}"${shape.length > 0 ? ` [${shape}]` : ''} is missing`)
    else if (String(entry.shape) !== String(shape)) mistakes.push(`"${name}" is [${entry.shape}], not [${shape}]`)
    else if (dtypes?.includes(entry.dtype) === false) mistakes.push(`"${name}" is ${entry.dtype}, not ${dtypes.join(' or ')}`)
  }
  const known = new Set(expected.map(({ name }) => name))
  const extra = [...tensors.keys()].filter(name => !known.has(name))
  const ignored = (name: string): boolean =>
    architecture.ignore.some(ending => name.endsWith(ending)) || (config.tied && name === `${headName(architecture, false)}.weight`)
  for (const name of extra.filter(name => !ignored(name)))
    mistakes.push(`"${name}" [${tensors.get(name)?.shape}] is no part of the architecture`)
  if (mistakes.length > 0) {
    const first = mistakes.slice(0, 5)
    const more = mistakes.length - first.length
    throw new PipeError('input', {
      where: path,
      message: `the tensors do not fit config.json (${architecture.name}): ${first.join('; ')}${more > 0 ? `; and ${more} more` : ''}.`,
      hint: 'config.json and the safetensors files must be of the same model.',
    })
  }
  return extra
}
