/**
 * trellis/…: QTIP's bitshift trellis codes. A tile of Tx·Ty weights, row-major, is a circular walk of Tx·Ty/V steps over
 * 2^L states; each step brings K·V new bits, s' = (s << KV | bits) mod 2^L, and gives V weights, the value of s'.
 *
 * Encoding is an exhaustive Viterbi search over all 2^L states, closed to a circle in two passes.
 * QTIP (arXiv:2406.11235) section 3 and algorithm 4. Differs from the paper: costs are integers of 12 to 15 bits a step,
 * too few for weights far out in the tail (README.md says what that costs, and where costs are f32), and a table's values are f16.
 */
import type { Static, TObject } from '@sinclair/typebox'
import { type Codebook, type Codec, defineCodebook } from '../../codebook.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Ops } from '../../ops.js'
import type { Tensor } from '../../tensor.js'
import { fromHalf } from '../half.js'
import { tileOrder } from '../tiles/order.js'
import { bitsOf, decodeTiles, packTiles, stepsOf, type TileShape, unpackTiles } from '../tiles/tiles.js'
import { codeParams, type Lookup, type TrellisCode } from './codes.js'
import type { HybDomain } from './hyb-table.js'
import { kernelOrder } from './kernel-layout.js'
import { planSearch, type SearchPlan } from './prepare.js'
import { packedProducts } from './product.js'
import { tableTraining } from './training.js'

interface TrellisParams {
  readonly L: number
  readonly K: number
  readonly V?: number
  readonly Q?: number
  readonly table?: HybDomain
  readonly seed?: number
  readonly order?: 'rows' | 'tensor-core'
  readonly Tx: number
  readonly Ty: number
}

/** Bits that a step may bring: a state of the search has 2^KV predecessors, told apart in the low bits of 16-bit costs. */
const newBits = 8
const mostWeights = 1024
/** k-means in four dimensions: a minute at Q = 12. */
const mostTrained = 12

/** Sizes of a tile's walk. Raises RangeError where the parameters contradict each other. */
const shapeOf = (name: string, code: TrellisCode, { L, K, Q, Tx, Ty, order, V = code.V[0]! }: TrellisParams): TileShape => {
  const KV = K * V
  const wrong = [
    !code.V.includes(V) && `V, the weights of a step, must be ${listed(code.V)}, got ${V}`,
    KV > newBits && `K·V, the new bits of a step, is at most ${newBits}: with V = ${V}, K is from 1 to ${newBits / V}, got ${K}`,
    L < KV && `L must be at least K·V = ${KV}, the new bits of a step, got ${L}`,
    code.table && Q !== undefined && Q > L && `Q, the bits that index the table, is at most L = ${L}, got ${Q}`,
    V === 4 &&
      Q !== undefined &&
      Q > mostTrained &&
      `with V = 4, Q is at most ${mostTrained}: larger tables take too long to train, got ${Q}`,
    Tx * Ty > mostWeights && `a tile has at most ${mostWeights} weights, got Tx·Ty = ${Tx} × ${Ty} = ${Tx * Ty}`,
    Ty % V !== 0 && `a step gives ${V} weights of one row, so Ty must be a multiple of ${V}, got ${Ty}`,
    Tx * Ty * K < L && `a tile of ${Tx} × ${Ty} has ${Tx * Ty * K} bits, too few for a state of L = ${L}`,
    order === 'tensor-core' && (Tx !== 16 || Ty !== 16) && `the order "tensor-core" is one of tiles of 16 × 16, got ${Tx} × ${Ty}`,
  ].find(sentence => sentence)
  if (wrong) throw new RangeError(`${name}: ${wrong}`)
  return { L, KV, V, Tx, Ty, ...(order === 'tensor-core' && { order: kernelOrder }) }
}

const listed = (numbers: readonly number[]): string =>
  numbers.length === 1 ? `${numbers[0]}` : `${[...numbers].sort().slice(0, -1).join(', ')} or ${Math.max(...numbers)}`

