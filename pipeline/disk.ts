/** Outputs appear whole or not at all, and a disk that refuses says so in one sentence. */
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, rmSync, statfsSync } from 'node:fs'
import { type FileHandle, mkdir, open, readFile, rename, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { PipeError } from './error.js'

const unfinished = new Set<string>()

/**
 * A file or a folder that is about to be made and will not stay as it is: should the process end (a second signal, an error
 * nobody caught) before this is disposed, it goes.
 */
export function temporary(path: string): Disposable {
  if (unfinished.size === 0) process.on('exit', removeUnfinished)
  unfinished.add(path)
  return {
    [Symbol.dispose]() {
      unfinished.delete(path)
      if (unfinished.size === 0) process.off('exit', removeUnfinished)
    },
  }
}

function removeUnfinished(): void {
  for (const path of unfinished) {
    try {
      rmSync(path, { recursive: true, force: true })
    } catch {
      // The next run does it.
    }
  }
}

/** For the names of temporary files: processes of two containers may have one pid. */
const own = randomBytes(8).toString('hex')
let count = 0

/** Bytes reach `path` all at once: a temporary file in the same folder, fsync, rename, fsync of the folder. Returns the size in bytes. */
export async function writeWhole(path: string, fill: (file: FileHandle) => Promise<void>): Promise<number> {
  const beside = `${path}.${own}-${count++}.tmp`
  using _ = temporary(beside)
  const file = await open(beside, 'wx')
  try {
    let size: number
    try {
      await fill(file)
      await file.sync()
      size = (await file.stat()).size
    } finally {
      await file.close()
    }
    await rename(beside, path)
    await syncFolder(dirname(path))
    return size
  } catch (error) {
    await unlink(beside).catch(() => {}) // the first error is the one to tell
    throw error
  }
}

/** JSON with a line break at its end, whole or not at all; makes the folder. */
export async function writeJson(path: string, value: unknown, indent?: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeWhole(path, async file => {
    await file.writeFile(`${JSON.stringify(value, undefined, indent)}\n`)
  })
}

/** A JSON value with its hash: what a run notes down for the next one, which must not act on what a disk has made of it. */
export const writeSealed = (path: string, value: unknown): Promise<void> => writeJson(path, { sha256: sealOf(value), value })

/** The value that `writeSealed` left; undefined when there is no such file, or it is damaged: then what it said is found out again. */
export async function readSealed<T>(path: string): Promise<T | undefined> {
  try {
    const { sha256, value } = JSON.parse(await readFile(path, 'utf8')) as { sha256: unknown; value: T }
    return sha256 === sealOf(value) ? value : undefined
  } catch {
    return undefined
  }
}

const sealOf = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex')

/** The folder and those above it. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true })
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    // So Node words a refusal of any kind when more than one folder was to be made, or none could: the system's own word.
    let missing = path
    while (!existsSync(dirname(missing))) missing = dirname(missing)
    await mkdir(missing)
    throw error
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

const refusals: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota is used up',
  EACCES: 'permission is denied',
  EPERM: 'permission is denied',
  EROFS: 'the file system is read-only',
  EIO: 'the disk reports an error',
  ENOTDIR: 'something on the way is a file, not a folder',
  EEXIST: 'a file is where a folder has to be',
  EISDIR: 'a folder is where a file has to be',
  ENAMETOOLONG: 'its name is too long',
}

/** Does something that writes; a refusal of the file system becomes a sentence with what was written and what is free. option: says where. */
export async function writing<T>(what: string, path: string, act: () => Promise<T>, goOn?: string, option?: string): Promise<T> {
  try {
    return await act()
  } catch (error) {
    throw refused(what, path, error, goOn, option) ?? error
  }
}

/** No room is left: told by writing alone, whoever wrote. */
export const isFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(codeOf(error) ?? '')

/** A file system's refusal to write as a sentence; undefined for any other error. */
export function refused(
  what: string,
  path: string,
  error: unknown,
  goOn = 'What is finished is kept; the same command goes on from here.',
  option = '--out',
): PipeError | undefined {
  const refusal = refusals[codeOf(error) ?? '']
  if (refusal === undefined) return undefined
  const free = freeDisk(path)
  return new PipeError(
    'disk',
    {
      where: path,
      message: `Can't write ${what}: ${refusal}${free === undefined ? '' : ` (${formatBytes(free)} free)`}.`,
      hint: `${isFull(error) ? 'Free space there' : 'Make the folder writable'}, or write elsewhere with ${option}.`,
      goOn,
    },
    { cause: error },
  )
}
const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException | undefined)?.code

/** Free for us in the file system of the nearest folder above that exists. */
export function freeDisk(path: string): number | undefined {
  for (let folder = path; ; folder = dirname(folder)) {
    try {
      const { bavail, bsize } = statfsSync(folder)
      return bavail * bsize
    } catch {
      if (dirname(folder) === folder) return undefined
    }
  }
}

/** '1.5 GB', in powers of ten as disks are sold and --memory is given. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

/** What `look` says of each file, in order: 64 at a time, as a process may not hold any number of them open. */
export async function ofEach<T, R>(files: readonly T[], look: (file: T) => Promise<R>): Promise<R[]> {
  const found: R[] = []
  for (let i = 0; i < files.length; i += 64) found.push(...(await Promise.all(files.slice(i, i + 64).map(look))))
  return found
}
