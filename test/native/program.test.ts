/** Recorded programs: every run is the ops that were recorded, on what their tensors hold then. */
import t from 'tap'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { backends } from '../helpers.js'
import { gaussian, nmse, values } from './devices.js'

const bytes = (x: Int32Array | Float32Array): Uint8Array => new Uint8Array(x.buffer, x.byteOffset, x.byteLength)

/** What programs of decoding are made of: rows of a table, norms, products, attention over a cache that grows, the best. */
function network(ops: Ops) {
  const [v, d, heads, capacity] = [50, 64, 4, 12]
  const table = ops.tensor(gaussian(v * d, 1), [v, d])
  const norm = ops.tensor(gaussian(d, 2), [d])
  const matrix = ops.tensor(gaussian(d * d, 3), [d, d])
  const signs = ops.tensor(gaussian(d, 4), [d])
  const angles = gaussian((capacity * d) / heads / 2, 5)
  const [cos, sin] = [angles.map(Math.cos), angles.map(Math.sin)].map(x => ops.tensor(x, [capacity, d / heads / 2])) as [Tensor, Tensor]
  const [keys, values] = [0, 1].map(() => ops.zeros('f32', [capacity, d])) as [Tensor, Tensor]
  const owned = [table, norm, matrix, signs, cos, sin, keys, values]
  /** ids, slots and positions i32 [t] → logits f32 [t, v] and the best token of each row, into tensors of the caller. */
  const run = (ids: Tensor, slots: Tensor, positions: Tensor, logits: Tensor, best: Tensor): void => {
    using x = ops.embed(table, ids)
    using a = ops.rmsnorm(x, norm, { eps: 1e-5 })
    using b = ops.hadamard(a, { side: 'right', signs, block: d })
    using q = ops.matmul(b, matrix, { transposeB: true })
    using o = ops.attendCache(q, b, a, { slots, positions }, { keys, values, cos, sin }, { heads, kvHeads: heads, scale: 0.2 })
    using y = ops.add(x, o)
    using head = ops.matmul(y, table, { transposeB: true })
    using first = ops.argmax(head)
    ops.assign(logits, head)
    ops.assign(best, first)
  }
  return { v, run, [Symbol.dispose]: () => owned.forEach(x => void x[Symbol.dispose]()) }
}

