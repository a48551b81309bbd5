/** What a run and a plan share: the cache opened, fingerprints taken, sources looked at, a survey of what is there. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Subject } from 'rxjs'
import type { Ops } from '../native/ops.js'
import type { AnyRow } from './arrow.js'
import { Cache } from './cache.js'
import type { Engine } from './context.js'
import type { Report } from './define.js'
import { checkParameters } from './checks.js'
import { savedBytes } from './checkpoint.js'
import { Contents } from './contents.js'
import { readSealed } from './disk.js'
import { didYouMean, PipeError } from './error.js'
import type { Event, Happening } from './events.js'
import { deviceFailure, lostFailure } from './failure.js'
import type { Known } from './estimate.js'
import { type Fingerprint, fingerprint, sourcesOf } from './fingerprint.js'
import type { Graph, GraphStage } from './graph.js'
import { type Lane, openLanes } from './lane.js'
import { expectApart } from './outputs.js'
import type { LastRun } from './plan.js'
import { collectSource } from './segment.js'
import { manifestKey, type Node, nodesOf, type Place, type Segment, type SourceRows, survey } from './survey.js'
import { Usage } from './usage.js'

export interface RunOptions {
  /** Folder of results: model/, result.json, events.jsonl, cache/. */
  readonly out: string
  /** Of the device on which stages run that see the whole stream. */
  readonly ops: Ops
  /** Of further devices, of the same kind: batches run there as well. */
  readonly others?: readonly Ops[]
  /** Receives what happens; complete with the run. */
  readonly events?: Subject<Event> | undefined
  /** Bytes that tensors may take on each device. Default: 60 % of the host's memory that is free; on a GPU 80 % of its own. */
  readonly memory?: number
  /** Aborting stops the run cleanly. */
  readonly signal?: AbortSignal
  /** Ids. from: what comes before has to be stored, ends beside it are left out. to: what comes after is left out. force: run again. */
  readonly part?: { readonly from?: string | undefined; readonly to?: string | undefined; readonly force?: readonly string[] | undefined }
  /** Version of what a parameter names by { use }, e.g. a codebook. */
  readonly versions?: (use: string) => number | undefined
}

/** An engine that is open: its survey can be asked for, and asked for again. */
export interface OpenEngine extends Engine, Known, AsyncDisposable {
  readonly usages: readonly Usage[]
  survey(): Promise<void>
  isForcedStage(id: string): boolean
  /** Throws where this segment is left to earlier runs by --from or --only. */
  expectOwn(segment: Segment): void
  /** What a stage says of the rows that are stored, or of those it gave in this run if it stores none. */
  reports(node: Node): Promise<readonly Report[]>
  /** Tells stages that are still at work, after a stop or another's failure, that nobody waits for them. */
  abandon(): void
  /** Events so far, but for those that come by the clock. */
  readonly heard: number
  /** Rejects when an op failed that nobody waited for. */
  readonly failure: Promise<never>
}

