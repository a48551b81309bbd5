/** open-model: every weight of a model open on a device, and the way of tokens through them. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import type { Attend } from './attention.js'
import type { ModelConfig } from './config.js'
import { type Block, forwardBlock, Head, Opened, openBlock } from './forward.js'
import { expectInt8, forwardPacked, PackedBlock } from './packed-block.js'
import type { Activations } from './linear.js'
import { type Precision, precisionOf, precisionOfHead } from './precision.js'
import type { Weights } from './quantized.js'
import { Value } from './value.js'

export interface OpenModelOptions {
  /** Whether quantized linears stay as they are stored, where there are kernels for it. Default: packed. */
  readonly weights?: 'packed' | 'dense'
  /** What dense matrices are held in, and multiplied in. Default: auto (precision.ts). */
  readonly precision?: Precision
  /** What packed linears multiply by: int8 is for the CPU, and for a model whose linears are packed (linear.ts). Default: f32. */
  readonly activations?: Activations
}

export class OpenModel implements Disposable {
  private constructor(
    readonly ops: Ops,
    readonly config: ModelConfig,
    readonly precision: Precision,
    private readonly embedding: Opened,
    private readonly blocks: readonly Block[],
    private readonly head: Head,
    /** Tokens that end a text. */
    readonly ends: ReadonlySet<number>,
  ) {}

  /** Opens every weight. Raises PipeError as Opened.open does, when generation_config.json is none, and when activations can't be in int8. */
  static async open(ops: Ops, weights: Weights, o: OpenModelOptions = {}): Promise<OpenModel> {
    const { config, path } = weights.checkpoint
    const precision = o.precision ?? precisionOf('auto', ops, weights.checkpoint)
    const ends = await readEnds(path, config.raw)
    const open: Disposable[] = []
    const keep = <T extends Disposable>(part: T): T => {
      open.push(part)
      return part
    }
    try {
      const embedding = keep(await Opened.open(ops, weights, [embeddingOf(config)], precisionOfHead(precision, ops, weights.checkpoint)))
      const blocks: Block[] = []
      const isPacked = o.weights !== 'dense' && weights.packed !== undefined && weights.checkpoint.quantization !== undefined
      for (let layer = 0; layer < config.sizes.layers; layer++)
        blocks.push(
          keep(
            isPacked
              ? await PackedBlock.open(ops, weights, layer, { precision, activations: o.activations })
              : await openBlock(ops, weights, layer, precision),
          ),
        )
      if (o.activations === 'int8')
        expectInt8(
          ops,
          path,
          blocks.some(block => block instanceof PackedBlock && block.isPacked),
        )
      return new OpenModel(ops, config, precision, embedding, blocks, keep(await Head.open(ops, weights, precision, embedding)), ends)
    } catch (error) {
      for (const part of open) part[Symbol.dispose]()
      throw error
    }
  }

  /** Token ids i32 [t] → the residual stream behind the last block, f32 [t, d]. */
  stream(ids: Tensor, attend: Attend): Tensor {
    const { ops, config } = this
    const embedded = ops.embed(this.embedding.get(embeddingOf(config)), ids)
    return this.blocks
      .reduce<Value>(
        (x, block, layer) =>
          block instanceof PackedBlock
            ? forwardPacked(ops, config, layer, block, x, attend)
            : Value.of(forwardBlock(ops, config, layer, block, x.take(), attend)),
        Value.of(embedded),
      )
      .take()
  }

  /** The residual stream f32 [t, d] → logits f32 [t, vocab]. */
  logits(x: Tensor): Tensor {
    return this.head.logits(x)
  }

  /** Bytes that the step of one row reads: blocks, norm and head. */
  get bytes(): number {
    return this.blocks.reduce((sum, { bytes }) => sum + bytes, this.head.bytes)
  }

  [Symbol.dispose](): void {
    for (const part of [this.embedding, ...this.blocks, this.head]) part[Symbol.dispose]()
  }
}

const embeddingOf = ({ architecture }: ModelConfig): string => `${architecture.embed}.weight`

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
  const generated = (own as { eos_token_id?: unknown } | null)?.eos_token_id ?? undefined
  const ids: unknown = generated ?? config.eos_token_id ?? []
  const list: unknown[] = Array.isArray(ids) ? ids : [ids]
  const known = list.filter((id): id is number => Number.isInteger(id))
  if (known.length === list.length) return new Set(known)
  throw new PipeError('input', {
    where: generated === undefined ? join(folder, 'config.json') : where,
    message: `expected "eos_token_id": a whole number or a list of them, and found ${JSON.stringify(ids)}.`,
  })
}
