import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { AddonState } from '../../../native/device.js'
import { diagnose, type Facts } from '../../../pipeline/doctor.js'
import { pipe, root, temporary } from '../../helpers.js'

t.test('what this machine has: a line a piece', async t => {
  const { code, stdout } = await pipe(['doctor'])
  t.equal(code, 0)
  t.match(
    stdout,
    /^pipe \d+\.\d+\.\d+\n\n✓ {2}Node {2,}\d+\.\d+\.\d+; 20 or newer is needed\n✓ {2}cpu\.node {2,}\w+, \d+ threads?\n[✓–] {2}OpenBLAS /,
  )
  for (const name of ['NVIDIA driver', 'cuda.node', 'memory', 'disk']) t.match(stdout, new RegExp(`\n[✓–✗] {2}${name} {2,}\\S`), name)
  t.match(stdout, /\nOps run on cpu unless --device says otherwise\.\n$/)
  t.ok(stdout.split('\n').every(line => line.length < 120))
})

t.test('--json', async t => {
  const { stdout } = await pipe(['doctor', '--json'], { env: { PIPE_ISA: 'portable', PIPE_THREADS: '1', PIPE_OPENBLAS: 'off' } })
  const { device, checks, machine, environment } = JSON.parse(stdout)
  t.equal(device, 'cpu')
  t.match(machine.cpu.devices, [{ isa: 'portable', threads: 1, blas: 'built-in' }])
  t.match(environment, { PIPE_ISA: 'portable', PIPE_OPENBLAS: 'off' })
  const found = Object.fromEntries(checks.map(({ name, found }: { name: string; found: string }) => [name, found]))
  t.equal(found['cpu.node'], 'portable (PIPE_ISA), 1 thread (PIPE_THREADS)')
  t.match(found.OpenBLAS, /^switched off by PIPE_OPENBLAS/)
})

