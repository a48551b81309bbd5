/**
 * The source scale: how large W is made, in units of the code's own root mean square, before rounding.
 *
 *   σ = rms(W) / (rms(code) · s),  W ≈ σ·Ŵ
 *
 * The best s falls with the rate (about 1.0 at 2 bits, 0.9 at 4): too large and the tails are cut, too small and
 * levels are wasted. Found by golden section on sample tiles, rounded without feedback; the mean squared error
 * has one minimum in s.
 *
 * With feedback what is rounded is larger than W by what the errors add. An error of e·rms(Z)² in every column adds λ times itself,
 * λ = ‖L‖²/n of the factor:
 *
 *   rms(Z)² = rms(W)² + λ·e·rms(Z)²        so that s is to be √(1 − λ·e) times what is best for W itself
 *
 * e is the least error that the search finds. It is 0.92 at 2 bits where λ = 2, as published code has 0.9 for all.
 */
import type { Codec } from '../../native/codebook.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'

/** Where the minimum is looked for, and how many points are tried: the last interval is 0.04 wide, where the error is flat to 0.1 %. */
const range = [0.7, 1.3] as const
export const points = 7

/** Tiles that the scale is searched on: two full vectors of sequences. */
export const sampleTiles = 64

/** sample f32 [rows, Ty], of unit rms; feedback: λ. Returns s, f64 [1]. Deterministic, and read by nobody on the way: the device need not wait. */
export const searchScale = (ops: Ops, codec: Codec, sample: Tensor, feedback: number): Tensor => {
  const measure = (s: Tensor): Tensor => {
    using scaled = ops.scale(sample, { factor: codec.rms, by: s })
    const { codes, values } = codec.encode(scaled)
    codes[Symbol.dispose]()
    using rounded = values
    using difference = ops.add(scaled, rounded, { beta: -1 })
    return ops.sumSquares(difference)
  }
  return ops.goldenSection(range, points, measure, feedback / (codec.rms ** 2 * sample.size))
}

/** A linear of a stack, from its row `offset` on; `rms` of what it was before it was made 1, 0 for a linear of zeros. */
interface Stacked {
  readonly m: number
  readonly n: number
  readonly offset: number
  readonly rms: number
}

/** Tiles spread evenly over the linears that are not zeros, real weights only: f32 [sampleTiles · Tx, Ty], or less. */
export function sampleOf(ops: Ops, stack: Tensor, [Tx, Ty]: readonly [number, number], linears: readonly Stacked[]): Tensor {
  const counts = linears.map(({ m, n, rms }) => (rms > 0 ? Math.floor(m / Tx) * Math.floor(n / Ty) : 0))
  const all = counts.reduce((a, b) => a + b, 0)
  if (all === 0) return wrapped(ops, stack, [Tx, Ty], linears.find(({ rms }) => rms > 0) ?? (linears[0] as Stacked))
  /** Where tile i of all begins, one linear after the other, row by row. */
  const place = (i: number): [row: number, column: number] => {
    let [linear, left] = [0, i]
    for (let size = counts[0] ?? 0; left >= size; size = counts[++linear] ?? all) left -= size
    const wide = Math.floor((linears[linear]?.n ?? 0) / Ty)
    return [(linears[linear]?.offset ?? 0) + Math.floor(left / wide) * Tx, (left % wide) * Ty]
  }
  const count = Math.min(sampleTiles, all)
  const tiles = Array.from({ length: count }, (_, i) => {
    const [r, c] = place(Math.floor((i * all) / count))
    return ops.copy(stack, { rows: [r, r + Tx], columns: [c, c + Ty] })
  })
  const sample = ops.concat(tiles)
  for (const tile of tiles) tile[Symbol.dispose]()
  return sample
}

/** A linear that holds no whole tile: its weights one after the other, again from the first where they do not fill one. */
function wrapped(ops: Ops, stack: Tensor, [Tx, Ty]: readonly [number, number], { m, n, offset }: Stacked): Tensor {
  using weights = ops.copy(stack, { rows: [offset, offset + m], columns: [0, n] })
  using enough = ops.concat(Array.from({ length: Math.ceil((Tx * Ty) / (m * n)) }, () => weights))
  using column = ops.reshape(enough, [enough.size, 1])
  const tiles = Math.min(sampleTiles, Math.floor(enough.size / (Tx * Ty)))
  using whole = ops.copy(column, { rows: [0, tiles * Tx * Ty] })
  return ops.reshape(whole, [tiles * Tx, Ty])
}

/** The first number of an f64 tensor that was read. */
export const number = (bytes: Uint8Array): number => new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0, true)
