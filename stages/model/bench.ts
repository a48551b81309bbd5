/** bench: how fast a model makes text on a device, and the bound that memory bandwidth sets. */
import type { Ops } from '../../native/ops.js'
import { Decoder } from './decoder.js'
import { cacheBytes, expectRoom } from './kv-cache.js'
import { OpenModel, type OpenModelOptions } from './open-model.js'
import type { Weights } from './quantized.js'
import { type Draw, likeliest } from './sampling.js'

export interface BenchOptions extends OpenModelOptions {
  /** Tokens of the prompt, and tokens made after it. */
  readonly prompt: number
  readonly tokens: number
  /** Texts side by side. */
  readonly batch: number
  readonly weights: 'packed' | 'dense'
  readonly cache: 'f32' | 'bf16'
  /** How tokens are picked. Default: the likeliest. */
  readonly draw?: () => Draw
  /** Bytes that keys and values may take. Default: any. */
  readonly free?: number
  /** Aborting ends it between two steps. */
  readonly signal?: AbortSignal
}

export interface BenchResult {
  /** Seconds from the prompt to the logits of what follows it: the best of two, or of up to five in a second: the first ones make what is made once. */
  readonly firstToken: number
  readonly promptTokensPerSecond: number
  /** Of all texts together, and seconds of a step. */
  readonly tokensPerSecond: number
  readonly step: number
  /** What a step reads: weights, norms, head, and the cache at its mean length. */
  readonly bytesPerStep: number
  /** Bytes a second that a copy reads and writes, in this run. */
  readonly copyBandwidth: number
  /** Tokens a second if a step took the time of reading its bytes at that rate; what is reached of it. */
  readonly bound: number
  readonly share: number
  /** Bytes that the model holds on the device, cache included. */
  readonly bytesHeld: number
  /** What a step runs as (Program.form). */
  readonly form: string
}

const warmUp = 4

export async function measure(ops: Ops, weights: Weights, o: BenchOptions): Promise<BenchResult> {
  const positions = o.prompt + o.tokens + warmUp + 1
  const shape = { slots: o.batch, capacity: positions, dtype: o.cache }
  expectRoom(weights.checkpoint.path, weights.checkpoint.config, shape, 'Give fewer --tokens, or a smaller --batch', o.free)
  const before = ops.device.liveBytes
  using model = await OpenModel.open(ops, weights, o)
  using decoder = Decoder.over(model, { slots: o.batch, positions, cache: o.cache })
  await ops.finish()
  const { vocab } = model.config.sizes
  const prompt = Array.from({ length: o.prompt }, (_, i) => (i * 7919 + 1) % vocab)
  const slots = Array.from({ length: o.batch }, (_, slot) => slot)

  let started = performance.now()
  let firstToken = Number.POSITIVE_INFINITY
  for (let run = 0, since = started; run < 2 || (run < 5 && seconds(since) < 1); run++) {
    o.signal?.throwIfAborted()
    decoder.free(0)
    started = performance.now()
    await decoder.prefill(0, prompt)
    firstToken = Math.min(firstToken, seconds(started))
  }
  for (const slot of slots.slice(1)) {
    o.signal?.throwIfAborted()
    await decoder.prefill(slot, prompt)
  }

  const make = async (count: number): Promise<void> => {
    const rows = slots.map(slot => ({ slot, token: 1 + slot }))
    for await (const _ of decoder.picks(rows, count, o.draw ?? (() => likeliest))) o.signal?.throwIfAborted()
  }
  await make(warmUp)
  started = performance.now()
  await make(o.tokens)
  const step = seconds(started) / o.tokens
  const bytesHeld = ops.device.liveBytes - before

  const meanLength = o.prompt + warmUp + o.tokens / 2
  const bytesPerStep = model.bytes + cacheBytes(model.config, { ...shape, capacity: meanLength })
  const copyBandwidth = await bandwidthOfCopies(ops)
  const bound = (o.batch * copyBandwidth) / bytesPerStep
  const tokensPerSecond = o.batch / step
  return {
    firstToken,
    promptTokensPerSecond: o.prompt / firstToken,
    tokensPerSecond,
    step,
    bytesPerStep,
    copyBandwidth,
    bound,
    share: tokensPerSecond / bound,
    bytesHeld,
    form: decoder.form(o.batch),
  }
}

/** Bytes a second that copying reads and writes, best of a few, of tensors that no cache holds. */
export async function bandwidthOfCopies(ops: Ops): Promise<number> {
  const [bytes, repeats] = ops.device.kind === 'cuda' ? [2 ** 29, 20] : [2 ** 27, 4]
  using from = ops.zeros('u8', [1, bytes])
  using into = ops.zeros('u8', [1, bytes])
  let best = Number.POSITIVE_INFINITY
  for (let run = 0; run < 3; run++) {
    await ops.finish()
    const started = performance.now()
    for (let i = 0; i < repeats; i++) ops.assign(into, from)
    await ops.finish()
    best = Math.min(best, seconds(started) / repeats)
  }
  return (2 * bytes) / best
}

const seconds = (started: number): number => (performance.now() - started) / 1000
