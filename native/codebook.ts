/**
 * What a code for rounding is. `round` knows encode, `pack` knows pack, `write` and `evaluate` know decode.
 * A new codebook is a folder in native/codebooks and one line in native/codebooks/index.ts.
 */
import type { Static, TObject } from '@sinclair/typebox'
import type { Ops } from './ops.js'
import type { Tensor } from './tensor.js'

/** A code, opened on a device with its parameters: tables are made, sizes are fixed. */
export interface Codec {
  /** Rows × columns of W that are rounded together: [T_x, T_y]. T_y is also the block of LDL. */
  readonly tile: readonly [number, number]
  /** Codes (states) of one tile, and the bits of one code that are new: bits a weight = codes·bits/(T_x·T_y). */
  readonly bitsPerWeight: number
  /** Root mean square of the reconstruction values; W is scaled to rms·(source scale) before rounding. */
  readonly rms: number
  /**
   * Rounds a column block. z f32 [m, T_y], m a multiple of T_x: tile r is rows [T_x·r, T_x·(r+1)).
   * codes u16 [m/T_x, codes per tile] in the code's own order; values f32 [m, T_y]: exactly what decode gives.
   */
  encode(z: Tensor): { codes: Tensor; values: Tensor }
  /** codes u16 [tiles, codes per tile], tiles row-major over (row tile, column tile) of [m, n] → f32 [m, n]. */
  decode(codes: Tensor, m: number, n: number): Tensor
  /** The stored form: codes u16 [tiles, codes per tile] → i16 [tiles, words]. */
  pack(codes: Tensor): Tensor
  /** unpack ∘ pack = identity. */
  unpack(packed: Tensor): Tensor
  /** What decoding needs besides the codes (a table), by name, as stored in a checkpoint. Empty for computed codes. */
  readonly tables: Readonly<Record<string, Tensor>>
  /** Codes that read a table: how to train its entries while the codes stay as they are. */
  readonly training?: TableTraining
  /** Products with weights that stay packed, where there is a kernel for the code. */
  readonly packed?: PackedProducts
  [Symbol.dispose](): void
}

/** Entries f32 [rows, V], as in `tables`, but whichever their values. */
export interface TableTraining {
  /** As Codec.decode with these entries, for an [m, n] that is cut out of whole tiles. */
  decode(codes: Tensor, m: number, n: number, entries: Tensor): Tensor
  /** into f32 [rows, V] += the gradient by the entries, from the gradient f32 [m, n] by what `decode` gave. */
  addGradient(into: Tensor, codes: Tensor, dValues: Tensor): void
}

/** Matrix times a few vectors, the matrix decoded on the way. Raises RangeError for other shapes than these. */
export interface PackedProducts {
  /** Largest t of `product`, `linear` and `finish`; `prompt` takes any. */
  readonly most: number
  /**
   * trellis i16 [tiles, words] as `pack` gives it, of a matrix [rows, columns] of whole tiles → the kernels' own layout, opaque. Done once, when a
   * model is opened, and all that anyone needs of the matrix from then on. Linears that read one x are one matrix: their tensors one after the
   * other, `rows` their sum.
   */
  arrange(trellis: Tensor, rows: number, columns: number): Tensor
  /** Ŵ f32 [rows, columns], the bits that `Codec.decode` gives for the trellis (a table that is not f16 is rounded to it). */
  decode(arranged: Tensor, rows: number, columns: number): Tensor
  /**
   * y f32 [t, rows] = x f32 [t, columns] · Ŵᵀ, 1 ≤ t ≤ most, without a scale: NMSE ≤ 1e-12 against a product of decoded weights in f64; on a CPU,
   * with a table of another program, 1e-9.
   * precision 'int8', on the CPU, rounds each row of x to 8 bits: NMSE about 1e-4; and hyb's table: about 1e-4 more.
   */
  product(x: Tensor, arranged: Tensor, o: { rows: number; columns: number; precision?: 'int8' | undefined }): Tensor
  /**
   * What linears that read one x have in common: x f32 [t, columns] → z f32 [t, rows], 1 ≤ t ≤ most, rows of all of them.
   *
   *     x̃ = (u ⊙ su)·H      z = x̃·Ŵᵀ      u: x, normed or gated
   *
   * H as `hadamard`'s of this block. x and the gate may be outputs that are not finished: they are finished on the way, and x is given back
   * with `keep`. Two kernels on a GPU. QTIP (arXiv:2406.11235) section 3. Raises RangeError for other shapes than these.
   */
  linear(x: Tensor | Unfinished, arranged: Tensor, o: PackedLinear): { readonly z: Tensor; readonly kept?: Tensor }
  /** The most outputs of one `finish`. */
  readonly mostOutputs: number
  /** Outputs of any products, of t rows each → y f32 [t, rows] of each, by one kernel. Raises RangeError for other shapes than these. */
  finish(outputs: readonly Unfinished[]): Tensor[]
  /**
   * Linears that read one x, up to mostOutputs of them, whole, for any number of rows: x f32 [t, columns] → y_i f32 [t, rows_i]. As `linear` and
   * `finish`; from some dozens of rows on the matrix is decoded for them, slice by slice, and multiplied as a dense one: NMSE ≤ 1e-9 against
   * decoded weights; on a GPU, which then rounds values of computed codes to f16, 1e-7. `rounded`: on a GPU x̃ may be rounded to f16, which halves the
   * operations: NMSE about 1e-7.
   */
  prompt(x: Tensor, arranged: Tensor, o: PackedPrompt): Tensor[]
}

