/** IEEE 754 binary16 on the host, by its bits. */

/** The number that these 16 bits mean. */
export const fromHalf = (bits: number): number => {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25))
}

/** The bits of the nearest half, ties to even; one rounding, straight from float64. */
export const toHalf = (x: number): number => {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const size = Math.abs(x)
  if (Number.isNaN(x)) return 0x7e00
  if (size >= 65520) return sign | 0x7c00
  const exponent = Math.max(-14, size === 0 ? -14 : Math.floor(Math.log2(size)))
  const unit = 2 ** (exponent - 10)
  const scaled = size / unit
  const whole = Math.floor(scaled)
  const rest = scaled - whole
  const rounded = whole + (rest > 0.5 || (rest === 0.5 && whole % 2 === 1) ? 1 : 0)
  // `rounded` counts units; 1024 of them carry into the exponent by themselves, also from subnormal to normal.
  return sign | (rounded + (exponent + 14) * 1024)
}

/** x rounded to the nearest half. */
export const roundHalf = (x: number): number => fromHalf(toHalf(x))
