/** The codebooks by name. */
import type { Codebook } from '../codebook.js'

export const codebooks: Readonly<Record<string, Codebook>> = {
}
