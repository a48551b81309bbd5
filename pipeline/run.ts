/** Plan → one RxJS chain of segments, and the only subscribe() to it. */
import { join } from 'node:path'
import { concat, concatMap, defer, EMPTY, from, ignoreElements, merge, NEVER, Observable, of, retry, take, tap, throwError } from 'rxjs'
import { writeJson, writeSealed, writing } from './disk.js'
import { type OpenEngine, openEngine, type RunOptions } from './engine.js'
import { PipeError, sentence } from './error.js'
import { deviceFailure, tellLost } from './failure.js'
import { eventsFile, type ReportTable, type RunResult } from './events.js'
import type { Graph } from './graph.js'
import { lockFolder } from './lock.js'
import { expectOurs, sweepOutputs } from './outputs.js'
import type { StageRecord } from './plan.js'
import { expectFree, planOf } from './planning.js'
import { Damaged } from './parquet.js'
import { runSegment } from './segment.js'
import { type Node, type Segment, segmentsOf } from './survey.js'
import { sampleMs } from './usage.js'
import { unlessStuck, watchSilence } from './waiting.js'

/** A file found damaged is discarded and its batch computed again; a disk that damages this many is not to be trusted. */
const mostDamaged = 100
const memoryEventMs = 500

/**
 * Runs what is missing for the graph's end to be there. Rejects with PipeError: 'locked', 'stopped', 'disk', 'memory', a
 * stage's own, or 'failed' with the cause. Finished batches are kept whatever happens.
 */
export async function runGraph(graph: Graph, options: RunOptions): Promise<RunResult> {
  await expectOurs(options.out)
  await using _lock = await lockFolder(options.out)
  const { signal } = options
  const begin = performance.now()
  const file = options.events === undefined ? undefined : eventsFile(join(options.out, 'events.jsonl'), options.events)
  let engine: OpenEngine | undefined
  try {
    engine = await openEngine(graph, options)
    using _watch = watchSilence(engine)
    await engine.cache.sweep()
    await sweepOutputs(options.out)
    await unlessStuck(engine, engine.survey())
    await expectFree(engine)
    engine.emit({ kind: 'plan', plan: await planOf(graph, options, engine.nodes, engine) })
    await remember(engine)
    const started = performance.now()
    await unlessStuck(engine, chain(engine, signal))
    const result = await report(engine, (performance.now() - started) / 1000)
    engine.emit({ kind: 'result', result })
    return result
  } catch (error) {
    const told = signal?.aborted ? stopped(engine) : error
    const [code, text] = told instanceof PipeError ? [told.code, told.text] : ['failed', sentence(told)]
    options.events?.next({ seconds: (performance.now() - begin) / 1000, kind: 'failed', code, text })
    throw told
  } finally {
    if (engine !== undefined) {
      engine.abandon()
      await engine.cache.close()
      await remember(engine).catch(() => {}) // the run's own outcome is the one to tell
      await engine[Symbol.asyncDispose]()
    }
    file?.close()
  }
}

const stopped = (engine: OpenEngine | undefined): PipeError => {
  const n = engine?.finishedBatches ?? 0
  const kept = n === 0 ? 'What was finished before is kept' : n === 1 ? 'The finished batch is kept' : `The ${n} finished batches are kept`
  return new PipeError('stopped', { message: 'Stopped.', goOn: `${kept}; the same command goes on from here.` })
}

/** Segment after segment, asking anew what is missing before each; after damage, from the start. */
async function chain(engine: OpenEngine, signal: AbortSignal | undefined): Promise<void> {
  const anchors = engine.nodes.filter(node => node.kind === 'stored' || node.kind === 'last')
  const segments = from(anchors).pipe(
    concatMap(anchor =>
      defer(async () => {
        await engine.survey()
        return segmentsOf(engine.nodes).find(segment => segment.anchor === anchor)
      }).pipe(concatMap(segment => (segment === undefined ? tellCached(engine, anchor) : tell(engine, segment)))),
    ),
    retry({
      count: mostDamaged,
      delay: error => {
        if (error instanceof Damaged) return defer(() => engine.cache.discard(error.path, sentence(error)).then(() => true))
        return deviceFailure(error) === 'ERR_DEVICE_LOST' && goesOnWithout(engine, error) ? of(true) : throwError(() => error)
      },
    }),
  )
  const done = concat(segments.pipe(ignoreElements()), of(true))
  await new Promise<void>((resolve, reject) => {
    merge(done, signal === undefined ? NEVER : aborted(signal), from(engine.failure), samples(engine))
      .pipe(take(1)) // at once, where there is nothing to do
      .subscribe({ next: () => resolve(), error: reject })
  })
}

