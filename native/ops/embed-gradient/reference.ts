/** into[ids[i], :] + dy[i, :] for all i, into [v, d]. */
export const embedGradientReference = (into: ArrayLike<number>, ids: ArrayLike<number>, dy: ArrayLike<number>, d: number): Float64Array => {
  const out = Float64Array.from(into)
  for (let e = 0; e < dy.length; e++) {
    const at = ids[Math.floor(e / d)]! * d + (e % d)
    out[at] = out[at]! + dy[e]!
  }
  return out
}
