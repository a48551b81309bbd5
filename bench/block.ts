/**
 * A block's share of a calibration, at real shapes: the forward pass of one block over `sequences` × 2048 tokens with its
 * four Hessians, a batch of sequences at a time, as the stages calibrate and hessian do it. Random weights and tokens.
 *
 *   operations = 2·T·weights                     linears, T tokens
 *              + 4·h·e·T·(L + 1)/2               attention: scores and sums over the keys up to each query, sequences of L
 *              + Σ n·(n + 1)·T                   Hessians: on and above the diagonal, of the inputs a, o, b [d] and s [f]
 *
 * They are held against the rate of a bf16 product of 8192³ in the same run, bytes of element-wise ops against a copy.
 */

import type { Ops } from '../native/ops.js'
import { bytesPerElement, elements, Tensor } from '../native/tensor.js'
import { rng } from '../pipeline/random.js'
import { expectedTensors } from '../stages/model/architecture.js'
import { type ModelConfig, readConfig } from '../stages/model/config.js'
import type { Positions } from '../stages/model/attention.js'
import { forwardBlock, openBlock, Rotary } from '../stages/model/forward.js'
import type { Precision } from '../stages/model/precision.js'
import type { Weights } from '../stages/model/quantized.js'
import { cardOf, openDevice } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const shapes: Readonly<Record<string, { d: number; f: number; h: number; g: number }>> = {
  'llama-2-7b': { d: 4096, f: 11008, h: 32, g: 32 },
  'llama-3-8b': { d: 4096, f: 14336, h: 32, g: 8 },
  tiny: { d: 64, f: 172, h: 4, g: 2 },
}

/** --shape, --precision and --sequences pick one case; --batch sequences go through the block at a time. */
export async function run(options: Options): Promise<Figures> {
  const ops = await openDevice(options)
  const gpu = ops.device.kind === 'cuda'
  const cases: [shape: string, precision: Precision, sequences: number][] = gpu
    ? [
        ['llama-2-7b', 'bf16', 256],
        ['llama-3-8b', 'bf16', 256],
        ['llama-2-7b', 'f32', 32],
      ]
    : [
        ['tiny', 'bf16', 8],
        ['tiny', 'f32', 8],
      ]
  const wanted = cases.filter(([shape, precision]) => (options.shape ?? shape) === shape && (options.precision ?? precision) === precision)
  if (wanted.length === 0)
    throw new Error(`no case has this shape and precision; there are ${cases.map(([...words]) => words.join(' ')).join(', ')}`)
  const length = gpu ? 2048 : 32
  const batch = Number(options.batch ?? 4)
  const rate = await matrixRate(ops, gpu ? 8192 : 256)
  const copied = await copyRate(ops, gpu ? 2 ** 28 : 2 ** 18)
  const rows: Row[] = []
  for (const [shape, precision, all] of wanted) {
    const sequences = Number(options.sequences ?? all)
    rows.push(...(await measure(ops, { shape, precision, sequences, length, batch, rate })))
  }
  return { ...cardOf(ops), length, batch, bf16MatrixRate: rate, copyBytesPerSecond: copied, rows }
}

interface Case {
  readonly shape: string
  readonly precision: Precision
  readonly sequences: number
  readonly length: number
  readonly batch: number
  readonly rate: number
}

/** Seconds of a call: the median of `runs`, each of `calls`, after one to warm up. */
async function seconds(ops: Ops, calls: number, call: () => void, runs = 3): Promise<number> {
  call()
  await ops.finish()
  const times: number[] = []
  for (let run = 0; run < runs; run++) {
    const start = performance.now()
    for (let i = 0; i < calls; i++) call()
    await ops.finish()
    times.push((performance.now() - start) / 1000 / calls)
  }
  return times.sort((a, b) => a - b)[Math.floor(runs / 2)] as number
}

/** Operations a second of a bf16 product of [n, n] by [n, n], with sums in f32 and results in bf16. */
async function matrixRate(ops: Ops, n: number): Promise<number> {
  using a = random(ops, 'bf16', [n, n])
  using b = random(ops, 'bf16', [n, n])
  const time = await seconds(ops, 20, () => ops.matmul(a, b, { transposeB: true })[Symbol.dispose]())
  return (2 * n ** 3) / time
}

/** Bytes a second, read and written, of a copy. */
async function copyRate(ops: Ops, n: number): Promise<number> {
  using x = ops.zeros('f32', [n])
  return (8 * n) / (await seconds(ops, 5, () => ops.copy(x)[Symbol.dispose]()))
}

