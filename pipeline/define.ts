/**
 * What the author of a stage imports: defineStage, tables and their columns, and the operators stages are made of.
 *
 * A stage is an RxJS operator from rows to rows, with its parameters, the table it reads and the table it gives
 * declared beside it. The engine encodes rows as Arrow record batches, stores them, and skips what is stored.
 */
import type { Static, TObject, TString, TUnsafe } from '@sinclair/typebox'
import { Type } from '@sinclair/typebox'
import type { OperatorFunction } from 'rxjs'
import type { Ops } from '../native/ops.js'
import type { DType, Tensor } from '../native/tensor.js'
import type { TensorRef } from '../native/tensor-ref.js'
import type { Mistake } from './error.js'
import type { Random } from './random.js'

export { Type } from '@sinclair/typebox'
export { temporary, writeWhole } from './disk.js'
export { type Mistake, nearest, PipeError } from './error.js'
export { hashOfFile } from './hashing.js'
export { bytesTensor, fileTensor } from './lazy.js'
export { each, fold, runs, spread } from './rows.js'

/** What a column holds when read (R) and what may be put there (W). */
export interface Column<R, W = R> {
  readonly kind: 'u32' | 'i64' | 'f64' | 'utf8' | 'tensor'
  readonly doc: string
  /** May be absent from a row. */
  readonly optional: boolean
  /** Tensors: the element type stages may rely on ('float' = any float type) and the shape in letters, 'm n'. */
  readonly dtype?: DType | 'float'
  readonly shape?: string
  /** Types only; never set. */
  readonly read?: R
  readonly write?: W
}
// biome-ignore lint/suspicious/noExplicitAny: a column of whatever type; R and W are phantom
export type Columns = Readonly<Record<string, Column<any, any>>>

type ReadOf<C> = C extends Column<infer R, infer _> ? R : never
type WriteOf<C> = C extends Column<infer _, infer W> ? W : never
type MayBeAbsent<C, K extends keyof C> = undefined extends ReadOf<C[K]> ? K : never
/** A row of table T as a stage finds it. */
export type Row<T> =
  T extends Table<infer C>
    ? { readonly [K in keyof C as Exclude<K, MayBeAbsent<C, K>>]: ReadOf<C[K]> } & {
        readonly [K in keyof C as MayBeAbsent<C, K>]?: ReadOf<C[K]>
      }
    : never
/** A row of table T as a stage may return it: tensors as they came or as live tensors. */
export type NewRow<T> =
  T extends Table<infer C>
    ? { readonly [K in keyof C as Exclude<K, MayBeAbsent<C, K>>]: WriteOf<C[K]> } & {
        readonly [K in keyof C as MayBeAbsent<C, K>]?: WriteOf<C[K]>
      }
    : never

/** A named, versioned list of columns: what flows over an edge. */
export class Table<C extends Columns = Columns> {
  /** With `live`, rows carry tensors that are used at once and never stored. */
  constructor(
    readonly name: string,
    readonly version: number,
    readonly columns: C,
    readonly live = false,
  ) {}

  /** This table cut down to these columns and the key: what a stage reads; the plan checks that they are there. */
  with<K extends keyof C & string>(...names: K[]): Table<Pick<C, K | (keyof C & RowKey)>> {
    const keep = new Set<string>([...names, ...rowKey])
    const columns = Object.fromEntries(Object.entries(this.columns).filter(([name]) => keep.has(name)))
    return new Table(this.name, this.version, columns as Pick<C, K | (keyof C & RowKey)>, this.live)
  }

  /** This table with more columns. */
  and<D extends Columns>(more: D): Table<Omit<C, keyof D> & D> {
    return new Table(this.name, this.version, { ...this.columns, ...more } as Omit<C, keyof D> & D, this.live)
  }

  /** This table without some columns: what a stage drops. */
  without<K extends keyof C & string>(...names: K[]): Table<Omit<C, K>> {
    const drop = new Set<string>(names)
    const columns = Object.fromEntries(Object.entries(this.columns).filter(([name]) => !drop.has(name)))
    return new Table(this.name, this.version, columns as unknown as Omit<C, K>, this.live)
  }
}
const rowKey = ['role', 'layer', 'linear', 'shares', 'm', 'n', 'source'] as const
type RowKey = (typeof rowKey)[number]

export const defineTable = <C extends Columns>(name: string, version: number, columns: C, o: { live?: boolean } = {}): Table<C> =>
  new Table(name, version, columns, o.live ?? false)