/** Values of all states, f32 [2^L, V]. */
const valuesOf = (code: TrellisCode, { L, V }: TileShape, lookup: Lookup | undefined): Float32Array => {
  const values = new Float32Array(2 ** L * V)
  const entries = lookup && Float32Array.from(lookup.entries(), fromHalf)
  for (let s = 0; s < 2 ** L; s++) {
    if (lookup === undefined || entries === undefined) {
      values[s] = code.value!(s)
      continue
    }
    const index = lookup.index(s)
    for (let v = 0; v < V; v++) values[s * V + v] = (index >= 65536 && v === 0 ? -1 : 1) * entries[(index & 0xffff) * V + v]!
  }
  return values
}

/** Whether a state's value depends on (s(s+1) >> 6) mod 1024 alone, as HYB's does up to Q = 9. */
const isHashed = (values: Float32Array, { L, V }: TileShape): boolean => {
  if (L !== 16 || V !== 2) return false
  const first = new Int32Array(1024).fill(-1)
  for (let s = 0; s < 65536; s++) {
    const hash = ((s * (s + 1)) >>> 6) & 1023
    if (first[hash] === -1) first[hash] = s
    const at = first[hash]!
    if (values[2 * at] !== values[2 * s] || values[2 * at + 1] !== values[2 * s + 1]) return false
  }
  return true
}

/** A codec that only decodes: its table is the checkpoint's, and stays on the device. */
const openStored = (ops: Ops, name: string, shape: TileShape, lookup: Lookup, stored: Tensor): Codec => {
  const { L, V, Tx, Ty } = shape
  const { device } = ops
  expectTensor(name, lookup.name, stored, ['f32', 'f16', 'bf16'], [lookup.rows, V])
  using entries = ops.cast(stored, 'f32')
  using index = ops.tensor(
    Int32Array.from({ length: 2 ** L }, (_, s) => lookup.index(s)),
    [2 ** L],
  )
  const table = device.empty('f32', [2 ** L, V])
  device.run('tiles_table', { entries, index, table, rows: lookup.rows, states: 2 ** L, V })
  const training = tableTraining(ops, name, shape, lookup)
  const packed = packedProducts(ops, name, shape, stored)
  const only = () => new Error(`${name}: a codec opened with a checkpoint's tables only decodes`)
  return {
    tile: [Tx, Ty],
    bitsPerWeight: bitsOf(shape),
    get rms(): number {
      throw only()
    },
    encode() {
      throw only()
    },
    decode: (codes, m, n) => decodeTiles(ops, shape, table, codes, m, n),
    pack: codes => packTiles(ops, shape, codes),
    unpack: packed => unpackTiles(ops, shape, packed),
    tables: { [lookup.name]: stored },
    training,
    ...(packed && { packed }),
    [Symbol.dispose]() {
      packed?.[Symbol.dispose]()
      for (const x of [table, stored, training]) x[Symbol.dispose]()
    },
  }
}

/** What a code's parameters fix. */
interface Prepared {
  readonly lookup: Lookup | undefined
  readonly values: Float32Array
  readonly plan: SearchPlan
  readonly rms: number
  readonly hashed: boolean
}

/** The last few: every batch of a run opens the same code, and working one out takes a tenth of a second. */
const prepared = new Map<string, Prepared>()
const keptPrepared = 4

const prepare = (name: string, code: TrellisCode, shape: TileShape, params: TrellisParams): Prepared => {
  const key = JSON.stringify([name, shape, params])
  let found = prepared.get(key)
  if (found === undefined) {
    const lookup = code.table?.({ ...params, V: shape.V })
    const values = valuesOf(code, shape, lookup)
    const rms = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length)
    found = { lookup, values, plan: planSearch(values, shape), rms, hashed: isHashed(values, shape) }
    prepared.set(key, found)
    const [oldest] = prepared.keys()
    if (prepared.size > keptPrepared && oldest !== undefined) prepared.delete(oldest)
  }
  return found
}

