/** What stages will take: as measured the last time, or, where they never ran, as they guess from the rows of the sources. */
import { cpus } from 'node:os'
import type { Device } from '../native/device.js'
import type { Estimate, KnownRow } from './define.js'
import { memoryOf } from './batches.js'
import type { Lane } from './lane.js'
import type { GraphStage } from './graph.js'
import { bytesOf } from './passing.js'
import { type Node, rootOf, type Segment } from './survey.js'
import type { LastRun } from './plan.js'

/**
 * Operations a second, of a core or of a GPU: for stages that never ran here. An AVX-512 core (Zen 4) does 2·10¹⁰ states of
 * the trellis search and 3·10¹⁰ multiply-adds of a large product; half of that for what lies between, and for a core
 * that has other work, too. For a GPU an order of magnitude.
 */
const rates = { cpu: 1e10, cuda: 2e12 } as const
/** Bytes a second that are hashed, written and synced. */
const diskRate = 3e8
/** Seconds that a batch takes whatever its size: opening, storing, waiting for the disk; as the bundled model's small batches do. */
const batchSeconds = 0.01

export interface Cost {
  readonly seconds?: number
  readonly memoryBytes?: number
  readonly diskBytes?: number
  readonly scratchBytes?: number
  /** The seconds are not measured ones of an earlier run. */
  readonly isGuess?: true
}

/** What estimating asks of the engine. */
export interface Known {
  readonly lastRun: LastRun
  readonly device: Pick<Device, 'kind' | 'name' | 'info'>
  /** The devices that batches go to. */
  readonly lanes: readonly Lane[]
  /** Rows that a source gives, by batch. */
  sourceRows(node: Node): Promise<ReadonlyMap<string, readonly KnownRow[]>>
  /** Of a stored batch, or of a source's; none when it is not there. */
  inputRows(node: Node, id: string): Promise<readonly KnownRow[]>
  /** Bytes of its checkpoints that are there already. */
  savedBytes(node: Node): Promise<number>
}

/** Of a member of a segment that will run. */
export async function costOf(node: Node, segment: Segment, known: Known): Promise<Cost> {
  const { missing, anchor } = segment
  const guess = await guessOf(node, missing, known)
  const inputs: (readonly KnownRow[])[] = []
  for (const place of anchor.places ?? []) {
    const root = missing?.includes(place.id) === true ? rootOf(place) : undefined
    if (root === undefined) continue
    inputs.push(await known.inputRows(root.node, root.place.id))
  }
  const bytes = inputs.map(bytesOf)
  const complete = missing !== undefined && bytes.length === missing.length && bytes.every(size => size > 0)
  const memoryBytes = complete ? Math.max(...inputs.map((rows, i) => memoryOf(node, bytes[i] as number, rows))) : guess?.memory
  const cost = known.lastRun[node.id]?.cost
  const share =
    cost === undefined
      ? undefined
      : missing === undefined
        ? 1 // as the last time
        : complete && cost.inputBytes > 0
          ? bytes.reduce((a, b) => a + b, 0) / cost.inputBytes
          : cost.batches > 0
            ? missing.length / cost.batches
            : undefined
  const measured =
    share === undefined || cost === undefined ? undefined : { seconds: share * cost.seconds, disk: Math.round(share * cost.diskBytes) }
  // Measured are the rows that were stored; files that a stage writes beside them are in its guess alone.
  const writesFiles = node.stage.stage.intact !== undefined
  const diskBytes = writesFiles ? (guess?.disk ?? measured?.disk) : (measured?.disk ?? guess?.disk)
  // Batches go to all devices; measured was with those of that run.
  const side = segment.isStream ? 1 : (measured === undefined ? 1 : (cost?.devices ?? 1)) / known.lanes.length
  const alone = measured?.seconds ?? guess?.seconds
  const seconds = alone === undefined ? undefined : alone * side
  const scratchBytes = guess && Math.max(0, guess.scratch - (guess.scratch > 0 ? await known.savedBytes(node) : 0))
  return {
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    ...(diskBytes === undefined ? {} : { diskBytes }),
    ...(scratchBytes ? { scratchBytes } : {}),
    ...(seconds === undefined ? {} : { seconds }),
    ...(measured === undefined && seconds !== undefined ? { isGuess: true } : {}),
  }
}

interface Guess {
  readonly seconds: number
  readonly memory: number
  readonly disk: number
  readonly scratch: number
}

async function guessOf(node: Node, missing: readonly string[] | undefined, known: Known): Promise<Guess | undefined> {
  const estimate = (await estimates(node, missing, known)).estimate
  if (estimate === undefined) return undefined
  const { kind } = known.device
  const rate = rates[kind] * (kind === 'cpu' ? Math.min(known.device.info().threads, cpus().length) : 1)
  const disk = node.kind === 'inline' ? 0 : estimate.disk
  const seconds = estimate.operations / rate + disk / diskRate + (missing?.length ?? 1) * batchSeconds
  return { seconds, memory: Math.round(estimate.memory), disk: Math.round(disk), scratch: Math.round(estimate.scratch ?? 0) }
}

/** The stage's own estimate, on the rows of its sources as the stages between say they change. */
async function estimates(
  node: Node,
  missing: readonly string[] | undefined,
  known: Known,
): Promise<{ estimate?: Estimate; rows: readonly KnownRow[] }> {
  if (node.from.length === 0) {
    if (node.kind !== 'source') return { rows: [] } // known when it has run
    const batches = await known.sourceRows(node)
    const wanted = [...batches].filter(([id]) => missing?.includes(id))
    return { rows: (wanted.length > 0 ? wanted : [...batches]).flatMap(([, rows]) => rows) }
  }
  const rows: KnownRow[] = []
  for (const above of node.from) rows.push(...(await estimates(above, missing, known)).rows)
  const own = rows.length === 0 ? undefined : node.stage.stage.estimate?.(rows, node.stage.params)
  const estimate = own === undefined ? undefined : withInner(own, rows, node.stage)
  return estimate === undefined ? { rows } : { estimate, rows: estimate.rows ?? rows }
}

/** What the stages inside it do comes on top: they see the rows once. What they store is what it stores. */
function withInner(own: Estimate, rows: readonly KnownRow[], { inner = {} }: GraphStage): Estimate {
  let [sum, given] = [own, rows]
  for (const { stage, params } of Object.values(inner).flat()) {
    const estimate = stage.estimate?.(given, params)
    if (estimate === undefined) continue
    given = estimate.rows ?? given
    sum = {
      operations: sum.operations + estimate.operations,
      memory: Math.max(sum.memory, estimate.memory),
      disk: Math.max(sum.disk, estimate.disk),
      ...(sum.scratch === undefined ? {} : { scratch: sum.scratch }),
      rows: given,
    }
  }
  return sum
}
