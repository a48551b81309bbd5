/** Runs a segment: batch by batch where every stage works so, else once on the whole stream. Stores what comes out. */
import {
  catchError,
  concat,
  concatMap,
  defer,
  finalize,
  from,
  lastValueFrom,
  map,
  type Observable,
  of,
  type OperatorFunction,
  tap,
  toArray,
} from 'rxjs'
import type { AnyRow } from './arrow.js'
import { finishBatch, runBatches } from './batches.js'
import { Checkpoints } from './checkpoint.js'
import { contextOf, type Engine } from './context.js'
import { wrapped } from './failure.js'
import { LiveTensors } from './lazy.js'
import { Names } from './names.js'
import { apart, batchOf, bytesOf, disposeAll, handOver, idOf, inputRow, onHost, type Tagged, tagged } from './passing.js'
import { runs } from './rows.js'
import { jobsAtOnce } from './schedule.js'
import { manifestKey, type Node, type Segment } from './survey.js'

/** Emits the id of each batch that is finished. */
export const runSegment = (engine: Engine, segment: Segment): Observable<string> =>
  segment.isStream ? runStream(engine, segment) : runBatches(engine, segment)

const runStream = (engine: Engine, segment: Segment): Observable<string> =>
  defer(() => (segment.missing === undefined ? engine.cache.keys() : Promise.resolve([]))).pipe(
    concatMap(keys => streamOf(engine, segment, new Set(keys))),
  )

