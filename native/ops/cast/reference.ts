/** x rounded to nearest even with `bits` of mantissa after the leading one, normal exponents from `least`; beyond `most` infinite. */
export const roundReference = (x: number, format: { bits: number; least: number; most: number }): number => {
  if (!Number.isFinite(x) || x === 0) return x
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), format.least)
  const unit = 2 ** (exponent - format.bits) // may be half of it where log2 was rounded up: harmless, the next step still divides exactly
  const quotient = x / unit
  const floor = Math.floor(quotient)
  const rest = quotient - floor
  const rounded = (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * unit
  return Math.abs(rounded) > format.most ? Math.sign(x) * Number.POSITIVE_INFINITY : rounded
}

export const f16Format = { bits: 10, least: -14, most: 65504 }
export const bf16Format = { bits: 7, least: -126, most: 2 ** 127 * (2 - 2 ** -7) }

/** The number that two bytes stand for, with `bits` of mantissa and the exponent's bias. */
export const decodeReference = (code: number, bits: number, bias: number): number => {
  const exponent = (code & 0x7fff) >> bits
  const mantissa = code & (2 ** bits - 1)
  const sign = code & 0x8000 ? -1 : 1
  if (exponent === 2 * bias + 1) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent ? 2 ** bits + mantissa : mantissa) * 2 ** (Math.max(exponent, 1) - bias - bits)
}
