/** Packed linears, transforms and scales included, and what comes before and after them: as ops one after the other, and as if each were by itself. */
import t from 'tap'
import { packedProducts } from '../../../native/codebooks/trellis/product.js'
import type { Tensor } from '../../../native/tensor.js'
import { everyDevice, gaussian, nmse, values } from '../devices.js'
import { entries, finished, randomWords, shapeOf } from './packed-weights.js'

const devices = await everyDevice()

t.test('large transforms, whole: as the ops one after the other', async t => {
  for (const [columns, rows, tokens] of [
    [11008, 32, 1],
    [6144, 32, 2],
    [64, 14336, 1],
    [64, 11008, 2],
    [8192, 16, 1],
    // Powers of two, which four blocks of a GPU have: every length as columns and as rows.
    [512, 1024, 3],
    [1024, 512, 1],
    [2048, 4096, 1],
    [4096, 2048, 2],
    [64, 8192, 1],
  ] as const) {
    const [shape, ops] = [shapeOf('mul1', 2, false), devices.at(-1)![1]]
    using products = packedProducts(ops, 'trellis/mul1', shape)!
    using trellis = ops.tensor(randomWords((rows * columns) / 8, 1), [(rows * columns) / 256, 32])
    using arranged = products.arrange(trellis, rows, columns)
    const [x, su, sv] = [tokens * columns, columns, rows].map((size, i) =>
      ops.tensor(gaussian(size, i), i === 0 ? [tokens, columns] : [size]),
    )
    using incoherent = ops.hadamard(x!, { side: 'right', signs: su!, block: columns })
    using z = products.product(incoherent, arranged, { rows, columns })
    using expected = ops.hadamard(z, { side: 'right', signs: sv!, block: rows, inverse: true })
    const [y] = finished(products, x!, arranged, { columns, su: su!, block: columns, outputs: [{ rows, sv: sv!, block: rows }] })
    const error = nmse(await values(y!), await values(expected))
    t.ok(error <= 1e-10, `[${rows}, ${columns}]: ${error}`)
    for (const tensor of [x, su, sv, y]) tensor![Symbol.dispose]()
  }
})

t.test('what comes before and after linears, as the ops one after the other', async t => {
  for (const [code, columns, rows, tokens] of [
    ['mul1', 11008, 32, 1],
    ['hyb', 688, 80, 3],
    ['hyb', 4096, 48, 2],
    ['3inst', 96, 16, 16],
  ] as const) {
    const [shape, ops] = [shapeOf(code, 2, code === 'hyb'), devices.at(-1)![1]]
    using table = ops.tensor(entries, [512, 2])
    using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
    using trellis = ops.tensor(randomWords((2 * rows * columns) / 8, 1), [(2 * rows * columns) / 256, 32])
    using arranged = products.arrange(trellis, 2 * rows, columns)
    const [x, gate, add] = [columns, columns, rows].map((size, i) =>
      ops.tensor(
        gaussian(tokens * size, i).map(v => 30 * v),
        [tokens, size],
      ),
    )
    const [su, weight, sv, sw] = [columns, columns, rows, rows].map((size, i) => ops.tensor(gaussian(size, 5 + i), [size]))
    const outputs = [
      { rows, sv: sv!, block: rows, add: add! },
      { rows, sv: sw!, block: rows },
    ]
    using normed = ops.rmsnorm(x!, weight!, { eps: 1e-5 })
    using gated = ops.siluMul(gate!, x!)
    for (const [made, before] of [
      [normed, { norm: { weight: weight!, eps: 1e-5 } }],
      [gated, { gate: gate! }],
    ] as const) {
      const o = { columns, su: su!, block: columns, outputs: outputs.map(({ add: _, ...output }) => output) }
      const [first, second] = finished(products, made, arranged, o)
      using expected = ops.add(first!, add!)
      const [y, z] = finished(products, x!, arranged, { ...o, outputs, ...before })
      for (const [got, wanted] of [
        [y, expected],
        [z, second],
      ]) {
        const error = nmse(await values(got!), await values(wanted!))
        t.ok(error <= 1e-11, `${code}: [${rows}, ${columns}], ${Object.keys(before)}: ${error}`)
      }
      for (const tensor of [first, second, y, z]) tensor![Symbol.dispose]()
    }
    for (const tensor of [x, gate, add, su, weight, sv, sw]) tensor![Symbol.dispose]()
  }
})

