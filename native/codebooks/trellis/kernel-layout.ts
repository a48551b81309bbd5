/**
 * The other layout of published HYB checkpoints (L = 16, V = 2, Q = 9, tiles of 16 × 16, K = 2…4): weights of a tile in
 * the order in which a tensor-core instruction's operand holds them, bytes in the order in which a warp loads them.
 * Read by `published.ts`: natural words by `fromKernelLayout`, unpacked, decoded with each weight put in its place.
 */

/** Row·16 + column of the weight at each place of the sequence: the A operand of m16n8k16, two columns a register, lanes of 4 columns. */
export const kernelOrder: readonly number[] = Array.from({ length: 256 }, (_, p) => {
  const row = 8 * ((p >> 1) & 1) + (p >> 5)
  const column = 8 * ((p >> 2) & 1) + 2 * ((p >> 3) & 3) + (p & 1)
  return row * 16 + column
})

/**
 * Bytes of natural words (tiles row-major, most significant byte of a word first) and their places in the kernel's: there,
 * superblocks of 32 × 32 weights follow row-major; in one, lanes 0…31, then column tile, then row tile, then the lane's K
 * bytes with the least significant first.
 */
const moved = (packed: Uint8Array, m: number, n: number, K: number, toKernel: boolean): Uint8Array => {
  if (packed.length !== (m * n * K) / 8)
    throw new RangeError(`[${m}, ${n}] at ${K} bits take ${(m * n * K) / 8} bytes, got ${packed.length}`)
  if (m % 32 !== 0 || n % 32 !== 0)
    throw new RangeError(`the kernel's layout has superblocks of 32 × 32, which [${m}, ${n}] does not divide into`)
  const out = new Uint8Array(packed.length)
  let i = 0
  for (let a = 0; a < m / 16; a++) {
    for (let c = 0; c < n / 16; c++) {
      const block = ((a >> 1) * (n / 32) + (c >> 1)) * 128 * K + ((c & 1) * 2 + (a & 1)) * K
      for (let lane = 0; lane < 32; lane++) {
        for (let at = block + lane * 4 * K + K - 1, byte = 0; byte < K; byte++, at--, i++) {
          const natural = i ^ 1 // words are little-endian, bit strings start with the most significant byte
          if (toKernel) out[at] = packed[natural]!
          else out[natural] = packed[at]!
        }
      }
    }
  }
  return out
}

/** Packed words of a checkpoint in the kernel's layout → natural words of the same shape (as bytes of i16). */
export const fromKernelLayout = (packed: Uint8Array, m: number, n: number, K: number): Uint8Array => moved(packed, m, n, K, false)

/** fromKernelLayout's inverse. */
export const toKernelLayout = (packed: Uint8Array, m: number, n: number, K: number): Uint8Array => moved(packed, m, n, K, true)
