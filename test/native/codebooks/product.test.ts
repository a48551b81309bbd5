/** Products with packed weights: every code, K and order of tiles against float64; decoded weights; what is refused. */
import t from 'tap'
import { codebooks } from '../../../native/codebooks/index.js'
import { trellisCodes } from '../../../native/codebooks/trellis/codes.js'
import { packedProducts } from '../../../native/codebooks/trellis/product.js'
import { productReference } from '../../../native/codebooks/trellis/reference.js'
import { unpackTiles } from '../../../native/codebooks/tiles/tiles.js'
import { hadamardFactor } from '../../../native/ops/hadamard/hadamard.js'
import { hadamardReference } from '../../../native/ops/hadamard/reference.js'
import type { Ops } from '../../../native/ops.js'
import { everyDevice, gaussian, nmse, values } from '../devices.js'
import { codes, entries, finished, randomWords, shapeOf } from './packed-weights.js'

const devices = await everyDevice()
const first = devices[0]![1]
const isCpu = first.device.kind === 'cpu'
const index = trellisCodes.hyb!.table!({ L: 16, V: 2 }).index

/** The weights [m, n] of states [tiles, steps], by definition. */
const weightsOf = (
  code: string,
  states: ArrayLike<number>,
  m: number,
  n: number,
  V: number,
  order: readonly number[],
  table: ArrayLike<number> = entries,
): Float64Array => {
  const w = new Float64Array(m * n)
  for (let tile = 0; tile < (m * n) / 256; tile++) {
    for (const [p, at] of order.entries()) {
      const s = states[tile * (256 / V) + Math.floor(p / V)]!
      const [row, column] = [Math.floor(tile / (n / 16)) * 16 + (at >> 4), (tile % (n / 16)) * 16 + (at & 15)]
      const i = index(s)
      w[row * n + column] = code === 'hyb' ? (i >> 16 && p % 2 === 0 ? -1 : 1) * table[(i & 0xffff) * 2 + (p % 2)]! : trellisCodes[code]!.value!(s)
    }
  }
  return w
}

const cases: [m: number, n: number, t: number][] = [
  [16, 16, 2],
  [48, 80, 3],
  [272, 688, 1],
  [32, 208, 16],
  [80, 64, 8],
]

for (const code of codes) {
  t.test(`${code}: y = x·Ŵᵀ from packed states`, async t => {
    const V = code === 'hyb' ? 2 : 1
    for (const [i, [m, n, rows]] of cases.entries()) {
      for (const K of [1, 2, 3, 4]) {
        for (const tensorCore of [false, true]) {
          if (m > 200 && (tensorCore ? 3 : 2) !== K) continue // the large one twice is enough
          const shape = shapeOf(code, K, tensorCore)
          const words = randomWords((m * n * K) / 16, i * 10 + K)
          // A column far above the rest, and a row of zeros.
          const x = gaussian(rows * n, 100 + i).map((v, at) => (at >= n && at < 2 * n ? 0 : at % n === 5 ? 40 * v : v))
          let expected: Float64Array | undefined
          let bits: Uint8Array | undefined
          for (const [name, ops] of devices) {
            using packed = ops.tensor(words, [(m * n) / 256, 16 * K])
            using table = ops.tensor(entries, [512, 2])
            if (expected === undefined) {
              using states = unpackTiles(ops, shape, packed)
              const order = shape.order ?? Array.from({ length: 256 }, (_, p) => p)
              expected = productReference(x, weightsOf(code, await values(states), m, n, V, order), rows, m, n)
            }
            using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
            using arranged = products.arrange(packed, m, n)
            using input = ops.tensor(x, [rows, n])
            using y = products.product(input, arranged, { rows: m, columns: n })
            const error = nmse(await values(y), expected)
            if (!(error <= 1e-9))
              t.fail(`${name}: K = ${K}, [${m}, ${n}], ${rows} vectors, ${tensorCore ? 'tensor-core order' : 'rows'}: ${error}`)
            const got = await y.read()
            if (bits !== undefined && Buffer.compare(bits, got) !== 0)
              t.fail(`${name}: K = ${K}, [${m}, ${n}]: other bits than ${devices[0]![0]}`)
            bits = got
          }
        }
      }
    }
    t.pass('within 1e-9 everywhere')
  })
}

