/** The whole list of verbs. Every op checks its arguments in TypeScript, enqueues, and returns its result's tensor at once. */
import type { Device } from './device.js'
import type { DType, Tensor } from './tensor.js'

/** A rectangle of a matrix; left out = all. Bounds as in slice: from inclusive, to exclusive. */
export interface Window { readonly rows?: readonly [number, number]; readonly columns?: readonly [number, number] }

export type TypedArray = Float64Array | Float32Array | Int32Array | Int16Array | Uint16Array | Int8Array | Uint8Array

export interface Ops {
  readonly device: Device

  // ── making and moving ──────────────────────────────────────────────────────────────────────────────────────────
  /** A tensor with these values; dtype follows the array's type unless given (bytes of f16, bf16 come as Uint16Array or Uint8Array). */
  tensor(data: TypedArray, shape: readonly number[], dtype?: DType): Tensor
  zeros(dtype: DType, shape: readonly number[]): Tensor
  /** Converts between f64, f32, f16, bf16 (round to nearest even) and from the integer types to f32. */
  cast(x: Tensor, dtype: DType): Tensor
  /** x viewed row-major with another shape of the same size; a new tensor. */
  reshape(x: Tensor, shape: readonly number[]): Tensor
  /** A copy of a rectangle of x [m, n]. */
  copy(x: Tensor, window?: Window): Tensor
  /** into[row:, column:] = x, in place. Any one dtype. */
  paste(into: Tensor, x: Tensor, at: { row?: number; column?: number }): void
  /** Rows of equal width, one below the other. */
  concat(rows: readonly Tensor[]): Tensor
  transpose(x: Tensor): Tensor

  // ── algebra ────────────────────────────────────────────────────────────────────────────────────────────────────
  /** alpha · op(a) · op(b), f32; op is the transpose where asked for. */
  matmul(a: Tensor, b: Tensor, o?: { transposeA?: boolean; transposeB?: boolean; alpha?: number }): Tensor
  /** c[window] = alpha · op(a[aWindow]) · op(b[bWindow]) + beta · c[window], in place, f32. */
  gemm(c: Tensor, a: Tensor, b: Tensor, o: {
    window?: Window; aWindow?: Window; bWindow?: Window
    transposeA?: boolean; transposeB?: boolean; alpha?: number; beta?: number
  }): void
  /** out = alpha·x + beta·y elementwise, f32. */
  add(x: Tensor, y: Tensor, o?: { alpha?: number; beta?: number }): Tensor
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

  // ── transformer ────────────────────────────────────────────────────────────────────────────────────────────────
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

  finish(): Promise<void>
}
