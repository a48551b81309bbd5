/**
 * The whole list of verbs. Every op checks its arguments in TypeScript, enqueues, and returns its result's tensor at once.
 * A new op is a folder in native/ops, a line here, a line in binding.cc and one in CMakeLists.txt.
 */
import type { Device } from './device.js'
import { addBias } from './ops/add-bias/add-bias.js'
import { add } from './ops/add/add.js'
import { attention } from './ops/attention/attention.js'
import { concat } from './ops/concat/concat.js'
import { copy } from './ops/copy/copy.js'
import { crossEntropy } from './ops/cross-entropy/cross-entropy.js'
import { embed } from './ops/embed/embed.js'
import { gemm } from './ops/gemm/gemm.js'
import { klDivergence } from './ops/kl-divergence/kl-divergence.js'
import { matmul } from './ops/matmul/matmul.js'
import { paste } from './ops/paste/paste.js'
import { reshape } from './ops/reshape/reshape.js'
import { rmsnorm } from './ops/rmsnorm/rmsnorm.js'
import { rope } from './ops/rope/rope.js'
import { siluMul } from './ops/silu-mul/silu-mul.js'
import { tensor } from './ops/tensor/tensor.js'
import { zeros } from './ops/zeros/zeros.js'
import type { DType, Tensor } from './tensor.js'

export type { TypedArray, Window } from './tensor.js'

const verbs = {
  // making and moving
  tensor, zeros, reshape, copy, paste, concat,
  // algebra
  matmul, gemm, add,
  // transformer
  embed, rmsnorm, addBias, rope, attention, siluMul, crossEntropy, klDivergence,
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
