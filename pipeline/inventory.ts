/** What `pipe cache` shows: the stored batches of an output folder, whether they are sound, and what no plan uses. */
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { batchFiles, type Lineage, openBatch } from './cache.js'
import type { SavedState } from './checkpoint.js'
import { ofEach, readSealed } from './disk.js'
import { sentence } from './error.js'
import { leftOver } from './outputs.js'
import type { Plan } from './plan.js'
import { keyInStream, streamKeyOf } from './survey.js'

export interface CacheEntry {
  readonly key: string
  readonly path: string
  readonly bytes: number
  /** When it was written. */
  readonly time: Date
  /** Stage and batch; undefined when the file is damaged. */
  readonly lineage: Lineage | undefined
  /** Keys of stored batches that this one's tensors lie in. */
  readonly refersTo: readonly string[]
  /** What is wrong with it: as far as the footer tells, or all of it after `verifyEntry`. */
  readonly damage: string | undefined
  /** The system would not let it be read: it may be sound. */
  readonly isUnread?: true
}

/** The stored batches under `out`, by stage and batch. */
export async function listCache(out: string): Promise<CacheEntry[]> {
  const entries = (await ofEach(await batchFiles(join(out, 'cache')), entryOf)).filter(entry => entry !== undefined)
  const place = ({ lineage }: CacheEntry): string => `${lineage?.stage ?? ''} ${lineage?.id ?? ''}`
  return entries.sort((a, b) => place(a).localeCompare(place(b), 'en', { numeric: true }))
}

/** Undefined: a run that is at work has taken it away meanwhile. */
async function entryOf(file: { key: string; path: string }): Promise<CacheEntry | undefined> {
  const { path } = file
  let common = { ...file, bytes: 0, time: new Date(0) }
  try {
    const { size, mtime } = await stat(path)
    common = { ...common, bytes: size, time: mtime }
    const { lineage, tensors } = (await openBatch(file)).value as { lineage: Lineage; tensors: Record<string, { uri?: string }>[] }
    const uris = tensors.flatMap(row => Object.values(row).map(cell => cell.uri ?? ''))
    const refersTo = [...new Set(uris.filter(uri => uri.startsWith('cache:')).map(uri => uri.slice('cache:'.length)))]
    return { ...common, lineage, refersTo, damage: undefined }
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    return { ...common, lineage: undefined, refersTo: [], damage: sentence(error), ...(syscall === undefined ? {} : { isUnread: true }) }
  }
}

/** Reads all of the file and checks every hash. Returns what is wrong, or undefined. */
export async function verifyEntry(entry: CacheEntry): Promise<string | undefined> {
  try {
    await (await openBatch(entry)).verify()
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? undefined : sentence(error) // as when it is listed
  }
}

/** Keys that the plan uses, those of stages that were stopped half-way included, and those that their tensors lie in. */
export function usedKeys(plan: Plan, entries: readonly CacheEntry[]): Set<string> {
  const used = new Set(plan.stages.flatMap(stage => Object.values(stage.keys)))
  for (const { fingerprint, streamKey, keys } of plan.stages) {
    if (streamKey === undefined || Object.keys(keys).length > 0) continue // its batches are not known, or are those
    for (const { key, lineage } of entries) if (lineage !== undefined && key === keyInStream(fingerprint, streamKey, lineage.id)) used.add(key)
  }
  const byKey = new Map(entries.map(entry => [entry.key, entry]))
  for (const key of used) for (const other of byKey.get(key)?.refersTo ?? []) used.add(other) // a Set is walked to its growing end
  return used
}

/** Lists of the batches of streams that are not as a run has written them. Which batches and checkpoints the stages behind use may then not be known. */
export async function damagedLists(out: string): Promise<string[]> {
  const folder = join(out, 'cache/streams')
  const paths = (await readdir(folder).catch(() => [])).filter(name => name.endsWith('.json')).map(name => join(folder, name))
  const values = await ofEach(paths, path => readSealed<unknown>(path))
  return paths.filter((_, i) => values[i] === undefined)
}

/** The stages that would go on from checkpoints, by the checkpoints' key. Of a stage of which it is unknown what goes in, none are in use, as no batch is. */
export const usedCheckpoints = (plan: Plan): ReadonlyMap<string, string> =>
  new Map(plan.stages.flatMap(({ id, fingerprint, streamKey }) => (streamKey === undefined ? [] : [[streamKeyOf(fingerprint, streamKey), id]])))

/** Deletes what is stored and not used, and half-written files. The caller holds the folder's lock. */
export async function deleteEntries(out: string, entries: readonly CacheEntry[], checkpoints: readonly SavedState[] = []): Promise<void> {
  for (const { path } of [...entries, ...checkpoints]) await rm(path, { recursive: true, force: true })
  const folder = join(out, 'cache')
  for (const name of await readdir(folder, { recursive: true }).catch(() => [])) {
    if (leftOver.test(name)) await rm(join(folder, name), { force: true })
  }
}