t.test('rows of equal weights and equal x: sums grow as fast as they can', { skip: !isCpu && 'of whole numbers, on the CPU' }, async t => {
  const [m, n, K, most] = [64, 34816, 4, 2] // beyond what any sum of 32 bits is let to grow
  // Each row of tiles repeats four bits, and with them one state: 0, 0x5555, 0xaaaa, 0xffff.
  const words = Int16Array.from({ length: (m * n * K) / 16 }, (_, i) => Math.floor(i / (n * K)) * 0x5555)
  const both = Float32Array.from({ length: most * n }, (_, i) => (i < n ? 1 : -1))
  for (const code of codes) {
    for (const tensorCore of [false, true]) {
      const shape = shapeOf(code, K, tensorCore)
      const order = shape.order ?? Array.from({ length: 256 }, (_, p) => p)
      let weights: Float64Array | undefined
      const bits = new Map<string, Uint8Array>()
      for (const [name, ops] of devices) {
        using packed = ops.tensor(words, [(m * n) / 256, 16 * K])
        using table = ops.tensor(entries, [512, 2])
        using states = unpackTiles(ops, shape, packed)
        weights ??= weightsOf(code, await values(states), m, n, shape.V, order)
        using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
        using arranged = products.arrange(packed, m, n)
        for (const rows of [1, most]) {
          const x = both.subarray(0, rows * n)
          using input = ops.tensor(x, [rows, n])
          for (const precision of ['f32', 'int8'] as const) {
            const form = `${code}, ${rows} vectors, ${precision}, ${tensorCore ? 'tensor-core order' : 'rows'}`
            using y = products.product(input, arranged, { rows: m, columns: n, ...(precision === 'int8' && { precision }) })
            const error = nmse(await values(y), productReference(x, weights, rows, m, n))
            // ±1 is a whole number of 8 bits; an entry of hyb's table is not, and of the few here each errs by up to 1/254 of the largest.
            const bound = code === 'hyb' && precision === 'int8' ? 1e-3 : 1e-9
            if (!(error <= bound)) t.fail(`${name}: ${form}: ${error}`)
            const got = await y.read()
            const before = bits.get(form) ?? got
            if (Buffer.compare(before, got) !== 0) t.fail(`${name}: ${form}: other bits than ${devices[0]![0]}`)
            bits.set(form, before)
          }
        }
      }
    }
  }
  t.pass('within their bounds, and the same bits everywhere')
})

t.test('a codec: against the weights that it decodes', async t => {
  for (const [name, ops] of devices.slice(-1)) {
    for (const [code, table] of [...codes.map(code => [code, 'plane'] as const), ['hyb', 'half-plane'] as const]) {
      const [m, n, K] = [64, 96, 2]
      using codec = codebooks[`trellis/${code}`]!.open(ops, { L: 16, K, Q: 9, Tx: 16, Ty: 16, table })
      const products = codec.packed!
      using trellis = ops.tensor(randomWords((m * n * K) / 16, 3), [(m * n) / 256, 16 * K])
      using states = codec.unpack(trellis)
      using w = codec.decode(states, m, n)
      const x = gaussian(4 * n, 5)
      using input = ops.tensor(x, [4, n])
      using arranged = products.arrange(trellis, m, n)
      using y = products.product(input, arranged, { rows: m, columns: n })
      const expected = productReference(x, await values(w), 4, m, n)
      const error = nmse(await values(y), expected)
      t.ok(error <= 1e-12, `${name}: ${code}, ${table}: ${error}`)
      if (!isCpu) t.throws(() => products.product(input, arranged, { rows: m, columns: n, precision: 'int8' }), RangeError)
    }
  }
})

/** Whole numbers of up to 127 units, the largest of which is 127. */
const in8bits = (x: ArrayLike<number>): Float64Array => {
  const unit = Array.from(x).reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 127
  return Float64Array.from(x, v => Math.sign(v) * Math.round(Math.abs(v) / unit) * unit)
}

