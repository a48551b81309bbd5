/** What the segments of a plan need of a device's memory and of the disk, and what will not fit, in sentences. */
import type { DevicePlan, SegmentPlan, StagePlan } from './plan.js'
import { jobsAtOnce } from './schedule.js'
import { bytes, bytesAtLeast } from './text.js'

/**
 * What each segment that will run needs on a device: batch by batch, the most that a stage of it needs for a batch, and
 * of as many batches as run side by side and --memory lets in; on a stream its stages are at work together.
 */
export function segmentPlans(stages: readonly StagePlan[], { limitBytes }: Pick<DevicePlan, 'limitBytes'>): SegmentPlan[] {
  const numbers = [...new Set(stages.map(({ segment }) => segment))].filter(number => number >= 0)
  return numbers.map(number => {
    const members = stages.filter(({ segment }) => segment === number)
    const ids = members.map(({ id }) => id)
    const needs = members.map(({ memoryBytes }) => memoryBytes).filter(need => need !== undefined)
    if (needs.length < members.length) return { stages: ids }
    const isStream = members.some(({ scope }) => scope === 'stream')
    const leastBytes = isStream ? needs.reduce((a, b) => a + b, 0) : Math.max(...needs)
    const side = isStream ? 1 : Math.min(jobsAtOnce, members.at(-1)?.batches?.missing ?? jobsAtOnce)
    return { stages: ids, leastBytes, memoryBytes: Math.max(leastBytes, Math.min(side * leastBytes, limitBytes)) }
  })
}

/** A sentence or two for each segment that needs more than a device has free, or than --memory allows; none when all fits. */
export function misfits(segments: readonly SegmentPlan[], devices: readonly DevicePlan[]): string[] {
  const [tightest] = [...devices].sort((a, b) => a.freeBytes - b.freeBytes)
  const [bound] = [...devices].sort((a, b) => a.limitBytes - b.limitBytes)
  if (tightest === undefined || bound === undefined) return []
  return segments.flatMap(({ stages, leastBytes }) => {
    if (leastBytes === undefined || leastBytes <= Math.min(tightest.freeBytes, bound.limitBytes)) return []
    const needs = `${stages.join(' + ')} may need ${bytesAtLeast(leastBytes)} at a time`
    if (leastBytes > tightest.freeBytes) {
      const { name, freeBytes, totalBytes } = tightest
      const has =
        totalBytes === undefined
          ? `this machine has ${bytes(freeBytes)} free`
          : `${name} has ${bytes(freeBytes)} free of ${bytes(totalBytes)}`
      const instead = totalBytes === undefined ? 'or take a machine with more' : 'take a larger card, or run on the host: --device cpu'
      return [
        `${needs}, and ${has}: it will hardly fit. End other programs, make batches or sequences smaller (pipe stages ${stages[0]}), ${instead}.`,
      ]
    }
    return [
      `${needs}, more than the ${bytes(bound.limitBytes)} that tensors may take: give --memory ${bytesAtLeast(leastBytes).replace(' ', '')}, or it works by the piece and may go beyond.`,
    ]
  })
}

/**
 * The most bytes on disk at a time, segment after segment: what those before have stored, and what this one stores, with the
 * checkpoints that it drops when it is done. A stage that does not say counts nothing.
 */
export function peakDisk(stages: readonly StagePlan[]): number {
  let [stays, peak] = [0, 0]
  for (const number of new Set(stages.map(({ segment }) => segment))) {
    const members = stages.filter(({ segment }) => segment === number && segment >= 0)
    stays += members.reduce((sum, { diskBytes = 0 }) => sum + diskBytes, 0)
    peak = Math.max(peak, stays + members.reduce((sum, { scratchBytes = 0 }) => sum + scratchBytes, 0))
  }
  return peak
}

/** A sentence where the file system of `out` has less free than the run needs at a time. */
export function diskMisfits(stages: readonly StagePlan[], freeBytes: number | undefined, out: string): string[] {
  const peakBytes = peakDisk(stages)
  if (freeBytes === undefined || peakBytes <= freeBytes) return []
  const [largest] = [...stages].sort((a, b) => (b.scratchBytes ?? 0) - (a.scratchBytes ?? 0))
  const { id, scratchBytes = 0 } = largest ?? { id: '' }
  const part = scratchBytes > 0 ? `, ${bytes(scratchBytes)} of it for checkpoints of ${id} that go when it is done` : ''
  return [
    `The run may need ${bytes(peakBytes)} of disk at a time${part}, and ${bytes(freeBytes)} are free at ${out}: make room there, or write elsewhere with --out.`,
  ]
}
