/** Graph → Plan: what would run, what is stored, and why; a value that can be printed and compared. */
import type { Columns } from './define.js'
import { deviceText, freeBytesOf } from './device.js'
import { describeColumn } from './edges.js'
import type { RunOptions } from './engine.js'
import { openEngine } from './engine.js'
import { costOf, type Known } from './estimate.js'
import { differences, type Parts } from './fingerprint.js'
import { misfits, segmentPlans } from './fitting.js'
import type { Graph } from './graph.js'
import { type Node, type Segment, segmentsOf } from './survey.js'

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
  readonly diskBytes?: number
  /** Cache keys of the batches that are known, by batch id: what `cache gc` keeps. */
  readonly keys: Readonly<Record<string, string>>
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
  /** Those that will run, in order. */
  readonly segments: readonly SegmentPlan[]
  /** Sentences: what does not fit, and what to set. */
  readonly warnings: readonly string[]
  /** Sums over the stages that will run, those inside others too (memory: the most of a segment); absent when one of them is unknown. */
  readonly seconds?: number
  readonly memoryBytes?: number
  readonly diskBytes?: number
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

/** What `run` would do now. Runs sources only (which just look), writes nothing but the hashes of input files. */
export async function planGraph(graph: Graph, options: Omit<RunOptions, 'events'>): Promise<Plan> {
  await using engine = await openEngine(graph, { ...options, events: undefined })
  await engine.survey()
  return planOf(graph, options, engine.nodes, engine)
}

/** What planning asks of the engine. */
interface Asked extends Known {
  isForcedStage(id: string): boolean
}

export async function planOf(graph: Graph, { out }: { out: string }, nodes: readonly Node[], known: Asked): Promise<Plan> {
  const segments = segmentsOf(nodes)
  const stages: StagePlan[] = []
  for (const node of nodes) stages.push(await stagePlan(node, segments, stages, known))
  const devices = await devicePlans(known)
  const segmentsOnDevice = segmentPlans(stages, { limitBytes: Math.min(...devices.map(({ limitBytes }) => limitBytes)) })
  const running = stages.filter(stage => stage.segment >= 0)
  const total = (of: (stage: StagePlan) => number | undefined, fold: (a: number, b: number) => number): number | undefined =>
    running.map(of).reduce<number | undefined>((a, b) => (a === undefined || b === undefined ? undefined : fold(a, b)), 0)
  const totals = {
    seconds: total(
      stage => stage.seconds,
      (a, b) => a + b,
    ),
    memoryBytes: most(segmentsOnDevice.map(({ memoryBytes }) => memoryBytes)),
    diskBytes: total(
      stage => stage.diskBytes,
      (a, b) => a + b,
    ),
  }
  const told = Object.fromEntries(Object.entries(totals).filter(([, value]) => value !== undefined))
  const warnings = misfits(segmentsOnDevice, devices)
  return {
    graph: graph.name,
    file: graph.file,
    out,
    backend: known.device.kind,
    devices,
    stages,
    segments: segmentsOnDevice,
    warnings,
    ...told,
  }
}

const most = (values: readonly (number | undefined)[]): number | undefined =>
  values.reduce<number | undefined>((a, b) => (a === undefined || b === undefined ? undefined : Math.max(a, b)), 0)

async function devicePlans({ lanes }: Asked): Promise<DevicePlan[]> {
  const plans: DevicePlan[] = []
  for (const { name, ops, memory } of lanes) {
    const { totalBytes } = ops.device.info()
    const freeBytes = await freeBytesOf(ops.device)
    const text = deviceText(ops.device)
    plans.push({ name, text, freeBytes, ...(totalBytes === undefined ? {} : { totalBytes }), limitBytes: memory.limitBytes })
  }
  return plans
}

async function stagePlan(node: Node, segments: readonly Segment[], above: readonly StagePlan[], known: Asked): Promise<StagePlan> {
  const {
    id,
    stage: { use, stage },
    from,
    places,
    cached,
    print,
  } = node
  const index = segments.findIndex(segment => segment.members.includes(node))
  const segment = segments[index]
  const missing = segment?.missing?.length
  const action: Action =
    node.kind === 'source'
      ? 'source'
      : segment === undefined
        ? node.kind === 'inline'
          ? 'inline'
          : cached.size === places?.length
            ? 'cached'
            : 'skipped'
        : node.kind === 'inline'
          ? 'inline'
          : cached.size > 0
            ? 'partly'
            : 'run'
  const columns = (of: Columns): string[] =>
    Object.entries(of).map(([name, column]) => `${name} ${describeColumn(column)}${column.optional ? ' ?' : ''}`)
  const plan: StagePlan = {
    id,
    use,
    from: from.map(one => one.id),
    scope: node.isStream ? 'stream' : 'batch',
    segment: index,
    fingerprint: print.hash,
    action,
    ...(places === undefined || node.kind === 'inline' || (segment !== undefined && missing === undefined)
      ? {}
      : { batches: { cached: node.kind === 'source' ? places.length : cached.size, missing: missing ?? 0 } }),
    why: segment === undefined ? [] : whyOf(node, above, known),
    reads: columns(stage.input.columns),
    gives: columns(stage.output.columns),
    table: `${stage.output.name} ${stage.output.version}`,
    keys: Object.fromEntries((places ?? []).map(place => [place.id, place.key])),
  }
  if (segment === undefined) return plan
  const cost = await costOf(node, segment, known)
  // On a stream the last stage was at work as long as those inside it: they have their own lines.
  const inside = segment.isStream && !cost.isGuess ? above.filter(one => one.segment === index && !one.isGuess) : []
  const seconds = cost.seconds && Math.max(0, cost.seconds - inside.reduce((sum, one) => sum + (one.seconds ?? 0), 0))
  return { ...plan, ...cost, ...(seconds === undefined ? {} : { seconds }) }
}

function whyOf(node: Node, above: readonly StagePlan[], { lastRun, isForcedStage }: Asked): string[] {
  const record = lastRun[node.id]
  const why = record === undefined ? ['never ran here'] : differences(record, node.print)
  if (node.hasLostFiles) why.push('its files have changed or are gone')
  if (isForcedStage(node.id)) why.push('asked for by --force')
  for (const { id } of node.from) {
    const action = above.find(plan => plan.id === id)
    if (record !== undefined && action !== undefined && action.why.length > 0) why.push(`${id} runs`)
  }
  if (why.length > 0 || node.kind !== 'stored') return why // storing nothing is no reason to run
  const total = node.places?.length
  return [
    total === undefined || node.cached.size === 0
      ? 'nothing of it is stored'
      : `${total - node.cached.size} of ${total} batches are missing`,
  ]
}
