/** What a machine has → what pipe makes of it: a line a piece, and what a missing one would bring. */
import type { AddonState, Machine } from '../native/device.js'
import { bytes, plural } from './text.js'

/** What is looked at. Collected by commands/doctor.ts. */
export interface Facts {
  readonly machine: Machine
  readonly node: string
  /** Its least major version. */
  readonly nodeNeeded: number
  /** Of the NVIDIA driver, as the kernel tells; absent where there is none. */
  readonly driverRelease?: string
  /** The variables that change what is found: PIPE_…, CUDA_VISIBLE_DEVICES. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly memory: { readonly freeBytes: number; readonly totalBytes: number }
  /** Folders that a run writes to. freeBytes is absent where the system does not say. */
  readonly disks: readonly { readonly path: string; readonly freeBytes?: number }[]
}

/** ok: there. missing: not there, and pipe does without. wrong: there or asked for, and does not work. */
export type State = 'ok' | 'missing' | 'wrong'

export interface Check {
  readonly name: string
  readonly state: State
  readonly found: string
  /** What it would bring and how to get it, or how to mend it. */
  readonly advice?: string
}

export interface Diagnosis {
  readonly checks: readonly Check[]
  /** Where ops run unless --device says otherwise; absent when they can run nowhere. */
  readonly device?: string
}

const build = "in the package's folder: npx cmake-js compile -d native -O build"

export function diagnose(facts: Facts): Diagnosis {
  const { machine, node, nodeNeeded } = facts
  const hasNode = Number.parseInt(node, 10) >= nodeNeeded
  const cpu = cpuCheck(machine.cpu, facts)
  const checks: Check[] = [
    {
      name: 'Node',
      state: hasNode ? 'ok' : 'wrong',
      found: `${node}; ${nodeNeeded} or newer is needed`,
      ...(hasNode ? {} : { advice: 'Install a newer one, or use the archive that scripts/bundle.sh makes: it has its own.' }),
    },
    cpu,
    ...(machine.cpu.blas === undefined ? [] : [openblasCheck(machine.cpu.blas, facts)]),
    driverCheck(machine.cuda, facts),
    cudaCheck(machine.cuda),
    ...machine.cuda.devices.map(gpuCheck),
    ...(machine.cuda.isBuilt && machine.cuda.broken === undefined ? [cublasCheck(machine.cuda)] : []),
    ...roomChecks(facts),
  ]
  const device = 'number' in machine.gpu ? `cuda:${machine.gpu.number}` : cpu.state === 'ok' ? 'cpu' : undefined
  return { checks, ...(device === undefined || !hasNode ? {} : { device }) }
}

function cpuCheck({ isBuilt, broken, reason, devices }: AddonState, { environment }: Facts): Check {
  const name = 'cpu.node'
  if (!isBuilt)
    return {
      name,
      state: 'wrong',
      found: 'not built',
      advice: `Ops run in it. Build it ${build} (a C++20 compiler and CMake 3.24 or newer).`,
    }
  if (broken !== undefined) return { name, state: 'wrong', found: `cannot be loaded: ${broken}`, advice: `Build it again, ${build}` }
  const [device] = devices
  if (device === undefined) return { name, state: 'wrong', found: reason ?? 'finds no processor' }
  const set = (variable: string): string => (environment[variable] ? ` (${variable})` : '')
  const found = `${device.isa}${set('PIPE_ISA')}, ${plural(device.threads ?? 1, 'thread')}${set('PIPE_THREADS')}`
  return { name, state: 'ok', found }
}

function openblasCheck(blas: string, { environment }: Facts): Check {
  const name = 'OpenBLAS'
  if (blas !== 'built-in') return { name, state: 'ok', found: blas }
  const isOff = environment.PIPE_OPENBLAS === 'off'
  return {
    name,
    state: 'missing',
    found: `${isOff ? 'switched off by PIPE_OPENBLAS' : 'not found'}; the built-in products of matrices serve`,
    advice: `It makes large products on the CPU faster (calibrate, evaluate). ${
      isOff ? 'Unset PIPE_OPENBLAS.' : 'On Debian: apt-get install libopenblas0-pthread; elsewhere PIPE_OPENBLAS=FILE names it.'
    }`,
  }
}

