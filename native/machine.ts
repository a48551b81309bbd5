/** What this machine has: the addons, whether they load, and the devices they find. Asks; opens no device, takes no memory of a GPU. */
import { closeSync, existsSync, fstatSync, openSync, readSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { AddonState, GpuChoice, Machine } from './device.js'

type Kind = AddonState['kind']

/** An addon that is missing or cannot be loaded. */
export class AddonError extends Error {
  override readonly name = 'AddonError'

  constructor(
    kind: Kind,
    path: string,
    /** The loader's own words. */
    readonly reason: string,
  ) {
    const needs = kind === 'cuda' ? ', with nvcc (the CUDA toolkit) on the PATH' : ''
    const build = `Build it in the package's folder${needs}: npx cmake-js compile -d native -O build`
    super(`The ${kind} addon could not be loaded.\n  ${path}: ${reason}\n  ${build}`)
  }
}

/** The package's folder, from dist/native or from native. */
const packageRoot = (): string => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder)
  return folder
}

const addonPath = (kind: Kind): string => join(packageRoot(), 'build', 'Release', `${kind}.node`)

/** The addon's exports. Throws AddonError with the sentence. */
export function loadAddon(kind: Kind): unknown {
  const path = addonPath(kind)
  try {
    expectLoadable(path)
    return createRequire(import.meta.url)(path)
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0] ?? ''
    throw new AddonError(kind, path, reason.replace(`${path}: `, '').trim())
  }
}

/** Processors as an ELF file numbers them, by Node's names. */
const processors: Readonly<Record<number, string>> = { 62: 'x64', 183: 'arm64' }

/**
 * Loading a file that was cut off ends the process (SIGBUS): the table at the end of an ELF file tells how long it should be.
 * Of one that came from a machine of another kind, with the folder, the loader says that there is no such file.
 */
function expectLoadable(path: string): void {
  if (!existsSync(path)) return // the loader says so
  const file = openSync(path, 'r')
  try {
    const head = Buffer.alloc(64)
    if (readSync(file, head) < 64 || head.toString('latin1', 0, 6) !== '\x7fELF\x02\x01') return // 64 bits, little-endian
    const processor = processors[head.readUInt16LE(18)]
    if (processor !== undefined && processor !== process.arch)
      throw new Error(`it was built for ${processor}, and this machine is ${process.arch}`)
    const length = Number(head.readBigUInt64LE(40)) + head.readUInt16LE(58) * head.readUInt16LE(60)
    const { size } = fstatSync(file)
    if (size < length) throw new Error(`it was cut off: ${size} bytes of ${length} are there`)
  } finally {
    closeSync(file)
  }
}

interface Surveying {
  Device: { survey(libraries: boolean): Omit<AddonState, 'kind' | 'path' | 'isBuilt' | 'broken'> }
}

/**
 * One addon's state; never throws. On a machine without a GPU it takes milliseconds. `libraries`: look for those of the
 * devices (cuBLAS) even where no device would use them.
 */
export function surveyAddon(kind: Kind, o: { libraries: boolean }): AddonState {
  const path = addonPath(kind)
  const isBuilt = existsSync(path)
  if (!isBuilt) return { kind, path, isBuilt, devices: [] }
  try {
    return { kind, path, isBuilt, ...(loadAddon(kind) as Surveying).Device.survey(o.libraries) }
  } catch (error) {
    const broken = error instanceof AddonError ? error.reason : String(error)
    return { kind, path, isBuilt, broken, devices: [] }
  }
}

/** The GPU that --device auto takes: the first one that can be used, if all that it needs is there; else why there is none. */
export function chooseGpu(cuda: AddonState): GpuChoice {
  if (!cuda.isBuilt) return { reason: 'cuda.node is not built' }
  if (cuda.broken !== undefined) return { reason: `cuda.node cannot be loaded: ${cuda.broken}` }
  if (cuda.reason !== undefined) return { reason: `cuda.node is built, but ${cuda.reason}` }
  const number = cuda.devices.findIndex(({ reason }) => reason === undefined)
  if (number < 0) return { reason: cuda.devices.map(({ reason }, i) => `cuda:${i}: ${reason}`).join('; ') || 'there is no GPU' }
  const { card } = cuda.devices[number] ?? {}
  if (cuda.blas === undefined) return { reason: `cuda:${number} ${card ?? ''} is left alone: cuBLAS was not found in ${cuda.looked}` }
  return { number }
}

/** All of it; never throws. */
export function surveyMachine(): Machine {
  const cuda = surveyAddon('cuda', { libraries: true })
  return { cpu: surveyAddon('cpu', { libraries: true }), cuda, gpu: chooseGpu(cuda) }
}
