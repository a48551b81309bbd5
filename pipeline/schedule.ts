/**
 * Batches side by side on several devices, and what becomes of one that fails because of its device. Knows nothing of
 * what a batch is; what comes out must not depend on where or when a job was done.
 *
 * Memory out: the job is done once more, alone on that device, which from then on takes one job at a time; if it is out
 * again, the others are finished first, and the run ends with the report. Device lost: its jobs move to the others. Any
 * other failure ends all at once.
 */
import { Observable } from 'rxjs'
import { deviceFailure } from './failure.js'
import type { Lane } from './lane.js'

/**
 * Jobs under way at the same time on a device. It runs ops in order, so two are enough: while the one computes, the
 * other is read, hashed and written. More would only hold more memory.
 */
export const jobsAtOnce = 2

export interface SideBySide<J> {
  readonly lanes: readonly Lane[]
  run(job: J, lane: Lane): Promise<void>
  /** Told when memory was out and the job will be done again, alone there. */
  again(job: J, lane: Lane): void
  /** Told when a device is lost and others are left. */
  lost(lane: Lane, error: unknown): void
  /** What to end with when all but these are done: memory was out twice. */
  failed(errors: readonly unknown[]): unknown
}

/** What a device has to do. */
interface Desk<J> {
  readonly lane: Lane
  readonly underWay: Set<J>
  /** To be done again with nothing beside them. */
  readonly alone: J[]
  atOnce: number
  /** Memory was out: what failed may have left something behind. */
  isDirty: boolean
}

/** Emits each job when it is done. Jobs begin in the order given. */
export const sideBySide = <J>(jobs: readonly J[], { lanes, run, again, lost, failed }: SideBySide<J>): Observable<J> =>
  new Observable(out => {
    const waiting = [...jobs]
    const desks = lanes.map((lane): Desk<J> => ({ lane, underWay: new Set(), alone: [], atOnce: jobsAtOnce, isDirty: false }))
    const seconds = new Set<J>() // that had their second try
    const errors: unknown[] = []

    const takes = ({ lane, underWay, alone, atOnce }: Desk<J>): boolean =>
      !lane.isLost && (alone.length > 0 ? underWay.size === 0 : waiting.length > 0 && underWay.size < atOnce)
    /** Each device has its first job before any has its second. */
    const idlest = (): Desk<J> | undefined =>
      desks.filter(takes).reduce<Desk<J> | undefined>((a, b) => (a === undefined || b.underWay.size < a.underWay.size ? b : a), undefined)

    const advance = (): void => {
      for (let desk = idlest(); desk !== undefined && !out.closed; desk = idlest()) {
        start((desk.alone.shift() ?? waiting.shift()) as J, desk)
      }
      if (out.closed || desks.some(desk => desk.underWay.size > 0)) return
      if (errors.length > 0) out.error(failed(errors))
      else out.complete()
    }

    const start = (job: J, desk: Desk<J>): void => {
      const { lane, underWay } = desk
      underWay.add(job)
      const ready = desk.isDirty ? lane.reclaim() : Promise.resolve()
      desk.isDirty = false
      ready
        .then(() => run(job, lane))
        .then(
          () => {
            lane.finished++
            underWay.delete(job)
            out.next(job)
          },
          error => {
            underWay.delete(job)
            if (!out.closed) recover(job, desk, error)
          },
        )
        .then(advance)
        .catch(error => out.error(error))
    }

    const recover = (job: J, desk: Desk<J>, error: unknown): void => {
      const why = desk.lane.isLost ? 'ERR_DEVICE_LOST' : deviceFailure(error)
      if (why === 'ERR_DEVICE_MEMORY') tryAlone(job, desk, error)
      else if (why === 'ERR_DEVICE_LOST') move(job, desk, error)
      else out.error(error)
    }
    const tryAlone = (job: J, desk: Desk<J>, error: unknown): void => {
      desk.isDirty = true
      if (seconds.has(job)) {
        errors.push(error)
        return
      }
      seconds.add(job)
      desk.alone.push(job)
      desk.atOnce = 1
      again(job, desk.lane)
    }
    const move = (job: J, desk: Desk<J>, error: unknown): void => {
      const isNews = !desk.lane.isLost
      desk.lane.isLost = true
      const left = desks.find(({ lane }) => !lane.isLost)
      if (left === undefined) {
        out.error(error)
        return
      }
      if (isNews) lost(desk.lane, error)
      waiting.unshift(job)
      left.alone.push(...desk.alone.splice(0))
    }

    advance()
  })
