/** Graph → Plan: what would run, what is stored, and why; a value that can be printed and compared. */

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
  /** Columns on the edge below: 'weight float [m n]'. */
  readonly gives: readonly string[]
  readonly table: string
  /** From earlier runs of the stage; absent when it never ran. */
  readonly seconds?: number
  readonly memoryBytes?: number
  readonly diskBytes?: number
  /** Cache keys of the batches that are known, by batch id: what `cache gc` keeps. */
  readonly keys: Readonly<Record<string, string>>
}

export interface Plan {
  readonly graph: string
  /** The graph file. */
  readonly file: string
  readonly out: string
  readonly backend: string
  readonly stages: readonly StagePlan[]
  /** Sums over the stages that will run; absent when one of them is unknown. */
  readonly seconds?: number
  readonly memoryBytes?: number
  readonly diskBytes?: number
}
