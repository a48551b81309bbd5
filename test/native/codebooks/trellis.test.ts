/** The trellis codes: values, search, stored forms, on every instruction set. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { quantile } from '../../../native/codebooks/gaussian.js'
import { roundHalf } from '../../../native/codebooks/half.js'
import { codebooks } from '../../../native/codebooks/index.js'
import { trellisCodes } from '../../../native/codebooks/trellis/codes.js'
import { bitString, distortion, tailBiting, type Trellis, viterbi } from '../../../native/codebooks/trellis/reference.js'
import { openBackend } from '../../../native/index.js'
import type { Ops } from '../../../native/ops.js'
import type { Tensor } from '../../../native/tensor.js'
import { root } from '../../helpers.js'
import { everyDevice, gaussian, same, uniform } from '../devices.js'

interface Sizes {
  L?: number
  K?: number
  V?: number
  Q?: number
  Tx?: number
  Ty?: number
  seed?: number
  table?: 'plane' | 'half-plane'
}
const openCodec = (ops: Ops, code: string, sizes: Sizes = {}) => {
  const defaults: Record<string, Sizes> = { hyb: { Q: 9 }, quantlut: { Q: 9 }, lut: { V: 1, seed: 0 } }
  return codebooks[`trellis/${code}`]!.open(ops, { L: 16, K: 2, Tx: 16, Ty: 16, ...defaults[code], ...sizes })
}
const u16 = async (x: Tensor): Promise<Uint16Array> => new Uint16Array((await x.read()).slice().buffer)
const f32 = async (x: Tensor): Promise<Float32Array> => new Float32Array((await x.read()).slice().buffer)

/** The value of every state, by decoding them all: [2^L, V]. */
const valuesOf = async (ops: Ops, code: string, sizes: Sizes): Promise<Float32Array> => {
  const L = sizes.L ?? 16
  const V = sizes.V ?? (code === 'hyb' ? 2 : 1)
  const columns = Math.max(V * 16, 16)
  const steps = columns / V
  using codec = openCodec(ops, code, { ...sizes, Tx: 1, Ty: columns, K: sizes.K ?? 1 })
  const tiles = Math.max(1, 2 ** L / steps)
  using codes = ops.tensor(
    Uint16Array.from({ length: tiles * steps }, (_, s) => s % 2 ** L),
    [tiles, steps],
  )
  using values = codec.decode(codes, tiles, columns)
  return (await f32(values)).slice(0, 2 ** L * V)
}

/** Seconds of codes per test stay small: the smallest sizes that take each of the search's ways. */
const small: [string, Sizes][] = [
  ['1mad', { L: 4, K: 1, Tx: 2, Ty: 4 }],
  ['mul1', { L: 3, K: 3, Tx: 1, Ty: 6 }],
  ['3inst', { L: 7, K: 1, Tx: 4, Ty: 4 }],
  ['lut', { L: 8, K: 2, Tx: 2, Ty: 8 }],
  ['lut', { L: 5, K: 2, Tx: 4, Ty: 8 }],
  ['mul1', { L: 9, K: 3, Tx: 4, Ty: 4 }],
  ['1mad', { L: 10, K: 3, Tx: 4, Ty: 4 }],
  ['mul1', { L: 10, K: 4, Tx: 4, Ty: 4 }],
  ['mul1', { L: 12, K: 4, Tx: 4, Ty: 4 }],
  ['lut', { L: 6, K: 2, V: 2, Tx: 4, Ty: 4 }],
  ['hyb', { L: 10, K: 2, Q: 4, Tx: 4, Ty: 8 }],
  ['lut', { L: 8, K: 3, V: 2, Tx: 4, Ty: 4 }],
  ['lut', { L: 9, K: 4, V: 2, Tx: 4, Ty: 4 }],
  ['hyb', { L: 10, K: 4, Q: 4, Tx: 4, Ty: 4 }],
  ['mcg', { L: 9, K: 5, Tx: 4, Ty: 4 }],
  ['2mad', { L: 12, K: 5, Tx: 2, Ty: 10 }],
  ['mul1', { L: 10, K: 6, Tx: 3, Ty: 5 }],
  ['mul1', { L: 9, K: 7, Tx: 5, Ty: 5 }],
  ['mcg', { L: 10, K: 8, Tx: 4, Ty: 4 }],
  ['3inst', { L: 8, K: 8, Tx: 1, Ty: 7 }],
  ['hyb', { L: 10, K: 3, V: 1, Q: 6, Tx: 4, Ty: 5 }],
  ['quantlut', { L: 10, K: 2, Q: 10, Tx: 4, Ty: 4 }],
  ['lut', { L: 9, K: 1, V: 4, Tx: 4, Ty: 8 }],
  ['lut', { L: 10, K: 2, V: 4, Tx: 4, Ty: 8 }],
  ['hyb', { L: 9, K: 2, V: 4, Q: 5, Tx: 4, Ty: 8, table: 'half-plane' }],
]
const text = (code: string, sizes: Sizes) =>
  `${code} ${Object.entries(sizes)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ')}`

