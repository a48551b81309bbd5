/** Folders in the form of QTIP's published checkpoints: a model with one block, one of whose linears is a published vector. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { DType } from '../../../native/tensor.js'
import { rng } from '../../../pipeline/random.js'
import { expectedTensors } from '../../../stages/model/architecture.js'
import { readConfig } from '../../../stages/model/config.js'
import { type NewEntry, writeSafetensors } from '../../../stages/model/safetensors.js'
import { root } from '../../helpers.js'
import { numbers, readAll } from '../safetensors-reader.js'

export type Json = Record<string, unknown>

const dtypes: Record<string, DType> = { F32: 'f32', F16: 'f16', I16: 'i16', I8: 'i8' }
export const bytesOf = (x: NodeJS.ArrayBufferView) => async (): Promise<Uint8Array> => new Uint8Array(x.buffer, x.byteOffset, x.byteLength)
export const scalar = (name: string, value: number): NewEntry => ({
  name,
  dtype: 'i64',
  shape: [],
  read: bytesOf(BigInt64Array.of(BigInt(value))),
})

/** A linear as the published program quantized it. */
export function readVector(name: string) {
  const { tensors, metadata } = readAll(join(root, 'fixtures/vectors', `${name}.safetensors`))
  const [L, K, V, tlut_bits, td_x, td_y, m, n] = JSON.parse(metadata.cfg ?? '') as number[]
  const params: Json = { codebook: 'bitshift', codebook_version: 0, L, K, V, tlut_bits, decode_mode: metadata.mode, td_x, td_y }
  const entry = (tensor: string, as: string): NewEntry => {
    const { dtype, shape, bytes } = tensors.get(tensor)!
    return { name: as, dtype: dtypes[dtype]!, shape, read: async () => bytes }
  }
  const values = (tensor: string): Float64Array => Float64Array.from(numbers(tensors.get(tensor)!))
  return { params, m: m!, n: n!, scale: Number(metadata.Wscale), has: (tensor: string) => tensors.has(tensor), entry, values }
}

export const linear = 'model.layers.0.mlp.down_proj'
/** The linears beside it, as skip_list names them. */
export const others = ['q', 'k', 'v', 'o', 'up', 'gate'].map(name => `0_${name}`)

/** Writes the folder; `change` may alter config.json and the tensors of the coded linear. */
export async function writeVector(
  folder: string,
  name: string,
  change: (config: Json, params: Json, entries: NewEntry[]) => void = () => undefined,
): Promise<void> {
  const vector = readVector(name)
  const params: Json = { ...vector.params, split_for_tp: false, skip_list: others }
  const config: Json = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    torch_dtype: 'float16',
    hidden_size: vector.m,
    intermediate_size: vector.n,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 32,
    num_hidden_layers: 1,
    vocab_size: 16,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
    quip_params: params,
  }
  const entries = [
    vector.entry('trellis', `${linear}.trellis`),
    ...(vector.has('tlut') ? [vector.entry('tlut', `${linear}.tlut`)] : []),
    { name: `${linear}.SU`, dtype: 'f16' as const, shape: [vector.n], read: bytesOf(halves(vector.values('SU'))) },
    {
      name: `${linear}.SV`,
      dtype: 'f32' as const,
      shape: [vector.m],
      read: bytesOf(Float32Array.from(vector.values('SV'), sign => sign * vector.scale)),
    },
    scalar(`${linear}.rcp`, 0),
    scalar(`${linear}.tp_rank`, 8),
  ]
  const { architecture, sizes, steps } = readConfig(config, 'config.json')
  change(config, params, entries)
  const coded = new Set(entries.map(({ name }) => name))
  const dense = expectedTensors(architecture, sizes, steps, true)
    .filter(({ name }) => !coded.has(name.replace(/weight$/, 'trellis')))
    .map(({ name, shape }): NewEntry => {
      const values = rng(1, name)
        .normal(shape.reduce((a, b) => a * b, 1))
        .map(x => 0.1 * x)
      return { name, dtype: 'f32', shape, read: bytesOf(values) }
    })
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  await writeSafetensors(join(folder, 'model.safetensors'), [...entries, ...dense], { format: 'pt' })
}

/** ±1 in f16. */
export const halves = (signs: Float64Array): Uint16Array => Uint16Array.from(signs, sign => (sign > 0 ? 0x3c00 : 0xbc00))
