/** The scalar codebook: nearest level, and the contract that every codebook keeps. */
import t from 'tap'
import { codebooks } from '../../../native/codebooks/index.js'
import { fromHalf, roundHalf, toHalf } from '../../../native/codebooks/half.js'
import { openBackend } from '../../../native/index.js'
import type { Tensor } from '../../../native/tensor.js'
import { everyDevice, gaussian, same } from '../devices.js'

const f32 = async (x: Tensor): Promise<Float32Array> => new Float32Array((await x.read()).slice().buffer)

t.test('half precision: every value comes back, ties go to even', async t => {
  for (let bits = 0; bits < 65536; bits++) {
    const x = fromHalf(bits)
    if (!Number.isNaN(x) && toHalf(x) !== bits) t.fail(`${bits.toString(16)} is ${x}, which becomes ${toHalf(x).toString(16)}`)
  }
  t.equal(roundHalf(1 + 2 ** -11), 1)
  t.equal(roundHalf(1 + 3 * 2 ** -11), 1 + 2 ** -9)
  t.equal(roundHalf(2 ** -25), 0)
  t.equal(roundHalf(1.5 * 2 ** -24), 2 ** -23)
  t.equal(toHalf(65519), 0x7bff)
  t.equal(toHalf(-65520), 0xfc00)
})

t.test('the nearest level; decode, pack and unpack; least squared error', async t => {
  const errors = [0.3634, 0.1175, 0.03454, 0.009497]
  for (const [name, ops] of await everyDevice()) {
    for (const K of [1, 2, 3, 4]) {
      const [Tx, Ty] = K === 3 ? [3, 7] : [16, 16]
      const params = { K, Tx, Ty }
      using codec = codebooks.scalar!.open(ops, params)
      const m = Tx * (name.endsWith('1') ? 2000 : 3)
      const x = gaussian(m * Ty, K)
      using z = ops.tensor(x, [m, Ty])
      const { codes, values } = codec.encode(z)
      using levels = codec.decode(codes, m, Ty)
      const got = await f32(values)
      t.ok(same(await f32(levels), got), `${name} K=${K}: decode ∘ encode = values`)
      const all = [...new Set(got)]
      t.equal(all.length, 2 ** K)
      if (x.some((v, i) => all.some(level => Math.abs(level - v) < Math.abs(got[i]! - v) - 1e-12))) t.fail('a nearer level exists')
      if (name.endsWith('1')) {
        const error = x.reduce((sum, v, i) => sum + (v - got[i]!) ** 2, 0) / x.length
        t.ok(Math.abs(error / errors[K - 1]! - 1) < 0.03, `${name} K=${K}: ${error}, expected ${errors[K - 1]}`)
      }
      using packed = codec.pack(codes)
      using unpacked = codec.unpack(packed)
      t.ok(same(await unpacked.read(), await codes.read()), 'unpack ∘ pack = identity')
      t.equal(codec.bitsPerWeight, (packed.shape[1]! * 16) / (Tx * Ty))
      t.equal(codebooks.scalar!.bits(params), codec.bitsPerWeight)
      codes[Symbol.dispose]()
      values[Symbol.dispose]()
    }
  }
})

t.test('every codebook says what it is', async t => {
  for (const [name, codebook] of Object.entries(codebooks)) {
    t.equal(codebook.name, name)
    t.ok(codebook.about.length > 10 && codebook.about.length < 160)
    for (const [key, { description }] of Object.entries(codebook.params.properties as Record<string, { description?: string }>)) {
      t.ok(description, `${name}.${key} is described`)
    }
    t.equal(codebook.params.additionalProperties, false)
  }
  t.strictSame(Object.keys(codebooks), [
    'scalar',
    ...['hyb', 'quantlut', '1mad', '2mad', '3inst', 'mcg', 'mul1', 'lut'].map(name => `trellis/${name}`),
  ])
})

t.test('everything is let go', async t => {
  const ops = await openBackend('cpu')
  for (const codebook of Object.values(codebooks)) {
    using codec = codebook.open(ops, { L: 16, K: 2, V: 1, Q: 9, seed: 0, Tx: 16, Ty: 16 })
    t.ok(codec.rms > 0.5 && codec.rms < 1.5)
  }
  t.equal(ops.device.liveBytes, 0)
})
