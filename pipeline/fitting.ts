/** What the segments of a plan need of a device's memory, and what will not fit, in sentences. */
import type { DevicePlan, SegmentPlan, StagePlan } from './plan.js'
import { jobsAtOnce } from './schedule.js'
import { bytes } from './text.js'

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
    const needs = `${stages.join(' + ')} may need ${bytes(leastBytes)} at a time`
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
      `${needs}, more than the ${bytes(bound.limitBytes)} that tensors may take: give --memory ${bytes(leastBytes).replace(' ', '')}, or it works by the piece and may go beyond.`,
    ]
  })
}
