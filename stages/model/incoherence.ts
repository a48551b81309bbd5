/** The way back from the incoherent basis. */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'

/**
 * W = diag(SV) · H_m · Ŵ · H_nᵀ · diag(SU), f32 [m, n]. `transform` has the orders of H_m and H_n, repeated along the
 * diagonal where smaller than m, n. QuIP# (arXiv:2402.04396) section 3.
 */
export function toDense(ops: Ops, values: Tensor, su: Tensor, sv: Tensor, transform: { readonly m: number; readonly n: number }): Tensor {
  using right = ops.hadamard(values, { side: 'right', signs: su, block: transform.n, inverse: true }) // Ŵ·H_nᵀ·diag(SU)
  return ops.hadamard(right, { side: 'left', signs: sv, block: transform.m, inverse: true })
}
