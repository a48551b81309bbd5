/** dense: a checkpoint, dense or quantized, written as a plain one that any Hugging Face program loads. */
import type { Ops } from '../../native/ops.js'
import { PipeError } from '../../pipeline/define.js'
import { writeFolder } from './folder.js'
import type { Weights } from './quantized.js'
import type { NewEntry } from './safetensors.js'

/** Element types to choose from, with the names that config.json has for them. */
export const denseTypes = { bf16: 'bfloat16', f16: 'float16', f32: 'float32' } as const
export type DenseType = keyof typeof denseTypes

/**
 * Writes the folder, whole or not at all. Shards of 5 GB; config.json without what it says of quantization; tokenizer
 * files copied. Raises PipeError when the folder is not empty, or a weight is too large for f16.
 */
export async function writeDense(
  ops: Ops,
  weights: Weights,
  folder: string,
  o: { dtype?: DenseType; signal?: AbortSignal; shardBytes?: number } = {},
): Promise<{ files: string[]; bytes: number; dtype: DenseType }> {
  const { checkpoint } = weights
  const { quantization_config: _, quip_params: __, ...config } = checkpoint.config.raw
  const original = Object.entries(denseTypes).find(([, name]) => name === (config.dtype ?? config.torch_dtype))?.[0] as
    | DenseType
    | undefined
  const dtype = o.dtype ?? original ?? 'bf16'
  const entries = checkpoint.expected.map(
    ({ name, shape }): NewEntry => ({ name, shape, dtype, read: () => readAs(ops, weights, name, dtype, o.signal) }),
  )
  const named = { ...config, [config.dtype === undefined ? 'torch_dtype' : 'dtype']: denseTypes[dtype] }
  return { ...(await writeFolder(folder, checkpoint, entries, named, o.shardBytes)), dtype }
}

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
