/** The pair (i, i + e/2) of every head turned by the angle of its position; cos, sin [positions, e/2]. */
export const ropeReference = (
  x: ArrayLike<number>,
  cos: ArrayLike<number>,
  sin: ArrayLike<number>,
  positions: ArrayLike<number>,
  heads: number,
): Float64Array => {
  const e = x.length / positions.length / heads
  return Float64Array.from({ length: x.length }, (_, at) => {
    const i = at % e
    const angle = positions[Math.floor(at / (heads * e))]! * (e / 2) + (i % (e / 2))
    return i < e / 2 ? x[at]! * cos[angle]! - x[at + e / 2]! * sin[angle]! : x[at]! * cos[angle]! + x[at - e / 2]! * sin[angle]!
  })
}
