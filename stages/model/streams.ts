/**
 * streams: what leaves the last block, for texts of any number and models side by side. One block's weights are open at a
 * time; windows go through in chunks large enough for the matrix products.
 */
import { type Static, Type } from '@sinclair/typebox'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { within } from './attention.js'
import { embed, forwardBlock, type Opened, openBlock, Rotary } from './forward.js'
import { expectInt8, forwardPacked, PackedBlock } from './packed-block.js'
import type { Activations } from './linear.js'
import type { Precision } from './precision.js'
import type { Weights } from './quantized.js'
import { Value } from './value.js'

/** The parameter of stages that run quantized models. */
export const formParameter = Type.Union([Type.Literal('packed'), Type.Literal('dense')], {
  default: 'dense',
  description:
    'What quantized linears are multiplied as. dense: each decoded once for the whole text, a block at a time; packed: from their bits, as text is made, where there are kernels for their code. Results are the same but for rounding',
})
export type Form = Static<typeof formParameter>

/** Tokens that go through a block at a time: enough for the matrix products to run at full speed. */
export const tokensAtOnce = 2048
/** Bytes of residual streams alive at a time. */
export const residualBytes = 512 * 2 ** 20
/** Bytes of logits alive at a time. */
export const logitsBytes = 64 * 2 ** 20

/** Windows of one length that go through together. */
export type Chunk = readonly Int32Array[]
export const size = (chunk: Chunk | undefined): number => chunk?.reduce((sum, window) => sum + window.length, 0) ?? 0

/** Neighbours of equal length in chunks of at most so many tokens. */
export function stack(windows: readonly Int32Array[], tokens: number): Chunk[] {
  const chunks: Int32Array[][] = []
  for (const window of windows) {
    const last = chunks[chunks.length - 1]
    if (last !== undefined && last[0]?.length === window.length && (last.length + 1) * window.length <= tokens) last.push(window)
    else chunks.push([window])
  }
  return chunks
}

/** How models run. */
export interface RunAs {
  readonly precision?: Precision
  /** What quantized linears are run as; decoded when left out. */
  readonly form?: Form
  /** Of packed linears, as in linear.ts. */
  readonly activations?: Activations
}

/** The residual stream that leaves the last block: for each model, for each chunk. */
export async function runModels(
  ops: Ops,
  models: readonly Weights[],
  chunks: readonly Chunk[],
  o: RunAs & { signal?: AbortSignal; progress(share: number): void },
): Promise<Tensor[][]> {
  const streams: Tensor[][] = []
  try {
    for (const [m, weights] of models.entries()) {
      const { config } = weights.checkpoint
      using rotary = new Rotary(ops, config)
      rotary.of(chunks.reduce((longest, [window]) => Math.max(longest, window?.length ?? 0), 1)) // first, so that it is made once
      const stream = await embed(
        ops,
        weights,
        chunks.map(chunk => Int32Array.from(chunk.flatMap(window => [...window]))),
      )
      streams.push(stream)
      for (let layer = 0; layer < config.sizes.layers; layer++) {
        using block = await openAs(o, ops, weights, layer)
        for (const [i, chunk] of chunks.entries()) {
          o.signal?.throwIfAborted()
          const positions = rotary.of(chunk[0]?.length ?? 0)
          const x = stream[i] as Tensor
          stream[i] =
            block instanceof PackedBlock
              ? forwardPacked(ops, config, layer, block, Value.of(x), within(ops, config, positions, o.precision)).take()
              : forwardBlock(ops, config, layer, block, x, positions)
          await ops.finish() // so that a chunk's temporary tensors are gone before the next has any
          o.progress((m + (layer + (i + 1) / chunks.length) / config.sizes.layers) / models.length)
        }
      }
    }
    return streams
  } catch (error) {
    for (const x of streams.flat()) x[Symbol.dispose]()
    throw error
  }
}

const openAs = async (
  { form, precision = 'f32', activations }: RunAs,
  ops: Ops,
  weights: Weights,
  layer: number,
): Promise<PackedBlock | Opened> => {
  const isPacked = form === 'packed' && weights.packed !== undefined && weights.checkpoint.quantization !== undefined
  if (activations === 'int8') expectInt8(ops, weights.checkpoint.path, isPacked)
  return isPacked ? PackedBlock.open(ops, weights, layer, { precision, activations }) : openBlock(ops, weights, layer, precision)
}
