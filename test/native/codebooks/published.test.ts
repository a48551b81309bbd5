/** Checkpoints of the published QTIP program: what their trellises decode to, in both layouts (fixtures/vectors). */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { roundHalf } from '../../../native/codebooks/half.js'
import { codebooks } from '../../../native/codebooks/index.js'
import { fromKernelLayout, kernelOrder, toKernelLayout } from '../../../native/codebooks/trellis/kernel-layout.js'
import { openBackend } from '../../../native/index.js'
import type { Ops } from '../../../native/ops.js'
import type { DType } from '../../../native/tensor.js'
import { root } from '../../helpers.js'

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

/** The tensors and the metadata of a safetensors file. */
const readVectors = (name: string) => {
  const file = readFileSync(join(root, 'fixtures/vectors', `${name}.safetensors`))
  const length = Number(file.readBigUInt64LE(0))
  const { __metadata__: metadata, ...entries } = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, Entry> & {
    __metadata__: Record<string, string>
  }
  const [L, K, V, Q, Tx, Ty, m, n] = JSON.parse(metadata.cfg!) as [number, number, number, number, number, number, number, number]
  return {
    L,
    K,
    V,
    Q,
    Tx,
    Ty,
    m,
    n,
    kernel: metadata.kernel === 'True',
    has: (tensor: string) => tensor in entries,
    bytes: (tensor: string) => Uint8Array.from(file.subarray(...entries[tensor]!.data_offsets.map(at => at + 8 + length))),
    shape: (tensor: string) => entries[tensor]!.shape,
  }
}

/** Values [m, n] whose tiles were read row-major, though the codes stood in the kernel's order: put where they belong. */
const fromKernelOrder = (values: Float32Array, m: number, n: number): Float32Array => {
  if (values.length !== m * n || m % 16 !== 0 || n % 16 !== 0)
    throw new RangeError(`[${m}, ${n}] are not tiles of 16 × 16 of ${values.length} values`)
  const out = new Float32Array(values.length)
  for (let row = 0; row < m; row += 16) {
    for (let column = 0; column < n; column += 16) {
      for (const [p, to] of kernelOrder.entries()) {
        out[(row + (to >> 4)) * n + column + (to & 15)] = values[(row + (p >> 4)) * n + column + (p & 15)]!
      }
    }
  }
  return out
}

const f32 = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.slice().buffer)
const upload = (ops: Ops, bytes: Uint8Array, dtype: DType, shape: number[]) => ops.device.upload(bytes, dtype, shape)

for (const [name, code, extra] of [
  ['qtip_hyb_k2', 'hyb', ['Q']],
  ['qtip_hyb_k4', 'hyb', ['Q']],
  ['qtip_1mad_k2', '1mad', []],
  ['qtip_lut_l12_k2', 'lut', ['V']],
] as const) {
  t.test(`${name}: decodes to the published values`, async t => {
    const file = readVectors(name)
    const { L, K, V, Q, Tx, Ty, m, n } = file
    const ops = await openBackend('cpu')
    const params = { L, K, Tx, Ty, ...(extra[0] === 'Q' ? { Q } : extra[0] === 'V' ? { V, seed: 0 } : {}) }
    const tables = file.has('tlut') ? { tlut: upload(ops, file.bytes('tlut'), 'f16', file.shape('tlut')) } : undefined
    using codec = codebooks[`trellis/${code}`]!.open(ops, params, tables)
    const stored = file.bytes('trellis')
    const natural = file.kernel ? fromKernelLayout(stored, m, n, K) : stored
    using packed = upload(ops, natural, 'i16', file.shape('trellis'))
    using codes = codec.unpack(packed)
    using repacked = codec.pack(codes) // fails where states do not overlap
    t.equal(Buffer.compare(await repacked.read(), natural), 0, 'packs to the same words')
    if (file.kernel) t.equal(Buffer.compare(toKernelLayout(natural, m, n, K), stored), 0, "and to the kernel's")
    using decoded = codec.decode(codes, m, n)
    const values = f32(await decoded.read())
    const got = file.kernel ? fromKernelOrder(values, m, n) : values
    const expected = f32(file.bytes('hatWr'))
    const worst = got.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0)
    if (file.kernel) {
      using other = codebooks['trellis/hyb']!.open(
        ops,
        { ...params, order: 'tensor-core' },
        { tlut: upload(ops, file.bytes('tlut'), 'f16', file.shape('tlut')) },
      )
      using ordered = other.decode(codes, m, n)
      t.equal(Buffer.compare(await ordered.read(), file.bytes('hatWr')), 0, 'put in place by the device as well')
    }
    if (code === '1mad') t.ok(worst <= 1e-3, `f16 of another order of operations: ${worst}`)
    else t.equal(worst, 0, 'to the bit')
    if (tables !== undefined)
      t.throws(() => codec.encode(decoded), { message: `trellis/${code}: a codec opened with a checkpoint's tables only decodes` })
  })
}

