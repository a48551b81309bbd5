/** Known classes of a row as given; the others as `like` has them, shifted so that their probabilities add up to e^rest. */
export const sparseLogitsReference = (
  { indices, values, rest }: { indices: ArrayLike<number>; values: ArrayLike<number>; rest: ArrayLike<number> },
  like: ArrayLike<number>,
  v: number,
): Float64Array => {
  const out = Float64Array.from(like)
  const k = indices.length / rest.length
  for (let i = 0; i < rest.length; i++) {
    const known = new Map(Array.from({ length: k }, (_, c) => [indices[i * k + c]!, values[i * k + c]!]))
    const others = Array.from({ length: v }, (_, j) => j).filter(j => !known.has(j))
    const max = Math.max(...others.map(j => like[i * v + j]!))
    const logSum = max + Math.log(others.reduce((sum, j) => sum + Math.exp(like[i * v + j]! - max), 0))
    for (const j of others) out[i * v + j] = like[i * v + j]! - logSum + rest[i]!
    for (const [j, value] of known) out[i * v + j] = value
  }
  return out
}
