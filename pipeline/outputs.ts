/** What a run writes into its folder, and whether what lies there is a run's: nothing of the user's is replaced unasked. */
import { open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { PipeError } from './error.js'

/** What the engine keeps in cache/: batches by the first letters of their keys, and what is known of runs. */
const ofCache = /^([0-9a-f]{2}|streams|checkpoints|(hashes|last-run)\.json)(\.[\da-f]+-\d+\.tmp)?$/
/** What writeWhole leaves where a process was killed. */
export const leftOver = /\.[\da-f]+-\d+\.tmp$/

/**
 * Raises PipeError 'input' where `out` has a file or a folder of a name that a run writes to, and no run has written it. Files that stages
 * write are theirs to look at (`mayWrite`).
 */
export async function expectOurs(out: string): Promise<void> {
  const refuse = (name: string, expected: string, found: string): never => {
    throw new PipeError('input', {
      where: join(out, name),
      message: `expected ${expected} that a run has written, or nothing, and found ${found}.`,
      hint: 'Move it away, or write elsewhere with --out.',
    })
  }
  if (!(await stat(out).catch(() => undefined))?.isDirectory()) return // locking it says what is wrong
  const isFile = async (name: string, expected: string): Promise<boolean> => {
    const found = await stat(join(out, name)).catch(() => undefined)
    if (found?.isDirectory()) refuse(name, expected, 'a folder')
    return found?.isFile() === true
  }
  if ((await isFile('result.json', 'results')) && !(await isResult(join(out, 'result.json'))))
    refuse('result.json', 'results', 'another file')
  if ((await isFile('events.jsonl', 'events')) && !(await areEvents(join(out, 'events.jsonl'))))
    refuse('events.jsonl', 'events', 'another file')
  const names = await readdir(join(out, 'cache')).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOTDIR') refuse('cache', 'a cache', 'a file')
    return []
  })
  const strange = names.find(name => !ofCache.test(name))
  if (strange !== undefined) refuse('cache', 'a cache', `"${strange}" in it`)
}

/** Raises PipeError 'input' where what a stage reads is the folder of the outputs: they would count as a part of it, and be read as another. */
export function expectApart(out: string, stage: string, paths: Readonly<Record<string, string>>): void {
  for (const [name, path] of Object.entries(paths)) {
    if (resolve(path) !== out) continue
    throw new PipeError('input', {
      where: out,
      message: `expected a folder for the outputs alone and found the one that ${stage} reads (${name}).`,
      hint: 'Write elsewhere with --out.',
    })
  }
}

async function isResult(path: string): Promise<boolean> {
  try {
    const { graph, seconds, stages } = JSON.parse(await readFile(path, 'utf8')) as Partial<Record<string, unknown>>
    return typeof graph === 'string' && typeof seconds === 'number' && Array.isArray(stages)
  } catch {
    return false
  }
}

/** Every event begins so; a run that was killed at once has none, and its last may be cut. */
const beginning = '{"seconds":'

async function areEvents(path: string): Promise<boolean> {
  const file = await open(path, 'r')
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(beginning.length), 0, beginning.length, 0)
    if (buffer[0] === 0) return true // a power cut leaves NULs where a file was to grow
    return beginning.startsWith(buffer.toString('utf8', 0, bytesRead))
  } finally {
    await file.close()
  }
}

/**
 * What a killed run left half done beside its cache; a checkpoint that gave way to one that never came is back. Only for who
 * holds the lock.
 */
export async function sweepOutputs(out: string): Promise<void> {
  const names = await readdir(out)
  if (names.includes('.model.old') && !names.includes('model')) await rename(join(out, '.model.old'), join(out, 'model'))
  for (const name of await readdir(out))
    if (/^(result\.json\.[\da-f]+-\d+|\.lock\.[\da-f-]+(\.stale)?)\.tmp$|^\.model\.(partial|old)$/.test(name))
      await rm(join(out, name), { recursive: true, force: true })
}