/** What PackedProducts.linear needs besides the weights. */
export interface PackedLinear {
  readonly rows: number
  readonly columns: number
  readonly su: Tensor
  /** Order of the blocks of H. */
  readonly block: number
  /** u = x ⊙ weight/√(mean x² + eps), weight f32 [columns]. */
  readonly norm?: { readonly weight: Tensor; readonly eps: number }
  /** u = silu(gate) ⊙ x, gate as x. Not with a norm. */
  readonly gate?: Tensor | Unfinished
  /** An unfinished x is also given, finished. Not with a gate. */
  readonly keep?: boolean
  /** As `product` has it, of x̃. */
  readonly precision?: 'int8' | undefined
}

/** What PackedProducts.prompt needs besides the weights; add f32 [t, rows_i], left out: 0. */
export interface PackedPrompt extends Pick<PackedLinear, 'columns' | 'su' | 'block' | 'norm' | 'precision'> {
  readonly gate?: Tensor
  readonly linears: readonly (Pick<Unfinished, 'sv' | 'rows' | 'block'> & { readonly add?: Tensor | undefined })[]
  readonly rounded?: boolean
}

/**
 * A linear's output as its product leaves it: y = (z_i·H_iᵀ) ⊙ sv + bias + add, z_i the columns first … first+rows of z. Whoever reads it finishes it:
 * the next `linear` as part of its own first kernel, and `finish` for everything else. It owns none of its tensors.
 */
export interface Unfinished {
  /** f32 [t, rows of all linears]; f32 [rows]. */
  readonly z: Tensor
  readonly sv: Tensor
  readonly first: number
  readonly rows: number
  /** Order of the blocks of H_i. */
  readonly block: number
  /** f32 [rows]; left out: 0. */
  readonly bias?: Tensor
  /** f32 [t, rows]; left out: 0. */
  readonly add?: Tensor
  /** Each head of `weight.size` columns normed, last of all: ⊙ weight/√(mean of its squares + eps). Of `finish` alone. */
  readonly norm?: { readonly weight: Tensor; readonly eps: number }
}

export interface Codebook<P extends TObject = TObject> {
  /** 'scalar', 'trellis/hyb': what a graph says. */
  readonly name: string
  /** Raise when results change: part of cache keys. */
  readonly version: number
  readonly about: string
  readonly params: P
  /** Bits a weight, for `plan`. */
  bits(params: Static<P>): number
  /** Time to round a weight, for `plan`: in f32 multiply-adds or what takes as long, such as a state of a search. */
  operations(params: Static<P>): number
  /** tables: those of a checkpoint, to decode it; left out, they are made (the same on every machine). */
  open(ops: Ops, params: Static<P>, tables?: Readonly<Record<string, Tensor>>): Codec
}

export const defineCodebook = <P extends TObject>(codebook: Codebook<P>): Codebook<P> => codebook
