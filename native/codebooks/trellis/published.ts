/**
 * The codes of QTIP's published checkpoints, by the names and in the layouts of its program: decoding only, with the table
 * that a linear brings. Values of computed codes are as codes.ts has them, which QTIP's program rounds to f16.
 * QTIP (arXiv:2406.11235) section 3.1.
 */
import type { Ops } from '../../ops.js'
import type { Tensor } from '../../tensor.js'
import type { Settings } from '../settings.js'
import { decodeTiles, type TileShape, unpackTiles, wordsOf } from '../tiles/tiles.js'
import { type TrellisCode, trellisCodes } from './codes.js'
import { fromKernelLayout, kernelOrder } from './kernel-layout.js'

/** 'quantlut_sym' is HYB; 'quantlut' the same without the sign. */
export const decodeModes = ['lut', '1mad', '2mad', '3inst', 'quantlut', 'quantlut_sym'] as const
export type DecodeMode = (typeof decodeModes)[number]

export interface PublishedCode {
  readonly mode: DecodeMode
  readonly L: number
  readonly K: number
  readonly V: number
  /** Bits that index the table; 0 for computed codes. */
  readonly Q: number
  readonly Tx: number
  readonly Ty: number
}

const codeOf = (mode: DecodeMode): TrellisCode => trellisCodes[mode === 'quantlut_sym' ? 'hyb' : mode]!

export const hasTable = ({ mode }: PublishedCode): boolean => codeOf(mode).table !== undefined

/** Whether the program has a kernel for the code, and therefore stores it in the kernel's layout. */
export const hasKernel = ({ mode, L, K, V, Q, Tx, Ty }: PublishedCode): boolean =>
  mode === 'quantlut_sym' && L === 16 && V === 2 && Q === 9 && Tx === 16 && Ty === 16 && K >= 2 && K <= 4

/** What is wrong with the parameters, in words to follow "the code"; undefined when nothing is. */
export const contradiction = (code: PublishedCode): string | undefined => {
  const { mode, L, K, V, Q, Tx, Ty } = code
  if (L < 1 || L > 16) return `has states of L = ${L} bits, and up to 16 are read`
  if (K * V > L) return `brings K·V = ${K * V} bits a step, more than its state of L = ${L}`
  if (Tx * Ty > 65536 || Ty % V !== 0) return `has tiles of td_x × td_y = ${Tx} × ${Ty}, which steps of V = ${V} don't divide`
  if (Tx * Ty * K < L) return `has tiles of ${Tx * Ty * K} bits, too few for a state of L = ${L}`
  if (!hasTable(code) && V !== 1) return `"${mode}" gives one weight a step, not V = ${V}`
  if (mode === 'quantlut_sym' && V !== 2) return `"${mode}" gives pairs, not V = ${V}`
  if (mode === 'lut' && Q !== L) return `"lut" has a table of 2^L rows: tlut_bits must be L = ${L}, not ${Q}`
  if (mode !== 'lut' && hasTable(code) && (Q < 1 || Q > (mode === 'quantlut' ? 16 : 15)))
    return `"${mode}" needs a table: tlut_bits must be from 1 to ${mode === 'quantlut' ? 16 : 15}, not ${Q}`
  return undefined
}

const tileOf = (code: PublishedCode): TileShape => {
  const { L, K, V, Tx, Ty } = code
  return { L, KV: K * V, V, Tx, Ty, ...(hasKernel(code) && { order: kernelOrder }) }
}

/** Shape of the packed tensor, i16, of a linear [m, n] that tiles divide. */
export const packedShape = (code: PublishedCode, m: number, n: number): [number, number] => [
  (m / code.Tx) * (n / code.Ty),
  wordsOf(tileOf(code)),
]

/** The stored words (bytes of i16) of [m, n], tiles and bits in their natural order whichever they are stored in. */
export const naturalWords = (code: PublishedCode, packed: Uint8Array, m: number, n: number): Uint8Array =>
  hasKernel(code) ? fromKernelLayout(packed, m, n, code.K) : packed

/** The codebook here that reads such words, natural ones, and may have products with them; undefined where there is none. */
export const settingsOf = (code: PublishedCode): Settings | undefined => {
  const { mode, L, K, V, Q, Tx, Ty } = code
  if (L !== 16 || Tx !== 16 || Ty !== 16 || K > 4) return undefined
  const sizes = { L, K, V, Tx, Ty }
  if (mode === 'quantlut_sym') return { use: 'trellis/hyb', ...sizes, Q, order: hasKernel(code) ? 'tensor-core' : 'rows' }
  return hasTable(code) ? undefined : { use: `trellis/${mode}`, ...sizes }
}

/**
 * Ŵ f32 [m, n] in the incoherent basis, out of the stored words (bytes of i16) and the table f32 [2^Q, V] (codes with a
 * table). Throws RangeError when the words are not those of [m, n].
 */
export const decodePublished = (
  ops: Ops,
  code: PublishedCode,
  packed: Uint8Array,
  tlut: Tensor | undefined,
  m: number,
  n: number,
): Tensor => {
  const shape = tileOf(code)
  const [tiles, words] = packedShape(code, m, n)
  using stored = ops.device.upload(naturalWords(code, packed, m, n), 'i16', [tiles, words])
  using codes = unpackTiles(ops, shape, stored)
  using table = valuesOf(ops, code, tlut)
  return decodeTiles(ops, shape, table, codes, m, n)
}

/** f32 [2^L, V], the value of every state. */
const valuesOf = (ops: Ops, { mode, L, V, Q }: PublishedCode, tlut: Tensor | undefined): Tensor => {
  const states = 2 ** L
  const { value, table } = codeOf(mode)
  if (value !== undefined)
    return ops.tensor(
      Float32Array.from({ length: states }, (_, s) => value(s)),
      [states, 1],
    )
  if (table === undefined || tlut === undefined) throw new RangeError(`the code "${mode}" needs a table`)
  const { index } = table({ L, V, Q })
  using rows = ops.tensor(
    Int32Array.from({ length: states }, (_, s) => index(s)),
    [states],
  )
  const values = ops.device.empty('f32', [states, V])
  ops.device.run('tiles_table', { entries: tlut, index: rows, table: values, rows: 2 ** Q, states, V })
  return values
}
