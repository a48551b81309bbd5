/**
 * The whole list of verbs. Every op checks its arguments in TypeScript, enqueues, and returns its result's tensor at once.
 * A new op is a folder in native/ops, a line here, a line in binding.cc and one in CMakeLists.txt.
 */
import type { Device } from './device.js'
import { add } from './ops/add/add.js'
import { concat } from './ops/concat/concat.js'
import { copy } from './ops/copy/copy.js'
import { gemm } from './ops/gemm/gemm.js'
import { matmul } from './ops/matmul/matmul.js'
import { paste } from './ops/paste/paste.js'
import { reshape } from './ops/reshape/reshape.js'
import { tensor } from './ops/tensor/tensor.js'
import { zeros } from './ops/zeros/zeros.js'
import type { DType, Tensor } from './tensor.js'

export type { TypedArray, Window } from './tensor.js'

const verbs = {
  // making and moving
  tensor, zeros, reshape, copy, paste, concat,
  // algebra
  matmul, gemm, add,
}

type Verbs = { readonly [K in keyof typeof verbs]: ReturnType<(typeof verbs)[K]> }

/** Verbs whose folders are still to come. */
interface Planned {
  /** Converts between f64, f32, f16, bf16 (round to nearest even) and from the integer types to f32. */
  cast(x: Tensor, dtype: DType): Tensor
  transpose(x: Tensor): Tensor
  /** out[i, j] = x[i, j] · rows[i] · columns[j] · factor; vectors may be left out. */
  scale(x: Tensor, o: { rows?: Tensor; columns?: Tensor; factor?: number }): Tensor
  /** f64 [1]: Σ x², x f32. */
  sumSquares(x: Tensor): Tensor
  /** f64 [1]: the number of elements that are NaN or infinite. */
  countNonFinite(x: Tensor): Tensor
  /**
   * Randomized Hadamard transform from one side, x f32 [m, n], signs (or scales) s f32:
   *   right: x·diag(s)·H      left: Hᵀ·diag(s)·x      right, inverse: x·Hᵀ·diag(s)      left, inverse: diag(s)·H·x
   * with H = (M_K ⊗ Sylvester(2ᵖ))/√block of order block = K·2ᵖ; where block < n (or m), H is block diagonal.
   */
  hadamard(x: Tensor, o: { side: 'left' | 'right'; signs?: Tensor; block: number; inverse?: boolean }): Tensor
  /** h f64 [n, n] += xᵀ x, x f32 [t, n], in place: products in f32 over at most 512 tokens, sums in f64. Rows with a non-finite element are left out and added to `skipped` f64 [1]. */
  gram(h: Tensor, x: Tensor, skipped: Tensor): void
  /** H f32 [n, n] → damped copy: H + damp·mean(diag H)·I. */
  damp(h: Tensor, damp: number): Tensor
  /** Block LDLᵀ of H f32 [n, n] with block b: unit block lower triangular L (diagonal blocks 0) f32 [n, n], and `pivot` f64 [2]: [row of the first pivot that is not positive, or −1; its value]. */
  blockLdl(h: Tensor, block: number): { l: Tensor; pivot: Tensor }
  /** f64 [2]: [tr((w−v) h (w−v)ᵀ), tr(w h wᵀ)], w, v f32 [m, n], h f32 [n, n]. */
  proxyError(w: Tensor, v: Tensor, h: Tensor): Tensor
  /** Rows of table [v, d] (any float type) → f32 [t, d]; ids i32 [t]. */
  embed(table: Tensor, ids: Tensor): Tensor
  /** x / sqrt(mean(x², last axis) + eps) · weight, over groups of weight's length along the last axis. */
  rmsnorm(x: Tensor, weight: Tensor, o: { eps: number }): Tensor
  /** x[t, :] + bias. */
  addBias(x: Tensor, bias: Tensor): Tensor
  /** Rotary embedding, halves: x f32 [t, heads·e], cos and sin f32 [positions, e/2]; positions i32 [t]. */
  rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, o: { heads: number }): Tensor
  /** Causal attention within sequences of `length` rows; q f32 [t, heads·e], k and v f32 [t, kvHeads·e]; window: keys at distance < window only. */
  attention(q: Tensor, k: Tensor, v: Tensor, o: { heads: number; kvHeads: number; length: number; window?: number; scale: number }): Tensor
  /** silu(gate) ⊙ up. */
  siluMul(gate: Tensor, up: Tensor): Tensor
  /** f32 [t]: −log softmax(logits[t])[targets[t]]; targets i32 [t], −1 = left out (0). */
  crossEntropy(logits: Tensor, targets: Tensor): Tensor
  /** f32 [t]: KL(softmax(p) ‖ softmax(q)) in nats. */
  klDivergence(p: Tensor, q: Tensor): Tensor
}

export interface Ops extends Verbs, Omit<Planned, keyof Verbs> {
  readonly device: Device
  finish(): Promise<void>
}

/** The verbs on one device. */
export const opsOn = (device: Device): Ops => {
  const bound = Object.fromEntries(Object.entries(verbs).map(([name, make]) => [name, make(device)]))
  return { ...bound, device, finish: () => device.finish() } as unknown as Ops
}
