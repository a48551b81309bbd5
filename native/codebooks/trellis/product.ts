/**
 * Products with weights that stay packed (product.h): what a codec of this folder offers as `packed`, for the codes, states of
 * 16 bits and tiles of 16 × 16 that there are kernels for.
 */
import type { PackedProducts, Unfinished } from '../../codebook.js'
import type { OpArgs } from '../../device.js'
import { expectWhole } from '../../expect.js'
import { hadamardFactor } from '../../ops/hadamard/hadamard.js'
import type { Ops } from '../../ops.js'
import { Tensor } from '../../tensor.js'
import { type TileShape, wordsOf } from '../tiles/tiles.js'

/** By name; a code's place here is its number in product.h. */
const kernels = ['trellis/hyb', 'trellis/1mad', 'trellis/3inst', 'trellis/mul1', 'trellis/mcg']
/** Vectors of one product. */
const most = 16
const mostBits = 4
/** Outputs of one call. */
const mostOutputs = 4
/** Pairs that hyb's kernels hold. */
const pairs = 512

const upTo = (n: number, multiple: number): number => Math.ceil(n / multiple) * multiple
/** Bytes of the kernels' layout: room for whole blocks of 32 × 64 weights. */
const arrangedBytes = (rows: number, columns: number, K: number): number => (upTo(rows, 32) * upTo(columns, 64) * K) / 8

/** The names that linear.h has for an output: its own, and behind them which it is (X, Gate, 0 … 3). */
const named = (which: string | number, output: OpArgs): OpArgs =>
  Object.fromEntries(Object.entries(output).map(([name, value]) => [`${name}${which}`, value]))