t.test("values of states: the papers' tables, which are f16", async t => {
  const ops = await openBackend('cpu')
  const states = [0, 1, 2, 5, 100, 255, 256, 1000, 4096, 12345, 32767, 32768, 40000, 54321, 65535]
  const mad = await valuesOf(ops, '1mad', {})
  const sums = [325, 386, 447, 375, 560, 578, 384, 628, 504, 513, 673, 734, 423, 516, 571]
  for (const [i, s] of states.entries()) {
    const exact = (sums[i]! - 510) / 147.800537109375
    t.equal(mad[s], Math.fround(exact), `1mad ${s}`)
  }
  const inst = await valuesOf(ops, '3inst', {})
  t.strictSame(
    states.map(s => roundHalf(inst[s]!)),
    [
      0.76806640625, -0.91943359375, 0.931640625, 0.0732421875, 0.12109375, 1.2041015625, 1.0615234375, 0.98046875, 0.3359375, 1.0869140625,
      -0.8232421875, -0.498046875, 0.6591796875, -2.28515625, -0.158203125,
    ],
  )
  const { index } = trellisCodes.hyb!.table!({ L: 16, V: 2, Q: 9 })
  t.strictSame(
    states.map(s => [index(s) & 0xffff, index(s) >> 16]),
    [
      [0, 0],
      [0, 0],
      [0, 0],
      [0, 0],
      [157, 0],
      [508, 1],
      [4, 0],
      [280, 0],
      [64, 0],
      [115, 1],
      [0, 1],
      [0, 1],
      [177, 1],
      [22, 0],
      [0, 0],
    ],
  )
  const distinct = (x: Float32Array) => new Set(Array.from(x, roundHalf)).size
  const rms = (x: Float32Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length)
  t.equal(distinct(inst), 10598)
  t.ok(Math.abs(rms(inst.map(roundHalf)) - 1.24371092) < 1e-6)
  t.ok(Math.abs(rms(mad) - 1.00008834) < 1e-4)
  t.ok(distinct(mad) <= 908)
  const mul = await valuesOf(ops, 'mul1', {})
  const sum = (s: number) => Buffer.from(new Uint32Array([Math.imul(s, 0x83dcd12d)]).buffer).reduce((a, b) => a + b)
  for (const s of states) t.ok(Math.abs(mul[s]! - ((1024 + sum(s)) * 0.006767 - 10.383)) < 2e-3, `mul1 ${s}`)
  // 2mad and mcg by their definitions, in integers of any length.
  const bytes = (x: bigint) => [0n, 8n, 16n, 24n].reduce((sum, at) => sum + Number((x >> at) & 255n), 0)
  const low = (x: bigint) => x & 0xffffffffn
  const two = await valuesOf(ops, '2mad', {})
  const half = (bits: number) => (bits & 0x8000 ? -1 : 1) * (1 + (bits & 0x3ff) / 1024) * 2 ** (((bits >> 10) & 31) - 15)
  const m = await valuesOf(ops, 'mcg', {})
  for (const s of states) {
    const first = low(264435761n * BigInt(s) + 1013904223n)
    const exact = (bytes(low(((1664525n * first) >> 32n) + first)) - 510) / 147.800537109375
    t.ok(Math.abs(two[s]! - exact) <= 2 ** -11 * Math.max(1, Math.abs(exact)), `2mad ${s}: ${two[s]} is ${exact} in f16`)
    const r = Number((low(0xcbac1fedn * BigInt(s)) & 0x8fff8fffn) ^ 0x3b603b60n)
    const sum = half(r >>> 16) + half(r & 0xffff)
    t.ok(Math.abs(m[s]! - sum) <= 2 ** -11 * Math.max(1, Math.abs(sum)), `mcg ${s}: ${m[s]} is ${sum} in f16`)
  }
  t.ok(Math.abs(rms(two) - 1.00049) < 1e-4)
  t.ok(Math.abs(rms(m) - 1.2437) < 5e-4)
  // Quantiles of the Gaussian, each for as many states as any other; half a percent of it lies beyond the last.
  const quantiles = await valuesOf(ops, 'quantlut', { Q: 7 })
  t.equal(distinct(quantiles), 128)
  t.ok(Math.abs(Math.max(...quantiles) - 2.6601) < 2e-3)
  t.ok(Math.abs(quantiles.reduce((a, b) => a + b, 0)) < 1e-3)
  for (const [code, expected] of [
    ['1mad', mad],
    ['2mad', two],
    ['3inst', inst],
    ['mcg', m],
    ['mul1', mul],
  ] as const) {
    using codec = openCodec(ops, code)
    t.ok(Math.abs(codec.rms - rms(expected)) < 1e-6, `${code}: rms ${codec.rms}`)
  }
  using hyb = openCodec(ops, 'hyb')
  t.ok(Math.abs(hyb.rms - 0.96825) < 1e-3, `hyb: rms ${hyb.rms}`)
})

