/** Tiles whose weights are walked in the order of a tensor core's operand: the same search, other places. */
import t from 'tap'
import { codebooks } from '../../../native/codebooks/index.js'
import { kernelOrder } from '../../../native/codebooks/trellis/kernel-layout.js'
import type { Ops } from '../../../native/ops.js'
import { everyDevice, gaussian, same } from '../devices.js'

const [m, n] = [48, 32]
const devices = await everyDevice()
const open = (ops: Ops, order: string, sizes = {}) =>
  codebooks['trellis/hyb']!.open(ops, { L: 10, K: 2, V: 2, Q: 4, Tx: 16, Ty: 16, order, ...sizes })

/** Where element i of a column block [m, 16] stands when its tiles are walked in the order. */
const place = (i: number): number => (i & ~255) + kernelOrder[i & 255]!

t.test('codes are those of the reordered tile, values stand where the weights stood, decode puts them there', async t => {
  for (const [name, ops] of devices) {
    const x = gaussian(m * 16, 5)
    using rows = open(ops, 'rows')
    using cores = open(ops, 'tensor-core')
    using z = ops.tensor(x, [m, 16])
    using walked = ops.tensor(
      x.map((_, i) => x[place(i)]!),
      [m, 16],
    )
    const [expected, got] = [rows.encode(walked), cores.encode(z)]
    t.ok(same(await got.codes.read(), await expected.codes.read()), `${name}: codes`)
    const values = new Float32Array((await expected.values.read()).slice().buffer)
    const back = new Float32Array(m * 16)
    for (const [i, value] of values.entries()) back[place(i)] = value
    t.ok(same(await got.values.read(), new Uint8Array(back.buffer)), `${name}: values`)
    using decoded = cores.decode(got.codes, m, 16)
    t.ok(same(await decoded.read(), await got.values.read()), `${name}: decode`)
    // Tiles beside each other: two column blocks, the tiles of a row of tiles one after the other.
    using other = ops.tensor(gaussian(m * 16, 6), [m, 16])
    const second = cores.encode(other)
    using both = ops.zeros('u16', [m / 16, 256])
    ops.paste(both, got.codes, { column: 0 })
    ops.paste(both, second.codes, { column: 128 })
    using codes = ops.reshape(both, [(m / 16) * 2, 128])
    using wide = cores.decode(codes, m, n)
    for (const [column, block] of [got, second].entries()) {
      using part = ops.copy(wide, { columns: [16 * column, 16 * column + 16] })
      t.ok(same(await part.read(), await block.values.read()), `${name}: column block ${column}`)
    }
    for (const { codes, values } of [expected, got, second]) for (const tensor of [codes, values]) tensor[Symbol.dispose]()
  }
})

t.test('only tiles of 16 × 16 have it', async t => {
  for (const [, ops] of devices)
    t.throws(() => open(ops, 'tensor-core', { Tx: 8 }), {
      message: 'trellis/hyb: the order "tensor-core" is one of tiles of 16 × 16, got 8 × 16',
    })
})

t.test('nothing is left on the device', async t => {
  for (const [name, ops] of devices) {
    await ops.finish()
    t.equal(ops.device.liveBytes, 0, name)
  }
})