export async function openEngine(graph: Graph, options: RunOptions): Promise<OpenEngine> {
  const { ops, part = {}, versions, events } = options
  const out = resolve(options.out)
  const begin = performance.now()
  let heard = 0
  const emit = (happening: Happening): void => {
    if (happening.kind !== 'memory' && happening.kind !== 'waiting') heard++
    events?.next({ seconds: (performance.now() - begin) / 1000, ...happening } as Event)
  }
  const stages = partOf(graph, part)
  const contents = new Contents(join(out, 'cache', 'hashes.json'))
  const prints = new Map<string, Fingerprint>()
  for (const stage of stages)
    prints.set(
      stage.id,
      await fingerprint(graph, stage, contents, { backend: ops.device.kind, ...(versions === undefined ? {} : { versions }) }),
    )
  for (const [id, { paths }] of prints) expectApart(out, id, paths)
  if (existsSync(out)) await contents.save().catch(() => {}) // a folder that can't be written is told of by who has to write

  const { nodes, before } = begunAt(nodesOf(stages, prints), part.from)
  const usages = new Map(nodes.map(node => [node, new Usage(node.id, node.stage.use)]))
  const over = new AbortController()
  const signal = options.signal === undefined ? over.signal : AbortSignal.any([over.signal, options.signal])
  const cache = new Cache(join(out, 'cache'), text => emit({ kind: 'note', text }), sourcesOf(prints.values()))
  const { promise: failure, reject: fail } = withResolvers<never>()
  failure.catch(() => {}) // only a run looks at it
  const lanes = await openLanes([ops, ...(options.others ?? [])], options.memory, signal, (lane, error) => {
    const why = deviceFailure(error)
    if (why === 'ERR_DEVICE_MEMORY') return undefined // its batch reads a tensor that was never made
    if (why === 'ERR_DEVICE_LOST') return error // each of its batches is told
    const told = lostFailure(engine, lane, error)
    fail(told)
    return told
  })
  const sources = new Map<Node, Promise<SourceRows>>()
  const intact = new Map<string, Promise<boolean>>()
  const done = new Set<string>()
  let checked: Promise<void> | undefined
  const unstored = new Map<Node, Map<string, Report[]>>()
  let finishedBatches = 0

  const engine: OpenEngine = {
    graph,
    out,
    cache,
    lanes,
    get lane() {
      return lanes.find(lane => !lane.isLost) ?? (lanes[0] as Lane)
    },
    signal,
    nodes,
    emit,
    get heard() {
      return heard
    },
    failure,
    device: ops.device,
    sourceRows: node => source(node),
    usages: [...usages.values()],
    lastRun: Object.setPrototypeOf((await readSealed<LastRun>(join(out, 'cache', 'last-run.json'))) ?? {}, null) as LastRun, // an id may be "constructor"
    usage: node => usages.get(node) as Usage,
    get finishedBatches() {
      return finishedBatches
    },
    finished: (node, batch, rows) => {
      done.add(`${node.id} ${batch}`)
      finishedBatches++
      const { report } = node.stage.stage
      if (node.kind !== 'last' || report === undefined) return
      const batches = unstored.get(node) ?? new Map<string, Report[]>()
      unstored.set(
        node,
        batches.set(
          batch,
          rows.map(row => report(row)),
        ),
      )
    },
    reports: async node => {
      const { report } = node.stage.stage
      const reports: Report[] = []
      if (report === undefined) return reports
      if (node.kind === 'last') {
        const batches = unstored.get(node) ?? new Map<string, Report[]>()
        for (const id of node.places?.map(place => place.id) ?? batches.keys()) reports.push(...(batches.get(id) ?? []))
      } else if (node.kind === 'stored') {
        for (const place of node.places ?? []) for (const row of await engine.rowsOf(node, place)) reports.push(report(row))
      }
      return reports
    },
    isForcedStage: id => part.force?.includes(id) ?? false,
    isForced: (node, batch) => isForcedStage(node) && !done.has(`${node.id} ${batch}`),
    expectOwn: ({ anchor, missing }) => {
      if (!before.has(anchor)) return
      const { id, stage } = anchor
      const option = part.from === part.to ? '--only' : '--from'
      throw new PipeError('graph', {
        where: stage.where,
        message: `${option} leaves ${id} to what is stored, and ${missing?.length ?? 'all'} of its batches are not.`,
        hint: part.from === part.to ? `Run what is missing: --to ${part.to}.` : `Run it: --from ${id}, or without --from.`,
      })
    },
    rowsOf: async (node, place) => {
      if (node.kind === 'source') return (await source(node)).get(place.id) ?? []
      return cache.rows(await cache.load(place.key, node.stage.stage.output))
    },
    inputRows: async (node, id) => {
      const place = node.places?.find(one => one.id === id)
      if (place === undefined || (node.kind === 'stored' && !(await cache.has(place.key)))) return []
      return engine.rowsOf(node, place)
    },
    savedBytes: node => savedBytes(cache, manifestKey(node)),
    survey: async () => {
      checked ??= checkParameters(nodes, source)
      await checked
      await survey(nodes, {
        cache,
        rowsOf: source,
        isForced: (node, place) => engine.isForced(node, place.id),
        intact: (node, place) => {
          const known = intact.get(place.key) ?? isIntact(node, place)
          // What was found broken is made again: then it has to be looked at again.
          intact.set(place.key, known)
          known.then(
            ok => ok || intact.delete(place.key),
            () => intact.delete(place.key),
          )
          return known
        },
      })
    },
    abandon: () => over.abort(new Error('the run is over')),
    [Symbol.asyncDispose]: async () => {
      await contents.save().catch(() => {})
    },
  }
  /** Or one that runs with it. */
  const isForcedStage = (node: Node): boolean =>
    engine.isForcedStage(node.id) || node.from.some(above => above.kind === 'inline' && isForcedStage(above))
  const source = (node: Node): Promise<SourceRows> => {
    const rows = sources.get(node) ?? collectSource(engine, node)
    sources.set(node, rows)
    return rows
  }
  const isIntact = async (node: Node, place: Place): Promise<boolean> => {
    const { stage } = node.stage
    if (stage.intact === undefined) return true
    for (const row of await engine.rowsOf(node, place)) if (!(await stage.intact(row as AnyRow, { out }))) return false
    return true
  }
  return engine
}