/** A prime: rows of a matrix begin at different places of it. */
const normals = rng(0, 'block').normal(1_000_003)

/** Normal numbers of variance 1/columns, the same million over and over. */
function random(ops: Ops, dtype: Precision, shape: readonly number[]): Tensor {
  const scale = 1 / Math.sqrt(shape[1] ?? 1)
  const words = new Uint32Array(normals.map(x => x * scale).buffer)
  const source = dtype === 'f32' ? words : Uint16Array.from(words, word => word >>> 16)
  const piece = new Uint8Array(source.buffer)
  const bytes = new Uint8Array(elements(shape) * bytesPerElement[dtype])
  for (let at = 0; at < bytes.length; at += piece.length) bytes.set(piece.subarray(0, bytes.length - at), at)
  return ops.device.upload(bytes, dtype, shape)
}

function modelOf(shape: string): ModelConfig {
  const { d, f, h, g } = shapes[shape] as (typeof shapes)[string]
  const raw = {
    architectures: ['LlamaForCausalLM'],
    num_hidden_layers: 1,
    hidden_size: d,
    intermediate_size: f,
    num_attention_heads: h,
    num_key_value_heads: g,
    vocab_size: 4096,
    rms_norm_eps: 1e-5,
  }
  return readConfig(raw, shape)
}

/** A model of random weights. */
function weightsOf(ops: Ops, config: ModelConfig): Weights {
  const expected = expectedTensors(config.architecture, config.sizes, config.steps, config.tied)
  const ref = (name: string): never => {
    throw new Error(`${name} is in no file`)
  }
  return {
    checkpoint: { path: 'random weights', config, expected, tensors: new Map(), unused: [], ref },
    open: async (name, dtype = 'f32') => {
      const { shape = [] } = expected.find(tensor => tensor.name === name) ?? {}
      return shape.length === 1 ? ops.tensor(new Float32Array(shape[0] ?? 0).fill(1), shape) : random(ops, dtype, shape)
    },
    [Symbol.dispose]() {},
  }
}

async function measure(ops: Ops, { shape, precision, sequences, length, batch, rate }: Case): Promise<Row[]> {
  const config = modelOf(shape)
  const { d, h, g, e, f } = config.sizes
  using weights = weightsOf(ops, config)
  using block = await openBlock(ops, weights, 0, precision)
  using rotary = new Rotary(ops, config)
  const positions = rotary.of(length)
  const tokens = batch * length
  const chunks = Math.ceil(sequences / batch)
  const streams: Tensor[] = []
  using table = random(ops, 'f32', [config.sizes.vocab, d])
  for (let chunk = 0; chunk < chunks; chunk++) {
    using ids = ops.tensor(Int32Array.from(rng(chunk, 'tokens').integers(tokens, config.sizes.vocab)), [tokens])
    streams.push(ops.embed(table, ids))
  }
  await ops.finish()
  const pass = (count: number): void => {
    const sums = new Map<string, { h: Tensor; skipped: Tensor }>()
    for (let chunk = 0; chunk < count; chunk++) {
      streams[chunk] = forwardBlock(ops, config, 0, block, streams[chunk] as Tensor, positions, (shares, x) => {
        using input = x
        const n = input.shape[1] as number
        const sum = sums.get(shares) ?? { h: ops.zeros(precision === 'bf16' ? 'f32' : 'f64', [n, n]), skipped: ops.zeros('f64', [1]) }
        sums.set(shares, sum)
        ops.gram(sum.h, input, sum.skipped)
      })
    }
    for (const { h, skipped } of sums.values()) {
      if (precision === 'bf16') ops.mirror(h, { factor: 1 / (count * tokens) })
      else ops.cast(h, 'f32')[Symbol.dispose]()
      for (const tensor of [h, skipped]) tensor[Symbol.dispose]()
    }
  }
  pass(1)
  const time = await seconds(ops, 1, () => pass(chunks))
  for (const x of streams) x[Symbol.dispose]()

  const all = chunks * tokens
  const perToken = {
    linears: 2 * (2 * d * h * e + 2 * d * g * e + 3 * d * f),
    attention: 2 * h * e * (length + 1),
    hessians: 2 * d * (d + 1) + h * e * (h * e + 1) + f * (f + 1),
  }
  const operations = all * (perToken.linears + perToken.attention + perToken.hessians)
  const common = { shape, precision, tokens: all }
  const parts = await partsOf(ops, config, precision, positions, tokens)
  const whole: Row = {
    ...common,
    part: 'all',
    'time s': time,
    'tokens/s': all / time,
    'TFLOP/s': operations / time / 1e12,
    'of the bf16 matrix rate': operations / time / rate,
  }
  return [
    whole,
    ...parts.map(
      ({ name, calls, time, operations, bytes }): Row => ({
        ...common,
        part: name,
        'time s': chunks * calls * time,
        'TFLOP/s': operations === 0 ? '' : operations / time / 1e12,
        'of the bf16 matrix rate': operations === 0 ? '' : operations / time / rate,
        'GB/s': bytes / time / 1e9,
      }),
    ),
  ]
}

