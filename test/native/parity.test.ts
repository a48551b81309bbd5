/** The same inputs on the CPU and on a GPU: decoded values to the bit, searches at the same cost, sums within rounding. */
import t from 'tap'
import { codebooks } from '../../native/codebooks/index.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { backends, close } from '../helpers.js'
import { gaussian, nmse, same, values } from './devices.js'

const [cpu, cuda] = backends as [(typeof backends)[number], (typeof backends)[number]]
const skip = cuda.skip

/** Runs the same verbs on both. */
const onBoth = async (f: (ops: Ops) => Promise<Float32Array>): Promise<[Float32Array, Float32Array]> => {
  const results: Float32Array[] = []
  for (const { open } of [cpu, cuda]) results.push(await f(await open()))
  return results as [Float32Array, Float32Array]
}
const floats = async (x: Tensor): Promise<Float32Array> => Float32Array.from(await values(x))

const codes: [string, Record<string, number | string>][] = [
  ['scalar', { K: 2 }],
  ['trellis/hyb', { K: 2 }],
  ['trellis/hyb', { K: 3 }],
  ['trellis/hyb', { K: 4 }],
  ...['trellis/1mad', 'trellis/3inst', 'trellis/mul1'].flatMap(use =>
    [1, 2, 3, 4].map(K => [use, { K }] as [string, Record<string, number | string>]),
  ),
  ['trellis/lut', { K: 2, L: 12 }],
  ['trellis/lut', { K: 3, L: 16 }],
  ['trellis/hyb', { K: 1 }],
  ['trellis/hyb', { K: 4, table: 'half-plane' }],
  ['trellis/hyb', { K: 3, V: 1, Q: 6 }],
  ['trellis/hyb', { K: 2, V: 4, Q: 5, L: 12, Tx: 8, Ty: 64 }],
  ['trellis/quantlut', { K: 2 }],
  ['trellis/2mad', { K: 2 }],
  ['trellis/mcg', { K: 2, Tx: 32, Ty: 32 }],
  ['trellis/mcg', { K: 3 }],
  ['trellis/mcg', { K: 7 }],
  ['trellis/mul1', { K: 5 }],
  ['trellis/mul1', { K: 6, Tx: 6, Ty: 10 }],
  ['trellis/mul1', { K: 8, L: 12 }],
  ['trellis/lut', { K: 2, V: 4, L: 12 }],
  ['trellis/lut', { K: 3, V: 2, L: 14, Tx: 4, Ty: 16 }],
]
/** Of a Gaussian, in units of the code's own root mean square, by K: about where the error is least. */
const sourceScale = [1, 1, 0.95, 0.9, 0.85, 0.8, 0.8, 0.8]
const defaults: Record<string, number> = { L: 16, Q: 9, seed: 0, Tx: 16, Ty: 16 }

for (const [use, given] of codes) {
  t.test(`${use} ${JSON.stringify(given)}: cost, decoding, stored form`, { skip }, async t => {
    const codebook = codebooks[use]!
    const params = Object.fromEntries(Object.entries(defaults).filter(([key]) => key in codebook.params.properties))
    const { Tx, Ty, K } = { ...params, ...given } as { Tx: number; Ty: number; K: number }
    const [m, n] = [Tx * 96, Ty]
    const found: { error: number; codes: Uint16Array }[] = []
    const [both0, both1] = await onBoth(async ops => {
      using codec = codebook.open(ops, { ...params, ...given })
      const z = gaussian(m * n, 7).map(x => x * codec.rms * sourceScale[K - 1]!)
      using x = ops.tensor(z, [m, n])
      const first = codec.encode(x)
      const second = codec.encode(x)
      const codes = (await values(first.codes)) as Uint16Array
      t.ok(same(codes, (await values(second.codes)) as Uint16Array), `${ops.device.name}: a second run gives the same codes`)
      found.push({ error: nmse(await values(first.values), z), codes })
      using decoded = codec.decode(first.codes, m, n)
      t.ok(same(await floats(decoded), await floats(first.values)), `${ops.device.name}: decoding gives what the search promised`)
      using packed = codec.pack(first.codes)
      using unpacked = codec.unpack(packed)
      t.ok(same((await values(unpacked)) as Uint16Array, codes), `${ops.device.name}: unpack ∘ pack`)
      // the CPU's codes through both
      using given0 = ops.tensor(found[0]!.codes, first.codes.shape)
      using stored = codec.pack(given0)
      using again = codec.decode(given0, m, n)
      return Float32Array.from([...(await floats(again)), ...((await values(stored)) as Int16Array)])
    })
    t.ok(same(both0, both1), 'the same codes decode and pack to the same bits')
    t.ok(found[1]!.error <= found[0]!.error * 1.002, `error ${found[1]!.error} on the GPU, ${found[0]!.error} on the CPU`)
  })
}

t.test('hadamard: real sizes, both sides', { skip }, async t => {
  for (const [m, n, block] of [
    [64, 4096, 4096],
    [16, 11008, 11008],
    [32, 14336, 14336],
    [64, 688, 688],
    [8, 28672, 28672],
    [33, 5632, 512],
  ] as const) {
    for (const side of ['right', 'left'] as const) {
      for (const inverse of [false, true]) {
        const [a, b] = await onBoth(async ops => {
          const shape = side === 'right' ? [m, n] : [n, m]
          using x = ops.tensor(gaussian(m * n, 1), shape)
          using signs = ops.tensor(gaussian(n, 2), [n])
          using y = ops.hadamard(x, { side, signs, block, inverse })
          return floats(y)
        })
        close(t, b, a, 1e-12, `${m} × ${n} in blocks of ${block}, ${side}${inverse ? ', inverse' : ''}`)
      }
    }
  }
})

t.test('gram, damp, blockLdl, proxyError at n = 1376', { skip }, async t => {
  const [tokens, n] = [1500, 1376]
  const results: Float32Array[][] = []
  for (const { open } of [cpu, cuda]) {
    const ops = await open()
    using x = ops.tensor(gaussian(tokens * n, 3), [tokens, n])
    using h64 = ops.zeros('f64', [n, n])
    using skipped = ops.zeros('f64', [1])
    ops.gram(h64, x, skipped)
    using h = ops.cast(h64, 'f32')
    using damped = ops.damp(h, 0.01)
    const { l, pivot } = ops.blockLdl(damped, 16)
    using w = ops.tensor(gaussian(64 * n, 4), [64, n])
    using v = ops.tensor(gaussian(64 * n, 5), [64, n])
    using proxy = ops.proxyError(w, v, damped)
    t.same(Array.from(await values(pivot)), [-1, 0], ops.device.name)
    results.push([await floats(h64), await floats(damped), await floats(l), await floats(proxy)])
    for (const tensor of [l, pivot]) tensor[Symbol.dispose]()
  }
  for (const [i, name] of ['gram', 'damp', 'blockLdl', 'proxyError'].entries()) close(t, results[1]![i]!, results[0]![i]!, 1e-8, name)
})