/** The stages that --to leaves. Throws when an id is none of the graph's. */
function partOf(graph: Graph, { from, to, force = [] }: NonNullable<RunOptions['part']>): readonly GraphStage[] {
  const ids = graph.stages.map(stage => stage.id)
  const part =
    from !== undefined && from === to
      ? [['--only', from]]
      : [
          ['--from', from],
          ['--to', to],
        ]
  const mistakes = [...part, ...force.map(id => ['--force', id])].flatMap(([option, id]) =>
    id === undefined || ids.includes(id)
      ? []
      : [{ where: `${option} ${id}`, message: `No stage is called "${id}".${didYouMean(id, ids)}`, hint: `Stages: ${ids.join(', ')}` }],
  )
  if (mistakes.length > 0) throw new PipeError('graph', mistakes)
  if (to === undefined) return graph.stages
  const readers = graph.stages.filter(stage => stage.from.includes(to)).map(({ id }) => id)
  const last = graph.stages.find(({ id }) => id === to)?.stage
  const leavesNothing = last?.cache === false && last.report === undefined && last.intact === undefined
  if (last?.output.live || (leavesNothing && readers.length > 0)) {
    throw new PipeError('graph', {
      where: from === to ? `--only ${to}` : `--to ${to}`,
      message: last.output.live
        ? `"${to}" gives live tensors, which are never stored, so a run can't end with it.`
        : `"${to}" is not stored, as it is cheap to do again: a run that ends with it leaves nothing.`,
      hint: `Name a stage that reads ${last.output.live ? 'them' : 'it'}: ${readers.join(', ')}.`,
    })
  }
  const wanted = new Set([to])
  for (const { id, from } of [...graph.stages].reverse()) if (wanted.has(id)) for (const above of from) wanted.add(above)
  if (from !== undefined && !wanted.has(from))
    throw new PipeError('graph', {
      where: `--from ${from} --to ${to}`,
      message: `"${to}" reads nothing of "${from}", so nothing is left to run.`,
    })
  return graph.stages.filter(stage => wanted.has(stage.id))
}

/**
 * The stage, what it feeds, and before: all else that those read. Ends beside them are left out, but only here: what is
 * stored depends on who reads it in the whole graph.
 */
function begunAt(all: readonly Node[], id: string | undefined): { nodes: readonly Node[]; before: ReadonlySet<Node> } {
  if (id === undefined) return { nodes: all, before: new Set() }
  const behind = new Set(all.filter(node => node.id === id))
  for (const node of all) if (node.from.some(above => behind.has(above))) behind.add(node)
  const wanted = new Set(behind)
  for (const node of [...all].reverse()) if (wanted.has(node)) for (const above of node.from) wanted.add(above)
  return { nodes: all.filter(node => wanted.has(node)), before: new Set([...wanted].filter(node => !behind.has(node))) }
}

function withResolvers<T>(): { promise: Promise<T>; reject: (error: unknown) => void } {
  let reject: (error: unknown) => void = () => {}
  const promise = new Promise<T>((_, no) => {
    reject = no
  })
  return { promise, reject }
}