interface Part {
  readonly name: string
  /** In a chunk. */
  readonly calls: number
  readonly time: number
  /** Of a call; bytes that it must read and write, each once. */
  readonly operations: number
  readonly bytes: number
}

/** Each op by itself, at the sizes of a chunk. */
async function partsOf(ops: Ops, config: ModelConfig, precision: Precision, positions: Positions, tokens: number): Promise<Part[]> {
  const { d, h, g, e, f } = config.sizes
  const size = bytesPerElement[precision]
  const parts: Part[] = []
  const part = async (name: string, calls: number, operations: number, bytes: number, call: () => unknown): Promise<void> => {
    const time = await seconds(ops, 10, () => {
      const made = call()
      if (made instanceof Tensor) made[Symbol.dispose]()
    })
    parts.push({ name, calls, time, operations, bytes })
  }
  using x = random(ops, 'f32', [tokens, d])
  using wide = random(ops, precision, [tokens, f])
  using wider = random(ops, precision, [tokens, f])
  using q = random(ops, precision, [tokens, h * e])
  using k = random(ops, precision, [tokens, g * e])
  using norm = ops.tensor(new Float32Array(d).fill(1), [d])
  /** y [tokens, m] = x [tokens, n] · Wᵀ, or added to the residual stream. */
  const linear = async (name: string, calls: number, m: number, input: Tensor, residual = false): Promise<void> => {
    const n = input.shape[1] as number
    using w = random(ops, precision, [m, n])
    const bytes = size * (tokens * n + m * n) + (residual ? 8 : size) * tokens * m
    const inPlace = residual && precision === 'bf16'
    await part(name, calls, 2 * tokens * m * n, bytes, () =>
      inPlace ? ops.gemm(x, input, w, { transposeB: true, beta: 1 }) : ops.matmul(input, w, { transposeB: true }),
    )
  }
  const gram = async (name: string, calls: number, input: Tensor): Promise<void> => {
    const n = input.shape[1] as number
    using sum = ops.zeros(precision === 'bf16' ? 'f32' : 'f64', [n, n])
    using skipped = ops.zeros('f64', [1])
    await part(name, calls, tokens * n * (n + 1), size * tokens * n + (precision === 'bf16' ? 4 : 16) * n * n, () =>
      ops.gram(sum, input, skipped),
    )
  }
  const { cos, sin, length } = positions
  await part('rmsnorm', 2, 0, (4 + size) * tokens * d, () => ops.rmsnorm(x, norm, { eps: config.eps, dtype: precision }))
  await linear('q', 1, h * e, q)
  await linear('k, v', 2, g * e, q)
  await part('rope of q', 1, 0, 2 * size * tokens * h * e, () => ops.rope(q, cos, sin, undefined, { heads: h }))
  await part('rope of k', 1, 0, 2 * size * tokens * g * e, () => ops.rope(k, cos, sin, undefined, { heads: g }))
  await part('attention', 1, 2 * tokens * h * e * (length + 1), 2 * size * tokens * (h + g) * e, () =>
    ops.attention(q, k, k, { heads: h, kvHeads: g, length, scale: 1 / Math.sqrt(e) }),
  )
  await linear('o', 1, d, q, true)
  await linear('up, gate', 2, f, q)
  await part('silu·', 1, 0, 3 * size * tokens * f, () => ops.siluMul(wide, wider))
  await linear('down', 1, d, wide, true)
  if (precision === 'f32') await part('add', 2, 0, 12 * tokens * d, () => ops.add(x, x))
  await gram('Hessians of a, b, o', 3, q)
  await gram('Hessian of s', 1, wide)
  return parts
}