export const u32 = (doc: string): Column<number> => ({ kind: 'u32', doc, optional: false })
/** A whole number of up to 2⁵³, bytes say. */
export const i64 = (doc: string): Column<number> => ({ kind: 'i64', doc, optional: false })
export const f64 = (doc: string): Column<number> => ({ kind: 'f64', doc, optional: false })
/** With a type argument, a choice of words. (Two signatures: inside defineTable one generic alone would be inferred as any.) */
export function utf8(doc: string): Column<string>
export function utf8<S extends string>(doc: string): Column<S>
export function utf8(doc: string): Column<string> {
  return { kind: 'utf8', doc, optional: false }
}
export const tensor = (dtype: DType | 'float', shape: string, doc: string): Column<TensorRef, TensorRef | Tensor> => ({
  kind: 'tensor',
  doc,
  dtype,
  shape,
  optional: false,
})
/** The same column, absent from rows to which it does not apply. */
export const optional = <R, W>(column: Column<R, W>): Column<R | undefined, W | undefined> => ({ ...column, optional: true })

/** A parameter that names an input file; relative to the graph (in a graph) or the working directory (in --set). Its content is part of the cache key. */
export const file = (description: string): TString => Type.String({ description, pipe: 'file' })
/**
 * A parameter that names an input folder; the content of the files in it is part of the cache key: of those that end so
 * ('.jsonl'), else of what belongs to a checkpoint (.json, .safetensors, .pt, .model, .txt, .jinja).
 */
export const directory = (description: string, endings?: readonly string[]): TString =>
  Type.String({ description, pipe: 'directory', ...(endings === undefined ? {} : { endings }) })

/** A stage inside another, as a graph says it: which, and its parameters beside. */
export interface InnerStage {
  readonly use: string
  readonly [parameter: string]: unknown
}

/** A parameter that is a list of stages, which the stage that has it runs on rows of its own, as often as it likes. */
export interface InnerStages<I extends Table, O extends Table> {
  /** Name of the parameter. */
  readonly parameter: string
  /** The rows that the first of them is given. */
  readonly input: I
  /** What is needed of the rows that the last of them gives. */
  readonly output: O
  /** For the stage's params, under that name. */
  readonly schema: TUnsafe<readonly InnerStage[]>
}
export const innerStages = <I extends Table, O extends Table>(
  parameter: string,
  { input, output, description }: { input: I; output: O; description: string },
): InnerStages<I, O> => ({
  parameter,
  input,
  output,
  schema: Type.Unsafe<readonly InnerStage[]>(Type.Array(Type.Object({ use: Type.String() }), { minItems: 1, description, pipe: 'stages' })),
})

/** How a stage's results depend on its input, and so what must run again. */
export type Scope =
  /** What comes out for a batch depends on that batch alone: batches run side by side and resume one by one. The default. */
  | 'batch'
  /** What comes out may depend on every row that comes in. The operator sees the whole stream. */
  | 'stream'

/** What a stage is given by the engine. */
export interface Context {
  /** The verbs, on the device of this run. */
  readonly ops: Ops
  /** Random numbers by name: the same on every machine, in any order. */
  rng(...name: (string | number)[]): Random
  readonly signal: AbortSignal
  /**
   * Runs the stages that the graph gives under this parameter, one after the other, on these rows. Live tensors in the
   * rows are taken over; those of the rows that come back are on the host.
   */
  inner<I extends Table, O extends Table>(stages: InnerStages<I, O>, rows: readonly NewRow<I>[]): Promise<Row<O>[]>
  /**
   * Waits until `bytes` more fit under --memory. Whoever makes tensors out of nothing (spread) calls it first and
   * disposes the slot when the tensors are made. Batch-scope stages need not: a batch is let in only when it fits.
   */
  room(bytes: number): Promise<Disposable>
  /** Stream scope: false when all that this stage would give for the batch is stored already. */
  wanted(batch: string): boolean
  /** Stream scope: state kept on disk, so that a killed run need not start over; dropped when the stage is done. */
  readonly checkpoint: Checkpoint
  /** How far the current batch (or stream) is, in the unit of the stage's own choice, e.g. 'weights', 'tokens'. `about`: what it is at just now, in a few words. */
  progress(done: number, total: number, unit: string, about?: string): void
  /** One sentence worth telling: shown in the terminal and kept in events.jsonl. */
  note(text: string): void
  /** The folder of this run's outputs (for stages that write files); a stage writes only below it. */
  readonly out: string
  /**
   * What was run, for embedding in the files of a stage that declares `intact` (it is part of that stage's key alone):
   * graph, stage versions, params, seed, input hashes. No times, no paths.
   */
  readonly recipe: Readonly<Record<string, unknown>>
}

