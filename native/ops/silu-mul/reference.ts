/** out[i] = gate[i] / (1 + e^(−gate[i])) · up[i]. */
export const siluMulReference = (gate: ArrayLike<number>, up: ArrayLike<number>): Float64Array =>
  Float64Array.from({ length: gate.length }, (_, i) => (gate[i]! / (1 + Math.exp(-gate[i]!))) * up[i]!)
