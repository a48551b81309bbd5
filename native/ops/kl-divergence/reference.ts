/** out[t] = Σ_j P_j·(log P_j − log Q_j), P and Q the softmax of rows of v logits. */
export const klDivergenceReference = (p: ArrayLike<number>, q: ArrayLike<number>, v: number): Float64Array => {
  const logSoftmax = (x: ArrayLike<number>, from: number): number[] => {
    const row = Array.from({ length: v }, (_, j) => x[from + j]!)
    const max = Math.max(...row)
    const logSum = max + Math.log(row.reduce((sum, z) => sum + Math.exp(z - max), 0))
    return row.map(z => z - logSum)
  }
  return Float64Array.from({ length: p.length / v }, (_, t) => {
    const [a, b] = [logSoftmax(p, t * v), logSoftmax(q, t * v)]
    return a.reduce((sum, z, j) => sum + Math.exp(z) * (z - b[j]!), 0)
  })
}