function driverCheck(cuda: AddonState, { driverRelease }: Facts): Check {
  const name = 'NVIDIA driver'
  const release = cuda.release ?? driverRelease
  const found = [release, cuda.driver === undefined ? undefined : `serves ${cuda.driver}`].filter(text => text !== undefined).join(', ')
  if (cuda.reason !== undefined && found !== '')
    return { name, state: 'wrong', found, advice: `${cuda.reason.charAt(0).toUpperCase()}${cuda.reason.slice(1).replace(/\.$/, '')}.` }
  if (found !== '') return { name, state: 'ok', found }
  return {
    name,
    state: 'missing',
    found: 'none',
    advice: 'With an NVIDIA GPU (A100, RTX 30 or newer) and its driver, ops run there: an H100 rounds 15 times as fast as 16 cores.',
  }
}

function cudaCheck({ isBuilt, broken, architectures, runtime }: AddonState): Check {
  const name = 'cuda.node'
  const toolkit = 'the CUDA toolkit (nvcc 12.0 or newer on the PATH)'
  if (!isBuilt)
    return { name, state: 'missing', found: 'not built', advice: `It runs ops on NVIDIA GPUs. Install ${toolkit}, then build it ${build}` }
  if (broken !== undefined)
    return { name, state: 'wrong', found: `cannot be loaded: ${broken}`, advice: `Build it again with ${toolkit}, ${build}` }
  return { name, state: 'ok', found: `for compute capability ${served(architectures ?? '')}; made with ${runtime}` }
}

/** Which cards "80-real 90" serves: machine code runs on later minor versions of its major one, PTX on all that is newer. */
function served(architectures: string): string {
  const ranges = new Map<number, string>()
  const number = (entry: string) => Number.parseInt(entry, 10)
  for (const entry of architectures.split(' ').sort((a, b) => number(a) - number(b))) {
    const major = Math.floor(number(entry) / 10)
    const from = `${major}.${number(entry) % 10}`
    if (!entry.endsWith('-real')) return [...ranges.values(), `${from} and newer`].join(', ')
    if (!ranges.has(major)) ranges.set(major, from.endsWith('9') ? from : `${from} to ${major}.9`)
  }
  return [...ranges.values()].join(', ')
}

function gpuCheck({ card, isa, threads, totalBytes, freeBytes, reason }: AddonState['devices'][number], i: number): Check {
  const facts = [
    card,
    isa === undefined ? undefined : `compute capability ${isa.slice(3, -1)}.${isa.slice(-1)}`,
    threads === undefined ? undefined : plural(threads, 'multiprocessor'),
    totalBytes === undefined ? undefined : `${bytes(totalBytes)}${freeBytes === undefined ? '' : `, ${bytes(freeBytes)} free`}`,
  ].filter(text => text !== undefined)
  const name = `cuda:${i}`
  return reason === undefined
    ? { name, state: 'ok', found: facts.join(', ') }
    : { name, state: 'wrong', found: `${facts.join(', ')}: cannot be used`, advice: `${reason}.` }
}

function cublasCheck({ blas, looked, devices }: AddonState): Check {
  const name = 'cuBLAS'
  if (blas !== undefined) return { name, state: 'ok', found: blas }
  return {
    name,
    state: devices.some(({ reason }) => reason === undefined) ? 'wrong' : 'missing',
    found: `not found in ${looked}`,
    advice:
      'A GPU needs it for products of matrices: install the CUDA toolkit or the Python wheel nvidia-cublas, or name its folder in PIPE_CUDA_LIBS.',
  }
}

/** Less than this is too little for the bundled model's run. */
const leastMemory = 5e8
const leastDisk = 5e7

function roomChecks({ memory, disks }: Facts): Check[] {
  return [
    {
      name: 'memory',
      state: memory.freeBytes >= leastMemory ? 'ok' : 'wrong',
      found: `${bytes(memory.freeBytes)} free of ${bytes(memory.totalBytes)}`,
    },
    ...disks.map(
      ({ path, freeBytes }): Check => ({
        name: 'disk',
        state: freeBytes === undefined || freeBytes >= leastDisk ? 'ok' : 'wrong',
        found: freeBytes === undefined ? `${path}: the system does not say what is free` : `${bytes(freeBytes)} free in ${path}`,
      }),
    ),
  ]
}
