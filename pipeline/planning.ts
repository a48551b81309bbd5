/** Graph → Plan: what would run, what is stored, and why. */
import type { Columns } from './define.js'
import { deviceText, freeBytesOf } from './device.js'
import { freeDisk } from './disk.js'
import { describeColumn } from './edges.js'
import { type OpenEngine, openEngine, type RunOptions } from './engine.js'
import { costOf, type Known } from './estimate.js'
import { differences } from './fingerprint.js'
import { diskMisfits, misfits, peakDisk, segmentPlans } from './fitting.js'
import type { Graph } from './graph.js'
import { expectOurs } from './outputs.js'
import type { Action, DevicePlan, Plan, StagePlan } from './plan.js'
import { type Node, type Segment, segmentsOf } from './survey.js'
import { unlessStuck } from './waiting.js'

/** What `run` would do now. Runs sources only (which just look), writes nothing but the hashes of input files. */
export async function planGraph(graph: Graph, options: Omit<RunOptions, 'events'>): Promise<Plan> {
  await expectOurs(options.out)
  await using engine = await openEngine(graph, { ...options, events: undefined })
  await unlessStuck(engine, engine.survey())
  await expectFree(engine)
  return await planOf(graph, options, engine.nodes, engine) // while the engine is open, and whoever calls hears what fails
}

/** Rejects with PipeError where a stage would run that is left to earlier runs, or may not write where it has to. */
export async function expectFree({ nodes, out, expectOwn }: Pick<OpenEngine, 'nodes' | 'out' | 'expectOwn'>): Promise<void> {
  const segments = segmentsOf(nodes)
  for (const segment of segments) expectOwn(segment)
  for (const { stage } of segments.flatMap(({ members }) => members)) await stage.stage.mayWrite?.({ out })
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
  const freeDiskBytes = freeDisk(out)
  const told = Object.fromEntries(
    Object.entries({ ...totals, freeDiskBytes, peakDiskBytes: totals.diskBytes === undefined ? undefined : peakDisk(stages) }).filter(
      ([, value]) => value !== undefined,
    ),
  )
  const warnings = [...misfits(segmentsOnDevice, devices), ...diskMisfits(stages, freeDiskBytes, out), ...repeated(nodes, segments)]
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

/** What is not stored is worked out for each stage that reads it. */
const repeated = (nodes: readonly Node[], segments: readonly Segment[]): string[] =>
  nodes.flatMap(node => {
    const ends = node.kind === 'inline' ? segments.filter(({ members }) => members.includes(node)).map(({ anchor }) => anchor.id) : []
    if (ends.length < 2) return []
    return [`${node.id} is not stored, so it runs ${ends.length} times: for ${ends.join(', for ')}. The plan’s time counts it once.`]
  })

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
    why: segment === undefined ? [] : await whyOf(node, above, known),
    reads: columns(stage.input.columns),
    gives: columns(stage.output.columns),
    table: `${stage.output.name} ${stage.output.version}`,
    keys: Object.fromEntries((places ?? []).map(place => [place.id, place.key])),
    ...(node.isStream && node.kind !== 'source' && node.streamKey !== undefined ? { streamKey: node.streamKey } : {}),
  }
  if (segment === undefined) return plan
  const cost = await costOf(node, segment, known)
  // On a stream the last stage was at work as long as those inside it: they have their own lines.
  const inside = segment.isStream && !cost.isGuess ? above.filter(one => one.segment === index && !one.isGuess) : []
  const seconds = cost.seconds && Math.max(0, cost.seconds - inside.reduce((sum, one) => sum + (one.seconds ?? 0), 0))
  return { ...plan, ...cost, ...(seconds === undefined ? {} : { seconds }) }
}

async function whyOf(node: Node, above: readonly StagePlan[], { lastRun, isForcedStage, savedBytes }: Asked): Promise<string[]> {
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
  if (total !== undefined && node.cached.size > 0) return [`${total - node.cached.size} of ${total} batches are missing`]
  return [node.isStream && (await savedBytes(node)) > 0 ? 'it was stopped, and goes on from its checkpoints' : 'nothing of it is stored']
}
