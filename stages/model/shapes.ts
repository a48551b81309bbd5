/**
 * shapes: models of known sizes and random weights, to measure what a device does with them without a checkpoint. The
 * sizes are those that the models' config.json says (schemas/shapes.json).
 */
import { randomFillSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Codec } from '../../native/codebook.js'
import { codebookOf, type Settings } from '../../native/codebooks/settings.js'
import { hadamardBlock } from '../../native/ops/hadamard/hadamard.js'
import type { Ops } from '../../native/ops.js'
import { elements, type Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import { expectedTensors, headName, root } from './architecture.js'
import { type ModelConfig, readConfig } from './config.js'
import type { PackedWeights } from './linear.js'
import type { Weights } from './quantized.js'

const path = join(root, 'schemas/shapes.json')
const table = (): Readonly<Record<string, unknown>> => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>

export const shapeNames = (): string[] => Object.keys(table())

/** The sizes of a model by its name. Raises PipeError that lists those there are. */
export function shapeOf(name: string): ModelConfig {
  const known = table()
  if (Object.hasOwn(known, name)) return readConfig(known[name], name)
  throw new PipeError('input', {
    where: `--shape ${name}`,
    message: 'no such shape.',
    hint: `Known: ${Object.keys(known).join(', ')}.`,
  })
}

/** Weights of these sizes: random codes of the code (undefined: dense linears), matrices that keep activations near 1. */
export function randomWeights(ops: Ops, config: ModelConfig, name: string, code: Settings | undefined): Weights {
  const expected = expectedTensors(config.architecture, config.sizes, config.steps, config.tied)
  const shapes = new Map(expected.map(tensor => [tensor.name, tensor.shape]))
  const stored = [config.architecture.embed, headName(config.architecture, config.tied)].map(name => {
    const tensor = `${name}.weight`
    return [tensor, { name: tensor, path: '', offset: 0, bytes: 0, dtype: 'bf16', shape: shapes.get(tensor) ?? [] }] as const
  })
  let codec: Codec | undefined
  if (code !== undefined) {
    const { codebook, params } = codebookOf(code)
    codec = codebook.open(ops, params)
    if (codec.packed === undefined) {
      codec[Symbol.dispose]()
      throw new PipeError('input', { where: `--code ${code.use.replace('trellis/', '')}`, message: 'this code has no packed products.' })
    }
  }
  const ref = (tensor: string): never => {
    throw new Error(`${tensor} is in no file`)
  }
  return {
    checkpoint: {
      path: name,
      config,
      expected,
      tensors: new Map(stored),
      unused: [],
      ref,
      ...(code && { quantization: { quant_method: 'pipe', version: 1, codebook: code, modules: {} } }),
    },
    async open(tensor, dtype = 'f32') {
      const shape = shapes.get(tensor) ?? []
      if (shape.length === 1) return ops.tensor(new Float32Array(shape[0] ?? 0).fill(tensor.endsWith('.bias') ? 0 : 1), shape)
      using narrow = ops.tensor(noise(elements(shape), shape[1] ?? 1), shape, 'bf16')
      return ops.cast(narrow, dtype)
    },
    async packed(linear) {
      if (codec === undefined) return undefined
      const [m = 0, n = 0] = shapes.get(`${linear}.weight`) ?? []
      return m % codec.tile[0] === 0 && n % codec.tile[1] === 0 ? randomLinear(ops, codec, linear, m, n) : undefined
    },
    [Symbol.dispose]() {
      codec?.[Symbol.dispose]()
    },
  }
}

/** Any circle of bits is a walk through the trellis. */
function randomLinear(ops: Ops, codec: Codec, linear: string, m: number, n: number): PackedWeights {
  const [Tx, Ty] = codec.tile
  const tiles = (m / Tx) * (n / Ty)
  const words = (codec.bitsPerWeight * Tx * Ty) / 16
  return {
    linear,
    m,
    n,
    transform: { m: hadamardBlock(m), n: hadamardBlock(n) },
    codec,
    trellis: ops.device.upload(randomBytes(tiles * words * 2), 'i16', [tiles, words]),
    su: signs(ops, n, 1),
    sv: signs(ops, m, 1 / Math.sqrt(n)),
  }
}

const signs = (ops: Ops, n: number, size: number): Tensor =>
  ops.tensor(
    Float32Array.from({ length: n }, (_, i) => (i % 3 === 1 ? -size : size)),
    [n],
  )

/** A few megabytes of chance, again and again: what a code is makes no difference to the time it takes. */
const chance = randomFillSync(new Uint8Array(1 << 22))
function randomBytes(bytes: number): Uint8Array {
  const out = new Uint8Array(bytes)
  for (let at = 0; at < bytes; at += chance.length) out.set(chance.subarray(0, Math.min(chance.length, bytes - at)), at)
  return out
}

/** bf16 numbers of about 1/√n, of either sign. */
function noise(count: number, n: number): Uint16Array {
  const bits = new Uint16Array(randomBytes(2 * count).buffer)
  const exponent = Math.round(127 - Math.log2(n) / 2) << 7
  for (let i = 0; i < count; i++) bits[i] = ((bits[i] ?? 0) & 0x807f) | exponent
  return bits
}
