/** dx and the gradient by the weight of out = x·r·weight, r = 1/sqrt(mean(x²) + eps), rows of weight's length. */
export const rmsnormBackwardReference = (
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  dy: ArrayLike<number>,
  eps: number,
): { dx: Float64Array; gradient: Float64Array } => {
  const n = weight.length
  const [dx, gradient] = [new Float64Array(x.length), new Float64Array(n)]
  for (let t = 0; t < x.length; t += n) {
    let [squares, dot] = [0, 0]
    for (let i = 0; i < n; i++) {
      squares += x[t + i]! ** 2
      dot += weight[i]! * dy[t + i]! * x[t + i]!
    }
    const r = 1 / Math.sqrt(squares / n + eps)
    for (let i = 0; i < n; i++) {
      dx[t + i] = r * weight[i]! * dy[t + i]! - (x[t + i]! * r ** 3 * dot) / n
      gradient[i] = gradient[i]! + dy[t + i]! * x[t + i]! * r
    }
  }
  return { dx, gradient }
}
