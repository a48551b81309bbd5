/** What benchmarks of a GPU have in common: which device they run on, and what belongs to their figures. */
import { execFileSync } from 'node:child_process'
import { openBackend } from '../native/index.js'
import type { Ops } from '../native/ops.js'
import type { Options } from './table.js'

/** --device, or the first GPU where there is one, or the CPU. */
export const openDevice = async (options: Options): Promise<Ops> => (await openDevices(options))[0]

/** The same for several: --device cuda:0,cuda:1. */
export async function openDevices({ device }: Options): Promise<[Ops, ...Ops[]]> {
  if (device === undefined) return [await openBackend('cuda:0').catch(() => openBackend('cpu'))]
  const [first, ...others] = await Promise.all(device.split(',').map(openBackend))
  if (first === undefined) throw new Error('--device names no device')
  return [first, ...others]
}

/** The card, its driver and CUDA; nothing for a CPU. */
export function cardOf({ device }: Ops): Record<string, string> {
  if (device.kind === 'cpu') return {}
  const { card = '', runtime = '' } = device.info()
  const number = device.name.split(':')[1] ?? '0'
  let driver = 'unknown'
  try {
    const query = ['--query-gpu=driver_version', '--format=csv,noheader', '-i', number]
    driver = execFileSync('nvidia-smi', query, { encoding: 'utf8' }).trim()
  } catch {} // not installed: the figures stand without it
  return { gpu: card, driver, cuda: runtime.replace('CUDA ', '') }
}
