/** What a stage is given by the engine, and what the engine's parts share in a run. */
import type { AnyRow } from './arrow.js'
import type { Cache } from './cache.js'
import type { Checkpoint, Context, Row } from './define.js'
import type { Happening } from './events.js'
import { hashOf } from './fingerprint.js'
import type { Graph } from './graph.js'
import { runInner } from './inner.js'
import type { Lane } from './lane.js'
import { rng } from './random.js'
import type { Node, Place } from './survey.js'
import { counting, type Usage } from './usage.js'

export interface Engine {
  readonly graph: Graph
  readonly out: string
  readonly cache: Cache
  /** The devices of this run, all of one kind. */
  readonly lanes: readonly Lane[]
  /** The first of them that is not lost: for what runs on one. */
  readonly lane: Lane
  readonly signal: AbortSignal
  readonly nodes: readonly Node[]
  emit(happening: Happening): void
  usage(node: Node): Usage
  /** Rows of a stored batch, or of a source's. */
  rowsOf(node: Node, place: Place): Promise<readonly AnyRow[]>
  isForced(node: Node, batch: string): boolean
  /** A batch is done, with these rows. */
  finished(node: Node, batch: string, rows: readonly AnyRow[]): void
  readonly finishedBatches: number
}

interface Scope {
  readonly lane: Lane
  /** The batch worked on; none on a stream. */
  readonly batch?: string
  wanted(batch: string): boolean
  readonly checkpoint?: Checkpoint | undefined
  /** Resolves when what was made before has been stored, but for a little. */
  keptUp?(): Promise<void>
}

export function contextOf(engine: Engine, node: Node, { lane, batch, wanted, checkpoint, keptUp }: Scope): Context {
  const { graph, signal, out } = engine
  const at = { stage: node.id, ...(batch === undefined ? {} : { batch }) }
  const context: Context = {
    ops: counting(lane.ops, engine.usage(node)),
    rng: (...name) => rng(graph.seed, ...name),
    signal,
    inner: async (stages, rows) =>
      (await runInner(node.stage.inner?.[stages.parameter] ?? [], stages.input, rows, context)) as Row<typeof stages.output>[],
    room: async bytes => {
      await keptUp?.()
      return lane.memory.room(node.id, bytes)
    },
    wanted,
    checkpoint: checkpoint ?? noCheckpoint,
    progress: (done, total, unit, about) =>
      engine.emit({ kind: 'stage-progress', ...at, device: lane.name, done, total, unit, ...(about === undefined ? {} : { about }) }),
    note: text => engine.emit({ kind: 'note', ...at, text }),
    out,
    recipe: recipeOf(engine, node),
  }
  return context
}

/** Of this stage and those above it: what others do does not change its results. */
function recipeOf({ graph, nodes }: Engine, node: Node): Readonly<Record<string, unknown>> {
  const above = new Set<Node>([node])
  for (const one of above) for (const from of one.from) above.add(from)
  const stages = nodes
    .filter(one => above.has(one))
    .map(({ id, stage, print, from }) => ({
      id,
      use: stage.use,
      version: stage.stage.version,
      from: from.map(one => one.id),
      params: print.params,
    }))
  return { graph: graph.name, seed: graph.seed, stages, sha256: hashOf(stages) }
}

const refuse = (): Promise<never> => Promise.reject(new Error('checkpoints are for stages of scope "stream"'))
const noCheckpoint: Checkpoint = { save: refuse, load: refuse, list: refuse, drop: refuse }
