/**
 * A scale for each output, folded into sv, where it costs nothing later:
 *
 *   s_i = (W_i H̃ W_iᵀ)/(W_i H̃ Ŵ_iᵀ)        row i of W and Ŵ in the outputs' own basis
 *
 * Rounding to the nearest of few values shrinks: W_i H̃ Ŵ_iᵀ = (1 − ε)·W_i H̃ W_iᵀ, ε the share of the error, and so does least squares,
 * (W_i H̃ Ŵ_iᵀ)/(Ŵ_i H̃ Ŵ_iᵀ). That is the least error of one linear, but what is lost of the signal is lost in every linear in the
 * same direction, where errors average out. With this s_i output i, regressed on what it was, has slope 1: the error of one linear
 * grows by ε of itself, that of the model falls.
 *
 * sv stands behind Hₘ (W = diag(sv)·Hₘ·Ŵ·…), so that is where a scale of a row is exact: both are taken back through Hₘ first.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { rowsOf, traces } from './output-groups.js'

const most = 2

/** w, v f32 [m, n] in the incoherent basis, hs f32 [n, n], one a group of outputs, sv f32 [m], `order` of Hₘ: sv·s, and the traces with it. */
export async function rowScaled(
  ops: Ops,
  { w, v, hs, sv, order }: { w: Tensor; v: Tensor; hs: readonly Tensor[]; sv: Tensor; order: number },
): Promise<{ sv: Tensor; errors: Promise<[error: number, total: number]> }> {
  const [m = 0, n = 0] = w.shape
  const back = (x: Tensor): Tensor => ops.hadamard(x, { side: 'left', signs: sv, block: order, inverse: true })
  using outputs = back(w)
  using rounded = back(v)
  using product = ops.zeros('f32', [m, n])
  for (const [k, h] of hs.entries()) {
    const rows = rowsOf(k, hs.length, m)
    ops.gemm(product, outputs, h, { window: { rows }, aWindow: { rows } })
  }
  using others = ops.transpose(product)
  product[Symbol.dispose]()
  const dots = async (x: Tensor): Promise<Float32Array> => {
    using columns = ops.transpose(x)
    using into = ops.zeros('f32', [m])
    ops.addColumnDots(into, columns, others)
    return new Float32Array((await into.read()).slice().buffer)
  }
  const [own, mixed] = [await dots(outputs), await dots(rounded)]
  // Beyond a half lost there is more error than signal; a row of zeros has no scale.
  const scales = own.map((square, i) => (square > 0 ? Math.min(most, square / Math.max(mixed[i] ?? 0, square / most)) : 1))
  using rows = ops.tensor(scales, [m])
  using scaled = ops.scale(rounded, { rows })
  using column = ops.reshape(sv, [m, 1])
  using folded = ops.scale(column, { rows })
  return { sv: ops.reshape(folded, [m]), errors: traces(ops, outputs, scaled, hs) }
}
