/** Value and moments after one step of Adam. */
export const adamReference = (
  value: ArrayLike<number>,
  gradient: ArrayLike<number>,
  m: ArrayLike<number>,
  v: ArrayLike<number>,
  { step, rate, beta1, beta2, eps }: { step: number; rate: number; beta1: number; beta2: number; eps: number },
): { value: Float64Array; m: Float64Array; v: Float64Array } => {
  const first = Float64Array.from(m, (x, i) => beta1 * x + (1 - beta1) * gradient[i]!)
  const second = Float64Array.from(v, (x, i) => beta2 * x + (1 - beta2) * gradient[i]! ** 2)
  const moved = Float64Array.from(value, (x, i) => {
    const [mean, square] = [first[i]! / (1 - beta1 ** step), second[i]! / (1 - beta2 ** step)]
    return x - (rate * mean) / (Math.sqrt(square) + eps)
  })
  return { value: moved, m: first, v: second }
}
