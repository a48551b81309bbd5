/** What a stage's results depend on besides its input: hashed into cache keys, and compared with the last run's to say why. */
import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import type { Contents } from './contents.js'
import type { Graph, GraphStage } from './graph.js'
import { pathParams, placeOf, type Schema } from './params.js'

/** Flat: 'version', 'seed', 'backend', 'params.codebook.K', … → value. */
export type Parts = Readonly<Record<string, string | number | boolean | null>>

export interface Fingerprint {
  readonly hash: string
  readonly parts: Parts
  /** Path parameters by name → the path, for people; not hashed. */
  readonly paths: Readonly<Record<string, string>>
  /** Parameters with the contents' hashes in place of paths: for recipes and lineage. */
  readonly params: unknown
}

export interface FingerprintOptions {
  readonly backend: string
  /** Versions of what a parameter names by { use }: codebooks; undefined for what is not known. */
  readonly versions?: (use: string) => number | undefined
}

export const hashOf = (value: unknown): string =>
  createHash('sha256')
    .update(JSON.stringify(sorted(value)))
    .digest('hex')

export async function fingerprint(
  graph: Graph,
  stage: GraphStage,
  contents: Contents,
  { backend, versions }: FingerprintOptions,
): Promise<Fingerprint> {
  const params = structuredClone(stage.params) as Record<string, unknown>
  const paths: Record<string, string> = {}
  const inner = Object.entries(stage.inner ?? {}).flatMap(([parameter, list]) => list.map((one, i) => ({ one, at: [parameter, i] })))
  const within = inner.flatMap(({ one, at }) => [...pathParams(one.stage.params as Schema, one.params, at)])
  for (const { path, kind, endings } of [...pathParams(stage.stage.params as Schema, params), ...within]) {
    const { holder, key } = placeOf(params, path)
    const file = holder[key] as string
    paths[path.join('.')] = file
    holder[key] = { sha256: await contents.hash(file, kind, `${stage.where}  ${path.join('.')}`, endings) }
  }
  const parts: Record<string, string | number | boolean | null> = {
    name: stage.stage.name,
    version: stage.stage.version,
    seed: graph.seed,
    backend,
    ...flat(params, 'params'),
  }
  // A recipe may be in the files that a stage writes: what of it no other key holds is part of this stage's.
  if (stage.stage.intact !== undefined) {
    parts.graph = graph.name
    parts.stages = wiring(graph, stage)
  }
  if (stage.moduleHash !== undefined) parts.module = stage.moduleHash
  for (const { one, at } of inner) {
    parts[`version of ${one.use}`] = one.stage.version
    if (one.moduleHash !== undefined) parts[`module of ${at.join('.')}`] = one.moduleHash
  }
  for (const use of uses(stage.params)) {
    const version = versions?.(use)
    if (version !== undefined) parts[`version of ${use}`] = version
  }
  return { hash: hashOf(parts), parts, paths, params }
}

/** What these stages read, by the hash of its content. */
export const sourcesOf = (prints: Iterable<Fingerprint>): ReadonlyMap<string, string> =>
  new Map([...prints].flatMap(({ parts, paths }) => Object.entries(paths).map(([name, path]) => [String(parts[`params.${name}.sha256`]), path])))

/** The stages above and how they hang together: 'model, calibrate ← model, …'. */
function wiring({ stages }: Graph, stage: GraphStage): string {
  const above = new Set([stage.id])
  for (const { id, from } of [...stages].reverse()) if (above.has(id)) for (const one of from) above.add(one)
  return stages
    .filter(({ id }) => above.has(id))
    .map(({ id, from }) => [id, ...from].join(' ← '))
    .join(', ')
}

/** What differs, a line each: 'codebook.K: 2 → 3'. */
export function differences(before: { parts: Parts; paths: Readonly<Record<string, string>> }, now: Fingerprint): string[] {
  const names = [...new Set([...Object.keys(before.parts), ...Object.keys(now.parts)])].filter(
    name => before.parts[name] !== now.parts[name],
  )
  return names.map(name => {
    const param = name.replace(/^params\./, '')
    if (name === 'module') return 'its file was changed'
    if (!name.endsWith('.sha256')) return `${param}: ${shown(before.parts[name])} → ${shown(now.parts[name])}`
    const path = param.slice(0, -'.sha256'.length)
    const [old, present] = [before.paths[path], now.paths[path]]
    return old === present || old === undefined || present === undefined
      ? `${path}: ${basename(present ?? path)} was changed`
      : `${path}: ${old} → ${present}`
  })
}

const shown = (value: unknown): string => (value === undefined ? 'nothing' : JSON.stringify(value))

/** Every "use" inside parameters. */
function uses(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  const own = (value as { use?: unknown }).use
  return [...(typeof own === 'string' ? [own] : []), ...Object.values(value).flatMap(uses)]
}

/** A line a value. Quoted is what could be read as another: keys with dots, keys that could be places in a list, texts like an empty list. */
function flat(value: unknown, path: string): Record<string, string | number | boolean | null> {
  if (value === '[]' || value === '{}') return { [path]: JSON.stringify(value) }
  if (typeof value !== 'object' || value === null) return value === undefined ? {} : { [path]: value as string | number | boolean | null }
  const entries = Object.entries(value)
  if (entries.length === 0) return { [path]: Array.isArray(value) ? '[]' : '{}' }
  const isPlain = (key: string): boolean => Array.isArray(value) || /^(?!\d+$)[\w-]+$/.test(key)
  return Object.assign({}, ...entries.map(([key, inner]) => flat(inner, `${path}.${isPlain(key) ? key : JSON.stringify(key)}`)))
}

/** Keys in order, so that the order in a file does not count. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  )
}
