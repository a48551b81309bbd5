/**
 * What there is and what is missing: every stage's batches with their keys, as far as they are known, and which of them
 * have to be computed for the graph's end to be there. Asked anew after each segment, since batches of a stream stage
 * may be known only once it has run.
 */
import type { AnyRow } from './arrow.js'
import type { Cache } from './cache.js'
import { type Fingerprint, hashOf } from './fingerprint.js'
import type { GraphStage } from './graph.js'

/** A batch of a stage: its name among the stage's, and where it is stored. */
export interface Place {
  readonly id: string
  readonly key: string
  /** The batch it comes from, for stages that work batch by batch. */
  readonly origin?: { readonly node: Node; readonly place: Place }
}

/**
 * source: reads nothing and stores nothing, so its rows are looked at beforehand. inline: stores nothing, or what the stage
 * that reads it condenses; runs with that one. stored: the rest. last: stores nothing and nobody reads it.
 */
export type Kind = 'source' | 'inline' | 'stored' | 'last'

export interface Node {
  readonly stage: GraphStage
  readonly id: string
  readonly kind: Kind
  readonly isStream: boolean
  readonly print: Fingerprint
  readonly from: readonly Node[]
  /** Hash of all that goes into a stream stage, in order. */
  streamKey?: string
  /** Undefined: known when the stages above have run. */
  places?: readonly Place[]
  /** Ids of stored batches that are there. */
  cached: ReadonlySet<string>
  /** The rows of some batch are stored, but the files that belong to them have changed or are gone. */
  hasLostFiles: boolean
  /** Some batch of it is asked for, needed or not. */
  isForced: boolean
}

/** Stages that run as one: an anchor, and the inline stages above it. */
export interface Segment {
  readonly anchor: Node
  /** In order; the anchor last. */
  readonly members: readonly Node[]
  /** With a stream stage in it, it is composed once on the whole stream; else batch by batch. */
  readonly isStream: boolean
  /** Ids to compute; undefined: all there will be. */
  readonly missing: readonly string[] | undefined
}

/** Rows of a source, by batch. */
export type SourceRows = ReadonlyMap<string, readonly AnyRow[]>

export interface SurveyOptions {
  readonly cache: Cache
  /** Runs a source, or tells what it gave before. */
  rowsOf(node: Node): Promise<SourceRows>
  /** Are the files that belong to this stored batch still there? */
  intact(node: Node, place: Place): Promise<boolean>
  /** Run again even if stored. */
  isForced(node: Node, place: Place): boolean
}

export function nodesOf(stages: readonly GraphStage[], prints: ReadonlyMap<string, Fingerprint>): Node[] {
  const nodes = new Map<string, Node>()
  for (const stage of stages) {
    const { input, output, scope, cache } = stage.stage
    const isSource = Object.keys(input.columns).length === 0
    const readers = stages.filter(other => other.from.includes(stage.id))
    const isCondensed = scope !== 'stream' && readers.length === 1 && readers.every(condenses)
    const stores = cache !== false && !output.live && !isCondensed
    const kind = stores ? 'stored' : isSource ? 'source' : readers.length > 0 ? 'inline' : 'last'
    const from = stage.from.map(id => nodes.get(id) as Node)
    nodes.set(stage.id, {
      stage,
      id: stage.id,
      kind,
      isStream: isSource || scope === 'stream',
      print: prints.get(stage.id) as Fingerprint,
      from,
      cached: new Set(),
      hasLostFiles: false,
      isForced: false,
    })
  }
  return [...nodes.values()]
}

const condenses = ({ stage: { condenses, scope }, from }: GraphStage): boolean =>
  condenses === true && scope !== 'stream' && from.length === 1

/** Fills in keys, places and what is stored. */
export async function survey(nodes: readonly Node[], options: SurveyOptions): Promise<void> {
  for (const node of nodes) {
    const inputs = inputsOf(node)
    if (node.kind === 'source') {
      node.streamKey = hashOf([])
      node.places = [...(await options.rowsOf(node)).keys()].map(id => ({ id, key: keyOf(node, id) as string }))
      continue
    }
    if (node.isStream) {
      const identities = node.from.map(identity)
      node.streamKey = identities.includes(undefined) ? undefined : hashOf(identities)
      const listed = node.streamKey === undefined ? undefined : await options.cache.manifest(manifestKey(node))
      const predicted = node.stage.stage.batch === undefined ? inputs?.map(place => place.id) : undefined
      node.places = node.streamKey === undefined ? undefined : (listed ?? predicted)?.map(id => ({ id, key: keyOf(node, id) as string }))
    } else {
      node.places = inputs?.map(({ id, origin }) => ({ id, key: hashOf([node.print.hash, origin.place.key]), origin }))
    }
    if (node.kind !== 'stored') continue
    const cached = new Set<string>()
    node.hasLostFiles = false
    for (const place of node.places ?? []) {
      const { key } = place
      if (options.isForced(node, place) || !(await options.cache.has(key))) continue
      if (await options.intact(node, place)) cached.add(place.id)
      else node.hasLostFiles = true
    }
    node.cached = cached
    node.isForced = (node.places ?? []).some(place => options.isForced(node, place))
  }
}