/** storedKeys: of all that is stored, where it is not known yet which batches there will be. */
function streamOf(engine: Engine, { anchor, members, missing }: Segment, storedKeys: ReadonlySet<string>): Observable<string> {
  const { lane } = engine
  const live = new LiveTensors()
  const absent = new Set(missing)
  const names = new Names()
  const isThere = (id: string): boolean => {
    if (anchor.kind === 'last') return false
    if (missing !== undefined) return !absent.has(id) && (anchor.places ?? []).some(place => place.id === id)
    return !engine.isForced(anchor, id) && storedKeys.has(names.keyOf(anchor, id) ?? '')
  }
  const checkpoints = new Map(members.map(node => [node, new Checkpoints(engine.cache, manifestKey(node))]))
  /** By the names that those who read it give the batch. */
  const wanted = (node: Node, batch: string): boolean =>
    node === anchor
      ? !isThere(batch)
      : members.some(reader => {
          if (!reader.from.includes(node)) return false
          const name = names.foretold(reader, node, batch)
          return name === undefined || wanted(reader, name)
        })
  const ids = new Map<Node, Set<string>>()
  /** Of what a stage asked whether it is wanted: the answer, in the order of asking. What is not is left out by it, and is there all the same. */
  const asked = new Map<Node, Map<string, boolean>>()
  const ask = (node: Node, id: string): boolean => {
    const answers = asked.get(node) ?? new Map<string, boolean>()
    const answer = wanted(node, id)
    asked.set(node, answers.set(id, answer))
    return answer
  }
  /** Batches of a stage in the order of the stream, those that it left out included. */
  const listed = (node: Node): string[] => {
    const [made, answers] = [ids.get(node) ?? new Set<string>(), asked.get(node) ?? new Map<string, boolean>()]
    return [...new Set([...answers.keys(), ...made])].filter(id => made.has(id) || answers.get(id) === false)
  }
  // Storing may be slower than making, and so may a stage further down: whoever asks for room also waits until at most so
  // many batches are queued.
  let queued = 0
  const waiting: (() => void)[] = []
  const wake = (): void => {
    for (const go of waiting.splice(0)) go()
  }
  const keptUp = async (): Promise<void> => {
    while (queued > jobsAtOnce && !engine.signal.aborted) await new Promise<void>(go => waiting.push(go))
  }

  const given = (node: Node): Observable<Tagged> =>
    concat(
      ...(node.from.length === 0
        ? [of({} as Tagged)]
        : node.from.map(above => (members.includes(above) ? renamed(node, above) : stored(node, above)))),
    )

  const renamed = (node: Node, above: Node): Observable<Tagged> =>
    made(above).pipe(map(row => ({ ...row, [batchOf]: names.of(node, above, row[batchOf] as string) })))

  const stored = (node: Node, above: Node): Observable<Tagged> =>
    from(above.places ?? []).pipe(
      concatMap(async place => tagged(await engine.rowsOf(above, place), names.of(node, above, place.id))),
      concatMap(rows => rows),
    )

  /** The rows a stage of the segment makes; those of inline stages fit to be read by the next. */
  const made = (node: Node): Observable<Tagged> =>
    defer(() => {
      const seen = new Set<string>()
      ids.set(node, seen)
      if (node.isStream) return composed(node, given(node), undefined, seen)
      return given(node).pipe(
        apart,
        tap(({ id }) => {
          if (seen.has(id)) throw scattered(node, id)
          seen.add(id)
          queued++
        }),
        concatMap(({ id, rows }) => {
          queued--
          wake()
          return composed(node, rows, id, seen)
        }),
        catchError(error => {
          throw wrapped(engine, node, undefined, error)
        }),
      )
    })

  /** What a stage's operator, started anew, makes of these rows: of one batch, as of a stage whose input is stored, or of the whole stream. */
  const composed = (node: Node, rows: Observable<Tagged>, batch: string | undefined, seen: Set<string>): Observable<Tagged> =>
    defer(() => {
      const { stage, params } = node.stage
      const usage = engine.usage(node)
      const work = usage.work(batch)
      const busy = lane.work(node.id, batch)
      let last = batch
      const context = contextOf(
        engine,
        node,
        batch === undefined ? { lane, wanted: id => ask(node, id), checkpoint: checkpoints.get(node), keptUp } : { lane, batch, wanted: () => true },
      )
      // Deferred again, so that what an operator throws when it is asked for is told as what it throws later.
      return defer(() =>
        rows.pipe(
          map(row => {
            last = row[batchOf]
            if (batch === undefined) usage.batches.clear()
            if (last !== undefined) usage.batches.add(last)
            usage.inputBytes += bytesOf([row])
            return inputRow(stage, row, row[batchOf])
          }),
          tap({
            complete: () => {
              last = batch // a stage that reads all before it works fails at none of them
            },
          }),
          stage.operator(params, context) as OperatorFunction<AnyRow, AnyRow>,
        ),
      ).pipe(
        map(row => {
          const id = batch ?? idOf(stage, row)
          seen.add(id)
          return { ...row, [batchOf]: id }
        }),
        node === anchor ? tap() : handOver(stage.output, live),
        catchError(error => {
          throw wrapped(engine, node, last, error)
        }),
        finalize(() => {
          work[Symbol.dispose]()
          busy[Symbol.dispose]()
        }),
      )
    })

  const scattered = (node: Node, id: string): unknown =>
    wrapped(engine, node, id, new Error(`rows of batch "${id}" come in two places of the stream; they have to be neighbours`))

  const store = async (rows: readonly Tagged[], id: string): Promise<string[]> => {
    const key = names.keyOf(anchor, id) as string
    if (isThere(id)) {
      disposeAll(rows)
      return []
    }
    try {
      await finishBatch(engine, lane, anchor, id, key, rows, anchor.places?.length)
    } catch (error) {
      throw wrapped(engine, anchor, id, error)
    }
    engine.usage(anchor).run++
    absent.delete(id)
    return [id]
  }

  const done = new Set<string>()
  const finished = made(anchor).pipe(
    runs(row => row[batchOf] as string),
    map(rows => {
      const id = rows[0]?.[batchOf] as string
      if (done.has(id)) throw scattered(anchor, id)
      done.add(id)
      queued++
      return { rows, id }
    }),
    concatMap(({ rows, id }) =>
      store(rows, id).finally(() => {
        queued--
        wake()
      }),
    ),
    concatMap(list => list),
  )
  const ending = defer(async () => {
    // A batch of which nothing came out is stored empty: it is done, too.
    const empty: string[] = []
    const awaited = anchor.isStream ? absent : [...absent, ...(ids.get(anchor) ?? [])]
    if (anchor.kind === 'stored') for (const id of new Set(awaited)) if (!done.has(id)) empty.push(...(await store([], id)))
    for (const node of members) {
      const order = node === anchor ? (anchor.places?.map(place => place.id) ?? listed(node)) : listed(node)
      if (node.isStream && node.kind !== 'last' && (node === anchor || node.stage.stage.batch !== undefined))
        await engine.cache.complete(manifestKey(node), order)
      if (node !== anchor) engine.usage(node).run = ids.get(node)?.size ?? 0
      await checkpoints.get(node)?.dropAll()
    }
    return empty
  }).pipe(concatMap(list => list))
  return concat(finished, ending).pipe(
    finalize(() => {
      wake()
      live[Symbol.dispose]()
    }),
  )
}

/** Rows of a source, in memory, by batch. */
export async function collectSource(engine: Engine, node: Node): Promise<Map<string, readonly AnyRow[]>> {
  const { stage, params } = node.stage
  const batches = new Map<string, AnyRow[]>()
  try {
    const operator = stage.operator(params, contextOf(engine, node, { lane: engine.lane, wanted: () => true })) as OperatorFunction<
      AnyRow,
      AnyRow
    >
    using _work = engine.usage(node).work()
    const rows = await lastValueFrom(of({}).pipe(operator, toArray()))
    for (const row of await Promise.all(onHost(stage.output, rows))) {
      const id = idOf(stage, row)
      batches.set(id, [...(batches.get(id) ?? []), row])
    }
    return batches
  } catch (error) {
    throw wrapped(engine, node, undefined, error)
  }
}