const noOutput = { first: 0, stride: 0, rows: 0, block: 0, factor: 0, head: 0, eps: 0 }

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

  const rowsOf = (op: string, what: string, x: Tensor): number => {
    const t = x.shape[0] ?? 0
    if (t >= 1 && t <= most) return t
    throw new RangeError(`${op}: ${what} must have from 1 to ${most} rows, got ${x.dtype} [${x.shape.join(', ')}]`)
  }
  const expectArranged = (op: string, arranged: Tensor, rows: number, columns: number): void => {
    expectSizes(op, rows, columns)
    expectExactly(op, 'arranged', arranged, 'u8', [arrangedBytes(rows, columns, K)])
  }
  const isInt8 = (op: string, precision: 'int8' | undefined): boolean => {
    if (precision !== undefined && device.kind !== 'cpu')
      throw new RangeError(`${op}: products in int8 are for the CPU, not for ${device.name}`)
    return precision !== undefined
  }
  const factorOf = (op: string, what: string, block: number, length: number): number => {
    const factor = hadamardFactor(block)
    if (factor === undefined || length % block !== 0)
      throw new RangeError(`${op}: ${what} must be the order of a Hadamard matrix that divides ${length}, got ${block}`)
    return factor.K
  }
  /** What the kernels need of an output of t rows. */
  const outputOf = (op: string, what: string, { z, sv, bias, add, norm, first, rows, block }: Unfinished, t: number) => {
    expectWhole(op, `${what}.rows`, rows, 1)
    expectWhole(op, `${what}.first`, first, 0)
    const stride = Math.max(z.shape[1] ?? 0, first + rows)
    expectExactly(op, `${what}.z`, z, 'f32', [t, stride])
    expectExactly(op, `${what}.sv`, sv, 'f32', [rows])
    if (bias !== undefined) expectExactly(op, `${what}.bias`, bias, 'f32', [rows])
    if (add !== undefined) expectExactly(op, `${what}.add`, add, 'f32', [t, rows])
    const [weight, head] = [norm?.weight, norm?.weight.size ?? 0]
    if (weight !== undefined) {
      expectExactly(op, `${what}.norm.weight`, weight, 'f32', [head])
      if (head === 0 || rows % head !== 0) throw new RangeError(`${op}: ${what} of ${rows} columns has no whole heads of ${head}`)
    }
    const factor = factorOf(op, `${what}.block`, block, rows)
    return { z, sv, bias, add, first, stride, rows, block, factor, norm: weight, head, eps: norm?.eps ?? 0 }
  }
  /** x or a gate, f32 [t, columns]: itself, and as an output. */
  const inputOf = (what: string, input: Tensor | Unfinished | undefined, t: number, columns: number) => {
    if (input === undefined) return { output: noOutput }
    if (input instanceof Tensor) {
      expectExactly('linear', what, input, 'f32', [t, columns])
      return { tensor: input, output: noOutput }
    }
    if (input.norm !== undefined) throw new RangeError(`linear: ${what} has norms of heads, which finish alone does`)
    if (input.rows !== columns) throw new RangeError(`linear: ${what} must have ${columns} columns, got an output of ${input.rows}`)
    return { output: outputOf('linear', what, input, t) }
  }
  const entriesOnDevice = (): Tensor | undefined => {
    if (entries !== undefined) table ??= ops.cast(entries, 'f16')
    return table
  }

  return {
    most,
    arrange(trellis, rows, columns) {
      expectSizes('arrange', rows, columns)
      expectExactly('arrange', 'trellis', trellis, 'i16', [(rows / Tx) * (columns / Ty), wordsOf(shape)])
      const arranged = device.empty('u8', [arrangedBytes(rows, columns, K)])
      device.run('trellis_arrange', { packed: trellis, arranged, rows, columns, ...same })
      return arranged
    },
    decode(arranged, rows, columns) {
      expectArranged('decode', arranged, rows, columns)
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
      const t = rowsOf('product', 'x', x)
      expectExactly('product', 'x', x, 'f32', [t, columns])
      expectArranged('product', arranged, rows, columns)
      const int8 = isInt8('product', precision)
      const y = device.empty('f32', [t, rows])
      device.run('trellis_product', { x, arranged, entries: entriesOnDevice(), y, t, rows, columns, int8, ...same })
      return y
    },
    linear(x, arranged, { rows, columns, su, block, norm, gate, keep = false, precision }) {
      const t = rowsOf('linear', 'x', x instanceof Tensor ? x : x.z)
      expectArranged('linear', arranged, rows, columns)
      expectExactly('linear', 'su', su, 'f32', [columns])
      if (norm !== undefined && gate !== undefined) throw new RangeError('linear: x is normed or gated, not both')
      if (norm !== undefined) expectExactly('linear', 'norm.weight', norm.weight, 'f32', [columns])
      if (keep && (gate !== undefined || x instanceof Tensor))
        throw new RangeError('linear: kept is an x that is not finished and has no gate')
      const int8 = isInt8('linear', precision)
      const factor = factorOf('linear', 'block', block, columns)
      const [input, gated] = [inputOf('x', x, t, columns), inputOf('gate', gate, t, columns)]
      const kept = keep ? device.empty('f32', [t, columns]) : undefined
      const z = device.empty('f32', [t, rows])
      const before = { x: input.tensor, gate: gated.tensor, ...named('X', { ...input.output, y: kept }), ...named('Gate', gated.output) }
      const weights = { su, weight: norm?.weight, eps: norm?.eps ?? 0, arranged, entries: entriesOnDevice(), ...same }
      device.run('trellis_linear', { ...before, ...weights, z, t, rows, columns, block, factor, int8 })
      return { z, ...(kept && { kept }) }
    },
    mostOutputs,
    finish(outputs) {
      const [first] = outputs
      if (first === undefined || outputs.length > mostOutputs)
        throw new RangeError(`finish: from 1 to ${mostOutputs} outputs, got ${outputs.length}`)
      const t = rowsOf('finish', 'outputs[0].z', first.z)
      const checked = outputs.map((output, i) => outputOf('finish', `outputs[${i}]`, output, t))
      const results = outputs.map(({ rows }) => device.empty('f32', [t, rows]))
      const numbered = Array.from({ length: mostOutputs }, (_, i) => named(i, checked[i] ? { ...checked[i], y: results[i] } : noOutput))
      device.run('trellis_finish', { ...Object.assign({}, ...numbered), t })
      return results
    },
    prompt(x, arranged, { columns, su, block, norm, gate, linears, rounded = false, precision }) {
      if (linears.length < 1 || linears.length > mostOutputs)
        throw new RangeError(`prompt: from 1 to ${mostOutputs} linears read one x, got ${linears.length}`)
      const t = x.shape[0] ?? 0
      if (t < 1) throw new RangeError(`prompt: x must have at least one row, got ${x.dtype} [${x.shape.join(', ')}]`)
      const rows = linears.reduce((sum, { rows }) => sum + rows, 0)
      expectArranged('prompt', arranged, rows, columns)
      expectExactly('prompt', 'x', x, 'f32', [t, columns])
      expectExactly('prompt', 'su', su, 'f32', [columns])
      if (norm !== undefined && gate !== undefined) throw new RangeError('prompt: x is normed or gated, not both')
      if (norm !== undefined) expectExactly('prompt', 'norm.weight', norm.weight, 'f32', [columns])
      if (gate !== undefined) expectExactly('prompt', 'gate', gate, 'f32', [t, columns])
      const int8 = isInt8('prompt', precision)
      const factor = factorOf('prompt', 'block', block, columns)
      const checked = linears.map(({ rows, sv, add, block }, i) => {
        expectWhole('prompt', `linears[${i}].rows`, rows, 1)
        expectExactly('prompt', `linears[${i}].sv`, sv, 'f32', [rows])
        if (add !== undefined) expectExactly('prompt', `linears[${i}].add`, add, 'f32', [t, rows])
        return { rows, sv, add, block, factor: factorOf('prompt', `linears[${i}].block`, block, rows) }
      })
      const results = linears.map(({ rows }) => device.empty('f32', [t, rows]))
      // One literal: an object that grows by names is slow to make and to go through, and short prompts wait for the host.
      const [a, b, c, d] = checked
      device.run('trellis_prompt', {
        x,
        gate,
        su,
        weight: norm?.weight,
        arranged,
        entries: entriesOnDevice(),
        sv0: a?.sv,
        add0: a?.add,
        y0: results[0],
        rows0: a?.rows ?? 0,
        block0: a?.block ?? 0,
        factor0: a?.factor ?? 0,
        sv1: b?.sv,
        add1: b?.add,
        y1: results[1],
        rows1: b?.rows ?? 0,
        block1: b?.block ?? 0,
        factor1: b?.factor ?? 0,
        sv2: c?.sv,
        add2: c?.add,
        y2: results[2],
        rows2: c?.rows ?? 0,
        block2: c?.block ?? 0,
        factor2: c?.factor ?? 0,
        sv3: d?.sv,
        add3: d?.add,
        y3: results[3],
        rows3: d?.rows ?? 0,
        block3: d?.block ?? 0,
        factor3: d?.factor ?? 0,
        eps: norm?.eps ?? 0,
        t,
        rows,
        columns,
        block,
        factor,
        rounded,
        int8,
        K,
        code,
        tensorCore: order !== undefined,
      })
      return results
    },
    [Symbol.dispose]() {
      table?.[Symbol.dispose]()
    },
  }
}
