/** Events → lines on stderr: on a terminal a line a stage, redrawn in place; elsewhere plain lines, few. */
import type { Event } from './events.js'
import { count, duration, plural } from './text.js'

/** Where lines go: process.stderr, or a stand-in. */
export interface Screen {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

/** Seconds between two plain lines about progress. */
const quiet = 5
/** Milliseconds between two drawings: often enough for the eye, far too seldom to cost anything. */
const frame = 100

interface Line {
  readonly id: string
  /** skipped: not drawn. It is needed after all where a stored file turns out to be damaged. */
  state: 'skipped' | 'read' | 'waiting' | 'running' | 'done'
  /** Seconds of the run at which it began. */
  began: number
  /** In all, where known. */
  of: number | undefined
  cached: number
  run: number
  /** What was done in batches that are over, and how far those under way are. */
  finished: number
  readonly under: Map<string, { done: number; total: number }>
  /** Of a stage that sees the whole stream. */
  whole: { done: number; total: number } | undefined
  unit: string
  /** What it is at just now. */
  about?: string | undefined
  took: number
}

/** Keeps what the events said, and shows it. `next` is called with each event, `close` once at the end. */
export class Progress {
  readonly #lines = new Map<string, Line>()
  /** What each device works on: stage and batch, and how far it is. */
  readonly #devices = new Map<string, Map<string, { readonly done: number; readonly total: number } | undefined>>()
  readonly #live: boolean
  readonly #color: boolean
  readonly #timer: NodeJS.Timeout | undefined
  #drawn = 0
  #now = 0
  #clock = performance.now()
  #said = 0
  /** Whom others wait for, and since which second nothing has been heard. */
  #silent: { readonly stage: string; readonly since: number } | undefined

