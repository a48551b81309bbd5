/** [tr((w−v)·h·(w−v)ᵀ), tr(w·h·wᵀ)], w, v [m, n], h [n, n]. */
export const proxyErrorReference = (
  w: ArrayLike<number>,
  v: ArrayLike<number>,
  h: ArrayLike<number>,
  m: number,
  n: number,
): [number, number] => {
  const trace = (x: (row: number, column: number) => number): number => {
    let sum = 0
    for (let r = 0; r < m; r++) for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sum += x(r, i) * h[i * n + j]! * x(r, j)
    return sum
  }
  return [trace((r, i) => w[r * n + i]! - v[r * n + i]!), trace((r, i) => w[r * n + i]!)]
}
