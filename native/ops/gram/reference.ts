/** h + Σ x[t, :]ᵀ·x[t, :] over the rows t of x [rows, n] that are finite throughout. */
export const gramReference = (
  h: ArrayLike<number>,
  x: ArrayLike<number>,
  rows: number,
  n: number,
): { h: Float64Array; skipped: number } => {
  const sum = Float64Array.from(h)
  let skipped = 0
  for (let t = 0; t < rows; t++) {
    const row = Array.from({ length: n }, (_, i) => x[t * n + i]!)
    if (!row.every(Number.isFinite)) {
      skipped++
      continue
    }
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sum[i * n + j] = sum[i * n + j]! + row[i]! * row[j]!
  }
  return { h: sum, skipped }
}
