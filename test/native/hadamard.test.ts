import { createHash } from 'node:crypto'
import t from 'tap'
import type { Ops } from '../../native/ops.js'
import { hadamardBlock, hadamardFactor, hadamardText } from '../../native/ops/hadamard/hadamard.js'
import { hadamardReference } from '../../native/ops/hadamard/reference.js'
import { affordable, everyDevice, gaussian, nmse, same, values } from './devices.js'

/** Of the sign bits of M, row-major, 1 = +1, first bit highest, padded with zeros: the authors' tables. */
const hashes: Record<number, string> = {
  12: '5ed24dfa527572b5b0e5d109a4f76020a71deb10011b62e582ba6000e0e30013',
  20: 'f1f0309c0a997831c5b14dbddf3fa5635d62afb6aca32a9a82e7db4614c40521',
  28: '388c0b2f668d130fd0fab2ba5d9abdac666b89517886890c99cec84ae3c180f1',
  36: 'd56db1cfa5877c3f70a790c8f7e5fb4eb1b1fb22cb37208d96dd9c3c460dadeb',
  52: 'f80473403896af663db872b78366e32ce9ca0fe19d4099f0b118973d85b97952',
  60: '73c41ef814c170ec7b66c1964ff818e2ad04c82003c89870a06f50897131c59b',
  108: 'a213b05e570867de86d61435dc1a2d3d58e5727518b49375eca7adb87be51b3f',
  116: 'c1d8481cac4c3c6ecfb8358677021a2d36ff5922ede1d2f7c639f03f12504b79',
  124: '80789dd632daacb7c3e2347141a0ef00b62fcc510fa5a6a48b2bbca980c0f629',
  140: '3c0c825cdc56ba9e289bdb297769bf8e4be5bf56714c44735ef1390a8f553f97',
  156: 'a53703a157ee01fb3492b9b1adf9648538544f0ec081cda190516448ab7be6d9',
  172: '891685e890ac3afdc2b0b9515edd890ef601e2319f065182091bc2f4e2a3c005',
}

const identity = (n: number): Float32Array => Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0))

t.test('the matrices are those of the authors', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [order, hash] of affordable(Object.entries(hashes), ([order]) => Number(order) ** 2)) {
      const K = Number(order)
      const h = await values(ops.hadamard(ops.tensor(identity(K), [K, K]), { side: 'right', block: K })) // I·M/√K
      const bytes = new Uint8Array(Math.ceil((K * K) / 8))
      h.forEach((value, i) => {
        if (value > 0) bytes[i >> 3]! |= 0x80 >> (i & 7)
      })
      t.equal(createHash('sha256').update(bytes).digest('hex'), hash, `${name} ${K}`)
      t.ok(
        h.every(value => Math.abs(Math.abs(value) * Math.sqrt(K) - 1) < 1e-6),
        'entries ±1/√K',
      )
    }
  }
})

t.test('check vectors: had (inverse) and hadT of one row', async t => {
  const counting = (n: number) => Float32Array.from({ length: n }, (_, i) => i + 1)
  const had24 = [-294, 10, 54, -2, 14, -2, 62, -2, 22, -2, -18, -2, -58, -2, -10, -2, 38, -2, 86, -2, 46, -2, 94, -2]
  const hadT24 = [300, -12, -40, 0, 8, 0, -32, 0, 16, 0, 64, 0, 112, 0, 72, 0, 32, 0, -8, 0, 40, 0, 0, 0]
  const both56 = [1478, -26, 6, -2, -98, -2, 6, -2, -98, -2, -202, -2]
  const cases: [Float32Array, boolean, number[]][] = [
    [counting(8), true, [36, -4, -8, 0, -16, 0, 0, 0]],
    [counting(24), true, had24],
    [counting(24), false, hadT24],
    [counting(56), true, both56],
    [counting(56), false, both56],
    [counting(104).map(i => (i * i) % 17), true, [-97, 51, 67, -37, -25, 11, -109, -9, -9, 39, -19, -11]],
    [counting(104).map(i => (i * i) % 17), false, [-45, -57, -9, 55, -65, 35, 147, -57, 147, -13, 45, -3]],
  ]
  for (const [name, ops] of await everyDevice()) {
    for (const [x, inverse, expected] of cases) {
      for (const side of ['left', 'right'] as const) {
        const n = x.length
        const y = await values(ops.hadamard(ops.tensor(x, side === 'left' ? [n, 1] : [1, n]), { side, block: n, inverse }))
        // left: Hᵀ·x of a column is x·H of a row, and the other way round
        t.ok(
          expected.every((value, i) => Math.abs(y[i]! * Math.sqrt(n) - value) < 1e-3),
          `${name} ${side} ${n} ${inverse}`,
        )
      }
    }
  }
})

/** Rows of x [m, n] transformed by the definition, block by block. */
const expectedRight = (x: Float32Array, n: number, block: number, signs: Float32Array, inverse: boolean): Float64Array => {
  const K = hadamardFactor(block)!.K
  const out = new Float64Array(x.length)
  for (let at = 0; at < x.length; at += block) {
    const s = (i: number) => signs[(at + i) % n]!
    const y = hadamardReference(
      Float64Array.from({ length: block }, (_, i) => x[at + i]! * (inverse ? 1 : s(i))),
      K,
      inverse,
    )
    for (let i = 0; i < block; i++) out[at + i] = y[i]! * (inverse ? s(i) : 1)
  }
  return out
}

const transposed = (x: ArrayLike<number>, m: number, n: number): Float32Array =>
  Float32Array.from({ length: m * n }, (_, i) => x[(i % m) * n + Math.floor(i / m)]!)

