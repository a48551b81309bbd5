/**
 * Products with weights that stay packed (product.h): what a codec of this folder offers as `packed`, for the codes, states of
 * 16 bits and tiles of 16 × 16 that there are kernels for.
 */
import type { PackedProducts } from '../../codebook.js'
import { expectWhole } from '../../expect.js'
import { hadamardFactor } from '../../ops/hadamard/hadamard.js'
import type { Ops } from '../../ops.js'
import type { Tensor } from '../../tensor.js'
import { type TileShape, wordsOf } from '../tiles/tiles.js'

/** By name; a code's place here is its number in product.h. */
const kernels = ['trellis/hyb', 'trellis/1mad', 'trellis/3inst', 'trellis/mul1', 'trellis/mcg']
const byteSums = ['trellis/1mad', 'trellis/mul1']
/** Vectors of one product. */
const most = 16
const mostBits = 4
/** Linears of one call. */
const mostLinears = 4
/** Pairs that hyb's kernels hold. */
const pairs = 512

const upTo = (n: number, multiple: number): number => Math.ceil(n / multiple) * multiple
/** Bytes of the kernels' layout: room for whole blocks of 32 × 64 weights. */
const arrangedBytes = (rows: number, columns: number, K: number): number => (upTo(rows, 32) * upTo(columns, 64) * K) / 8

/** The products of a code; undefined where it has no kernel. entries: hyb's table, [rows, 2] of any float type; it stays the caller's. */
export const packedProducts = (ops: Ops, name: string, shape: TileShape, entries?: Tensor): (PackedProducts & Disposable) | undefined => {
  const { L, KV, V, Tx, Ty, order } = shape
  const [code, K] = [kernels.indexOf(name), KV / V]
  const hasKernel = code >= 0 && L === 16 && Tx === 16 && Ty === 16 && K <= mostBits && V === (code === 0 ? 2 : 1)
  if (!hasKernel || (code === 0 && entries?.shape[0] !== pairs)) return undefined
  const { device } = ops
  let table: Tensor | undefined
  const same = { K, code, tensorCore: order !== undefined }

  const expectSizes = (op: string, rows: number, columns: number): void => {
    expectWhole(op, 'rows', rows, Tx)
    expectWhole(op, 'columns', columns, Ty)
    if (rows % Tx !== 0 || columns % Ty !== 0)
      throw new RangeError(`${op}: [${rows}, ${columns}] does not divide into tiles of ${Tx} × ${Ty}`)
  }
  const expectExactly = (op: string, what: string, x: Tensor, dtype: string, sizes: readonly number[]): void => {
    if (x.dtype !== dtype || x.shape.length !== sizes.length || sizes.some((size, i) => x.shape[i] !== size))
      throw new RangeError(`${op}: ${what} must be ${dtype} [${sizes.join(', ')}], got ${x.dtype} [${x.shape.join(', ')}]`)
  }

  const rowsOf = (op: string, x: Tensor, arranged: Tensor, rows: number, columns: number): number => {
    expectSizes(op, rows, columns)
    const t = x.shape[0] ?? 0
    if (t < 1 || t > most) throw new RangeError(`${op}: x must have from 1 to ${most} rows, got ${x.dtype} [${x.shape.join(', ')}]`)
    expectExactly(op, 'x', x, 'f32', [t, columns])
    expectExactly(op, 'arranged', arranged, 'u8', [arrangedBytes(rows, columns, K)])
    return t
  }
  const factorOf = (what: string, block: number, length: number): number => {
    const factor = hadamardFactor(block)
    if (factor === undefined || length % block !== 0)
      throw new RangeError(`linear: ${what} must be the order of a Hadamard matrix that divides ${length}, got ${block}`)
    return factor.K
  }
  const entriesOnDevice = (): Tensor | undefined => {
    if (entries !== undefined) table ??= ops.cast(entries, 'f16')
    return table
  }

  return {
    most,
    mostLinears,
    arrange(trellis, rows, columns) {
      expectSizes('arrange', rows, columns)
      expectExactly('arrange', 'trellis', trellis, 'i16', [(rows / Tx) * (columns / Ty), wordsOf(shape)])
      const arranged = device.empty('u8', [arrangedBytes(rows, columns, K)])
      device.run('trellis_arrange', { packed: trellis, arranged, rows, columns, ...same })
      return arranged
    },
    decode(arranged, rows, columns) {
      expectSizes('decode', rows, columns)
      expectExactly('decode', 'arranged', arranged, 'u8', [arrangedBytes(rows, columns, K)])
      const values = device.empty('f32', [rows, columns])
      device.run('trellis_decode', {
        arranged,
        entries: entriesOnDevice(),
        values,
        rows,
        columns,
        first: 0,
        count: rows,
        f16: false,
        ...same,
      })
      return values
    },
    product(x, arranged, { rows, columns, precision }) {
      const t = rowsOf('product', x, arranged, rows, columns)
      const int8 = precision === 'int8'
      if (int8 && (device.kind !== 'cpu' || !byteSums.includes(name)))
        throw new RangeError(`product: int8 is for ${byteSums.join(' and ')} on the CPU, not for ${name} on ${device.name}`)
      const y = device.empty('f32', [t, rows])
      device.run('trellis_product', { x, arranged, entries: entriesOnDevice(), y, t, rows, columns, int8, ...same })
      return y
    },
    linear(x, arranged, { columns, su, block, outputs, norm, gate }) {
      if (outputs.length < 1 || outputs.length > mostLinears)
        throw new RangeError(`linear: from 1 to ${mostLinears} linears read one x, got ${outputs.length}`)
      const all = outputs.reduce((sum, { rows }) => sum + rows, 0)
      const t = rowsOf('linear', x, arranged, all, columns)
      expectExactly('linear', 'su', su, 'f32', [columns])
      if (norm !== undefined && gate !== undefined) throw new RangeError('linear: x is normed or gated, not both')
      if (norm !== undefined) expectExactly('linear', 'norm.weight', norm.weight, 'f32', [columns])
      if (gate !== undefined) expectExactly('linear', 'gate', gate, 'f32', [t, columns])
      const factor = factorOf('block', block, columns)
      const factors = outputs.map(({ rows, sv, block, add }, i) => {
        if (add !== undefined) expectExactly('linear', `outputs[${i}].add`, add, 'f32', [t, rows])
        expectSizes('linear', rows, columns)
        expectExactly('linear', `outputs[${i}].sv`, sv, 'f32', [rows])
        return factorOf(`outputs[${i}].block`, block, rows)
      })
      const results = outputs.map(({ rows }) => device.empty('f32', [t, rows]))
      const numbered = Array.from({ length: mostLinears }, (_, i) => {
        const { rows = 0, sv = undefined, add = undefined, block = 0 } = outputs[i] ?? {}
        return {
          [`sv${i}`]: sv,
          [`add${i}`]: add,
          [`y${i}`]: results[i],
          [`rows${i}`]: rows,
          [`block${i}`]: block,
          [`factor${i}`]: factors[i] ?? 0,
        }
      })
      const weights = { arranged, entries: entriesOnDevice(), ...same }
      const before = { weight: norm?.weight, gate, eps: norm?.eps ?? 0 }
      device.run('trellis_linear', { x, su, ...before, ...weights, ...Object.assign({}, ...numbered), t, columns, block, factor })
      return results
    },
    [Symbol.dispose]() {
      table?.[Symbol.dispose]()
    },
  }
}