t.test('the reference search: worked examples and brute force', async t => {
  const ops = await openBackend('cpu')
  const values = await valuesOf(ops, '1mad', { L: 4 })
  const example: Trellis = { L: 4, KV: 1, V: 1, values }
  const x = [0.5, -1, 0.25, 1.5, -0.75, 0, -1.25, 0.4]
  t.strictSame(viterbi(example, x), [9, 3, 7, 14, 13, 11, 6, 12])
  t.strictSame(tailBiting(example, x), [9, 3, 7, 14, 13, 11, 6, 12])
  t.ok(Math.abs(distortion(example, tailBiting(example, x), x) - 2.0314486719) < 2e-3)
  t.equal(bitString(example, tailBiting(example, x)), '10011101')

  const { index } = trellisCodes.hyb!.table!({ L: 8, V: 2, Q: 4 })
  const tlut = (i: number) => [(i - 7.5) / 4, (((5 * i) % 16) - 7.5) / 4] as const
  const pairs = Array.from({ length: 256 }, (_, s) => {
    const [a, b] = tlut(index(s) & 0xffff)
    return [index(s) >> 16 ? -a : a, b]
  }).flat()
  const y = [0.31, -1.22, 0.87, 0.13, -0.45, 1.96, -0.71, 0.06, 1.17, -0.28, -1.63, 0.52, 0.74, -0.09, -0.33, 1.41]
  const hyb: Trellis = { L: 8, KV: 4, V: 2, values: pairs }
  t.strictSame(viterbi(hyb, y), [217, 151, 118, 108, 196, 73, 150, 111])
  t.strictSame(tailBiting(hyb, y), [121, 151, 118, 108, 196, 73, 151, 119])
  t.ok(Math.abs(distortion(hyb, tailBiting(hyb, y), y) - 1.4924) < 1e-4)
  t.equal(Number.parseInt(bitString(hyb, tailBiting(hyb, y)), 2).toString(16), '7976c497')

  // Every circular bit string of a tile is a path: the best of all is the best over all overlaps.
  for (const [KV, steps] of [
    [1, 8],
    [2, 4],
  ] as const) {
    const tiny: Trellis = { L: 4, KV, V: 1, values }
    const z = Array.from(gaussian(steps, KV))
    let best = Number.POSITIVE_INFINITY
    for (let bits = 0; bits < 2 ** (steps * KV); bits++) {
      const circle = bits
        .toString(2)
        .padStart(steps * KV, '0')
        .repeat(2)
      const states = Array.from({ length: steps }, (_, step) => Number.parseInt(circle.slice(step * KV, step * KV + 4), 2))
      best = Math.min(best, distortion(tiny, states, z))
    }
    const overlaps = Array.from({ length: 2 ** (4 - KV) }, (_, overlap) => distortion(tiny, viterbi(tiny, z, overlap), z))
    t.ok(Math.abs(Math.min(...overlaps) - best) < 1e-12, `KV=${KV}: ${best}`)
  }
})

