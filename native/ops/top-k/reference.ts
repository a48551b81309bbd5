/** Per row of v logits the k largest, of equal ones the first: their places, log P of them, and log Σ P of the others. */
export const topKReference = (
  logits: ArrayLike<number>,
  v: number,
  k: number,
): { indices: Int32Array; values: Float64Array; rest: Float64Array } => {
  const rows = Array.from({ length: logits.length / v }, (_, t) => {
    const x = Array.from({ length: v }, (_, j) => logits[t * v + j]!)
    const max = Math.max(...x)
    const total = x.reduce((sum, z) => sum + Math.exp(z - max), 0)
    const order = x.map((_, j) => j).sort((a, b) => x[b]! - x[a]! || a - b)
    const others = order.slice(k).reduce((sum, j) => sum + Math.exp(x[j]! - max), 0)
    return { top: order.slice(0, k), values: order.slice(0, k).map(j => x[j]! - max - Math.log(total)), rest: Math.log(others / total) }
  })
  return {
    indices: Int32Array.from(rows.flatMap(({ top }) => top)),
    values: Float64Array.from(rows.flatMap(({ values }) => values)),
    rest: Float64Array.from(rows, ({ rest }) => rest),
  }
}