/** Of a stage on a stream: the key of the list of its batches, and of its checkpoints. */
export const streamKeyOf = (fingerprint: string, streamKey: string | undefined): string => hashOf([fingerprint, streamKey])
export const manifestKey = (node: Node): string => streamKeyOf(node.print.hash, node.streamKey)

export const keyInStream = (fingerprint: string, streamKey: string, id: string): string => hashOf([fingerprint, streamKey, id])

/** The key of a batch of this name; undefined while what goes in is unknown. */
export function keyOf(node: Node, id: string): string | undefined {
  if (node.isStream) return node.streamKey === undefined ? undefined : keyInStream(node.print.hash, node.streamKey, id)
  const known = node.places?.find(place => place.id === id)
  if (known !== undefined) return known.key
  const [above] = node.from
  const key = above === undefined ? undefined : keyOf(above, id)
  return key === undefined ? undefined : hashOf([node.print.hash, key])
}

/** What a batch is called beside those whose names are taken: where two stages give the same name, the later carries its stage's, as often as it takes. */
export function nameBeside(taken: { has(name: string): boolean }, above: Node, id: string): string {
  let name = id
  while (taken.has(name)) name += `@${above.id}`
  return name
}

/** All batches that go in, in order. */
export function inputsOf(node: Node): { id: string; origin: { node: Node; place: Place } }[] | undefined {
  const inputs: { id: string; origin: { node: Node; place: Place } }[] = []
  const taken = new Set<string>()
  for (const above of node.from) {
    if (above.places === undefined) return undefined
    for (const place of above.places) {
      const id = nameBeside(taken, above, place.id)
      taken.add(id)
      inputs.push({ id, origin: { node: above, place } })
    }
  }
  return inputs
}

/** What a stage gives, as something to hash, without knowing the batches of stages that only pass through. */
function identity(node: Node): unknown {
  if (node.kind === 'inline' && node.isStream) return node.streamKey === undefined ? undefined : manifestKey(node)
  if (node.places !== undefined && !isBehindStream(node)) return node.places.map(place => place.key)
  if (node.kind !== 'inline') return undefined
  const above = node.from.map(identity)
  return above.includes(undefined) ? undefined : [node.print.hash, above]
}

/** Its batches are known when its segment has run, and not before: what is behind it must have the same key both times. */
const isBehindStream = (node: Node): boolean =>
  node.kind === 'inline' && node.from.some(above => above.kind === 'inline' && (above.isStream || isBehindStream(above)))

/** What has to run, in order, for the last stages to be complete. Stored batches that nobody needs stay missing. */
export function segmentsOf(nodes: readonly Node[]): Segment[] {
  const needed = new Map<Node, Set<string> | 'all'>()
  const need = (node: Node, ids: Iterable<string> | 'all'): void => {
    const before = needed.get(node)
    needed.set(node, ids === 'all' || before === 'all' ? 'all' : new Set([...(before ?? []), ...ids]))
  }
  const segments: Segment[] = []
  for (const anchor of [...nodes].reverse()) {
    if (anchor.kind === 'source' || anchor.kind === 'inline') continue
    // A stage that writes files is an end, too: its files are wanted, whoever reads its rows.
    const isEnd = anchor.stage.stage.intact !== undefined || !nodes.some(node => node.from.includes(anchor))
    if (anchor.isForced || isEnd) need(anchor, 'all')
    const wanted = needed.get(anchor)
    if (wanted === undefined) continue
    const missing = anchor.places?.filter(place => (wanted === 'all' || wanted.has(place.id)) && !anchor.cached.has(place.id))
    if (missing?.length === 0 && !(anchor.kind === 'last' && anchor.isStream)) continue
    const members = membersOf(anchor, nodes)
    const isStream = members.some(node => node.isStream)
    for (const member of members) for (const above of member.from) if (isStream && !members.includes(above)) need(above, 'all')
    if (!isStream) {
      for (const place of missing ?? []) {
        const root = rootOf(place)
        if (root !== undefined) need(root.node, [root.place.id])
      }
      if (missing === undefined)
        for (const member of members) for (const above of member.from) if (!members.includes(above)) need(above, 'all')
    }
    segments.unshift({ anchor, members, isStream, missing: missing?.map(place => place.id) })
  }
  return segments
}

/** The anchor and the inline stages it reads through. */
export function membersOf(anchor: Node, nodes: readonly Node[]): Node[] {
  const members = new Set<Node>([anchor])
  for (const node of [...nodes].reverse()) {
    if (node.kind === 'inline' && [...members].some(member => member.from.includes(node))) members.add(node)
  }
  return nodes.filter(node => members.has(node))
}

/** Back through inline stages to the batch that is stored, or a source's. Undefined: one that a stream stage made on the way. */
export function rootOf({ origin }: Place): { node: Node; place: Place } | undefined {
  let at = origin
  while (at?.node.kind === 'inline') at = at.place.origin
  return at
}