t.test('outputs that the next linear finishes: as if they had been finished before', async t => {
  for (const [code, n, tokens] of [
    ['hyb', 688, 1],
    ['mul1', 1024, 3],
    ['3inst', 96, 16],
    ['hyb', 2048, 2],
    ['mul1', 4096, 1],
    ['hyb', 8192, 1],
    ['mul1', 11008, 1],
  ] as const) {
    const [shape, ops] = [shapeOf(code, 2, false), devices.at(-1)![1]]
    using table = ops.tensor(entries, [512, 2])
    using products = packedProducts(ops, `trellis/${code}`, shape, code === 'hyb' ? table : undefined)!
    using words = ops.tensor(randomWords(10 * n, 1), [(80 * n) / 256, 32])
    using arranged = products.arrange(words, 80, n)
    using z = ops.tensor(gaussian(tokens * 2 * n, n), [tokens, 2 * n])
    using stream = ops.tensor(gaussian(tokens * n, n + 1), [tokens, n])
    const [su, sv, sw, weight] = [2, 3, 4, 5].map(seed => ops.tensor(gaussian(n, n + seed), [n])) as [Tensor, Tensor, Tensor, Tensor]
    const [gate, x] = [
      { z, first: 0, rows: n, sv, block: n },
      { z, first: n, rows: n, sv: sw, bias: weight, block: n, add: stream },
    ]
    const [madeGate, madeX] = products.finish([gate!, x!]) as [Tensor, Tensor]
    const [plain] = products.finish([{ z, first: n, rows: n, sv: sw, block: n }]) as [Tensor]
    using unbiased = ops.add(plain, stream)
    using biased = ops.addBias(unbiased, weight)
    t.ok(nmse(await values(madeX), await values(biased)) <= 1e-12, `${code}, ${n}: bias and what is added`)
    plain[Symbol.dispose]()
    // Heads of half a run or more than one, and all columns as one.
    for (const head of [32, 8, n].filter(head => n % head === 0)) {
      using scale = ops.tensor(gaussian(head, head), [head])
      const [normed] = products.finish([{ ...x!, norm: { weight: scale, eps: 1e-5 } }]) as [Tensor]
      using heads = ops.reshape(madeX, [(tokens * n) / head, head])
      using wanted = ops.rmsnorm(heads, scale, { eps: 1e-5 })
      const error = nmse(await values(normed), await values(wanted))
      t.ok(error <= 1e-11, `${code}, ${n}: heads of ${head}: ${error}`)
      normed[Symbol.dispose]()
    }
    const o = { rows: 80, columns: n, su, block: n }
    const norm = { weight, eps: 1e-5 }
    for (const [what, given, more, wanted] of [
      ['x', x, {}, {}],
      ['x, kept', x, { keep: true }, {}],
      ['x, normed and kept', x, { norm, keep: true }, { norm }],
      ['x and gate', x, { gate }, { gate: madeGate }],
      ['x, not the gate', x, { gate: madeGate }, { gate: madeGate }],
      ['the gate, not x', madeX, { gate }, { gate: madeGate }],
    ] as const) {
      const got = products.linear(given!, arranged, { ...o, ...more })
      const { z: expected } = products.linear(madeX, arranged, { ...o, ...wanted })
      const error = nmse(await values(got.z), await values(expected))
      t.ok(error <= 1e-11, `${code}, ${n}: ${what}: ${error}`)
      t.equal(got.kept !== undefined, 'keep' in more)
      if (got.kept) t.ok(nmse(await values(got.kept), await values(madeX)) <= 1e-12, `${code}, ${n}: ${what}: what is kept`)
      for (const tensor of [got.z, got.kept, expected]) tensor?.[Symbol.dispose]()
    }
    for (const tensor of [su, sv, sw, weight, madeGate, madeX]) tensor[Symbol.dispose]()
  }
})

t.test('outputs of several lengths at once: as each by itself', async t => {
  const ops = devices.at(-1)![1]
  using products = packedProducts(ops, 'trellis/mul1', shapeOf('mul1', 2, false))!
  const [lengths, stride, head] = [[4096, 512, 1024], 5632, 128]
  const all = gaussian(2 * stride, 1)
  using z = ops.tensor(all, [2, stride])
  using scale = ops.tensor(gaussian(head, 2), [head])
  const scales = lengths.map((rows, i) => ops.tensor(gaussian(rows, 3 + i), [rows]))
  for (const normed of [0, 2]) {
    let first = 0
    const outputs = lengths.map((rows, i) => {
      const norm = i < normed ? { norm: { weight: scale, eps: 1e-5 } } : {}
      const output = { z, first, rows, sv: scales[i]!, block: rows, ...norm }
      first += rows
      return output
    })
    const together = products.finish(outputs)
    for (const [i, { rows, first, sv }] of outputs.entries()) {
      const own = new Float32Array(2 * rows)
      for (let b = 0; b < 2; b++) own.set(all.slice(b * stride + first, b * stride + first + rows), b * rows)
      using part = ops.tensor(own, [2, rows])
      using plain = ops.hadamard(part, { side: 'right', signs: sv, block: rows, inverse: true })
      using heads = ops.reshape(plain, [(2 * rows) / head, head])
      using expected = i < normed ? ops.rmsnorm(heads, scale, { eps: 1e-5 }) : ops.reshape(plain, [2, rows])
      const error = nmse(await values(together[i]!), await values(expected))
      t.ok(error <= 1e-11, `${rows} of ${stride}, ${normed} normed: ${error}`)
    }
    for (const tensor of together) tensor[Symbol.dispose]()
  }
  for (const tensor of scales) tensor[Symbol.dispose]()
})