t.test('int8: rows of x, and hyb’s table, in 8 bits; the same bits everywhere', { skip: !isCpu && 'the CPU only' }, async t => {
  for (const [code, K, m, n, rows] of [
    ...codes.flatMap(code => [1, 5].map(rows => [code, 2, 48, 688, rows] as const)),
    ...codes.flatMap(code => [1, 3, 4].flatMap(K => [1, 2].map(rows => [code, K, 32, 688, rows] as const))),
  ]) {
    for (const tensorCore of [false, true]) {
      const shape = shapeOf(code, K, tensorCore)
      const words = randomWords((m * n * K) / 16, 11)
      const x = gaussian(rows * n, 12)
      const rounded = Float64Array.from(Array.from({ length: rows }, (_, b) => [...in8bits(x.subarray(b * n, (b + 1) * n))]).flat())
      let expected: Float64Array | undefined
      let bits: Uint8Array | undefined
      for (const [name, ops] of devices) {
        using packed = ops.tensor(words, [(m * n) / 256, 16 * K])
        using table = ops.tensor(entries, [512, 2])
        if (expected === undefined) {
          using states = unpackTiles(ops, shape, packed)
          const order = shape.order ?? Array.from({ length: 256 }, (_, p) => p)
          const weights = weightsOf(code, await values(states), m, n, shape.V, order, code === 'hyb' ? in8bits(entries) : undefined)
          expected = productReference(rounded, weights, rows, m, n)
        }
        using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
        using arranged = products.arrange(packed, m, n)
        using input = ops.tensor(x, [rows, n])
        using rough = products.product(input, arranged, { rows: m, columns: n, precision: 'int8' })
        const error = nmse(await values(rough), expected)
        if (!(error <= 1e-12)) t.fail(`${name}: ${code}, K = ${K}: ${error}`)
        using fine = products.product(input, arranged, { rows: m, columns: n })
        // What rounding x, and hyb's table, costs is what it costs a product, but for the scatter of so few outputs.
        const cost = nmse(await values(rough), await values(fine))
        const predicted = nmse(rounded, x) + (code === 'hyb' ? nmse(in8bits(entries), entries) : 0)
        if (!(cost > predicted / 2 && cost < predicted * 2))
          t.fail(`${name}: ${code}, K = ${K}, ${rows} vectors: ${cost} from f32, not ${predicted}`)
        const got = await rough.read()
        if (bits !== undefined && Buffer.compare(bits, got) !== 0) t.fail(`${name}: ${code}: other bits than ${devices[0]![0]}`)
        bits = got
      }
    }
  }
  t.pass('all as they should be')
})

t.test('what is not finite makes its row NaN, and no other', { skip: !isCpu && 'on a GPU, as IEEE arithmetic has it' }, async t => {
  const [m, n, K] = [16, 48, 2]
  for (const [name, ops] of devices) {
    using packed = ops.tensor(randomWords((m * n * K) / 16, 1), [(m * n) / 256, 16 * K])
    using products = packedProducts(ops, 'trellis/mul1', shapeOf('mul1', K, false))!
    using arranged = products.arrange(packed, m, n)
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      using x = ops.tensor(
        gaussian(2 * n, 2).map((v, i) => (i === 7 ? bad : v)),
        [2, n],
      )
      using y = products.product(x, arranged, { rows: m, columns: n })
      const found = [...(await values(y))]
      t.ok(found.slice(0, m).every(Number.isNaN) && found.slice(m).every(Number.isFinite), `${name}: ${bad}`)
    }
  }
})

/** Columns and their block; rows of linears and their blocks. Factors 12, 20 and 172, powers of two, blocks of a part. */
const linears: [columns: number, block: number, outputs: [rows: number, block: number][], t: number][] = [
  [48, 48, [[80, 80]], 1],
  [
    128,
    128,
    [
      [64, 64],
      [16, 16],
      [48, 48],
    ],
    3,
  ],
  [688, 688, [[32, 32]], 2],
  [
    96,
    32,
    [
      [160, 32],
      [16, 8],
      [32, 32],
      [112, 112],
    ],
    5,
  ],
]
const inBlocks = (x: Float64Array, block: number, transpose: boolean): Float64Array => {
  const { K } = hadamardFactor(block)!
  const blocks = Array.from({ length: x.length / block }, (_, i) => hadamardReference(x.subarray(i * block, (i + 1) * block), K, transpose))
  return Float64Array.from(blocks.flatMap(block => [...block]))
}

