/** What the codebooks of states share on the device: decoding by a table, and the stored form (tiles.h). */
import { expectTensor } from '../../expect.js'
import type { Ops } from '../../ops.js'
import type { Tensor } from '../../tensor.js'

/** Sizes of a tile's code: Tx × Ty weights, V a step, states of L bits of which KV are new at each step. */
export interface TileShape {
  readonly L: number
  readonly KV: number
  readonly V: number
  readonly Tx: number
  readonly Ty: number
  /** Row·Ty + column of the weight at each place of the sequence; left out: row-major. */
  readonly order?: readonly number[]
}

/** Steps (codes) of one tile. */
export const stepsOf = ({ Tx, Ty, V }: TileShape): number => (Tx * Ty) / V
/** 16-bit words of one packed tile. */
export const wordsOf = (shape: TileShape): number => Math.ceil((stepsOf(shape) * shape.KV) / 16)
/** Bits a weight as stored, the zeros that fill the last word included. */
export const bitsOf = (shape: TileShape): number => (wordsOf(shape) * 16) / (shape.Tx * shape.Ty)

/** codes u16 [tiles, steps], tiles row-major over (row tile, column tile) of [m, n] → table[codes] f32 [m, n]. */
export const decodeTiles = (ops: Ops, shape: TileShape, table: Tensor, codes: Tensor, m: number, n: number): Tensor => {
  const { device } = ops
  const { Tx, Ty, V, order } = shape
  if (m % Tx !== 0 || n % Ty !== 0) throw new RangeError(`decode: [${m}, ${n}] does not divide into tiles of ${Tx} × ${Ty}`)
  expectTensor('decode', 'codes', codes, ['u16'], [(m / Tx) * (n / Ty), stepsOf(shape)])
  const out = device.empty('f32', [m, n])
  if (order === undefined) device.run('tiles_decode', { codes, table, out, m, n, Tx, Ty, V, states: 2 ** shape.L })
  else {
    const place = new Int32Array(Tx * Ty)
    for (const [p, at] of order.entries()) place[at] = p
    using uploaded = ops.tensor(place, [Tx * Ty])
    device.run('tiles_decode', { codes, table, order: uploaded, out, m, n, Tx, Ty, V, states: 2 ** shape.L })
  }
  return out
}

/** codes u16 [tiles, steps] → i16 [tiles, words]: a circular bit string a tile, state t at bits [t·KV, t·KV + L), most significant first. */
export const packTiles = ({ device }: Ops, shape: TileShape, codes: Tensor): Tensor => {
  const [steps, words] = [stepsOf(shape), wordsOf(shape)]
  expectTensor('pack', 'codes', codes, ['u16'], [undefined, steps])
  const tiles = codes.shape[0]!
  const packed = device.empty('i16', [tiles, words])
  device.run('tiles_pack', { codes, packed, tiles, steps, words, L: shape.L, KV: shape.KV })
  return packed
}

/** packTiles' inverse. */
export const unpackTiles = ({ device }: Ops, shape: TileShape, packed: Tensor): Tensor => {
  const [steps, words] = [stepsOf(shape), wordsOf(shape)]
  expectTensor('unpack', 'packed', packed, ['i16'], [undefined, words])
  const tiles = packed.shape[0]!
  const codes = device.empty('u16', [tiles, steps])
  device.run('tiles_unpack', { packed, codes, tiles, steps, words, L: shape.L, KV: shape.KV })
  return codes
}