/** The device of a stream stage is lost: is there another? Batches have moved by themselves. */
function goesOnWithout(engine: OpenEngine, error: unknown): boolean {
  const { lane } = engine
  if (lane.isLost) return false
  lane.isLost = true
  if (engine.lane.isLost) return false
  tellLost(engine, lane, error)
  return true
}

/** Errors when the signal says stop. */
const aborted = (signal: AbortSignal): Observable<never> =>
  new Observable(out => {
    const stop = (): void => out.error(signal.reason)
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    return () => signal.removeEventListener('abort', stop)
  })

/** Counts, without keeping the process: nothing but the run's own work does. */
const ticks = (ms: number): Observable<number> =>
  new Observable(out => {
    let i = 0
    const timer = setInterval(() => out.next(i++), ms).unref()
    return () => clearInterval(timer)
  })

/** Looks at the memory of the process, for the stages and, less often, as an event. Emits nothing. */
const samples = (engine: OpenEngine): Observable<never> =>
  ticks(sampleMs).pipe(
    tap(i => {
      const rssBytes = process.memoryUsage.rss()
      for (const usage of engine.usages) usage.sample(rssBytes)
      if (i % (memoryEventMs / sampleMs) !== 0) return
      for (const { name, ops, memory, isLost } of engine.lanes)
        if (!isLost) engine.emit({ kind: 'memory', device: name, liveBytes: ops.device.liveBytes, limitBytes: memory.limitBytes, rssBytes })
    }),
    ignoreElements(),
  )

/** A segment's run, with the events around it. */
function tell(engine: OpenEngine, segment: Segment): Observable<string> {
  const { anchor, members } = segment
  engine.expectOwn(segment) // damage may have taken what was there
  return concat(
    defer(() => {
      for (const { id } of members) engine.emit({ kind: 'stage-started', stage: id })
      tellBatches(engine, anchor)
      return EMPTY
    }),
    runSegment(engine, segment),
    defer(() => {
      for (const node of members) engine.emit({ kind: 'stage-finished', stage: node.id, usage: engine.usage(node).value })
      return EMPTY
    }),
  )
}

function tellCached(engine: OpenEngine, anchor: Node): Observable<never> {
  if (anchor.cached.size !== anchor.places?.length) return EMPTY // not all there, and not needed
  tellBatches(engine, anchor)
  engine.emit({ kind: 'stage-finished', stage: anchor.id, usage: engine.usage(anchor).value })
  return EMPTY
}

function tellBatches(engine: OpenEngine, anchor: Node): void {
  const of = anchor.places?.length
  engine.usage(anchor).cached = anchor.cached.size
  for (const batch of anchor.cached) {
    engine.emit({ kind: 'batch-finished', stage: anchor.id, batch, cached: true, bytes: 0, ...(of === undefined ? {} : { of }) })
  }
}

/** What the stages say of their stored rows, and what they took; written to result.json. */
async function report(engine: OpenEngine, seconds: number): Promise<RunResult> {
  const results: Record<string, unknown> = {}
  const tables: ReportTable[] = []
  await engine.survey() // batches of the last stream stage are known only now
  for (const node of engine.nodes) {
    for (const { result, table } of await engine.reports(node)) {
      Object.assign(results, result)
      tables.push({ stage: node.id, ...table })
    }
  }
  const peakRssBytes = process.resourceUsage().maxRSS * 1024
  const stages = engine.usages.map(usage => usage.value)
  const devices = engine.lanes.map(lane => lane.usage)
  const { out, graph } = engine
  const path = join(out, 'result.json')
  await writing('the results', path, () => writeJson(path, { graph: graph.name, ...results, seconds, peakRssBytes, stages, devices }, 2))
  return { graph: graph.name, out, results, tables, seconds, peakRssBytes, stages, devices }
}

/** Fingerprints and costs: what the next plan compares with. */
async function remember(engine: OpenEngine): Promise<void> {
  const records = engine.nodes.map((node): [string, StageRecord] => {
    const {
      run,
      inputBytes,
      diskBytes,
      value: { seconds },
    } = engine.usage(node)
    const { hash, parts, paths } = node.print
    const cost = run > 0 ? { seconds, inputBytes, batches: run, diskBytes, devices: engine.lanes.length } : engine.lastRun[node.id]?.cost
    return [node.id, { hash, parts, paths, ...(cost === undefined ? {} : { cost }) }]
  })
  const path = join(engine.out, 'cache', 'last-run.json')
  await writing('the record of this run', path, () => writeSealed(path, { ...engine.lastRun, ...Object.fromEntries(records) }))
}
