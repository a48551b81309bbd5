/** What each stage takes: seconds in which it had work, peak memory of the process meanwhile, batches, calls of ops. */
import type { Ops } from '../native/ops.js'
import type { StageUsage } from './events.js'

/** Often enough to see the peak of an op of a tenth of a second, cheap enough not to be seen itself (about 20 µs a look). */
export const sampleMs = 50

/** Seconds in which something was under way: intervals that overlap count once. */
export class Busy {
  #active = 0
  #since = 0
  #seconds = 0

  get isActive(): boolean {
    return this.#active > 0
  }

  begin(): Disposable {
    if (this.#active++ === 0) this.#since = performance.now()
    let over = false
    return {
      [Symbol.dispose]: () => {
        if (over) return
        over = true
        if (--this.#active === 0) this.#seconds += (performance.now() - this.#since) / 1000
      },
    }
  }

  get seconds(): number {
    return this.#seconds + (this.isActive ? (performance.now() - this.#since) / 1000 : 0)
  }
}

export class Usage {
  run = 0
  cached = 0
  peakRssBytes = 0
  opCalls = 0
  /** Bytes of tensors in the batches that were worked on: for estimates. */
  inputBytes = 0
  /** Of the files it stored. */
  diskBytes = 0
  /** Batches that are worked on now. */
  readonly batches = new Set<string>()
  readonly #busy = new Busy()

  constructor(
    readonly id: string,
    readonly use: string,
  ) {}

  get isActive(): boolean {
    return this.#busy.isActive
  }

  /** The stage has work, on this batch, until this is disposed; overlapping work counts once. */
  work(batch?: string): Disposable {
    if (batch !== undefined) this.batches.add(batch)
    const interval = this.#busy.begin()
    let over = false
    return {
      [Symbol.dispose]: () => {
        if (over) return
        over = true
        if (batch === undefined)
          this.batches.clear() // a stream: it noted its batches itself
        else this.batches.delete(batch)
        this.sample(process.memoryUsage.rss()) // work may be over between two looks
        interval[Symbol.dispose]()
      },
    }
  }

  sample(rssBytes: number): void {
    if (this.isActive) this.peakRssBytes = Math.max(this.peakRssBytes, rssBytes)
  }

  get value(): StageUsage {
    const { id, use, peakRssBytes, opCalls, run, cached } = this
    return { id, use, seconds: this.#busy.seconds, peakRssBytes, batches: { run, cached }, opCalls }
  }
}

/** The same ops, counting their calls. */
export function counting(ops: Ops, usage: Usage): Ops {
  const wrapped = new Map<PropertyKey, unknown>()
  return new Proxy(ops, {
    get(target, name) {
      const known = wrapped.get(name)
      if (known !== undefined) return known
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      const verb = (...args: unknown[]): unknown => {
        usage.opCalls++
        return (value as (...args: unknown[]) => unknown).apply(target, args)
      }
      wrapped.set(name, verb)
      return verb
    },
  })
}