export interface Checkpoint {
  /** Saves tensors and a JSON value under a name, whole or not at all. */
  save(name: string, value: Readonly<Record<string, unknown>>, tensors: Readonly<Record<string, Tensor>>): Promise<void>
  load(name: string): Promise<{ value: Readonly<Record<string, unknown>>; tensors: Readonly<Record<string, TensorRef>> } | undefined>
  /** Names saved under this key, oldest first. */
  list(): Promise<string[]>
  drop(name: string): Promise<void>
}

export interface Stage<P extends TObject, I extends Table, O extends Table> {
  readonly name: string
  /** Raise when results change: part of the cache key. */
  readonly version: number
  /** One sentence. */
  readonly about: string
  readonly params: P
  readonly input: I
  readonly output: O
  readonly scope?: Scope
  /** false: cheap to do again, so not stored; its rows go on as live tensors, and it resumes with the stage after it. */
  readonly cache?: boolean
  /**
   * What it gives is what it reads in less space, and is made in no time: the stage before it is not stored where this one
   * alone reads it, and both work batch by batch. It resumes with this stage then.
   */
  readonly condenses?: boolean
  /** The output rows that travel together and are stored as one batch: their common name. Source and stream stages. Default: the batch the row came in. */
  batch?(row: NewRow<O>): string
  /** Bytes on the device while a batch is worked on, of which `bytes` are its own tensors; for room and `pipe plan`. Default 3·bytes. */
  memory?(bytes: number, params: Static<P>, rows: readonly KnownRow[]): number
  /** Its parameters that are lists of stages. */
  // biome-ignore lint/suspicious/noExplicitAny: of whatever tables
  readonly inner?: readonly InnerStages<any, any>[]
  /** What working on these rows will take, within a factor of 3: for `pipe plan`, while the stage has not run here. */
  estimate?(rows: readonly KnownRow[], params: Static<P>): Estimate
  /** What is wrong with its parameters for a model of these rows, all that the source gives, behind these stages: told before anything runs. */
  check?(rows: readonly KnownRow[], params: Static<P>, where: string, above: readonly StageAbove[]): readonly Mistake[] | Promise<readonly Mistake[]>
  /** For stages that write files: are the files of this stored row still there and unchanged? If not, the stage runs again. */
  intact?(row: Row<O>, context: { readonly out: string }): Promise<boolean>
  /** For stages that write files: rejects with PipeError where something is in the way that no run has written. Asked before anything runs. */
  mayWrite?(context: { readonly out: string }): Promise<void>
  /** For stages that end a graph: what goes into result.json, and the lines of the results table. */
  report?(row: Row<O>): Report
  /** Name at least one parameter, used or not: TypeScript infers the types of rows inside only then. */
  operator(params: Static<P>, context: Context): OperatorFunction<Row<I>, NewRow<O>>
}

/**
 * A row before anything has run: what the source gave (words, numbers, tensors of which dtype, shape and bytes count, not
 * to be opened), with what the stages between say of it.
 */
export type KnownRow = Readonly<Record<string, unknown>>

/** A stage whose rows another reads, from it or by way of others, the nearest first; inside a stage, those above that one. */
export interface StageAbove {
  readonly name: string
  readonly params: Readonly<Record<string, unknown>>
}

/** Of all rows together. */
export interface Estimate {
  /** Multiply-adds in f32, or whatever else takes as long, such as a state of a search. */
  readonly operations: number
  /** The most bytes of tensors alive at a time. */
  readonly memory: number
  /** Bytes that are stored or written to files and stay. */
  readonly disk: number
  /** The most bytes of checkpoints that it keeps on disk while it is at work, and drops when it is done. */
  readonly scratch?: number
  /** What the next stage's estimate is given, if it should know more than this one: rows with a column added, say. */
  readonly rows?: readonly KnownRow[]
}

export interface Report {
  /** Merged into result.json. */
  readonly result: Readonly<Record<string, unknown>>
  /** Rows of the table shown at the end: label, then one cell a column. */
  readonly table: { readonly columns: readonly string[]; readonly rows: readonly (readonly string[])[] }
}
// biome-ignore lint/suspicious/noExplicitAny: a stage of whatever parameters and tables
export type AnyStage = Stage<any, any, any>

export const defineStage = <P extends TObject, I extends Table, O extends Table>(stage: Stage<P, I, O>): Stage<P, I, O> => stage

/** The input of a stage that reads no rows: its operator is given one row without columns, to be spread. */
export const nothing = defineTable('nothing', 1, {})