t.test('encode: as good as the reference on every way the search has; decode and pack fit', async t => {
  const ops = await openBackend('cpu')
  for (const [code, sizes] of small) {
    const { L, K, Tx, Ty } = { L: 16, K: 2, Tx: 16, Ty: 16, ...sizes }
    const V = sizes.V ?? (code === 'hyb' ? 2 : 1)
    using codec = openCodec(ops, code, sizes)
    const trellis: Trellis = { L, KV: K * V, V, values: await valuesOf(ops, code, { ...sizes, L, K }) }
    const sequences = 5
    const weights = Tx * Ty
    const x = gaussian(sequences * weights, 7).map(v => v * codec.rms)
    using z = ops.tensor(x, [sequences * Tx, Ty])
    const encoded = codec.encode(z)
    using codes = encoded.codes
    using values = encoded.values
    const states = await u16(codes)
    let [ours, theirs] = [0, 0]
    for (let i = 0; i < sequences; i++) {
      const target = Array.from(x.subarray(i * weights, (i + 1) * weights))
      const path = Array.from(states.subarray((i * weights) / V, ((i + 1) * weights) / V))
      const overlap = path[0]! >> (K * V)
      const least = distortion(trellis, viterbi(trellis, target, overlap), target)
      const got = distortion(trellis, path, target)
      if (got > least * 1.005 + 1e-3) t.fail(`${text(code, sizes)}: sequence ${i} has ${got}, its best is ${least}`)
      ours += got
      theirs += distortion(trellis, tailBiting(trellis, target), target)
    }
    t.ok(ours <= theirs * 1.005, `${text(code, sizes)}: ${ours} against ${theirs}`)

    using decoded = codec.decode(codes, sequences * Tx, Ty)
    t.ok(same(await f32(decoded), await f32(values)), 'decode ∘ encode = values')
    using packed = codec.pack(codes)
    using unpacked = codec.unpack(packed)
    t.strictSame(await u16(unpacked), states, 'unpack ∘ pack = identity')
    const words = await u16(packed)
    const first = Array.from(states.subarray(0, weights / V))
    const bits = Array.from(words.subarray(0, words.length / sequences), word => word.toString(2).padStart(16, '0')).join('')
    t.equal(bits, bitString(trellis, first).padEnd(bits.length, '0'), 'the stored bits')
    t.equal(codec.bitsPerWeight, bits.length / weights)
    t.equal(codebooks[`trellis/${code}`]!.bits({ L, K, V, Tx, Ty, ...sizes }), codec.bitsPerWeight)
  }
})

