/** Graph file → Graph: JSON read, inputs and --set filled in, stages resolved, parameters validated, edges in order. */
import type { AnyStage } from './define.js'

/** name → () => import(…): the built-in stages, handed in by cli.ts. */
export type BuiltInStages = Readonly<Record<string, () => Promise<{ default: AnyStage }>>>

export interface GraphStage {
  /** Its name, or the graph's "id". Unique. */
  readonly id: string
  /** As the graph says it. */
  readonly use: string
  /** Where people find it: 'graphs/my.json  stages[5] round'. */
  readonly where: string
  /** Ids of the stages whose rows it reads, in order. Empty: it reads none. */
  readonly from: readonly string[]
  /** Validated, with defaults; paths are absolute. */
  readonly params: Readonly<Record<string, unknown>>
  readonly stage: AnyStage
  /** SHA-256 of the file of a stage that is not built in. */
  readonly moduleHash?: string
}

export interface GraphInput {
  readonly name: string
  readonly about: string
  /** What it stands for in this run; undefined: not given. */
  readonly value?: string
}

export interface Graph {
  readonly file: string
  readonly name: string
  readonly about: string
  readonly seed: number
  readonly inputs: readonly GraphInput[]
  readonly stages: readonly GraphStage[]
}

export interface LoadOptions {
  readonly stages: BuiltInStages
  /** 'model=DIR', 'round.codebook.K=3', as they stand behind --set. */
  readonly set?: readonly string[]
  /** What paths in `set` are relative to. Default: the working directory. */
  readonly directory?: string
}
