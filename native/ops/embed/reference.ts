/** out[i, :] = table[ids[i], :], table [v, d]. */
export const embedReference = (table: ArrayLike<number>, ids: ArrayLike<number>, d: number): Float64Array =>
  Float64Array.from({ length: ids.length * d }, (_, i) => table[ids[Math.floor(i / d)]! * d + (i % d)]!)