t.test('few states at 4 bits: a tile with a weight far out is as good as the reference', async t => {
  const ops = await openBackend('cpu')
  for (const [code, L] of [
    ['mul1', 6],
    ['mul1', 9],
    ['1mad', 8],
  ] as const) {
    const sizes = { L, K: 4, Tx: 8, Ty: 8 }
    using codec = openCodec(ops, code, sizes)
    const trellis: Trellis = { L, KV: 4, V: 1, values: await valuesOf(ops, code, sizes) }
    const x = gaussian(4 * 64, 13).map((v, i) => codec.rms * (i % 64 === 37 ? 6 : v))
    using z = ops.tensor(x, [32, 8])
    const { codes, values } = codec.encode(z)
    values[Symbol.dispose]()
    using found = codes
    const states = await u16(found)
    const of = (i: number) => Array.from(x.subarray(64 * i, 64 * (i + 1)))
    const ours = [0, 1, 2, 3].reduce((sum, i) => sum + distortion(trellis, states.subarray(64 * i, 64 * (i + 1)), of(i)), 0)
    const theirs = [0, 1, 2, 3].reduce((sum, i) => sum + distortion(trellis, tailBiting(trellis, of(i)), of(i)), 0)
    t.ok(ours <= theirs * 1.005, `${text(code, sizes)}: ${ours} against ${theirs}`)
  }
})

t.test('the worked example, on the device', async t => {
  const ops = await openBackend('cpu')
  using codec = openCodec(ops, '1mad', { L: 4, K: 1, Tx: 1, Ty: 8 })
  using z = ops.tensor(Float32Array.of(0.5, -1, 0.25, 1.5, -0.75, 0, -1.25, 0.4), [1, 8])
  const { codes } = codec.encode(z)
  t.strictSame(Array.from(await u16(codes)), [9, 3, 7, 14, 13, 11, 6, 12])
  using packed = codec.pack(codes)
  t.equal((await u16(packed))[0], 0b1001110100000000)
})

t.test('the same codes from every instruction set, number of threads, and company of sequences', async t => {
  const cases: [string, Sizes, number][] = [
    ...small.map(([code, sizes]): [string, Sizes, number] => [code, sizes, 41]),
    ['hyb', {}, 35],
    ['mul1', {}, 9],
    ['hyb', { K: 4 }, 9],
    ['3inst', { K: 4 }, 9],
    ['lut', { L: 14, V: 2, Tx: 4, Ty: 16 }, 3],
  ]
  const devices = await everyDevice()
  for (const [code, sizes, sequences] of cases) {
    const { Tx, Ty } = { Tx: 16, Ty: 16, ...sizes }
    const x = gaussian(sequences * Tx * Ty, 11)
    let expected: Uint16Array | undefined
    for (const [name, ops] of devices) {
      if (name.startsWith('portable × 2')) continue
      using codec = openCodec(ops, code, sizes)
      using z = ops.tensor(x, [sequences * Tx, Ty])
      const { codes, values } = codec.encode(z)
      const states = await u16(codes)
      expected ??= states
      if (!same(states, expected)) t.fail(`${text(code, sizes)}: ${name} differs`)
      using alone = ops.copy(z, { rows: [(sequences - 1) * Tx, sequences * Tx] })
      const last = codec.encode(alone)
      if (!same(await u16(last.codes), expected.slice(-states.length / sequences)))
        t.fail(`${text(code, sizes)}: ${name} depends on the company`)
      for (const x of [codes, values, last.codes, last.values]) x[Symbol.dispose]()
    }
    t.pass(text(code, sizes))
  }
  for (const [name, ops] of devices) {
    await ops.finish()
    t.equal(ops.device.liveBytes, 0, `${name}: all let go`)
  }
})

