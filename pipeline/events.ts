/** What happens in a run, as values: the terminal view, events.jsonl and --json all subscribe to the same Subject. */
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Observable } from 'rxjs'
import type { Plan } from './plan.js'

/** Common to all: seconds since the run began. */
interface Timed {
  readonly seconds: number
}

export type Happening =
  | { readonly kind: 'plan'; readonly plan: Plan }
  | { readonly kind: 'stage-started'; readonly stage: string }
  /** How far a stage is, in its own unit; batch: the one it speaks of, absent for stages that see the whole stream. */
  | {
      readonly kind: 'stage-progress'
      readonly stage: string
      readonly batch?: string
      readonly device: string
      readonly done: number
      readonly total: number
      readonly unit: string
      /** What it is at just now, in a few words. */
      readonly about?: string
    }
  | { readonly kind: 'stage-finished'; readonly stage: string; readonly usage: StageUsage }
  | { readonly kind: 'batch-started'; readonly stage: string; readonly batch: string; readonly device: string }
  /** bytes: of the stored file; 0 for stages that store nothing. of: batches in all, where that is known. device: of those that ran. */
  | {
      readonly kind: 'batch-finished'
      readonly stage: string
      readonly batch: string
      readonly device?: string
      readonly cached: boolean
      readonly bytes: number
      readonly of?: number
    }
  /** One sentence of a stage (or of the engine, without stage). */
  | { readonly kind: 'note'; readonly stage?: string; readonly batch?: string; readonly text: string }
  | { readonly kind: 'warning'; readonly stage?: string; readonly batch?: string; readonly text: string }
  /** Nothing has been heard for so long, and this stage is the one that others wait for. */
  | { readonly kind: 'waiting'; readonly stage: string; readonly batch?: string; readonly silentSeconds: number }
  /** Nothing is given to this device any more. */
  | { readonly kind: 'device-lost'; readonly device: string; readonly text: string }
  /** Sampled twice a second, for each device. live: bytes of tensors there; rss: of the process. */
  | { readonly kind: 'memory'; readonly device: string; readonly liveBytes: number; readonly limitBytes: number; readonly rssBytes: number }
  | { readonly kind: 'result'; readonly result: RunResult }
  | { readonly kind: 'failed'; readonly code: string; readonly text: string }

export type Event = Timed & Happening

/** What a stage took. */
export interface StageUsage {
  readonly id: string
  readonly use: string
  /** Of the intervals in which it had work. */
  readonly seconds: number
  /** Of the process, the most while the stage had work; 0 when it had none. */
  readonly peakRssBytes: number
  readonly batches: { readonly run: number; readonly cached: number }
  /** Calls of native ops. */
  readonly opCalls: number
}

/** What a device did in a run. */
export interface DeviceUsage {
  /** 'cuda:1' */
  readonly device: string
  /** In which it had a batch or a stream to work on. */
  readonly seconds: number
  /** Of its ops: what the device itself was busy. */
  readonly opSeconds: number
  /** Batches that were finished on it. */
  readonly batches: number
  /** The most bytes of tensors on it. */
  readonly peakBytes: number
  /** It failed for good. */
  readonly isLost?: boolean
}

/** A table of results that a stage wants shown at the end. */
export interface ReportTable {
  readonly stage: string
  readonly columns: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

export interface RunResult {
  readonly graph: string
  /** The folder with model/, result.json, events.jsonl, cache/. */
  readonly out: string
  /** What the stages' reports said, merged; also in result.json. */
  readonly results: Readonly<Record<string, unknown>>
  readonly tables: readonly ReportTable[]
  readonly seconds: number
  readonly peakRssBytes: number
  readonly stages: readonly StageUsage[]
  readonly devices: readonly DeviceUsage[]
}

/** Progress may come for every row; a file needs it no more often than this. */
const progressSeconds = 1

/** Writes events as JSON lines to a new file. What can't be written is dropped: who stores results tells of a full disk. */
export function eventsFile(path: string, events: Observable<Event>): { close(): void } {
  mkdirSync(dirname(path), { recursive: true })
  let file: number | undefined
  try {
    file = openSync(path, 'w')
  } catch {
    return { close: () => {} }
  }
  const told = new Map<string, number>()
  const subscription = events.subscribe(event => {
    if (event.kind === 'stage-progress') {
      if (event.seconds - (told.get(event.stage) ?? Number.NEGATIVE_INFINITY) < progressSeconds) return
      told.set(event.stage, event.seconds)
    }
    try {
      writeSync(file, `${JSON.stringify(event)}\n`)
    } catch {
      subscription.unsubscribe()
    }
  })
  return {
    close: () => {
      subscription.unsubscribe()
      closeSync(file)
    },
  }
}