t.test('a table of another size, or none', async t => {
  const ops = await openBackend('cpu')
  const params = { L: 16, K: 2, Q: 9, Tx: 16, Ty: 16 }
  using small = ops.tensor(new Float32Array(512), [256, 2])
  t.throws(() => codebooks['trellis/hyb']!.open(ops, params, { tlut: small }), {
    message: 'trellis/hyb: tlut must be f32 or f16 or bf16 [512, 2], got f32 [256, 2]',
  })
  t.throws(() => codebooks['trellis/hyb']!.open(ops, params, { grid: small }), {
    message: 'trellis/hyb: the checkpoint lacks the table tlut; it has grid',
  })
})

t.test('the order of weights in a tile of the kernel', async t => {
  t.strictSame(
    kernelOrder.slice(0, 40),
    [
      0, 1, 128, 129, 8, 9, 136, 137, 2, 3, 130, 131, 10, 11, 138, 139, 4, 5, 132, 133, 12, 13, 140, 141, 6, 7, 134, 135, 14, 15, 142, 143,
      16, 17, 144, 145, 24, 25, 152, 153,
    ],
  )
  const inverse = Array.from({ length: 40 }, (_, at) => kernelOrder.indexOf(at))
  t.strictSame(
    inverse,
    [
      0, 1, 8, 9, 16, 17, 24, 25, 4, 5, 12, 13, 20, 21, 28, 29, 32, 33, 40, 41, 48, 49, 56, 57, 36, 37, 44, 45, 52, 53, 60, 61, 64, 65, 72,
      73, 80, 81, 88, 89,
    ],
  )
})

t.test("random tiles in the kernel's layout: words, states, weights, a product", async t => {
  const ops = await openBackend('cpu')
  const expected = {
    2: {
      words: 'b70f 89bc 0665 0bba 636f ec37 e0bf 4593 1e74 20c7 253c 0fa2',
      states: [46863, 28918, 3939, 63030, 415, 55991, 43888],
      row: [-1.390625, 0.328125, 2.84375, 0.857421875],
      others: [2.171875, 0.23046875, -0.96875, 0.623046875, -1.671875, 0.734375, -2.625, 0.240234375],
      y: [-1.60400390625, 11.9404296875, 4.3564453125, -30.7265625],
      sum: 154.89111328125,
      norm: 11774.136943817,
    },
    3: {
      words: '297a 2bb7 5916 5486 28c1 4dc4 cdbd 5ca7 e8ef 09d8 ea14 cc21',
      states: [46889, 51806, 38826, 60063, 15296, 34459, 42716],
      row: [1.71875, 0.716796875, -0.109375, 0.515625],
      others: [0.296875, 0.5390625, 2.71875, 0.162109375, -3.796875, 1.578125, 3.703125, 0.521484375],
      y: [-1.3330078125, 18.08447265625, -2.51611328125, 0.80859375],
      sum: 192.234375,
      norm: 11447.883815765,
    },
    4: {
      words: '91e0 b742 ee1e 9116 2fbc 53cc f8af 0ce9 7e7f 7d06 f390 1230',
      states: [46914, 17041, 37344, 57469, 62365, 50335, 40887],
      row: [-1.734375, 0.28515625, 1.5625, 0.697265625],
      others: [1.53125, 0.693359375, -2.640625, 0.171875, -0.703125, 3.921875, -0.109375, 0.037109375],
      y: [13.61572265625, 22.876953125, 15.423828125, -20.9091796875],
      sum: 160.5869140625,
      norm: 11867.945709229,
    },
  }
  for (const K of [2, 3, 4] as const) {
    let state = 1234 + K
    const words = Uint16Array.from({ length: 16 * 16 * K }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state >>> 16
    })
    const natural = new Uint8Array(words.buffer)
    const kernel = toKernelLayout(natural, 64, 64, K)
    const stored = Array.from(new Uint16Array(kernel.slice().buffer).subarray(0, 12), word => word.toString(16).padStart(4, '0')).join(' ')
    t.equal(stored, expected[K].words)
    t.equal(Buffer.compare(fromKernelLayout(kernel, 64, 64, K), natural), 0)

    const tlut = ops.tensor(
      Float32Array.from({ length: 1024 }, (_, i) => roundHalf(i % 2 === 0 ? (i / 2 - 256) / 64 : ((i - 1) / 2 + 1) / 512)),
      [512, 2],
    )
    using codec = codebooks['trellis/hyb']!.open(ops, { L: 16, K, Q: 9, Tx: 16, Ty: 16 }, { tlut })
    using packed = upload(ops, natural, 'i16', [16, 16 * K])
    using codes = codec.unpack(packed)
    const states = new Uint16Array((await codes.read()).slice().buffer)
    t.strictSame(
      [0, 1, 2, 3, 64, 126, 127].map(step => states[step]),
      expected[K].states,
    )
    using decoded = codec.decode(codes, 64, 64)
    const W = fromKernelOrder(f32(await decoded.read()), 64, 64)
    const at = (row: number, column: number) => W[row * 64 + column]!
    t.strictSame(
      [0, 1, 2, 3].map(column => at(0, column)),
      expected[K].row,
    )
    t.strictSame([at(8, 0), at(8, 1), at(0, 8), at(0, 9), at(1, 0), at(16, 0), at(0, 16), at(63, 63)], expected[K].others)
    const y = Array.from({ length: 64 }, (_, row) => {
      let sum = 0
      for (let k = 0; k < 64; k++) sum += at(row, k) * ((((7 * k) % 13) - 6) / 4)
      return sum
    })
    t.strictSame(y.slice(0, 4), expected[K].y)
    t.equal(
      y.reduce((a, b) => a + b),
      expected[K].sum,
    )
    t.ok(Math.abs(W.reduce((a, b) => a + b * b, 0) - expected[K].norm) < 1e-8)
  }
  t.throws(() => fromKernelLayout(new Uint8Array((64 * 48) / 4), 64, 48, 2), { message: /superblocks of 32 × 32, which \[64, 48\]/ })
})

