import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { surveyMachine } from '../../native/machine.js'
import { root, testDevice } from '../helpers.js'
import { openWith, same, values } from './devices.js'

/** Bytes beyond the address space (2⁴⁷, 2⁴⁸ on some machines): refused also where the system promises more memory than there is. */
const tooLarge = 2 ** 49
/** Copied where it is used: a filter writes into the options of tests that it leaves out. */
const onCuda = { skip: testDevice.startsWith('cuda') ? false : 'needs a GPU: npm run test:gpu' } as const

t.test('bytes come back as they went', async t => {
  const ops = await openBackend('cpu')
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i * 7)
  using x = ops.device.upload(bytes, 'u8', [10, 100])
  const read = x.read()
  bytes.fill(0)
  t.equal((await read)[999], (999 * 7) & 255, 'upload copied')
  t.throws(() => ops.device.upload(bytes, 'f32', [3]), { message: 'upload: f32 [3] has 12 bytes, got 1000' })
  t.throws(() => ops.device.empty('f32', [-1]), /is not a shape/)
})

t.test('bytes are brought by another thread, from an array or from a file', async t => {
  for (const name of new Set(['cpu', testDevice])) {
    const ops = await openBackend(name)
    const large = 20 * 2 ** 20 + 12 // several pieces of what a transfer takes at a time
    const bytes = Uint8Array.from({ length: large }, (_, i) => (i * 7 + (i >> 13)) & 255)
    const path = join(t.testdir({}), 'tensor')
    writeFileSync(path, bytes)
    using fromArray = await ops.device.bring(bytes, 'u8', [large])
    t.ok(same(await fromArray.read(), bytes), `${name}, from an array`)
    const file = await open(path, 'r')
    using fromFile = await ops.device.bring({ fd: file.fd, offset: 4 }, 'f32', [2, (large - 4) / 8])
    t.ok(same(await fromFile.read(), bytes.subarray(4)), `${name}, from a file`)
    using nothing = await ops.device.bring({ fd: file.fd, offset: 0 }, 'f32', [0, 3])
    t.equal((await nothing.read()).length, 0)
    const live = ops.device.liveBytes
    await t.rejects(ops.device.bring({ fd: file.fd, offset: 8 }, 'u8', [large]), {
      message: `upload: the file ended at byte ${large} while it was read`,
    })
    await t.rejects(ops.device.bring({ fd: file.fd, offset: -1 }, 'u8', [1]), /can't begin at byte -1/)
    await t.rejects(ops.device.bring(bytes, 'f32', [3]), { message: `upload: f32 [3] has 12 bytes, got ${large}` })
    await t.rejects(ops.device.bring({ fd: file.fd, offset: 0 }, 'u8', [tooLarge]), { code: 'ERR_DEVICE_MEMORY' })
    t.equal(ops.device.liveBytes, live, 'what was not brought holds nothing')
    await file.close()
  }
})

t.test('disposing right after enqueueing is safe; live bytes go back', async t => {
  const ops = await openBackend('cpu')
  const x = ops.tensor(new Float32Array(100).fill(1), [100])
  let sum = ops.add(x, x)
  x[Symbol.dispose]()
  for (let i = 0; i < 1000; i++) {
    const next = ops.add(sum, sum, { beta: 0.5, alpha: 0.5 })
    sum[Symbol.dispose]()
    sum = next
  }
  t.equal(ops.device.liveBytes <= 100 * 4 * 4, true, 'temporaries that wait in the queue hold no memory')
  t.same([...(await values(sum))].slice(0, 3), [2, 2, 2])
  sum[Symbol.dispose]()
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
  t.ok(ops.device.peakBytes >= 800)
  t.throws(() => ops.add(sum, sum), /used after it was disposed/)
  t.equal(ops.device.stats().add?.calls, 1001)
})

t.test('a failure rejects the next wait, with the stack of the call', async t => {
  const ops = await openBackend('cpu')
  using x = ops.zeros('f32', [8])
  using huge = ops.device.empty('u8', [tooLarge]) // allocated by the op that writes it
  const culprit = () => ops.device.run('zeros', { out: huge, bytes: 8 })
  culprit()
  using after = ops.add(x, x)
  const error = await after.read().catch(error => error as Error)
  t.match(error, { message: /^zeros: out of memory: 562949953\.4 MB are needed/ })
  t.match((error as Error).stack, /culprit/)
  t.equal((error as Error & { code?: string }).code, 'ERR_DEVICE_MEMORY', 'for programs')
  await ops.finish()
  await t.rejects(after.read(), { message: /^zeros: out of memory/ }, 'what was skipped is never read')
  ops.add(after, x)
  await t.rejects(ops.finish(), { message: /^zeros: out of memory/ }, 'nor computed with')
  using again = ops.add(x, x)
  t.ok(same(await again.read(), new Uint8Array(32)), 'the queue goes on')
})

t.test('of many calls the first ones have a stack each, later ones say that they share one', async t => {
  const ops = await openBackend('cpu')
  using x = ops.zeros('f32', [8])
  const early = () => ops.device.run('zeros', { out: x, bytes: 32 })
  const late = () => ops.device.run('zeros', { out: ops.device.empty('u8', [tooLarge]), bytes: 8 })
  for (let i = 0; i < 10_000; i++) early()
  late()
  const shared = await ops.finish().catch(error => error as Error)
  t.match((shared as Error).stack, /one of many calls of this op; .*\n.*\n.*early/)
  await x.read()
  late()
  const own = await ops.finish().catch(error => error as Error)
  t.match((own as Error).stack, /late/, 'a read starts afresh: finish alone only paces a loop')
  t.notMatch((own as Error).stack, /one of many/)
})

t.test('what run refuses', async t => {
  const [ops, other] = [await openBackend('cpu'), await openBackend('cpu')]
  using x = ops.zeros('f32', [8])
  t.throws(() => ops.device.run('nothing', {}), /the cpu addon has no op "nothing"; it has /)
  t.throws(() => ops.device.run('zeros', { out: x, bytes: 1, length: 3 }), {
    message: 'zeros: no argument is called length; it takes out, bytes',
  })
  t.throws(() => ops.device.run('zeros', { bytes: 1 }), { message: 'zeros: out is missing' })
  t.throws(() => ops.device.run('zeros', { out: x }), { message: 'zeros: bytes is missing' })
  t.throws(() => ops.device.run('zeros', { out: x, bytes: 1.5 }), { message: 'zeros: bytes must be a whole number' })
  t.throws(() => ops.device.run('zeros', { out: 3, bytes: 1 }), { message: 'zeros: out must be a tensor, got 3' })
  t.throws(() => other.device.run('zeros', { out: x, bytes: 1 }), { message: 'zeros: out is on another device' })
  using y = ops.zeros('f64', [8])
  t.throws(() => ops.device.run('add', { x: y, y: x, out: x, n: 8, alpha: 1, beta: 1 }), { message: 'add: x must be f32, got f64' })
})

t.test('out of device memory: the op, what it asked for, what is free, what to set; then the queue goes on', { ...onCuda }, async t => {
  const ops = await openBackend(testDevice)
  using x = ops.zeros('f32', [8])
  ops.device.run('zeros', { out: ops.device.empty('u8', [2 ** 41]), bytes: 8 })
  await t.rejects(ops.finish(), {
    code: 'ERR_DEVICE_MEMORY',
    message:
      /^zeros: out of device memory on cuda:\d: 2199023\.3 MB are needed, [\d.]+ of [\d.]+ MB are free\. Lower --memory, end other programs that use it, or take a larger card\.$/,
  })
  t.ok(same(await x.read(), new Uint8Array(32)), 'the queue goes on')
  const { freeBytes = 0, totalBytes = 0, card } = ops.device.info()
  t.ok(freeBytes > 0 && freeBytes <= totalBytes && card !== undefined)
})

t.test('a GPU that is not there; cuBLAS that is not where PIPE_CUDA_LIBS says; --device auto', { ...onCuda }, async t => {
  const { cuda, gpu } = surveyMachine()
  t.strictSame(gpu, { number: 0 })
  t.match(cuda.devices[0], { card: /\w/, isa: /^sm_\d+$/, threads: Number, totalBytes: Number })
  const count = cuda.devices.length
  await t.rejects(openBackend(`cuda:${count}`), { message: new RegExp(`^cuda:${count} cannot be used: this machine has ${count} GPU`) })
  const script = `
    import { openBackend } from '${join(root, 'dist/native/index.js')}'
    const ops = await openBackend('cuda:0')
    const x = ops.tensor(new Float32Array(1024), [32, 32]) // small products do without
    const product = await ops.matmul(x, x).read().then(() => 'no error', error => error.message)
    console.log(JSON.stringify({ product, auto: (await openBackend('auto')).device.info().noGpu }))`
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env: { ...process.env, PIPE_CUDA_LIBS: '/nowhere' },
  })
  if (stdout === '') throw new Error(stderr)
  t.match(JSON.parse(stdout), {
    product:
      /: cuBLAS is needed and was not found .*\/nowhere \(no such folder\)\. Unset PIPE_CUDA_LIBS, or set it to the folder of the library\.$/,
    auto: /^cuda:0 .* is left alone: cuBLAS was not found in \/nowhere/,
  })
})

t.test('settings', async t => {
  await t.rejects(openBackend('tpu'), /unknown device "tpu"/)
  await t.rejects(openBackend('cpu:1'), /unknown device "cpu:1"/)
  await t.rejects(
    openBackend('cuda:99'),
    /^cuda:99 cannot be used: .*(GPU|driver).*\.\n {2}--device cpu|cuda addon could not be loaded\.\n.*cuda\.node: .*\n.*npx cmake-js compile/,
  )
  await t.rejects(openWith({ PIPE_ISA: 'mmx' }), /PIPE_ISA is "mmx"; it may be portable, avx2 or avx512/)
  await t.rejects(openWith({ PIPE_THREADS: '0' }), /PIPE_THREADS is "0"/)
  await t.rejects(openWith({ PIPE_OPENBLAS: '/nowhere.so' }), /PIPE_OPENBLAS=\/nowhere\.so cannot be used: .*No such file/)
  const ops = await openWith({ PIPE_ISA: 'portable', PIPE_THREADS: '2', PIPE_OPENBLAS: 'off' })
  t.same(ops.device.info(), { isa: 'portable', threads: 2, blas: 'built-in' })
})
