import t from 'tap'
import type { PipeError } from '../../pipeline/error.js'
import { Memory } from '../../pipeline/memory.js'
import { FakeDevice } from './fake.js'

const ending = new AbortController()
t.teardown(() => ending.abort()) // those who still wait
const never = ending.signal
const unexpected = (error: unknown): void => {
  throw error
}
const later = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))
/** 'in' if the slot is given within a moment. */
const soon = (slot: Promise<Disposable>): Promise<string> =>
  Promise.race([
    slot.then(
      () => 'in',
      () => 'refused',
    ),
    later(40).then(() => 'waits'),
  ])

t.test('waits while what is alive, promised and asked for is over the limit', async t => {
  const device = new FakeDevice()
  const memory = new Memory(device, 100, never, unexpected)
  const x = device.upload(new Uint8Array(60), 'u8', [60])
  const first = await memory.room('a', 30)
  const second = memory.room('b', 30)
  t.equal(await soon(second), 'waits', '60 + 30 + 30 > 100')
  t.equal(await soon(memory.room('c', 10)), 'in', 'a smaller one behind it fits')
  first[Symbol.dispose]()
  t.equal(await soon(second), 'in', 'a slot given back makes room')
  const third = memory.room('d', 40)
  t.equal(await soon(third), 'waits')
  x[Symbol.dispose]()
  t.equal(await soon(third), 'in', 'a tensor disposed makes room')
})

t.test('a covering slot and the tensors of its holder count once', async t => {
  const device = new FakeDevice()
  const memory = new Memory(device, 100, never, unexpected)
  await memory.room('batch', 60, true)
  device.upload(new Uint8Array(50), 'u8', [50])
  t.equal(memory.used, 60)
  t.equal(await soon(memory.room('next', 50, true)), 'waits')
  t.equal(await soon(memory.room('small', 40, true)), 'in')
})

t.test('what could never fit is let in alone', async t => {
  const device = new FakeDevice()
  const memory = new Memory(device, 100, never, unexpected)
  const large = await memory.room('large', 1000)
  const other = memory.room('other', 1)
  t.equal(await soon(other), 'waits')
  large[Symbol.dispose]()
  t.equal(await soon(other), 'in')
})

t.test('stuck: says who holds what, and names --memory', async t => {
  const device = new FakeDevice()
  const memory = new Memory(device, 1000, never, unexpected, 60)
  device.upload(new Uint8Array(700), 'u8', [700])
  await memory.room('calibrate', 200)
  const error = await memory.room('hessian', 400).then(
    () => undefined,
    (e: unknown) => e as PipeError,
  )
  t.equal(error?.code, 'memory')
  const [held, hint] = (error?.text ?? '').split('\n')
  t.match(held, /^Nobody has freed memory for 0 s: 700 bytes of 1\.0 kB are alive, promised to calibrate 200 bytes, /)
  t.match(held, /while these wait for room: hessian 400 bytes\.$/)
  t.match(hint, /^Give more with --memory/)
})

t.test('stuck: waiting a little for an empty queue, on a machine with other work, is no sign of life', async t => {
  const device = new FakeDevice()
  device.finish = () => later(10)
  const memory = new Memory(device, 1000, never, unexpected, 1000)
  await memory.room('calibrate', 900)
  const refused = memory.room('hessian', 400).then(
    () => 'in',
    (error: PipeError) => error.code,
  )
  t.equal(await Promise.race([refused, later(10_000).then(() => 'waits')]), 'memory')
})

t.test('what those keep who wait is not waited for: they are let in one at a time, the oldest first', async t => {
  const device = new FakeDevice()
  const memory = new Memory(device, 100, never, unexpected, 600)
  device.upload(new Uint8Array(90), 'u8', [90])
  const first = memory.room('block', 50)
  const second = memory.room('chunk', 20)
  t.equal(await soon(first), 'waits', 'somebody may free something yet')
  const slot = await first
  t.equal(await soon(second), 'waits')
  slot[Symbol.dispose]()
  t.equal(await soon(second), 'in', 'what was kept is known now')
})

t.test('a queue that runs is not stuck', async t => {
  const device = new FakeDevice()
  const x = device.upload(new Uint8Array(90), 'u8', [90])
  device.finish = () => later(200) // an op that takes its time
  const memory = new Memory(device, 100, never, unexpected, 60)
  const slot = memory.room('a', 50)
  setTimeout(() => x[Symbol.dispose](), 150)
  await t.resolves(slot)
})

t.test('a stop refuses those who wait, and those who come', async t => {
  const device = new FakeDevice()
  const abort = new AbortController()
  const memory = new Memory(device, 10, abort.signal, unexpected)
  await memory.room('a', 10)
  const waiting = memory.room('b', 10)
  abort.abort(new Error('stop'))
  await t.rejects(waiting, /stop/)
  await t.rejects(memory.room('c', 1), /stop/)
})

t.test('a failed op that comes to light while waiting is told', async t => {
  const device = new FakeDevice()
  device.upload(new Uint8Array(10), 'u8', [10])
  device.finish = () => Promise.reject(new Error('op failed'))
  const told: unknown[] = []
  const memory = new Memory(device, 10, never, error => {
    told.push(error)
    return error
  })
  await t.rejects(memory.room('a', 5), /op failed/)
  t.match(told, [/op failed/])
})

t.test('a failure that its own batch will find goes unsaid, and who waits gets in when there is room', async t => {
  const device = new FakeDevice()
  const x = device.upload(new Uint8Array(90), 'u8', [90])
  let failures = 0
  device.finish = async () => {
    if (failures++ === 0) throw new Error('memory was out')
  }
  const memory = new Memory(device, 100, never, () => undefined)
  const slot = memory.room('a', 50)
  t.equal(await soon(slot), 'waits')
  t.ok(failures > 0)
  x[Symbol.dispose]()
  t.equal(await soon(slot), 'in')
})

t.test('batches also wait for the host, where a GPU has more memory than it', async t => {
  const device = new FakeDevice()
  const memory = new Memory(device, 1000, never, unexpected, undefined, 100)
  const first = await memory.room('first', 300, true) // alone it is let in, however large
  const second = memory.room('second', 10, true)
  t.equal(await soon(second), 'waits')
  t.equal(await soon(memory.room('tensor', 500)), 'in', 'what is only on the device does not count')
  first[Symbol.dispose]()
  t.equal(await soon(second), 'in')
  t.equal(await soon(memory.room('third', 90, true)), 'in')
  t.equal(await soon(memory.room('fourth', 1, true)), 'waits')
})
