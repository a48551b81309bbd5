/**
 * Every kernel of the search on a GPU, on three short sequences, against the CPU: few enough for scripts/sanitize.sh, which
 * runs this file under compute-sanitizer, some hundred times slower. With so few, where paths close to circles is chance:
 * parity.test.ts compares costs.
 */
import t from 'tap'
import { codebooks } from '../../../native/codebooks/index.js'
import { openBackend } from '../../../native/index.js'
import { testDevice } from '../../helpers.js'
import { gaussian, nmse, values } from '../devices.js'

const skip = testDevice === 'cpu' && 'PIPE_TEST_DEVICE names no GPU'
const cases: [string, Record<string, number>][] = [
  ['hyb', { K: 2 }],
  ['hyb', { K: 3 }],
  ['hyb', { K: 4 }],
  ['mul1', { K: 2 }],
  ['mul1', { K: 3 }],
  ['mul1', { K: 4 }],
  ['mul1', { K: 1, L: 10 }],
  ['mcg', { K: 6, L: 12 }],
  ['lut', { K: 2, V: 4, L: 10 }],
]

for (const [code, given] of cases) {
  t.test(`${code} ${JSON.stringify(given)}`, { skip }, async t => {
    const found: number[] = []
    for (const device of ['cpu', testDevice]) {
      const ops = await openBackend(device)
      using codec = codebooks[`trellis/${code}`]!.open(ops, { L: 16, Tx: 4, Ty: 16, ...given })
      const z = gaussian(3 * 64, 1).map(x => x * codec.rms)
      using x = ops.tensor(z, [12, 16])
      const encoded = codec.encode(x)
      using decoded = codec.decode(encoded.codes, 12, 16)
      found.push(nmse(await values(decoded), z))
      t.same(await values(decoded), await values(encoded.values), `${device}: decoding gives what the search promised`)
      using packed = codec.pack(encoded.codes)
      using unpacked = codec.unpack(packed)
      t.same(await values(unpacked), await values(encoded.codes), `${device}: unpack ∘ pack`)
      for (const tensor of [encoded.codes, encoded.values]) tensor[Symbol.dispose]()
    }
    t.ok(found[1]! <= found[0]! * 1.1, `error ${found[1]} on the GPU, ${found[0]} on the CPU`)
  })
}
