/** The device of a run: what it is called, and how much of its memory, and of the host's, tensors may take. */
import { readFile } from 'node:fs/promises'
import { freemem } from 'node:os'
import type { Device } from '../native/device.js'
import { plural } from './text.js'

/** 'cuda:0 NVIDIA H100 80GB HBM3'; 'cpu (avx512, 2 threads)', and why it is no GPU where one was looked for. */
export function deviceText(device: Pick<Device, 'kind' | 'name' | 'info'>): string {
  const { kind, name } = device
  const { isa, threads, card, noGpu } = device.info()
  if (kind === 'cuda') return `${name} ${card ?? ''}`.trim()
  const why = noGpu?.split(/[.:] (?=[A-Z])/)[0] // the first sentence; pipe doctor has the others
  return `${name} (${isa}, ${plural(threads, 'thread')})${why === undefined ? '' : `; ${why}`}`
}

/** Share of the free memory that tensors may take when nobody says otherwise. Of the host's: the rest is for files in flight and for other programs. */
const hostShare = 0.6
/** Of a GPU's: the rest is for what ops need while they run, and for what cuBLAS and the driver keep. */
const gpuShare = 0.8

/** Memory of the host that can be had without swapping: what the system has available, or less where a container is given less. */
export async function hostFreeBytes(): Promise<number> {
  const [info, limit, current, stat] = await Promise.all(
    ['/proc/meminfo', '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current', '/sys/fs/cgroup/memory.stat'].map(path =>
      readFile(path, 'utf8').catch(() => ''),
    ),
  )
  const kilobytes = /^MemAvailable:\s+(\d+) kB/m.exec(info ?? '')?.[1]
  const free = kilobytes === undefined ? freemem() : Number(kilobytes) * 1024
  const files = Number(/^inactive_file (\d+)/m.exec(stat ?? '')?.[1] ?? 0) // given up when others need it
  const allowed = Number.parseInt(limit ?? '', 10) - Number.parseInt(current ?? '', 10) + files
  return Number.isNaN(allowed) ? free : Math.max(0, Math.min(free, allowed))
}

/** Bytes that are free for tensors: the GPU's own, the host's for a CPU. */
export async function freeBytesOf(device: Pick<Device, 'kind' | 'info'>): Promise<number> {
  return (device.kind === 'cuda' ? device.info().freeBytes : undefined) ?? (await hostFreeBytes())
}

/** The default of --memory, in bytes, for a device whose memory so many queues share. */
export async function defaultMemory(device: Pick<Device, 'kind' | 'info'>, sharing = 1): Promise<number> {
  return Math.floor(((device.kind === 'cuda' ? gpuShare : hostShare) * (await freeBytesOf(device))) / sharing)
}

/** What batches of one of so many GPUs may hold on the host, while their tensors are there: rows as read, results on their way to the disk. */
export async function hostLimit(device: Pick<Device, 'kind'>, sharing = 1): Promise<number> {
  return device.kind === 'cuda' ? Math.floor((hostShare * (await hostFreeBytes())) / sharing) : Number.POSITIVE_INFINITY
}
