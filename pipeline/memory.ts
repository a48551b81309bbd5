/**
 * Back-pressure by live bytes. RxJS does not hold a producer back, so whoever makes tensors waits for room, and
 * disposing makes room. Counted are the bytes alive on the device, and what was asked for and is not there yet.
 */
import type { Device } from '../native/device.js'
import { formatBytes } from './disk.js'
import { PipeError } from './error.js'

/** Disposing is not announced, so waiters look again this often; an op takes longer. */
const lookMs = 5
/** With nothing running, nobody will free any more: longer than any pause of garbage collection or disk. */
const defaultStuckMs = 30_000
/** Of that time: longer than what reads a tensor takes to give it back, and than waiting for an empty queue where others work, too. */
const pauseShare = 1 / 10

interface Slot {
  readonly holder: string
  readonly bytes: number
  readonly covers: boolean
}
interface Waiter extends Slot {
  readonly admit: (slot: Disposable) => void
  readonly refuse: (error: unknown) => void
}

export class Memory {
  readonly #slots = new Set<Slot>()
  readonly #waiting = new Set<Waiter>()
  #timer: NodeJS.Timeout | undefined
  #lastChange = performance.now()
  #lastLive = 0
  /** Bytes alive that nobody freed while no slot was given and nothing ran: they are kept by those who wait. */
  #kept = 0
  #finishing = false

  constructor(
    private readonly device: Device,
    readonly limitBytes: number,
    private readonly signal: AbortSignal,
    /**
     * Told of a failed op that waiting for the queue brought to light. Gives what to tell those who wait; undefined:
     * nothing, since whoever asked for that op finds out from its tensors.
     */
    private readonly failed: (error: unknown) => unknown,
    private readonly stuckMs = defaultStuckMs,
    /** Of the batches worked on, as far as they hold memory of the host beside that of a GPU: their rows as read, and results. */
    private readonly hostLimitBytes = Number.POSITIVE_INFINITY,
  ) {
    signal.addEventListener('abort', () => this.#refuseAll(signal.reason), { once: true })
  }

  /**
   * Waits until `bytes` more fit. With `covers` the slot stands for all that its holder will have alive until it is
   * disposed (a batch); without, for what is about to be made and will then be counted by the device.
   */
  room(holder: string, bytes: number, covers = false): Promise<Disposable> {
    if (this.signal.aborted) return Promise.reject(this.signal.reason)
    return new Promise((admit, refuse) => {
      this.#waiting.add({ holder, bytes, covers, admit, refuse })
      this.#lastChange = performance.now()
      this.#look()
    })
  }

  /** Bytes alive or promised. Covering slots hold live tensors of their own: the larger of the two counts. */
  get used(): number {
    return Math.max(this.device.liveBytes, this.#promised(true)) + this.#promised(false)
  }

  #promised(covers: boolean): number {
    return [...this.#slots].reduce((a, slot) => (slot.covers === covers ? a + slot.bytes : a), 0)
  }

  #fits({ bytes, covers }: Waiter): boolean {
    const batches = this.#promised(true)
    return this.used + bytes <= this.limitBytes && (!covers || batches === 0 || batches + bytes <= this.hostLimitBytes)
  }

  #look(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const { liveBytes } = this.device
    if (liveBytes !== this.#lastLive) this.#lastChange = performance.now()
    this.#lastLive = liveBytes
    const quietMs = this.#finishing ? 0 : performance.now() - this.#lastChange
    const isPause = this.#slots.size === 0 && quietMs > this.stuckMs * pauseShare
    this.#kept = isPause ? liveBytes : Math.min(this.#kept, liveBytes)
    for (const waiter of this.#waiting) {
      const alone = this.#slots.size === 0 && liveBytes <= this.#kept
      if (alone || this.#fits(waiter)) this.#admit(waiter) // else perhaps a smaller one behind it
    }
    if (this.#waiting.size === 0) return
    if (quietMs > this.stuckMs) {
      this.#refuseAll(this.#stuck())
      return
    }
    this.#drain()
    this.#timer = setTimeout(() => this.#look(), lookMs)
  }

  /** A disposed tensor is gone only when the ops before it have run: while the queue runs, nobody is stuck. */
  #drain(): void {
    if (this.#finishing) return
    this.#finishing = true
    const begin = performance.now()
    const goOn = (): void => {
      if (performance.now() - begin > this.stuckMs * pauseShare) this.#lastChange = performance.now()
      setTimeout(() => {
        this.#finishing = false
        if (this.#waiting.size > 0) this.#look()
      }, lookMs)
    }
    this.device.finish().then(goOn, error => {
      const told = this.failed(error)
      if (told !== undefined) this.#refuseAll(told)
      goOn()
    })
  }

  #admit(waiter: Waiter): void {
    const { holder, bytes, covers } = waiter
    const slot: Slot = { holder, bytes, covers }
    this.#waiting.delete(waiter)
    this.#slots.add(slot)
    this.#lastChange = performance.now()
    waiter.admit({
      [Symbol.dispose]: () => {
        this.#slots.delete(slot)
        this.#lastChange = performance.now()
        this.#look()
      },
    })
  }

  #refuseAll(error: unknown): void {
    clearTimeout(this.#timer)
    for (const { refuse } of [...this.#waiting]) refuse(error)
    this.#waiting.clear()
  }

  #stuck(): PipeError {
    const list = (slots: Iterable<Slot>): string => [...slots].map(({ holder, bytes }) => `${holder} ${formatBytes(bytes)}`).join(', ')
    const held = this.#slots.size === 0 ? '' : `, promised to ${list(this.#slots)}`
    const seconds = Math.round(this.stuckMs / 1000)
    return new PipeError('memory', {
      message:
        `Nobody has freed memory for ${seconds} s: ${formatBytes(this.device.liveBytes)} of ${formatBytes(this.limitBytes)} are alive${held}, ` +
        `while these wait for room: ${list(this.#waiting)}.`,
      hint: 'Give more with --memory, or work on less at a time (a smaller batch, shorter sequences).',
    })
  }
}
