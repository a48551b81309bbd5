/**
 * generate: tokens one after the other. The prompt goes through the model at once and fills the cache; then each token
 * goes through alone. f32; quantized linears are decoded when the model is opened: 4 bytes a weight.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import { forwardBlock, Head, Opened, openBlock } from './forward.js'
import { KvCache } from './kv-cache.js'
import type { Weights } from './quantized.js'
import { type Sampling, sample } from './sampling.js'

export interface GenerateOptions {
  readonly sampling: Sampling
  /** Most tokens to give. */
  readonly maxTokens: number
  /** Numbers in [0, 1), for the draws. */
  uniform(): number
}

/** A model with all its weights open. */
export class Generator implements Disposable {
  private constructor(
    private readonly ops: Ops,
    private readonly weights: Weights,
    private readonly embedding: Opened,
    private readonly blocks: readonly Opened[],
    private readonly head: Head,
    private readonly ends: ReadonlySet<number>,
  ) {}

  /** Opens every weight. Raises PipeError as Opened.open does, and when generation_config.json is none. */
  static async open(ops: Ops, weights: Weights): Promise<Generator> {
    const { config, path } = weights.checkpoint
    const ends = await readEnds(path, config.raw)
    const open: Disposable[] = []
    const keep = <T extends Disposable>(part: T): T => {
      open.push(part)
      return part
    }
    try {
      const embedding = keep(await Opened.open(ops, weights, [`${config.architecture.embed}.weight`]))
      const blocks: Opened[] = []
      for (let layer = 0; layer < config.sizes.layers; layer++) blocks.push(keep(await openBlock(ops, weights, layer)))
      return new Generator(ops, weights, embedding, blocks, keep(await Head.open(ops, weights)), ends)
    } catch (error) {
      for (const part of open) part[Symbol.dispose]()
      throw error
    }
  }

  /**
   * Token ids that go on from the prompt's, until one ends the text (it is not given), `maxTokens` are made, or the model
   * has no position left; whoever reads them may leave at any. Raises PipeError when the prompt has no token or leaves no position.
   */
  async *tokens(prompt: readonly number[], o: GenerateOptions): AsyncGenerator<number, void, undefined> {
    const { checkpoint } = this.weights
    const { positions = Number.POSITIVE_INFINITY } = checkpoint.config
    checkPrompt(checkpoint.path, prompt.length, positions)
    const most = Math.min(o.maxTokens, positions - prompt.length)
    using cache = new KvCache(this.ops, checkpoint.config, prompt.length + most)
    const seen = new Set(prompt)
    let next: readonly number[] = prompt
    for (let made = 0; made < most; made++) {
      const token = sample(await this.#logits(cache, next), seen, o.sampling, o.uniform)
      if (this.ends.has(token)) return
      yield token
      seen.add(token)
      next = [token]
    }
  }

  /** Of the last of these tokens, after they went into the cache. */
  async #logits(cache: KvCache, ids: readonly number[]): Promise<Float32Array> {
    const { ops, blocks } = this
    const { config } = this.weights.checkpoint
    using rows = ops.tensor(Int32Array.from(ids), [ids.length])
    const embedded = ops.embed(this.embedding.get(`${config.architecture.embed}.weight`), rows)
    using x = cache.extend(ids.length, attend =>
      blocks.reduce<Tensor>((stream, block, layer) => forwardBlock(ops, config, layer, block, stream, attend), embedded),
    )
    using last = ops.copy(x, { rows: [ids.length - 1, ids.length] })
    using logits = this.head.logits(last)
    return new Float32Array((await logits.read()).slice().buffer)
  }

  [Symbol.dispose](): void {
    for (const part of [this.embedding, ...this.blocks, this.head]) part[Symbol.dispose]()
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

/** The tokens that end a text: "eos_token_id" of generation_config.json, else of config.json, one or several. */
async function readEnds(folder: string, config: Readonly<Record<string, unknown>>): Promise<ReadonlySet<number>> {
  const where = join(folder, 'generation_config.json')
  const text = await readFile(where, 'utf8').catch(() => '{}') // few models need one
  let own: unknown
  try {
    own = JSON.parse(text)
  } catch (error) {
    throw new PipeError('input', { where, message: `is not valid JSON: ${(error as Error).message}.` })
  }
  const ids: unknown = (own as { eos_token_id?: unknown } | null)?.eos_token_id ?? config.eos_token_id ?? []
  const list: unknown[] = Array.isArray(ids) ? ids : [ids]
  const known = list.filter((id): id is number => Number.isInteger(id))
  if (known.length === list.length) return new Set(known)
  throw new PipeError('input', {
    where,
    message: `expected "eos_token_id": a whole number or a list of them, and found ${JSON.stringify(ids)}.`,
  })
}