t.test('numbers that are no numbers, or far away: still a closed path', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [code, sizes] of [
      ['hyb', { L: 12 }],
      ['mul1', { L: 10 }],
      ['hyb', { L: 12, K: 4 }],
      ['mul1', { L: 12, K: 6 }],
      ['mcg', { L: 12, K: 7 }],
    ] as const) {
      using codec = openCodec(ops, code, sizes)
      const x = gaussian(4 * 256, 3)
      for (const [i, odd] of [Number.NaN, Number.POSITIVE_INFINITY, -1e30, 1e9].entries()) x.fill(odd, i * 256 + 20 * i, i * 256 + 200)
      using z = ops.tensor(x, [64, 16])
      const { codes } = codec.encode(z)
      using packed = codec.pack(codes) // fails where neighbours do not overlap
      using unpacked = codec.unpack(packed)
      t.strictSame(await u16(unpacked), await u16(codes), `${name} ${code}`)
    }
  }
})

t.test('mean squared error on N(0, 1): the published figures', async t => {
  const ops = await openBackend('cpu')
  const sequences = 512
  const x = gaussian(sequences * 256, 5)
  const power = x.reduce((sum, v) => sum + v * v, 0) / x.length
  const figures: [string, number, number, number][] = [
    ['hyb', 2, 0.0706, 1],
    ['hyb', 3, 0.0189, 0.9],
    ['hyb', 4, 0.0055, 0.8],
    ['1mad', 2, 0.0684, 1],
    ['1mad', 3, 0.0175, 0.95],
    ['1mad', 4, 0.0045, 0.9],
    ['3inst', 2, 0.0684, 1],
    ['3inst', 3, 0.0177, 0.95],
    ['3inst', 4, 0.0046, 0.9],
    ['mul1', 2, 0.068, 1],
    ['mul1', 3, 0.0173, 0.95],
    ['mul1', 4, 0.0044, 0.92],
  ]
  for (const [code, K, expected, scale] of figures) {
    using codec = openCodec(ops, code, { K })
    const target = x.map(v => (v * codec.rms * scale) / Math.sqrt(power))
    using z = ops.tensor(target, [sequences * 16, 16])
    const { codes, values } = codec.encode(z)
    const got = await f32(values)
    const error = got.reduce((sum, v, i) => sum + (v - target[i]!) ** 2, 0) / got.length / (codec.rms * scale) ** 2
    t.ok(error < expected * 1.01, `${code} at ${K} bits: ${error.toFixed(5)}, published ${expected}`)
    for (const x of [codes, values]) x[Symbol.dispose]()
  }
})

t.test('mean squared error of the other codes and rates', async t => {
  const ops = await openBackend('cpu')
  // Quantiles of the Gaussian in random order: 64 sequences whose tails are right, so that figures scatter little. Published
  // are those of mcg and of lut with V = 1; the others are this search's own in f32 (README.md).
  const sequences = 64
  const next = uniform(5)
  const x = Float32Array.from({ length: sequences * 256 }, (_, i) => quantile((i + 0.5) / (sequences * 256)))
  for (let i = x.length - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1))
    ;[x[i], x[j]] = [x[j]!, x[i]!]
  }
  const power = x.reduce((sum, v) => sum + v * v, 0) / x.length
  const figures: [string, Sizes, number, number][] = [
    ['mcg', { K: 2 }, 0.0683, 1],
    ['mcg', { K: 4 }, 0.0045, 0.9],
    ['lut', { K: 2 }, 0.0681, 1],
    ['2mad', { K: 2 }, 0.0681, 1],
    ['hyb', { K: 4, table: 'half-plane' }, 0.00522, 0.85],
    ['hyb', { K: 3, table: 'half-plane' }, 0.0187, 0.95],
    ['hyb', { K: 3, V: 1, Q: 6, table: 'half-plane' }, 0.0182, 0.95],
    ['quantlut', { K: 3 }, 0.01736, 0.95],
    ['lut', { L: 12, K: 2, V: 4 }, 0.0836, 1],
    ['hyb', { K: 1 }, 0.2685, 1.15],
    ['3inst', { K: 1 }, 0.2667, 1.15],
    ['mul1', { K: 5 }, 0.00116, 0.85],
    ['mcg', { K: 6 }, 0.000314, 0.8],
    ['mul1', { K: 8 }, 0.0000202, 0.8],
  ]
  for (const [code, sizes, expected, scale] of figures) {
    using codec = openCodec(ops, code, sizes)
    const target = x.map(v => (v * codec.rms * scale) / Math.sqrt(power))
    using z = ops.tensor(target, [sequences * 16, 16])
    const { codes, values } = codec.encode(z)
    const got = await f32(values)
    const error = got.reduce((sum, v, i) => sum + (v - target[i]!) ** 2, 0) / got.length / (codec.rms * scale) ** 2
    t.ok(error < expected * 1.02, `${text(code, sizes)}: ${error.toPrecision(4)}, expected ${expected}`)
    for (const x of [codes, values]) x[Symbol.dispose]()
  }
})

