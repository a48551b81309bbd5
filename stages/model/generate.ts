/**
 * generate: tokens one after the other, by a Decoder with one slot: the prompt goes through the model at once and fills
 * the cache; then each token goes through alone.
 */
import type { Ops } from '../../native/ops.js'
import { PipeError } from '../../pipeline/define.js'
import { Decoder } from './decoder.js'
import { expectRoom } from './kv-cache.js'
import { OpenModel, type OpenModelOptions } from './open-model.js'
import type { Weights } from './quantized.js'
import { drawOf, picked, type Sampling } from './sampling.js'

export interface GenerateOptions {
  readonly sampling: Sampling
  /** Most tokens to give. */
  readonly maxTokens: number
  /** Numbers in [0, 1), for the draws. */
  uniform(): number
  /** What keys and values are kept in. Default: f32. */
  readonly cache?: 'f32' | 'bf16'
  /** Bytes that keys and values may take. Default: any. */
  readonly free?: number
}

/** A model with all its weights open. */
export class Generator implements Disposable {
  private constructor(
    private readonly weights: Weights,
    private readonly model: OpenModel,
  ) {}

  /** Opens every weight. Raises PipeError as OpenModel.open does. */
  static async open(ops: Ops, weights: Weights, o: OpenModelOptions = {}): Promise<Generator> {
    return new Generator(weights, await OpenModel.open(ops, weights, o))
  }

  /**
   * Token ids that go on from the prompt's, until one ends the text (it is not given), `maxTokens` are made, or the model
   * has no position left; whoever reads them may leave at any. Raises PipeError when the prompt has no token or leaves no position, or
   * keys and values of all that may be made don't fit.
   */
  async *tokens(prompt: readonly number[], o: GenerateOptions): AsyncGenerator<number, void, undefined> {
    const { checkpoint } = this.weights
    const { positions = Number.POSITIVE_INFINITY } = checkpoint.config
    checkPrompt(checkpoint.path, prompt.length, positions)
    const most = Math.min(o.maxTokens, positions - prompt.length)
    const shape = { slots: 1, capacity: prompt.length + most, dtype: o.cache ?? 'f32' }
    expectRoom(checkpoint.path, checkpoint.config, shape, 'Give fewer --max-tokens', o.free)
    using decoder = Decoder.over(this.model, { slots: 1, positions: prompt.length + most, cache: o.cache })
    const draw = () => drawOf(o.sampling, o.uniform)
    if (o.sampling.repetitionPenalty !== 1) decoder.remember(0, prompt)
    let token = picked(await decoder.pickAfter(0, prompt, draw()))
    if (decoder.ends.has(token)) return
    yield token
    for await (const [next] of decoder.picks([{ slot: 0, token }], most - 1, draw)) {
      token = picked(next)
      if (decoder.ends.has(token)) return
      yield token
    }
  }

  [Symbol.dispose](): void {
    this.model[Symbol.dispose]()
  }
}

function checkPrompt(where: string, tokens: number, positions: number): void {
  if (tokens === 0)
    throw new PipeError('input', { where, message: 'the prompt is empty: there is nothing to go on from.', hint: 'Give a --prompt.' })
  if (tokens < positions) return
  throw new PipeError('input', {
    where,
    message: `the prompt has ${tokens} tokens and the model was made for ${positions} positions: none is left to generate in.`,
    hint: 'Give a shorter --prompt.',
  })
}
