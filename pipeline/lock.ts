/** One run a folder at a time: a lock file with the process and when it started, so that a dead process's lock is taken over. */
import { link, readFile, rename, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { makeFolder, temporary, writing } from './disk.js'
import { PipeError } from './error.js'

interface Owner {
  readonly pid: number
  readonly started: string
  readonly since: string
}

/** Throws PipeError 'locked' when another process works in `folder`. Dispose to unlock. */
export async function lockFolder(folder: string): Promise<AsyncDisposable> {
  const path = join(folder, '.lock')
  const owner: Owner = { pid: process.pid, started: (await startOf(process.pid)) ?? '', since: new Date().toISOString() }
  await writing('the lock of the output folder', path, async () => {
    await makeFolder(folder)
    // Twice: the second time behind a stale lock that is out of the way.
    if (!(await create(path, owner))) {
      await clearStale(path, folder)
      if (!(await create(path, owner))) throw await busy(path, folder)
    }
  })
  const held = temporary(path)
  return {
    async [Symbol.asyncDispose]() {
      await unlink(path).catch(() => {}) // gone with its folder is as good
      held[Symbol.dispose]()
    },
  }
}

/** Linked into place with its content: nobody ever sees half a lock. */
async function create(path: string, owner: Owner): Promise<boolean> {
  const beside = `${path}.${process.pid}.tmp`
  using _ = temporary(beside)
  try {
    await writeFile(beside, JSON.stringify(owner))
    await link(beside, path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  } finally {
    await unlink(beside).catch(() => {}) // a folder that can't be written has none
  }
}

async function clearStale(path: string, folder: string): Promise<void> {
  const owner = await read(path)
  if (owner !== undefined && (await startOf(owner.pid)) === owner.started) throw await busy(path, folder)
  const aside = `${path}.${process.pid}.stale.tmp`
  await rename(path, aside).catch(() => {})
  const moved = await read(aside)
  // Of two that found it stale, the slower may have moved the lock of the quicker: that goes back.
  if (moved !== undefined && moved.pid !== owner?.pid) await link(aside, path).catch(() => {})
  await unlink(aside).catch(() => {})
}

const busy = async (path: string, folder: string): Promise<PipeError> => {
  const owner = await read(path)
  const who = owner === undefined ? 'Another run' : `Process ${owner.pid}, since ${owner.since.slice(0, 19).replace('T', ' ')} UTC,`
  return new PipeError('locked', {
    where: folder,
    message: `${who} is working in this folder.`,
    hint: 'Wait for it or stop it, or write elsewhere with --out.',
  })
}

async function read(path: string): Promise<Owner | undefined> {
  try {
    const { pid, started, since } = JSON.parse(await readFile(path, 'utf8')) as Partial<Record<keyof Owner, unknown>>
    return Number.isSafeInteger(pid) && typeof started === 'string' && typeof since === 'string'
      ? { pid: pid as number, started, since }
      : undefined
  } catch {
    return undefined // cut short by a crash: stale
  }
}

/** When a process started, in ticks since boot, with the boot; pids are used again, this is not. Undefined: it is not there, or has ended. */
async function startOf(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
    const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // from field 3 on, behind the name in parentheses
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined // it has ended, and its parent has not asked how
    const ticks = fields[19] // field 22
    return `${boot.trim()} ${ticks}`
  } catch {
    return isAlive(pid) ? 'alive' : undefined // a system without /proc
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