t.test('parameters that contradict each other', async t => {
  const ops = await openBackend('cpu')
  for (const [code, sizes, message] of [
    ['hyb', { K: 5 }, 'trellis/hyb: K·V, the new bits of a step, is at most 8: with V = 2, K is from 1 to 4, got 5'],
    ['lut', { K: 3, V: 4 }, 'trellis/lut: K·V, the new bits of a step, is at most 8: with V = 4, K is from 1 to 2, got 3'],
    ['lut', { V: 3 }, 'trellis/lut: V, the weights of a step, must be 1, 2 or 4, got 3'],
    ['mul1', { V: 2 }, 'trellis/mul1: V, the weights of a step, must be 1, got 2'],
    ['hyb', { L: 8 }, 'trellis/hyb: Q, the bits that index the table, is at most L = 8, got 9'],
    ['mul1', { Tx: 64, Ty: 32 }, 'trellis/mul1: a tile has at most 1024 weights, got Tx·Ty = 64 × 32 = 2048'],
  ] as const) {
    t.throws(() => openCodec(ops, code, sizes), { message })
  }
  t.throws(() => openCodec(ops, 'hyb', { L: 3, K: 2 }), {
    message: 'trellis/hyb: L must be at least K·V = 4, the new bits of a step, got 3',
  })
  t.throws(() => openCodec(ops, 'hyb', { Ty: 15 }), {
    message: 'trellis/hyb: a step gives 2 weights of one row, so Ty must be a multiple of 2, got 15',
  })
  t.throws(() => openCodec(ops, 'mul1', { Tx: 1, Ty: 4 }), {
    message: 'trellis/mul1: a tile of 1 × 4 has 8 bits, too few for a state of L = 16',
  })
  using codec = openCodec(ops, 'mul1')
  using z = ops.tensor(new Float32Array(20 * 16), [20, 16])
  t.throws(() => codec.encode(z), { message: 'encode: 20 rows do not divide into tiles of 16' })
  using open = ops.tensor(
    Uint16Array.from({ length: 256 }, (_, i) => i * 17),
    [1, 256],
  )
  codec.pack(open)
  await t.rejects(ops.finish(), { message: /codes 0 and 1 of tile 0 do not overlap/ })
  using narrow = openCodec(ops, 'mul1', { L: 8 })
  using beyond = ops.tensor(new Uint16Array(256).fill(256), [1, 256])
  narrow.decode(beyond, 16, 16)
  await t.rejects(ops.finish(), { message: /code 0 of tile 0 is 256, beyond the last of 256 entries/ })
})

t.test("hyb's table and its file agree on the values", async t => {
  const file = readFileSync(join(root, 'native/codebooks/trellis/hyb-table-9.ts'), 'utf8')
  const bytes = Buffer.from([...file.matchAll(/'([^']+)',/g)].map(match => match[1]).join(''), 'base64')
  t.equal(bytes.length, 2048)
  const ops = await openBackend('cpu')
  using codec = openCodec(ops, 'hyb')
  t.equal(Buffer.compare(Buffer.from(await codec.tables.tlut!.read()), bytes), 0)
})