t.test('addons that are missing or broken: said, and exit code 1 where ops can run nowhere', async t => {
  const folder = temporary(t)
  for (const room of ['pipeline', 'stages', 'native', 'schemas'])
    cpSync(join(root, 'dist', room), join(folder, 'dist', room), { recursive: true })
  cpSync(join(root, 'package.json'), join(folder, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  const addons = join(folder, 'build/Release')
  const doctor = () => spawnSync(process.execPath, [join(folder, 'dist/pipeline/cli.js'), 'doctor'], { cwd: folder, encoding: 'utf8' })

  const without = doctor()
  t.equal(without.status, 1)
  t.match(without.stdout, /\n✗ {2}cpu\.node +not built\n +Ops run in it\. Build it [\s\S]*npx cmake-js compile/)
  t.match(without.stdout, /\n– {2}cuda\.node +not built\n +It runs ops on NVIDIA GPUs\. Install the CUDA toolkit/)
  t.match(without.stdout, /\nOps can run nowhere on this machine\.\n$/)
  t.equal(without.stderr, 'pipe cannot run here: see the lines marked ✗.\n')

  mkdirSync(addons, { recursive: true })
  writeFileSync(join(addons, 'cpu.node'), readFileSync(join(root, 'build/Release/cpu.node')).subarray(0, 5000))
  writeFileSync(join(addons, 'cuda.node'), 'not an addon')
  const broken = doctor()
  t.equal(broken.status, 1)
  t.match(broken.stdout, /\n✗ {2}cpu\.node +cannot be loaded: it was cut off: 5000 bytes of \d+ are there\n/)
  t.match(broken.stdout, /\n✗ {2}cuda\.node +cannot be loaded: .*(file too short|invalid ELF header)/)

  const foreign = readFileSync(join(root, 'build/Release/cpu.node'))
  foreign.writeUInt16LE(process.arch === 'x64' ? 183 : 62, 18)
  writeFileSync(join(addons, 'cpu.node'), foreign)
  t.match(doctor().stdout, /\n✗ {2}cpu\.node +cannot be loaded: it was built for (arm64, and this machine is x64|x64, and this machine is arm64)\n/)

  rmSync(join(addons, 'cpu.node'))
  symlinkSync(join(root, 'build/Release/cpu.node'), join(addons, 'cpu.node'))
  const half = doctor()
  t.equal(half.status, 0, 'the CPU is enough')
  t.match(half.stdout, /\nOps run on cpu unless/)
})

t.test('what a GPU machine is told', async t => {
  const gpus: AddonState = {
    kind: 'cuda',
    path: '',
    isBuilt: true,
    architectures: '80-real 90',
    runtime: 'CUDA 13.0',
    driver: 'CUDA 13.0',
    release: '580.95.05',
    blas: '/usr/local/cuda/lib64/libcublas.so.13',
    devices: [
      { card: 'NVIDIA H100 80GB HBM3', isa: 'sm_90', threads: 132, totalBytes: 85e9, freeBytes: 84.4e9 },
      { card: 'Tesla V100', isa: 'sm_70', reason: 'Tesla V100 has compute capability 7.0, and 8.0 is needed (A100, RTX 30 or newer)' },
    ],
  }
  const facts: Facts = {
    machine: {
      cpu: { kind: 'cpu', path: '', isBuilt: true, blas: '/lib/libopenblas.so.0', devices: [{ isa: 'avx512', threads: 16 }] },
      cuda: gpus,
      gpu: { number: 0 },
    },
    node: '20.20.2',
    nodeNeeded: 20,
    environment: {},
    memory: { freeBytes: 100e9, totalBytes: 128e9 },
    disks: [{ path: 'this folder', freeBytes: 1e6 }],
  }
  const { checks, device } = diagnose(facts)
  t.equal(device, 'cuda:0')
  t.strictSame(
    checks.map(({ name, state, found }) => [state, name, found]),
    [
      ['ok', 'Node', '20.20.2; 20 or newer is needed'],
      ['ok', 'cpu.node', 'avx512, 16 threads'],
      ['ok', 'OpenBLAS', '/lib/libopenblas.so.0'],
      ['ok', 'NVIDIA driver', '580.95.05, serves CUDA 13.0'],
      ['ok', 'cuda.node', 'for compute capability 8.0 to 8.9, 9.0 and newer; made with CUDA 13.0'],
      ['ok', 'cuda:0', 'NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, 85 GB, 84.4 GB free'],
      ['wrong', 'cuda:1', 'Tesla V100, compute capability 7.0: cannot be used'],
      ['ok', 'cuBLAS', '/usr/local/cuda/lib64/libcublas.so.13'],
      ['ok', 'memory', '100 GB free of 128 GB'],
      ['wrong', 'disk', '1 MB free in this folder'],
    ],
  )
  for (const [architectures, served] of [
    ['86', '8.6 and newer'],
    ['89-real', '8.9'],
    ['90-real 80-real 86-real', '8.0 to 8.9, 9.0 to 9.9'],
    ['80-real 90-virtual', '8.0 to 8.9, 9.0 and newer'],
  ]) {
    const { checks } = diagnose({ ...facts, machine: { ...facts.machine, cuda: { ...gpus, architectures } } })
    t.equal(checks.find(({ name }) => name === 'cuda.node')?.found, `for compute capability ${served}; made with CUDA 13.0`)
  }
  const { blas: _, ...cuda } = gpus
  const bare = diagnose({
    ...facts,
    node: '18.19.0',
    machine: { ...facts.machine, cuda: { ...cuda, looked: '/nowhere (no such folder)' } },
  })
  t.equal(bare.device, undefined, 'an old Node runs nothing')
  t.match(
    bare.checks.filter(({ state }) => state === 'wrong').map(({ name, found }) => [name, found]),
    [['Node', /^18/], ['cuda:1'], ['cuBLAS', 'not found in /nowhere (no such folder)'], ['disk']],
  )
})