t.test('a whole quantized linear: y = SV·32 ⊙ had(Ŵ · hadT(SU ⊙ x)/32), values of the published layout', async t => {
  const ops = await openBackend('cpu')
  // The published 1MAD values are f32, ours f16: half of 2⁻¹⁰ of each of 64 products with |u|·SV·√(n/m) of a few units.
  const roundedValues = 0.02
  interface Case {
    code: string
    seed: number
    permuted: boolean
    m: number
    n: number
    first: number[]
    at?: [number, number]
    sum?: number
    squares?: number
  }
  const hyb = { code: 'hyb', seed: 2024, permuted: true }
  const mad = { code: '1mad', seed: 99, permuted: false }
  for (const { code, seed, permuted, m, n, first, at, sum, squares } of [
    { ...hyb, m: 32, n: 64, first: [-12.697711, 2.51648, 1.967791, -15.140475], at: [31, 31.765038], sum: 142.12583, squares: 16857.8113 },
    {
      ...hyb,
      m: 96,
      n: 192,
      first: [-3.258252, 15.497245, -39.194556, -8.425465],
      at: [95, -56.769155],
      sum: 160.593776,
      squares: 214351.5256,
    },
    { ...mad, m: 32, n: 64, first: [3.97888, 0.39608, -4.87596] },
  ] as Case[]) {
    let state = seed
    const words = Uint16Array.from({ length: (m / 16) * (n / 16) * 32 }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state >>> 16
    })
    const tlut = ops.tensor(
      Float32Array.from({ length: 1024 }, (_, i) => roundHalf(i % 2 === 0 ? (i / 2 - 256) / 64 : ((i - 1) / 2 + 1) / 512)),
      [512, 2],
    )
    const params = { L: 16, K: 2, Tx: 16, Ty: 16, ...(permuted && { Q: 9 }) }
    using codec = codebooks[`trellis/${code}`]!.open(ops, params, permuted ? { tlut } : undefined)
    using packed = upload(ops, new Uint8Array(words.buffer), 'i16', [(m / 16) * (n / 16), 32])
    using codes = codec.unpack(packed)
    using decoded = codec.decode(codes, m, n)
    const values = f32(await decoded.read())
    using w = ops.tensor(permuted ? fromKernelOrder(values, m, n) : values, [m, n])
    const odd = (i: number) => i.toString(2).replaceAll('0', '').length % 2 === 1
    using x = ops.tensor(
      Float32Array.from({ length: n }, (_, k) => (((7 * k) % 13) - 6) / 4),
      [1, n],
    )
    using su = ops.tensor(
      Float32Array.from({ length: n }, (_, i) => (odd(i) ? -1 : 1)),
      [n],
    )
    using sv = ops.tensor(
      Float32Array.from({ length: m }, (_, j) => (1 + j / 64) * (j % 2 === 1 ? -1 : 1)),
      [m],
    )
    using u = ops.hadamard(x, { side: 'right', signs: su, block: n })
    using product = ops.matmul(u, w, { transposeB: true })
    using y = ops.hadamard(product, { side: 'right', signs: sv, block: m, inverse: true })
    const out = f32(await y.read())
    const near = (actual: number, expected: number, what: string) =>
      t.ok(
        Math.abs(actual - expected) < 1e-5 * (1 + Math.abs(expected)) + (code === '1mad' ? roundedValues : 0),
        `${code} ${m}×${n} ${what}: ${actual}, published ${expected}`,
      )
    for (const [i, expected] of first.entries()) near(out[i] ?? Number.NaN, expected, `y[${i}]`)
    if (at) near(out[at[0] ?? 0] ?? Number.NaN, at[1] ?? Number.NaN, `y[${at[0]}]`)
    if (sum !== undefined)
      near(
        out.reduce((a, b) => a + b, 0),
        sum,
        'sum',
      )
    if (squares !== undefined)
      near(
        out.reduce((a, b) => a + b * b, 0),
        squares,
        'sum of squares',
      )
  }
})
