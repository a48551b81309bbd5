/** Prompts from packed weights: what is decoded for them, and whole linears for many rows. */
import t from 'tap'
import { codebooks } from '../../../native/codebooks/index.js'
import { trellisCodes } from '../../../native/codebooks/trellis/codes.js'
import { packedProducts } from '../../../native/codebooks/trellis/product.js'
import { unpackTiles } from '../../../native/codebooks/tiles/tiles.js'
import { everyDevice, gaussian, nmse, values } from '../devices.js'
import { codes, entries, randomWords, shapeOf } from './packed-weights.js'

const devices = await everyDevice()

const index = trellisCodes.hyb!.table!({ L: 16, V: 2 }).index
const weightOf = (code: string, s: number, second: number): number => {
  if (code !== 'hyb') return Math.fround(trellisCodes[code]!.value!(s))
  const i = index(s)
  return (i >> 16 && !second ? -1 : 1) * entries[(i & 0xffff) * 2 + second]!
}

t.test('decoded as they are arranged: the values of the states', async t => {
  for (const [name, ops] of devices) {
    for (const code of codes) {
      for (const K of [1, 2, 3, 4]) {
        for (const tensorCore of [false, true]) {
          const [m, n] = K % 2 === 0 ? [80, 208] : [48, 112]
          const shape = shapeOf(code, K, tensorCore)
          using table = ops.tensor(entries, [512, 2])
          using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
          using trellis = ops.tensor(randomWords((m * n * K) / 16, K), [(m * n) / 256, 16 * K])
          using unpacked = unpackTiles(ops, shape, trellis)
          const states = await values(unpacked)
          using arranged = products.arrange(trellis, m, n)
          using got = products.decode(arranged, m, n)
          const wrong = (await values(got)).findIndex((v, at) => {
            const [row, column] = [Math.floor(at / n), at % n]
            const place = (row % 16) * 16 + (column % 16)
            const p = (Math.floor(row / 16) * (n / 16) + Math.floor(column / 16)) * 256 + (shape.order ? shape.order.indexOf(place) : place)
            return v !== weightOf(code, states[Math.floor(p / shape.V)]!, p % shape.V)
          })
          if (wrong >= 0) t.fail(`${name}: ${code}, K = ${K}${tensorCore ? ', tensor-core order' : ''}: another value at ${wrong}`)
        }
      }
    }
    t.pass(`${name}: the same`)
  }
})

t.test('a codec: the bits that decoding what is stored gives', async t => {
  const [m, n, ops] = [64, 96, devices.at(-1)![1]]
  using codec = codebooks['trellis/hyb']!.open(ops, { L: 16, K: 2, Q: 9, Tx: 16, Ty: 16, order: 'tensor-core' })
  using trellis = ops.tensor(randomWords((m * n) / 8, 2), [(m * n) / 256, 32])
  using states = codec.unpack(trellis)
  using expected = codec.decode(states, m, n)
  using arranged = codec.packed!.arrange(trellis, m, n)
  using got = codec.packed!.decode(arranged, m, n)
  t.ok(Buffer.compare(await got.read(), await expected.read()) === 0)
})

t.test('a prompt: as decoding and the ops one after the other, for any number of rows', async t => {
  for (const [code, columns, rows, tokens] of [
    ['hyb', 688, [96, 80], 70],
    ['1mad', 96, [16, 160, 48], 130],
    ['hyb', 64, [688], 40],
    ['mul1', 80, [32], 20],
    ['mcg', 4096, [32], 65],
    ['hyb', 11008, [64, 16], 18],
    ['mul1', 64, [11008, 4096, 11008], 18],
    ['hyb', 32, [13824], 17],
  ] as const) {
    for (const [name, ops] of devices.slice(-1)) {
      const [shape, m] = [shapeOf(code, 3, code === 'hyb'), rows.reduce((a, b) => a + b, 0)]
      using table = ops.tensor(entries, [512, 2])
      using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
      using trellis = ops.tensor(randomWords((3 * m * columns) / 16, 1), [(m * columns) / 256, 48])
      using arranged = products.arrange(trellis, m, columns)
      // One row is far above the rest, another all zeros.
      const random = (size: number, seed: number) =>
        ops.tensor(
          gaussian(tokens * size, seed).map((v, i) => (i < size ? 1000 * v : i < 2 * size ? 0 : v)),
          [tokens, size],
        )
      const vector = (size: number, seed: number) => ops.tensor(gaussian(size, seed), [size])
      const [x, gate, su, weight] = [random(columns, 1), random(columns, 2), vector(columns, 3), vector(columns, 4)]
      const linears = rows.map((rows, i) => ({ rows, sv: vector(rows, 5 + i), block: rows, ...(i === 0 && { add: random(rows, 9) }) }))
      // A GPU decodes to f16 here.
      using exact = products.decode(arranged, m, columns)
      using half = ops.cast(exact, 'f16')
      using w = ops.device.kind === 'cpu' ? ops.copy(exact) : ops.cast(half, 'f32')
      for (const before of [{}, { norm: { weight, eps: 1e-5 } }, { gate }]) {
        const made = 'norm' in before ? ops.rmsnorm(x, weight, { eps: 1e-5 }) : 'gate' in before ? ops.siluMul(gate, x) : ops.copy(x)
        using incoherent = ops.hadamard(made, { side: 'right', signs: su, block: columns })
        using z = ops.matmul(incoherent, w, { transposeB: true })
        for (const rounded of [false, true]) {
          const got = products.prompt(x, arranged, { columns, su, block: columns, linears, rounded, ...before })
          let from = 0
          for (const [i, { rows, sv, add }] of linears.entries()) {
            using own = ops.copy(z, { columns: [from, from + rows] })
            using product = ops.hadamard(own, { side: 'right', signs: sv, block: rows, inverse: true })
            using expected = add ? ops.add(product, add) : ops.copy(product)
            from += rows
            const [y, wanted] = [await values(got[i]!), await values(expected)]
            const largest = nmse(y.subarray(0, rows), wanted.subarray(0, rows))
            const others = nmse(y.subarray(rows), wanted.subarray(rows))
            const most = rounded || code === 'mul1' ? 1e-6 : 1e-9
            t.ok(
              largest <= most && others <= most,
              `${name}: ${code}, ${tokens} × ${columns}, ${Object.keys(before)}: ${largest}, ${others}`,
            )
          }
          for (const y of got) y[Symbol.dispose]()
        }
        made[Symbol.dispose]()
      }
      const o = { columns, su, block: columns, linears }
      t.throws(() => products.prompt(gate, arranged, { ...o, linears: [] }), { message: 'prompt: from 1 to 4 linears read one x, got 0' })
      t.throws(() => products.prompt(gate, arranged, { ...o, gate: su }), RangeError)
      t.throws(() => products.prompt(gate, arranged, { ...o, gate, norm: { weight, eps: 1 } }), RangeError)
      for (const tensor of [x, gate, su, weight, ...linears.flatMap(({ sv, add }) => [sv, add])]) tensor?.[Symbol.dispose]()
    }
  }
})