const open = (ops: Ops, name: string, code: TrellisCode, params: TrellisParams, stored?: Readonly<Record<string, Tensor>>): Codec => {
  const shape = shapeOf(name, code, params)
  const { L, KV, V, Tx, Ty } = shape
  const { device } = ops
  if (code.table !== undefined && stored !== undefined) {
    const lookup = code.table({ ...params, V })
    const given = stored[lookup.name]
    if (given === undefined)
      throw new Error(`${name}: the checkpoint lacks the table ${lookup.name}; it has ${Object.keys(stored).join(', ') || 'none'}`)
    return openStored(ops, name, shape, lookup, given)
  }
  const { lookup, values, plan, rms, hashed } = prepare(name, code, shape, params)
  const table = ops.tensor(values, [2 ** L, V])
  const pairs = ops.tensor(plan.pairs, [plan.pairs.length])
  const norms = ops.tensor(plan.norms, [plan.norms.length])
  const meeting = ops.tensor(plan.order, [plan.order.length])
  const tables: Record<string, Tensor> = lookup ? { [lookup.name]: ops.tensor(lookup.entries(), [lookup.rows, V], 'f16') } : {}
  const { shift, unit, target, limit, radius, symmetric } = plan
  const order = shape.order && tileOrder(ops, Ty, shape.order)
  const training = lookup && tableTraining(ops, name, shape, lookup)
  const packed = packedProducts(ops, name, shape, lookup && tables[lookup.name])
  return {
    tile: [Tx, Ty],
    bitsPerWeight: bitsOf(shape),
    rms,
    encode(z) {
      const [m] = expectMatrix('encode', 'z', z, ['f32'], [undefined, Ty])
      if (m % Tx !== 0) throw new RangeError(`encode: ${m} rows do not divide into tiles of ${Tx}`)
      using moved = order?.toSequence(z)
      const sequences = moved ?? z
      const codes = device.empty('u16', [m / Tx, stepsOf(shape)])
      const out = device.empty('f32', [m, Ty])
      device.run('trellis_encode', {
        z: sequences,
        table,
        pairs,
        norms,
        order: meeting,
        codes,
        values: out,
        m,
        Tx,
        Ty,
        L,
        KV,
        V,
        bins: plan.bins,
        shift,
        unit,
        target,
        limit,
        radius,
        symmetric,
        hashed,
      })
      if (order === undefined) return { codes, values: out }
      using values = out
      return { codes, values: order.fromSequence(values) }
    },
    decode: (codes, m, n) => decodeTiles(ops, shape, table, codes, m, n),
    pack: codes => packTiles(ops, shape, codes),
    unpack: packed => unpackTiles(ops, shape, packed),
    tables,
    ...(training && { training }),
    ...(packed && { packed }),
    [Symbol.dispose]() {
      packed?.[Symbol.dispose]()
      order?.[Symbol.dispose]()
      training?.[Symbol.dispose]()
      for (const x of [table, pairs, norms, meeting, ...Object.values(tables)]) x[Symbol.dispose]()
    },
  }
}

/** The codebook trellis/<name> of a code. */
export const trellis = (short: string, code: TrellisCode): Codebook => {
  const name = `trellis/${short}`
  const params: TObject = codeParams(code)
  return defineCodebook({
    name,
    version: code.version,
    about: code.about,
    params,
    bits: given => bitsOf(shapeOf(name, code, given as Static<typeof params> & TrellisParams)),
    // The states of a step, which gives V weights. The rate of a whole call (README.md) is taken over both passes.
    operations: given => {
      const { L, V } = shapeOf(name, code, given as Static<typeof params> & TrellisParams)
      return 2 ** L / V
    },
    open: (ops, given, tables) => open(ops, name, code, given as Static<typeof params> & TrellisParams, tables),
  })
}
