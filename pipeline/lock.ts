/**
 * One run a folder at a time: a lock file with the process, where it runs and when it started, so that a dead process's lock
 * is taken over. Who works there may be in another container or on another host: its process can't be asked for, so it
 * writes its lock again from time to time.
 */
import { randomUUID } from 'node:crypto'
import { constants, readFileSync, unlinkSync } from 'node:fs'
import { copyFile, type FileHandle, link, open, readFile, readlink, rename, stat, unlink, writeFile } from 'node:fs/promises'
import { hostname, uptime } from 'node:os'
import { join } from 'node:path'
import { makeFolder, temporary, writing } from './disk.js'
import { PipeError } from './error.js'

interface Owner {
  readonly pid: number
  readonly started: string
  readonly since: string
  readonly host: string
  /** The boot and the process namespace: within them a pid says which process. */
  readonly place: string
  /** Which lock it is: processes of two containers may have one pid. */
  readonly token: string
}

const touchMs = 30_000
/** Of a process that can't be asked for, a lock as old as this is a dead one's. A shared folder may show times a minute late. */
const silentMinutes = 5

/** Throws PipeError 'locked' when another process works in `folder`. Dispose to unlock. */
export async function lockFolder(folder: string): Promise<AsyncDisposable> {
  const path = join(folder, '.lock')
  const started = (await startOf(process.pid)) ?? ''
  const owner: Owner = { pid: process.pid, started, since: new Date().toISOString(), host: hostname(), place: await placeHere(), token: randomUUID() }
  const held = await writing('the lock of the output folder', path, async () => {
    await makeFolder(folder)
    // Twice: the second time behind a stale lock that is out of the way.
    const first = await create(path, owner)
    if (first !== undefined) return first
    await clearStale(path, folder, owner)
    const second = await create(path, owner)
    if (second === undefined) throw busy(path, folder, await read(path), owner)
    return second
  })
  const touch = setInterval(() => void held.write(JSON.stringify(owner), 0).catch(() => {}), touchMs).unref()
  const release = (): void => {
    try {
      if (parse(readFileSync(path, 'utf8'))?.token === owner.token) unlinkSync(path)
    } catch {
      // Gone with its folder is as good.
    }
  }
  process.on('exit', release)
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(touch)
      await held.close().catch(() => {})
      release()
      process.off('exit', release)
    },
  }
}

/** Put into place with its content: nobody sees half a lock. Undefined: there is one. */
async function create(path: string, owner: Owner): Promise<FileHandle | undefined> {
  const beside = `${path}.${owner.token}.tmp`
  using _ = temporary(beside)
  try {
    await writeFile(beside, JSON.stringify(owner))
    await place(beside, path)
    return await open(path, 'r+')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' || code === 'ENOENT') return undefined // ENOENT: who holds it has swept what lay beside
    throw error
  } finally {
    await unlink(beside).catch(() => {}) // a folder that can't be written has none
  }
}

const withoutLinks = ['EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EMLINK', 'EPERM']

/** Raises EEXIST where there is such a file. */
async function place(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    if (!withoutLinks.includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    await copyFile(from, to, constants.COPYFILE_EXCL)
  }
}

async function clearStale(path: string, folder: string, mine: Owner): Promise<void> {
  const found = await stat(path).catch(() => undefined)
  if (found?.isFile() === false) {
    throw new PipeError('input', {
      where: path,
      message: `expected the lock of a run, or nothing, and found ${found.isDirectory() ? 'a folder' : 'what is no file'}.`,
      hint: 'Move it away, or write elsewhere with --out.',
    })
  }
  const owner = await read(path)
  if (owner !== undefined && !(await isStale(path, owner, mine))) throw busy(path, folder, owner, mine)
  const aside = `${path}.${mine.token}.stale.tmp`
  await rename(path, aside).catch(() => {})
  const moved = await read(aside)
  // Of two that found it stale, the slower may have moved the lock of the quicker: that goes back.
  if (moved !== undefined && moved.token !== owner?.token) await place(aside, path).catch(() => {})
  await unlink(aside).catch(() => {})
}

async function isStale(path: string, owner: Owner, mine: Owner): Promise<boolean> {
  const started = isNear(owner, mine) ? await startOf(owner.pid) : 'alive'
  if (started !== 'alive') return started !== owner.started
  // It can't be told from here. Both times are the file system's, as hosts' clocks may differ.
  const beside = `${path}.${mine.token}.tmp`
  using _ = temporary(beside)
  try {
    await writeFile(beside, '')
    const [now, last] = await Promise.all([stat(beside), stat(path)])
    const silentMs = now.mtimeMs - last.mtimeMs
    // Of this host, and not written since it began: what held it ended then.
    const isBeforeBoot = owner.host === mine.host && silentMs > Math.max(uptime() * 1000, 2 * touchMs)
    return isBeforeBoot || silentMs > silentMinutes * 60_000
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  } finally {
    await unlink(beside).catch(() => {}) // a folder that can't be written has none
  }
}

const isNear = (owner: Owner, mine: Owner): boolean => owner.host === mine.host && owner.place === mine.place

const busy = (path: string, folder: string, owner: Owner | undefined, mine: Owner): PipeError => {
  const on = owner === undefined || isNear(owner, mine) ? '' : ` on ${owner.host}`
  const who = owner === undefined ? 'Another run' : `Process ${owner.pid}${on}, since ${owner.since.slice(0, 19).replace('T', ' ')} UTC,`
  const gone = `If it is gone: ${silentMinutes} minutes after its end the folder is free, or at once if you delete ${path}.`
  return new PipeError('locked', {
    where: folder,
    message: `${who} is working in this folder.`,
    hint: `Wait for it or stop it, or write elsewhere with --out.${on === '' ? '' : `\n${gone}`}`,
  })
}

/** Undefined: there is none, or it was cut short by a crash. */
const read = async (path: string): Promise<Owner | undefined> => parse(await readFile(path, 'utf8').catch(() => ''))

function parse(text: string): Owner | undefined {
  try {
    const owner = JSON.parse(text) as Partial<Record<keyof Owner, unknown>>
    const words = [owner.started, owner.since, owner.host, owner.place, owner.token]
    return Number.isSafeInteger(owner.pid) && words.every(word => typeof word === 'string') ? (owner as Owner) : undefined
  } catch {
    return undefined
  }
}

async function placeHere(): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')
  return `${boot.trim()} ${await readlink('/proc/self/ns/pid').catch(() => '')}`
}

/**
 * When a process started, in ticks since boot; pids are used again, this is not. Undefined: it is not there, or has ended.
 * 'alive': it is there, and no more can be told.
 */
async function startOf(pid: number): Promise<string | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, 'utf8')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ') // from field 3 on, behind the name in parentheses
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined // it has ended, and its parent has not asked how
    return fields[19] // field 22
  } catch {
    return isAlive(pid) ? 'alive' : undefined // a system without /proc, or one that hides what is another user's
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