for (const code of ['hyb', 'mul1', '3inst']) {
  t.test(`${code}: whole linears, transforms and scales included`, async t => {
    for (const [i, [n, block, outputs, rows]] of linears.entries()) {
      const [m, K, tensorCore] = [outputs.reduce((sum, [rows]) => sum + rows, 0), 1 + (i % 4), i % 2 === 1]
      const shape = shapeOf(code, K, tensorCore)
      const words = randomWords((m * n * K) / 16, 50 + i)
      const [x, su] = [gaussian(rows * n, 60 + i), gaussian(n, 70 + i)]
      const svs = outputs.map(([rows], j) => gaussian(rows, 80 + j))
      for (const [name, ops] of devices) {
        using packed = ops.tensor(words, [(m * n) / 256, 16 * K])
        using table = ops.tensor(entries, [512, 2])
        using states = unpackTiles(ops, shape, packed)
        const w = weightsOf(code, await values(states), m, n, shape.V, shape.order ?? Array.from({ length: 256 }, (_, p) => p))
        const incoherent = Array.from({ length: rows }, (_, b) =>
          inBlocks(
            Float64Array.from(su, (s, j) => s * x[b * n + j]!),
            block,
            false,
          ),
        )
        const z = productReference(Float64Array.from(incoherent.flatMap(row => [...row])), w, rows, m, n)
        using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
        using arranged = products.arrange(packed, m, n)
        using input = ops.tensor(x, [rows, n])
        using signs = ops.tensor(su, [n])
        const scales = svs.map(sv => ops.tensor(sv, [sv.length]))
        const asked = outputs.map(([rows, block], j) => ({ rows, block, sv: scales[j]! }))
        const results = finished(products, input, arranged, { columns: n, su: signs, block, outputs: asked })
        let from = 0
        for (const [j, [own, block]] of outputs.entries()) {
          const parts = Array.from({ length: rows }, (_, b) => inBlocks(z.slice(b * m + from, b * m + from + own), block, true))
          const expected = Float64Array.from(parts.flatMap(part => [...part].map((v, k) => v * svs[j]![k]!)))
          const error = nmse(await values(results[j]!), expected)
          if (!(error <= 1e-9)) t.fail(`${name}: K = ${K}, [${own} of ${m}, ${n}], ${rows} vectors: ${error}`)
          from += own
        }
        for (const tensor of [...scales, ...results]) tensor[Symbol.dispose]()
      }
    }
    t.pass('within 1e-9 everywhere')
  })
}

t.test('linears one below the other are one matrix', async t => {
  const [n, K] = [64, 3]
  const ops: Ops = first
  const shape = shapeOf('mul1', K, false)
  using products = packedProducts(ops, 'trellis/mul1', shape)!
  const words = [48, 16].map((m, i) => randomWords((m * n * K) / 16, i))
  using x = ops.tensor(gaussian(n, 9), [1, n])
  const outputs: number[] = []
  for (const [i, m] of [48, 16].entries()) {
    using trellis = ops.tensor(words[i]!, [(m * n) / 256, 16 * K])
    using arranged = products.arrange(trellis, m, n)
    using y = products.product(x, arranged, { rows: m, columns: n })
    outputs.push(...(await values(y)))
  }
  using trellis = ops.tensor(Int16Array.from(words.flatMap(part => [...part])), [(64 * n) / 256, 16 * K])
  using arranged = products.arrange(trellis, 64, n)
  using y = products.product(x, arranged, { rows: 64, columns: n })
  t.same([...(await values(y))], outputs)
})

