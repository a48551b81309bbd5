/** Per row of v logits: KL(P ‖ Q), −Σ P·log Q, and factor·(Q − P), with P and Q the softmax of teacher and student. */
export const klGradientReference = (
  teacher: ArrayLike<number>,
  student: ArrayLike<number>,
  v: number,
  factor: number,
): { divergence: Float64Array; crossEntropy: Float64Array; gradient: Float64Array } => {
  const logSoftmax = (x: ArrayLike<number>, from: number): number[] => {
    const row = Array.from({ length: v }, (_, j) => x[from + j]!)
    const max = Math.max(...row)
    const logSum = max + Math.log(row.reduce((sum, z) => sum + Math.exp(z - max), 0))
    return row.map(z => z - logSum)
  }
  const rows = Array.from({ length: teacher.length / v }, (_, t) => ({ p: logSoftmax(teacher, t * v), q: logSoftmax(student, t * v) }))
  return {
    divergence: Float64Array.from(rows, ({ p, q }) => p.reduce((sum, z, j) => sum + Math.exp(z) * (z - q[j]!), 0)),
    crossEntropy: Float64Array.from(rows, ({ p, q }) => -p.reduce((sum, z, j) => sum + Math.exp(z) * q[j]!, 0)),
    gradient: Float64Array.from(rows.flatMap(({ p, q }) => p.map((z, j) => factor * (Math.exp(q[j]!) - Math.exp(z))))),
  }
}
