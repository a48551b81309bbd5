import t from 'tap'
import { chooseGpu } from '../../native/machine.js'
import type { AddonState, DeviceInfo } from '../../native/device.js'
import { defaultMemory, deviceText, hostFreeBytes, hostLimit } from '../../pipeline/device.js'
import { FakeDevice } from './fake.js'

/** A device that says this of itself. */
const device = (kind: 'cpu' | 'cuda', info: Partial<DeviceInfo>) =>
  Object.assign(new FakeDevice(), {
    kind,
    name: kind === 'cpu' ? 'cpu' : 'cuda:1',
    info: () => ({ isa: 'avx2', threads: 2, blas: '', ...info }),
  })

t.test('one line: where ops run, and why not on a GPU', async t => {
  t.equal(deviceText(device('cpu', {})), 'cpu (avx2, 2 threads)')
  t.equal(
    deviceText(device('cpu', { threads: 1, noGpu: 'the driver is too old: it serves CUDA 12.8. Install a newer one' })),
    'cpu (avx2, 1 thread); the driver is too old: it serves CUDA 12.8',
  )
  t.equal(deviceText(device('cuda', { card: 'NVIDIA H100 80GB HBM3' })), 'cuda:1 NVIDIA H100 80GB HBM3')
})

t.test('--memory: a share of what is free, of the GPU on a GPU; there the host has a bound of its own', async t => {
  const cpu = device('cpu', {})
  const host = await hostFreeBytes()
  t.ok(host > 1e7)
  const bytes = await defaultMemory(cpu)
  t.ok(Number.isInteger(bytes) && Math.abs(bytes / host - 0.6) < 0.1, `${bytes} of ${host}`)
  t.equal(await hostLimit(cpu), Number.POSITIVE_INFINITY, 'on a CPU they are the same memory')
  const gpu = device('cuda', { freeBytes: 80e9, totalBytes: 85e9 })
  t.equal(await defaultMemory(gpu), 64e9)
  t.equal(await defaultMemory(gpu, 2), 32e9, 'shared by two queues')
  t.ok(Math.abs((await hostLimit(gpu)) / host - 0.6) < 0.1)
})

t.test('--device auto: the first GPU that can be used, else a reason', async t => {
  const cuda: AddonState = {
    kind: 'cuda',
    path: '',
    isBuilt: true,
    blas: '/lib/libcublas.so.13',
    devices: [{ card: 'A', reason: 'too old' }, { card: 'B' }],
  }
  t.strictSame(chooseGpu(cuda), { number: 1 })
  const { blas: _, ...without } = cuda
  t.strictSame(chooseGpu({ ...without, looked: '/nowhere (no such folder)' }), {
    reason: 'cuda:1 B is left alone: cuBLAS was not found in /nowhere (no such folder)',
  })
  t.strictSame(chooseGpu({ ...cuda, devices: [{ reason: 'too old' }] }), { reason: 'cuda:0: too old' })
  t.strictSame(chooseGpu({ ...cuda, devices: [], reason: 'the NVIDIA driver finds no GPU' }), {
    reason: 'cuda.node is built, but the NVIDIA driver finds no GPU',
  })
  t.strictSame(chooseGpu({ ...cuda, broken: 'file too short' }), { reason: 'cuda.node cannot be loaded: file too short' })
  t.strictSame(chooseGpu({ ...cuda, isBuilt: false }), { reason: 'cuda.node is not built' })
})