for (const { name, skip, open } of backends) {
  t.test(`${name}: runs of a program give what its ops give`, { skip }, async t => {
    const ops = await open()
    {
      using direct = network(ops)
      using recorded = network(ops)
      const results = { logits: ops.zeros('f32', [1, direct.v]), best: ops.zeros('i32', [1]) }
      const again = { logits: ops.zeros('f32', [1, direct.v]), best: ops.zeros('i32', [1]) }
      const inputs = [0, 0, 0].map(() => ops.zeros('i32', [1])) as [Tensor, Tensor, Tensor]
      let calls = 0
      const program = ops.device.record(() => {
        calls++
        recorded.run(...inputs, again.logits, again.best)
      })
      t.equal(calls, 1)
      for (let step = 0; step < 6; step++) {
        const ids = [(step * 13 + 5) % direct.v, 0, step]
        for (const [i, x] of inputs.entries()) ops.device.write(x, bytes(Int32Array.of(ids[i]!)))
        direct.run(...inputs, results.logits, results.best)
        program.run()
        t.ok(nmse(await values(again.logits), await values(results.logits)) < 1e-11, `run ${step}`)
        t.strictSame(await values(again.best), await values(results.best))
      }
      t.equal(calls, 1)
      t.equal(program.form(), name === 'cuda' ? 'graph' : 'ops')

      // Many in a row, nothing read between them: the same as one by one.
      for (let step = 6; step < 12; step++) {
        for (const [i, x] of inputs.entries()) ops.device.write(x, bytes(Int32Array.of([step, 0, step][i]!)))
        direct.run(...inputs, results.logits, results.best)
      }
      for (let step = 6; step < 12; step++) {
        for (const [i, x] of inputs.entries()) ops.device.write(x, bytes(Int32Array.of([step, 0, step][i]!)))
        program.run()
      }
      t.ok(nmse(await values(again.logits), await values(results.logits)) < 1e-11, 'six runs, then a read')
      program[Symbol.dispose]()
      t.throws(() => program.run(), { message: 'run: the program was disposed' })
      for (const x of [...inputs, ...Object.values(results), ...Object.values(again)]) x[Symbol.dispose]()
    }
    await ops.finish()
    t.equal(ops.device.liveBytes, 0)
  })

  t.test(`${name}: what was made meanwhile is the program's`, { skip }, async t => {
    const ops = await open()
    const x = ops.tensor(new Float32Array(1000).fill(2), [1, 1000])
    const out = ops.zeros('f32', [1, 1000])
    const program = ops.device.record(() => {
      using twice = ops.add(x, x)
      using more = ops.add(twice, x)
      ops.assign(out, more)
    })
    x[Symbol.dispose]() // the program has it still
    for (let run = 0; run < 4; run++) program.run()
    t.equal((await values(out))[999], 6)
    await ops.finish()
    t.ok(ops.device.liveBytes >= 4 * 4000, 'x, both sums, the result')
    program[Symbol.dispose]()
    await ops.finish()
    t.equal(ops.device.liveBytes, 4000)
    out[Symbol.dispose]()
  })

  t.test(`${name}: what cannot be recorded is said, and the device goes on`, { skip }, async t => {
    const ops = await open()
    using x = ops.tensor(Float32Array.of(1, 2), [1, 2])
    let read: Promise<Uint8Array> | undefined
    ops.device
      .record(() => {
        read = x.read()
      })
      [Symbol.dispose]()
    await t.rejects(read!, { message: 'read: a recording is under way' })
    t.throws(() => ops.device.record(() => ops.device.write(x, new Uint8Array(8))), { message: 'write: a recording is under way' })
    t.throws(() => ops.device.write(x, new Uint8Array(4)), { message: 'write: the tensor has another size' })
    const thrown = new Error('of the caller')
    t.throws(
      () =>
        ops.device.record(() => {
          using _ = ops.add(x, x)
          throw thrown
        }),
      thrown,
    )
    using sum = ops.add(x, x)
    t.strictSame([...(await values(sum))], [2, 4])
  })
}

t.test('cpu: a run that fails is reported, and the next is not troubled by it', async t => {
  const ops = await backends[0]!.open()
  using table = ops.tensor(Float32Array.of(1, 2, 3), [3, 1])
  using ids = ops.tensor(Int32Array.of(7), [1])
  using out = ops.zeros('f32', [1, 1])
  using program = ops.device.record(() => {
    using row = ops.embed(table, ids)
    ops.assign(out, row)
  })
  program.run()
  await t.rejects(out.read(), { message: 'embed: token 0 is 7, and the table has 3 rows' })
  ops.device.write(ids, bytes(Int32Array.of(2)))
  program.run()
  t.strictSame([...(await values(out))], [3])
})

for (const { name, skip, open } of backends)
  t.test(`${name}: advance: the likeliest are the next ids, and positions go on by one, run by run`, { skip }, async t => {
    const ops = await open()
    for (const n of [1, 3, 700]) {
      const [start, first, then] = [1, 2, 3].map(by => Int32Array.from({ length: n }, (_, i) => (i * 7919 * by) % 32_000))
      {
        using ids = ops.zeros('i32', [n])
        using positions = ops.tensor(start!, [n])
        using best = ops.tensor(first!, [n])
        using program = ops.device.record(() => ops.advance(ids, positions, best))
        for (let run = 1; run <= 4; run++) {
          if (run === 4) ops.device.write(best, bytes(then!))
          program.run()
          t.strictSame(await values(ids), run === 4 ? then : first, `[${n}], run ${run}`)
          t.strictSame(
            await values(positions),
            start!.map(position => position + run),
          )
        }
        t.throws(() => ops.advance(ids, ids, best), /three tensors/)
        using other = ops.zeros('i32', [n + 1])
        t.throws(() => ops.advance(other, positions, best), { name: 'TypeError', message: /ids must be i32/ })
      }
      await ops.finish()
      t.equal(ops.device.liveBytes, 0)
    }
  })