t.test('every size, side and direction, with signs and in blocks', async t => {
  // [length, block]: 1, 2, odd counts of blocks, each vector width and tile from below and above, every kind of factor
  const sizes: [number, number][] = [
    [1, 1],
    [2, 2],
    [3, 1],
    [4, 4],
    [8, 8],
    [16, 16],
    [32, 32],
    [64, 64],
    [128, 128],
    [512, 512],
    [12, 12],
    [24, 24],
    [40, 40],
    [28, 28],
    [56, 56],
    [80, 16],
    [44, 4],
    [96, 96],
    [144, 144],
    [208, 208],
    [344, 344],
    [48, 24],
    [120, 40],
    [688, 688],
    [248, 124],
    [2048, 2048],
  ]
  const bits = new Map<string, Uint8Array>()
  const answers = new Map<string, Float64Array>()
  for (const [name, ops] of await everyDevice()) {
    for (const [length, block] of affordable(sizes, ([length]) => 9 * length)) {
      for (const count of length <= 64 ? [1, 5, 33] : [3]) {
        const x = gaussian(length * count, length)
        const s = gaussian(length, 7)
        const signs = ops.tensor(s, [length])
        for (const inverse of [false, true]) {
          const question = `${count} ${length} ${block} ${inverse}`
          const expected = answers.get(question) ?? expectedRight(x, length, block, s, inverse)
          answers.set(question, expected)
          const right = ops.hadamard(ops.tensor(x, [count, length]), { side: 'right', signs, block, inverse })
          const left = ops.hadamard(ops.tensor(transposed(x, count, length), [length, count]), { side: 'left', signs, block, inverse })
          const [a, b] = [nmse(await values(right), expected), nmse(await values(left), transposed(expected, count, length))]
          t.ok(
            a < 1e-12 && b < 1e-12,
            `${name} ${count} × ${hadamardText(length, block)}${inverse ? ' inverse' : ''}: right ${a}, left ${b}`,
          )
          const key = `${name.split(' ')[0]} ${length} ${block} ${count} ${inverse}`
          const bytes = Buffer.concat([await right.read(), await left.read()])
          const before = bits.get(key)
          if (before) t.ok(same(before, bytes), 'threads change no bit')
          bits.set(key, bytes)
        }
      }
    }
  }
})

t.test('real sizes: the inverse undoes it, norms stay, the thread count changes no bit', async t => {
  const bits = new Map<string, Uint8Array>()
  for (const [name, ops] of await everyDevice()) {
    for (const [m, n] of affordable(
      [
        [64, 4096],
        [37, 11008],
        [40, 5632],
      ] as const,
      ([m, n]) => (m * n) / 20,
    )) {
      const block = hadamardBlock(n)
      const x = gaussian(m * n, 11)
      const signs = ops.tensor(
        gaussian(n, 12).map(value => Math.sign(value)),
        [n],
      )
      for (const side of ['right', 'left'] as const) {
        const from = ops.tensor(x, side === 'right' ? [m, n] : [n, m])
        const there = ops.hadamard(from, { side, signs, block })
        const back = ops.hadamard(there, { side, signs, block, inverse: true })
        t.ok(nmse(await values(back), x) < 1e-12, `${name} ${side} ${hadamardText(n, block)}`)
        const [before, after] = [await values(ops.sumSquares(from)), await values(ops.sumSquares(there))]
        t.ok(Math.abs(after[0]! / before[0]! - 1) < 1e-6, 'norm')
        const key = `${name.split(' ')[0]} ${side} ${n}`
        const bytes = await there.read()
        if (bits.has(key)) t.ok(same(bits.get(key)!, bytes), 'threads')
        bits.set(key, bytes)
      }
    }
  }
})

t.test('which block a size gets, and what tables say', t => {
  t.same(hadamardFactor(11008), { K: 172, p: 6 })
  t.same(hadamardFactor(4096), { K: 1, p: 12 })
  t.same(
    [3072, 5120, 3584, 18432, 6656, 15360, 13824, 17920].map(n => hadamardFactor(n)?.K),
    [12, 20, 28, 36, 52, 60, 108, 140],
  )
  t.same(
    [5632, 9728, 18944, 25600].map(n => hadamardFactor(n)),
    [undefined, undefined, undefined, undefined],
  )
  t.same(
    [5632, 25600, 7, 688].map(n => hadamardBlock(n)),
    [512, 1024, 1, 688],
  )
  t.equal(hadamardBlock(5632, 256), 256, 'no larger than asked for')
  t.equal(hadamardText(688, 688), '172x4')
  t.equal(hadamardText(256, 256), '256')
  t.equal(hadamardText(64, 16), '64 in blocks of 16')
  t.equal(hadamardText(24, 12), '24 in blocks of 12x1')
  t.end()
})

t.test('wrong arguments are refused with a sentence', async t => {
  const ops = (await everyDevice())[0]![1] as Ops
  const x = ops.zeros('f32', [4, 44])
  t.throws(() => ops.hadamard(x, { side: 'right', block: 44 }), {
    message: 'hadamard: no matrix of order 44 is known; hadamardBlock(44) is 4',
  })
  t.throws(() => ops.hadamard(x, { side: 'right', block: 8 }), {
    message: 'hadamard: block 8 does not divide 44, the right side of x [4, 44]',
  })
  t.throws(() => ops.hadamard(x, { side: 'left', block: 4, signs: ops.zeros('f32', [44]) }), {
    message: 'hadamard: signs must be f32 [4], got f32 [44]',
  })
  t.throws(() => ops.hadamard(x, { side: 'left', block: 0 }), { message: 'hadamard: block must be a whole number from 1, got 0' })
})