  constructor(
    private readonly screen: Screen,
    o: { color: boolean },
  ) {
    this.#live = screen.isTTY === true
    this.#color = o.color
    if (this.#live) this.#timer = setInterval(() => this.#draw(), frame).unref()
  }

  next(event: Event): void {
    this.#now = event.seconds
    this.#clock = performance.now()
    if (event.kind !== 'memory') this.#silent = undefined
    switch (event.kind) {
      case 'plan':
        for (const { id, action, batches } of event.plan.stages) {
          const of = batches === undefined ? undefined : batches.cached + batches.missing
          this.#lines.set(id, {
            id,
            state: action === 'source' ? 'read' : action === 'skipped' ? 'skipped' : 'waiting',
            began: 0,
            of,
            cached: 0,
            run: 0,
            finished: 0,
            under: new Map(),
            whole: undefined,
            unit: '',
            took: 0,
          })
        }
        break
      case 'stage-started': {
        const line = this.#line(event.stage)
        line.state = 'running'
        line.began = event.seconds
        this.#say(`${line.id}: started`)
        break
      }
      case 'stage-progress': {
        const line = this.#line(event.stage)
        line.unit = event.unit
        line.about = event.about
        if (event.batch === undefined) line.whole = { done: event.done, total: event.total }
        else line.under.set(event.batch, { done: event.done, total: event.total })
        this.#at(event.device).set(workOf(event), { done: event.done, total: event.total })
        this.#sayProgress(line)
        break
      }
      case 'memory':
        this.#at(event.device)
        break
      case 'batch-started':
        this.#at(event.device).set(workOf(event), undefined)
        break
      case 'waiting': {
        const { stage, silentSeconds } = event
        this.#silent = { stage, since: event.seconds - silentSeconds }
        if (!this.#live || !this.#shown.some(({ id }) => id === stage)) this.#above(`${workOf(event)}: waited for; nothing new for ${duration(silentSeconds)}`)
        break
      }
      case 'device-lost':
        this.#devices.delete(event.device)
        this.#above(`warning: ${event.text}`)
        break
      case 'batch-finished': {
        if (event.device !== undefined) this.#at(event.device).delete(workOf(event))
        const line = this.#line(event.stage)
        line.of = event.of ?? line.of
        if (event.cached) line.cached += 1
        else line.run += 1
        line.finished += line.under.get(event.batch)?.total ?? 0
        line.under.delete(event.batch)
        this.#sayProgress(line)
        break
      }
      case 'stage-finished': {
        for (const work of this.#devices.values()) work.delete(event.stage)
        const line = this.#line(event.stage)
        const { run, cached } = event.usage.batches
        Object.assign(line, { state: 'done', run, cached, took: event.usage.seconds })
        this.#say(`${line.id}: ${finished(line)}`)
        break
      }
      case 'note':
      case 'warning': {
        const place = [event.stage, event.batch].filter(part => part !== undefined).join(' ')
        const text = `${event.kind === 'warning' ? 'warning: ' : ''}${event.text}`
        this.#above(place === '' ? text : `${place}: ${text}`)
        break
      }
    }
  }

  /** Takes the drawing away: someone else has a line to write. The next one is drawn below it. */
  clear(): void {
    if (this.#live) this.#erase()
  }

  /** Draws for the last time and leaves the cursor below. */
  close(): void {
    clearInterval(this.#timer)
    if (this.#live) this.#draw()
    this.#drawn = 0
  }

  #line(id: string): Line {
    const line = this.#lines.get(id)
    if (line === undefined) throw new Error(`an event speaks of stage "${id}", which is not in the plan`)
    return line
  }

  get #shown(): Line[] {
    return [...this.#lines.values()].filter(({ state }) => state !== 'skipped')
  }

  #at(device: string): Map<string, { readonly done: number; readonly total: number } | undefined> {
    const work = this.#devices.get(device) ?? new Map()
    this.#devices.set(device, work)
    return work
  }

  #say(text: string): void {
    if (this.#live) return
    this.screen.write(`${text}\n`)
    this.#said = this.#now
  }

  #sayProgress(line: Line): void {
    if (this.#live || this.#now - this.#said < quiet) return
    const words = [percent(fraction(line)), ...this.#pace(line)].filter(text => text !== '')
    if (words.length > 0) this.#say(`${line.id}: ${words.join(', ')}`)
  }

  /** A line that stays: above the drawing on a terminal. */
  #above(text: string): void {
    if (!this.#live) {
      this.#say(text)
      return
    }
    this.#erase()
    this.screen.write(`${text}\n`)
    this.#draw()
  }

  #erase(): void {
    if (this.#drawn > 0) this.screen.write(`${up(this.#drawn)}\u001b[J`)
    this.#drawn = 0
  }

  #draw(): void {
    const width = (this.screen.columns ?? 80) - 1
    const shown = this.#shown
    const pad = Math.max(0, ...shown.map(({ id }) => id.length))
    const text = shown.map(line => this.#text(line, pad, width))
    if (this.#devices.size > 1)
      text.push(...[...this.#devices].map(([device, work]) => this.#paint(2, doing(device, work, pad).slice(0, width))))
    // One write, over what was there: no flicker.
    const home = this.#drawn > 0 ? up(this.#drawn) : ''
    this.screen.write(`${home}${text.map(line => `${line}\u001b[K\n`).join('')}`)
    this.#drawn = text.length
  }

  #text(line: Line, pad: number, width: number): string {
    const name = line.id.padEnd(pad)
    if (line.state === 'read') return `${this.#paint(32, name)}  read`
    if (line.state === 'waiting') return this.#paint(2, `${name}  ·`.slice(0, width))
    if (line.state === 'done') return `${this.#paint(32, name)}  ${finished(line).slice(0, width - pad - 2)}`
    const done = fraction(line)
    const words = [batches(line), ...this.#pace(line), line.about ?? ''].filter(word => word !== '').join('  ')
    const room = Math.min(24, width - pad - words.length - 11)
    if (done === undefined || room < 5) return `${name}  ${words}`.slice(0, width)
    const full = Math.round(done * room)
    return `${name}  ${this.#paint(36, '█'.repeat(full))}${this.#paint(2, '░'.repeat(room - full))} ${percent(done).padStart(5)}  ${words}`
  }

  /** Rate and time left, where there is something to say. */
  #pace(line: Line): string[] {
    // Between events the clock goes on.
    const now = this.#now + (performance.now() - this.#clock) / 1000
    const elapsed = now - line.began
    if (elapsed < 0.5) return []
    if (this.#silent?.stage === line.id) return [`nothing new for ${duration(now - this.#silent.since)}`]
    const units = line.whole?.done ?? line.finished + [...line.under.values()].reduce((sum, { done }) => sum + done, 0)
    const rate = units > 0 ? `${count(units / elapsed)} ${line.unit}/s` : ''
    const done = fraction(line)
    // What was stored already took no time: it says nothing about the rest.
    const before = line.of === undefined ? 0 : line.cached / line.of
    const left = done !== undefined && done > before && done < 1 ? `${duration((elapsed * (1 - done)) / (done - before))} left` : ''
    return [rate, left].filter(text => text !== '')
  }

  #paint(code: number, text: string): string {
    return this.#color ? `\u001b[${code}m${text}\u001b[0m` : text
  }
}

/** To the beginning of a line above; the cursor may be behind what a key has echoed. */
const up = (lines: number): string => `\r\u001b[${lines}A`

const workOf = ({ stage, batch }: { readonly stage: string; readonly batch?: string }): string =>
  batch === undefined ? stage : `${stage} ${batch}`

/** 'cuda:1  round 3/attn 45 %, round 3/mlp' */
const doing = (
  device: string,
  work: ReadonlyMap<string, { readonly done: number; readonly total: number } | undefined>,
  pad: number,
): string => {
  const words = [...work].map(([what, at]) => (at === undefined || at.total === 0 ? what : `${what} ${percent(at.done / at.total)}`))
  return `${device.padEnd(pad)}  ${words.length === 0 ? 'idle' : words.join(', ')}`
}

/** Between 0 and 1; undefined when nobody said how much there is. */
function fraction(line: Line): number | undefined {
  if (line.of !== undefined && line.of > 0 && (line.whole === undefined || line.run + line.cached > 0)) {
    const under = [...line.under.values()].reduce((sum, { done, total }) => sum + (total > 0 ? done / total : 0), 0)
    const byBatch = (line.run + line.cached + under) / line.of
    const byStream = line.whole !== undefined && line.whole.total > 0 ? line.whole.done / line.whole.total : 0
    return Math.min(1, Math.max(byBatch, byStream))
  }
  if (line.whole !== undefined && line.whole.total > 0) return Math.min(1, line.whole.done / line.whole.total)
  return undefined
}

const percent = (done: number | undefined): string => (done === undefined ? '' : `${Math.floor(done * 100)} %`)

const batches = ({ run, cached, of }: Line): string => (run + cached === 0 && of === undefined ? '' : `${run + cached}/${of ?? '?'}`)

function finished({ run, cached, took }: Line): string {
  if (run === 0 && cached > 0) return `cached (${plural(cached, 'batch', 'batches')})`
  if (run === 0) return `done in ${duration(took)}`
  return `${plural(run, 'batch', 'batches')} in ${duration(took)}${cached > 0 ? `, ${cached} cached` : ''}`
}
