/** dense: a checkpoint, dense or quantized, written as a plain one that any Hugging Face program loads. */
import { copyFile, mkdir, readdir, rename, rm, rmdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import type { Ops } from '../../native/ops.js'
import { type DType, elements } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import type { Weights } from './quantized.js'
import { type NewEntry, writeSafetensors, writeWhole } from './safetensors.js'

/** Element types to choose from, with the names that config.json has for them. */
export const denseTypes = { bf16: 'bfloat16', f16: 'float16', f32: 'float32' } as const
export type DenseType = keyof typeof denseTypes

/** A file is not made longer than this. */
const shardBytes = 5e9

/** Files that belong to a model beside its weights. */
const companions =
  /^(tokenizer.*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|generation_config\.json|.*\.jinja)$/

/**
 * Writes the folder, whole or not at all. Shards of 5 GB; config.json without quantization_config; tokenizer files
 * copied. Raises PipeError when the folder is not empty, or a weight is too large for f16.
 */
export async function writeDense(
  ops: Ops,
  weights: Weights,
  folder: string,
  o: { dtype?: DenseType; signal?: AbortSignal; shardBytes?: number } = {},
): Promise<{ files: string[]; bytes: number; dtype: DenseType }> {
  const { checkpoint } = weights
  const { raw } = checkpoint.config
  const original = Object.entries(denseTypes).find(([, name]) => name === (raw.dtype ?? raw.torch_dtype))?.[0] as DenseType | undefined
  const dtype = o.dtype ?? original ?? 'bf16'
  const target = resolve(folder)
  if ((await readdir(target).catch(() => [])).length > 0) {
    throw new PipeError('input', {
      where: folder,
      message: 'expected a new or an empty folder and found files in it.',
      hint: 'Give another --out.',
    })
  }
  await mkdir(dirname(target), { recursive: true })
  const temporary = `${target}.part`
  await rm(temporary, { recursive: true, force: true })
  await mkdir(temporary)
  try {
    const entries = checkpoint.expected.map(
      ({ name, shape }): NewEntry => ({ name, shape, dtype, read: () => readAs(ops, weights, name, dtype, o.signal) }),
    )
    const shards = split(entries, dtype, o.shardBytes ?? shardBytes)
    const files = shards.map((_, i) =>
      shards.length === 1 ? 'model.safetensors' : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
    )
    for (const [i, shard] of shards.entries()) await writeSafetensors(join(temporary, files[i] as string), shard, { format: 'pt' })
    const bytes = shards.flat().reduce((sum, entry) => sum + bytesOf(entry, dtype), 0)
    if (shards.length > 1) {
      const map = Object.fromEntries(shards.flatMap((shard, i) => shard.map(({ name }) => [name, files[i]])))
      await writeJson(join(temporary, 'model.safetensors.index.json'), { metadata: { total_size: bytes }, weight_map: map })
    }
    const { quantization_config: _, quip_params: __, ...config } = raw
    await writeJson(join(temporary, 'config.json'), { ...config, [raw.dtype === undefined ? 'torch_dtype' : 'dtype']: denseTypes[dtype] })
    const besides = (await readdir(checkpoint.path)).filter(name => companions.test(name))
    for (const name of besides) await copyFile(join(checkpoint.path, name), join(temporary, name))
    await rmdir(target).catch(() => undefined) // an empty folder gives way
    await rename(temporary, target)
    return { files: await readdir(target), bytes, dtype }
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw error
  }
}

const number = (i: number): string => String(i).padStart(5, '0')
const bytesOf = ({ shape }: NewEntry, dtype: DType): number => elements(shape) * (dtype === 'f32' ? 4 : 2)
const writeJson = (path: string, value: unknown): Promise<void> =>
  writeWhole(path, file => file.writeFile(`${JSON.stringify(value, null, 2)}\n`))

async function readAs(ops: Ops, weights: Weights, name: string, dtype: DenseType, signal?: AbortSignal): Promise<Uint8Array> {
  signal?.throwIfAborted()
  using dense = await weights.open(name)
  if (dtype === 'f32') return dense.read()
  using cast = ops.cast(dense, dtype)
  using count = ops.countNonFinite(cast)
  const bytes = await cast.read()
  const [bad] = new Float64Array((await count.read()).slice().buffer)
  if (bad === 0) return bytes
  throw new PipeError('input', {
    where: weights.checkpoint.path,
    message: `"${name}" has ${bad} elements that are too large for ${dtype}, infinite or NaN.`,
    hint: dtype === 'f16' ? 'Use --dtype bf16.' : 'The model itself is damaged.',
  })
}

function split(entries: readonly NewEntry[], dtype: DType, most: number): NewEntry[][] {
  const shards: NewEntry[][] = [[]]
  let bytes = 0
  for (const entry of entries) {
    if (bytes > 0 && bytes + bytesOf(entry, dtype) > most) {
      shards.push([])
      bytes = 0
    }
    shards[shards.length - 1]?.push(entry)
    bytes += bytesOf(entry, dtype)
  }
  return shards
}
