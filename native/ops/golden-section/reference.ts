/** The s in [low, high] with the least sum(s)/s² after `points` measurements, by golden section; times √max(1 − shrink·sum(s)/s², ¼). */
export function goldenSectionReference(
  [from, to]: readonly [number, number],
  points: number,
  sum: (s: number) => number,
  shrink = 0,
): number {
  const golden = (Math.sqrt(5) - 1) / 2
  const value = (s: number): number => sum(s) / (s * s)
  let [low, high] = [from, to]
  let left = high - golden * (high - low)
  let right = low + golden * (high - low)
  let [atLeft, atRight] = [value(left), value(right)]
  for (let tried = 2; tried < points; tried++) {
    if (atLeft < atRight) {
      ;[high, right, atRight] = [right, left, atLeft]
      left = high - golden * (high - low)
      atLeft = value(left)
    } else {
      ;[low, left, atLeft] = [left, right, atRight]
      right = low + golden * (high - low)
      atRight = value(right)
    }
  }
  const [best, least] = atLeft < atRight ? [left, atLeft] : [right, atRight]
  return best * Math.sqrt(Math.max(1 - shrink * least, 0.25))
}
