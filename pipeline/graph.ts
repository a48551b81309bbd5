/** A graph as it is once its file is read, completed and checked (load-graph.ts): what everything else works on. */
import type { AnyStage } from './define.js'
import type { GraphInput } from './graph-file.js'

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
  /** SHA-256 of the file of a stage that is not built in, and of those that it imports. */
  readonly moduleHash?: string
  /** By parameter: the stages that this one runs itself. Their parameters stand in `params`, too, beside "use". */
  readonly inner?: Readonly<Record<string, readonly GraphStage[]>>
}

export interface Graph {
  readonly file: string
  readonly name: string
  readonly about: string
  readonly seed: number
  readonly inputs: readonly GraphInput[]
  /** Every stage behind those it reads from. */
  readonly stages: readonly GraphStage[]
}
