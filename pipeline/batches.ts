/** Stages that work batch by batch: each batch on one of the devices, from what is stored to what is stored. */
import { concatMap, defer, from, lastValueFrom, map, type Observable, type OperatorFunction, toArray } from 'rxjs'
import type { AnyRow } from './arrow.js'
import { contextOf, type Engine } from './context.js'
import type { KnownRow } from './define.js'
import { outOfMemory, tellLost, wrapped } from './failure.js'
import type { Lane } from './lane.js'
import { HeldTensors } from './lazy.js'
import { bytesOf, holdRows, inputRow, onHost } from './passing.js'
import { sideBySide } from './schedule.js'
import { inputsOf, type Node, type Place, type Segment } from './survey.js'

/** Emits the id of each batch that is finished. */
export function runBatches(engine: Engine, { anchor, missing }: Segment): Observable<string> {
  const places = (anchor.places ?? []).filter(place => missing?.includes(place.id))
  return defer(() => ordered(engine, anchor, places)).pipe(
    concatMap(jobs =>
      sideBySide(jobs, {
        lanes: engine.lanes,
        run: (place, lane) => runBatch(engine, lane, anchor, place, places.length),
        again: ({ id }, { name }) =>
          engine.emit({ kind: 'note', stage: anchor.id, batch: id, text: `memory was out on ${name}; once more, with nothing beside it` }),
        lost: (lane, error) => tellLost(engine, lane, error),
        failed: errors => outOfMemory(engine, errors),
      }),
    ),
    map(place => place.id),
  )
}

/** With several devices the most work first, so that none is left with a large batch at the end while the others are done. */
async function ordered(engine: Engine, anchor: Node, places: readonly Place[]): Promise<readonly Place[]> {
  if (engine.lanes.length === 1) return places
  const work = new Map<Place, number>()
  for (const place of places) work.set(place, await workOf(engine, anchor, place))
  return [...places].sort((a, b) => (work.get(b) as number) - (work.get(a) as number))
}

/** Operations, as the stages estimate them; bytes where one does not. */
async function workOf(engine: Engine, anchor: Node, place: Place): Promise<number> {
  const { path, root } = await pathTo(engine, anchor, place)
  let rows: readonly AnyRow[] = await engine.rowsOf(root.node, root.place)
  const bytes = bytesOf(rows)
  let operations = 0
  for (const { node } of path) {
    const estimate = node.stage.stage.estimate?.(rows, node.stage.params)
    if (estimate === undefined) return bytes
    operations += estimate.operations
    rows = estimate.rows ?? rows
  }
  return operations
}

interface At {
  readonly node: Node
  readonly place: Place
}

/**
 * The stages that make a batch, in order, and the stored one (or the source's) it is made from. What an inline stage
 * stored when it was the last (--to) is taken.
 */
async function pathTo(engine: Engine, anchor: Node, place: Place): Promise<{ path: readonly At[]; root: At }> {
  const path: At[] = []
  let at: At = { node: anchor, place }
  const isStored = async ({ node, place }: At): Promise<boolean> =>
    node.kind !== 'inline' || (!engine.isForced(node, place.id) && (await engine.cache.has(place.key)))
  while (at.node === anchor || !(await isStored(at))) {
    path.unshift(at)
    at = at.place.origin as At
  }
  return { path, root: at }
}

async function runBatch(engine: Engine, lane: Lane, anchor: Node, place: Place, of: number): Promise<void> {
  const { path, root } = await pathTo(engine, anchor, place)
  let rows: readonly AnyRow[] = await engine.rowsOf(root.node, root.place)
  const bytes = bytesOf(rows)
  const estimates = path.map(({ node }) => memoryOf(node, bytes, rows))
  using _ = await lane.memory.room(`${anchor.id} ${place.id}`, Math.max(...estimates), true)
  engine.signal.throwIfAborted()
  using held = new HeldTensors()
  for (const { node, place } of path) {
    const usage = engine.usage(node)
    using _work = usage.work(place.id)
    using _busy = lane.work(node.id, place.id)
    engine.emit({ kind: 'batch-started', stage: node.id, batch: place.id, device: lane.name })
    const { stage, params } = node.stage
    try {
      const operator = stage.operator(params, contextOf(engine, node, { lane, batch: place.id, wanted: () => true }))
      const made = await lastValueFrom(
        from(rows.map(row => inputRow(stage, row, place.id))).pipe(operator as OperatorFunction<AnyRow, AnyRow>, toArray()),
      )
      engine.signal.throwIfAborted() // nobody waits for it any more
      if (node === anchor) await finishBatch(engine, lane, node, place.id, place.key, made, of)
      else {
        rows = holdRows(stage.output, made, held)
        engine.emit({ kind: 'batch-finished', stage: node.id, batch: place.id, device: lane.name, cached: false, bytes: 0, of })
      }
      usage.run++
      usage.inputBytes += bytes
    } catch (error) {
      throw wrapped(engine, node, place.id, error)
    }
  }
}

/** Stores what came out, or, of a stage that stores nothing, looks at it; and says so. */
export async function finishBatch(
  engine: Engine,
  lane: Lane,
  node: Node,
  id: string,
  key: string,
  rows: readonly AnyRow[],
  of: number | undefined,
): Promise<void> {
  const { stage } = node.stage
  let bytes = 0
  if (node.kind === 'stored') {
    const inputs = node.isStream
      ? (inputsOf(node) ?? []).map(input => input.origin.place.key)
      : node.places?.filter(p => p.id === id).map(p => p.origin?.place.key ?? '')
    const lineage = { stage: node.id, version: stage.version, params: node.print.params, inputs: inputs ?? [], id }
    bytes = await engine.cache.store(key, stage.output, rows, lineage)
  } else {
    await Promise.all(onHost(stage.output, rows))
  }
  engine.usage(node).diskBytes += bytes
  engine.finished(node, id, rows)
  engine.emit({
    kind: 'batch-finished',
    stage: node.id,
    batch: id,
    device: lane.name,
    cached: false,
    bytes,
    ...(of === undefined ? {} : { of }),
  })
}

/** Device memory for a batch with tensors of so many bytes: by default those, as much again for results, and for what is between. */
export const memoryOf = ({ stage: { stage, params } }: Node, bytes: number, rows: readonly KnownRow[]): number =>
  stage.memory?.(bytes, params, rows) ?? 3 * bytes
