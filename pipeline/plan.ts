/** What a plan says, and what of a run is kept for the next one's: values that can be printed and compared. planning.ts makes them. */
import type { Parts } from './fingerprint.js'

/** What will happen to a stage. 'source': only looked at (cheap, never stored). 'inline': stores nothing, runs with the stage that reads it. */
export type Action = 'run' | 'partly' | 'cached' | 'source' | 'inline' | 'skipped'

export interface StagePlan {
  readonly id: string
  readonly use: string
  readonly from: readonly string[]
  readonly scope: 'batch' | 'stream'
  /** Stages with one number run as one: all but the last store nothing. */
  readonly segment: number
  readonly fingerprint: string
  readonly action: Action
  /** Absent when what comes in is known only after a stage above has run. */
  readonly batches?: { readonly cached: number; readonly missing: number }
  /** Why it runs: 'codebook.K: 2 → 3', 'never ran here', '2 of 9 batches are missing', 'round runs'. Empty when cached. */
  readonly why: readonly string[]
  readonly reads: readonly string[]
  /** Columns on the edge below: 'weight float [m, n]'. */
  readonly gives: readonly string[]
  readonly table: string
  /** From earlier runs of the stage, or as it guesses itself; absent when it never ran and does not say. */
  readonly seconds?: number
  /** The seconds are a guess: the stage never ran here. */
  readonly isGuess?: true
  readonly memoryBytes?: number
  /** What it stores or writes to files, and stays. */
  readonly diskBytes?: number
  /** Checkpoints that it keeps on disk beside that while it is at work; absent where there are none. */
  readonly scratchBytes?: number
  /** Cache keys of the batches that are known, by batch id: what `cache gc` keeps. */
  readonly keys: Readonly<Record<string, string>>
  /** Of a stage on a stream: hash of what goes in, which makes the keys of its batches and of its checkpoints. Absent when that is not known yet. */
  readonly streamKey?: string
}

/** Where ops run, and the memory that their tensors may take there. */
export interface DevicePlan {
  /** 'cpu', 'cuda:0'. */
  readonly name: string
  /** 'cuda:0 NVIDIA H100 80GB HBM3'; 'cpu (avx512, 2 threads)', and why no GPU. */
  readonly text: string
  /** Of its memory (the host's for a CPU) now. */
  readonly freeBytes: number
  /** Of a GPU's memory. */
  readonly totalBytes?: number
  /** As --memory says, or the default. */
  readonly limitBytes: number
}

/** Stages that run as one. */
export interface SegmentPlan {
  readonly stages: readonly string[]
  /** Of a device's memory: for one batch of it, and for those that are let in side by side. Absent when a stage does not say. */
  readonly leastBytes?: number
  readonly memoryBytes?: number
}

export interface Plan {
  readonly graph: string
  /** The graph file. */
  readonly file: string
  readonly out: string
  readonly backend: string
  readonly devices: readonly DevicePlan[]
  readonly stages: readonly StagePlan[]
  /** In the file system of `out`; absent where it does not say. */
  readonly freeDiskBytes?: number
  /** Those that will run, in order. */
  readonly segments: readonly SegmentPlan[]
  /** Sentences: what does not fit, and what to set. */
  readonly warnings: readonly string[]
  /** Sums over the stages that will run, those inside others too (memory: the most of a segment); absent when one of them is unknown. */
  readonly seconds?: number
  readonly memoryBytes?: number
  readonly diskBytes?: number
  /** The most on disk at a time, checkpoints on the way included; diskBytes is what stays of it. */
  readonly peakDiskBytes?: number
}

/** What is kept of a run, by stage id, in cache/last-run.json. */
export interface StageRecord {
  readonly hash: string
  readonly parts: Parts
  readonly paths: Readonly<Record<string, string>>
  /** Of the last time it computed something. */
  readonly cost?: {
    readonly seconds: number
    readonly inputBytes: number
    readonly batches: number
    readonly diskBytes: number
    /** That batches went to. */
    readonly devices?: number
  }
}
export type LastRun = Readonly<Record<string, StageRecord>>
