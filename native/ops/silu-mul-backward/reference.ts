/** The gradients by gate and up of gate·σ(gate)·up. */
export const siluMulBackwardReference = (
  gate: ArrayLike<number>,
  up: ArrayLike<number>,
  dy: ArrayLike<number>,
): { dGate: Float64Array; dUp: Float64Array } => {
  const sigmoid = Float64Array.from(gate, z => 1 / (1 + Math.exp(-z)))
  return {
    dGate: sigmoid.map((s, i) => dy[i]! * up[i]! * s * (1 + gate[i]! * (1 - s))),
    dUp: sigmoid.map((s, i) => dy[i]! * gate[i]! * s),
  }
}
