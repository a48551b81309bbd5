/** The codebooks by name, as graphs say it. A new one is a folder here and a line below; a new trellis code, an entry in trellis/codes.ts. */
import type { Codebook } from '../codebook.js'
import { scalar } from './scalar/scalar.js'
import { trellisCodes } from './trellis/codes.js'
import { trellis } from './trellis/trellis.js'

const list: Codebook[] = [scalar as Codebook, ...Object.entries(trellisCodes).map(([name, code]) => trellis(name, code))]

export const codebooks: Readonly<Record<string, Codebook>> = Object.fromEntries(list.map(codebook => [codebook.name, codebook]))