t.test('where there is no kernel, and what is refused', async t => {
  const ops = first
  t.equal(packedProducts(ops, 'trellis/mul1', { ...shapeOf('mul1', 2, false), L: 12 }), undefined, 'states of 12 bits')
  t.equal(packedProducts(ops, 'trellis/mul1', { ...shapeOf('mul1', 2, false), Tx: 8 }), undefined, 'other tiles')
  t.equal(packedProducts(ops, 'trellis/mul1', shapeOf('mul1', 5, false)), undefined, 'five bits')
  t.equal(packedProducts(ops, 'trellis/lut', shapeOf('lut', 2, false)), undefined, 'another code')
  using small = ops.tensor(new Float32Array(512), [256, 2])
  t.equal(packedProducts(ops, 'trellis/hyb', shapeOf('hyb', 2, false), small), undefined, 'a smaller table')

  using products = packedProducts(ops, 'trellis/mul1', shapeOf('mul1', 2, false))!
  using trellis = ops.tensor(randomWords(4 * 32, 1), [4, 32])
  using arranged = products.arrange(trellis, 32, 32)
  using x = ops.tensor(new Float32Array(17 * 32), [17, 32])
  using narrow = ops.tensor(new Float32Array(16), [1, 16])
  using none = ops.tensor(new Float32Array(0), [0, 32])
  const says = (f: () => unknown, message: RegExp) => t.throws(f, { name: 'RangeError', message })
  says(() => products.arrange(trellis, 24, 32), /\[24, 32\] does not divide into tiles of 16 × 16/)
  says(() => products.arrange(trellis, 32, 48), /trellis must be i16 \[6, 32\], got i16 \[4, 32\]/)
  says(() => products.arrange(trellis, 0, 32), /rows must be a whole number from 16/)
  says(() => products.product(x, arranged, { rows: 32, columns: 32 }), /x must have from 1 to 16 rows/)
  says(() => products.product(none, arranged, { rows: 32, columns: 32 }), /x must have from 1 to 16 rows/)
  says(() => products.product(narrow, arranged, { rows: 32, columns: 32 }), /x must be f32 \[1, 32\], got f32 \[1, 16\]/)
  says(() => products.product(narrow, arranged, { rows: 512, columns: 16 }), /arranged must be u8 \[8192\], got u8 \[512\]/)
  using one = ops.tensor(new Float32Array(32), [1, 32])
  using su = ops.tensor(new Float32Array(32), [32])
  using wide = ops.tensor(new Float32Array(48), [48])
  const linear = (o: object) => () => products.linear(one, arranged, { rows: 32, columns: 32, su, block: 32, ...o })
  says(linear({ su: wide }), /linear: su must be f32 \[32\], got f32 \[48\]/)
  says(linear({ block: 48 }), /linear: block must be the order of a Hadamard matrix that divides 32, got 48/)
  says(linear({ rows: 64 }), /linear: arranged must be u8/)
  says(linear({ gate: su }), /linear: gate must be f32 \[1, 32\], got f32 \[32\]/)
  says(linear({ gate: one, norm: { weight: su, eps: 1 } }), /linear: x is normed or gated, not both/)
  says(linear({ keep: true }), /linear: kept is an x that is not finished and has no gate/)

  using z = ops.tensor(new Float32Array(48), [1, 48])
  const output = { z, first: 16, rows: 32, sv: su, block: 32 }
  const unfinished = (o: object) => () => products.linear({ ...output, ...o }, arranged, { rows: 32, columns: 32, su, block: 32 })
  const finish = (o: object) => () => products.finish([output, { ...output, ...o }])
  says(unfinished({ rows: 16 }), /linear: x must have 32 columns, got an output of 16/)
  says(unfinished({ first: 17 }), /linear: x.z must be f32 \[1, 49\], got f32 \[1, 48\]/)
  says(() => products.finish([]), /finish: from 1 to 4 outputs, got 0/)
  says(() => products.finish(Array.from({ length: 5 }, () => output)), /finish: from 1 to 4 outputs, got 5/)
  says(finish({ first: -16 }), /finish: outputs\[1\].first must be a whole number from 0/)
  says(finish({ z: x }), /finish: outputs\[1\].z must be f32 \[1, 48\], got f32 \[17, 32\]/)
  says(finish({ sv: wide }), /finish: outputs\[1\].sv must be f32 \[32\], got f32 \[48\]/)
  says(finish({ norm: { weight: wide, eps: 1 } }), /finish: outputs\[1\] of 32 columns has no whole heads of 48/)
  says(unfinished({ norm: { weight: su, eps: 1 } }), /linear: x has norms of heads, which finish alone does/)
  says(finish({ bias: wide }), /finish: outputs\[1\].bias must be f32 \[32\], got f32 \[48\]/)
  says(finish({ block: 5 }), /finish: outputs\[1\].block must be the order of a Hadamard matrix that divides 32, got 5/)
  says(finish({ add: wide }), /finish: outputs\[1\].add must be f32 \[1, 32\], got f32 \[48\]/)
})
