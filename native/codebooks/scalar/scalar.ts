/**
 * scalar: every weight by itself to the nearest of 2ᴷ levels, for comparison with codes that look further.
 *
 * The levels are Lloyd and Max's for N(0, 1): each the mean of what is nearest to it (Max, "Quantizing for minimum
 * distortion", IRE Trans. IT-6, 1960), rounded to f16. Mean squared error 0.3634, 0.1175, 0.0345, 0.0095 at 1…4 bits.
 */
import { type Static, Type } from '@sinclair/typebox'
import { type Codec, defineCodebook } from '../../codebook.js'
import { expectMatrix } from '../../expect.js'
import type { Ops } from '../../ops.js'
import { roundHalf } from '../half.js'
import { bitsOf, decodeTiles, packTiles, stepsOf, type TileShape, unpackTiles } from '../tiles/tiles.js'

const params = Type.Object(
  {
    K: Type.Integer({ minimum: 1, maximum: 4, default: 2, description: 'Bits a weight' }),
    Tx: Type.Integer({ minimum: 1, maximum: 64, default: 16, description: 'Rows of a tile' }),
    Ty: Type.Integer({ minimum: 1, maximum: 64, default: 16, description: 'Columns of a tile; also the block of LDL' }),
  },
  { additionalProperties: false },
)

/** The 2ᴷ levels that quantize N(0, 1) with least squared error, ascending, as f16 values. */
export const lloydMaxLevels = (K: number): Float32Array => {
  const count = 2 ** K
  let levels = Array.from({ length: count }, (_, i) => ((i + 0.5) / count - 0.5) * 4)
  for (let moved = 1; moved > 1e-9; ) {
    const edges = [-9, ...levels.slice(1).map((level, i) => (level + levels[i]!) / 2), 9] // the density beyond 9 is below 1e-18
    const next = levels.map((_, i) => mean(edges[i]!, edges[i + 1]!))
    moved = Math.max(...next.map((level, i) => Math.abs(level - levels[i]!)))
    levels = next
  }
  return Float32Array.from(levels, roundHalf)
}

/** Mean of N(0, 1) between a and b, by Simpson's rule. */
const mean = (a: number, b: number): number => {
  const pieces = 256
  let [mass, moment] = [0, 0]
  for (let i = 0; i <= pieces; i++) {
    const x = a + ((b - a) * i) / pieces
    const weight = (i === 0 || i === pieces ? 1 : i % 2 === 1 ? 4 : 2) * Math.exp((-x * x) / 2)
    mass += weight
    moment += weight * x
  }
  return moment / mass
}

const open = (ops: Ops, { K, Tx, Ty }: Static<typeof params>): Codec => {
  const shape: TileShape = { L: K, KV: K, V: 1, Tx, Ty }
  const { device } = ops
  const levels = lloydMaxLevels(K)
  const table = ops.tensor(levels, [levels.length, 1])
  return {
    tile: [Tx, Ty],
    bitsPerWeight: bitsOf(shape),
    rms: Math.sqrt(levels.reduce((sum, level) => sum + level * level, 0) / levels.length),
    encode(z) {
      const [m] = expectMatrix('encode', 'z', z, ['f32'], [undefined, Ty])
      if (m % Tx !== 0) throw new RangeError(`encode: ${m} rows do not divide into tiles of ${Tx}`)
      const codes = device.empty('u16', [m / Tx, stepsOf(shape)])
      const values = device.empty('f32', [m, Ty])
      device.run('nearest', { z, levels: table, codes, values, size: z.size, count: levels.length })
      return { codes, values }
    },
    decode: (codes, m, n) => decodeTiles(ops, shape, table, codes, m, n),
    pack: codes => packTiles(ops, shape, codes),
    unpack: packed => unpackTiles(ops, shape, packed),
    tables: {},
    [Symbol.dispose]: () => table[Symbol.dispose](),
  }
}

export const scalar = defineCodebook({
  name: 'scalar',
  version: 1,
  about: 'The nearest of 2ᴷ levels (Lloyd-Max for Gaussian weights), each weight by itself.',
  params,
  bits: ({ K, Tx, Ty }) => bitsOf({ L: K, KV: K, V: 1, Tx, Ty }),
  operations: ({ K }) => 2 ** K,
  open,
})
