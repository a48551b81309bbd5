/** attention: how rows of a block see each other: whole sequences, stacked, or new rows what a cache holds (kv-cache.ts). */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { ModelConfig } from './config.js'
import type { Precision } from './precision.js'

/** Where the rows of stacked sequences are: cosines and sines f32 [length, e/2] of positions 0 … length−1. */
export interface Positions {
  readonly length: number
  readonly cos: Tensor
  readonly sin: Tensor
}

/** Attention of a block's new rows to what a cache holds (kv-cache.ts): q [t, h·e], k and v [t, g·e], not turned yet → [t, h·e]. They stay the caller's. */
export type Attend = (layer: number, q: Tensor, k: Tensor, v: Tensor) => Tensor

/** Attention inside whole sequences, in this precision where it is the narrower one. */
export function within(ops: Ops, config: ModelConfig, { cos, sin, length }: Positions, precision: Precision = 'f32'): Attend {
  const { h: heads, g: kvHeads } = config.sizes
  return (layer, q, k, v) => {
    using turned = ops.rope(q, cos, sin, undefined, { heads })
    using key = ops.rope(k, cos, sin, undefined, { heads: kvHeads })
    return attendTurned(ops, config, layer, [turned, key, v], length, precision)
  }
}

/** The same of queries and keys that are turned; what it gives is of their type. In bf16 scores and sums stay f32. */
function attendTurned(
  ops: Ops,
  config: ModelConfig,
  layer: number,
  [q, k, v]: readonly [Tensor, Tensor, Tensor],
  length: number,
  precision: Precision,
): Tensor {
  const { h: heads, g: kvHeads, e } = config.sizes
  const o = { heads, kvHeads, length, window: config.windows[layer], scale: 1 / Math.sqrt(e) }
  if (precision === 'f32' || q.dtype === precision) return ops.attention(q, k, v, o)
  using narrowQ = ops.cast(q, precision)
  using narrowK = k.dtype === precision ? undefined : ops.cast(k, precision)
  using narrowV = v.dtype === precision ? undefined : ops.cast(v, precision)
  using out = ops.attention(narrowQ, narrowK ?? k, narrowV ?? v, o)
  return ops.cast(out, q.dtype as 'f32')
}
