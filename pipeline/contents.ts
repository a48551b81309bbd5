/**
 * Hashes of input files and folders: what a cache key says of them. Remembered by path, size, inode and times: that of the
 * last change, too, which nobody sets back.
 */
import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { readSealed, writeSealed } from './disk.js'
import { PipeError } from './error.js'
import { hashOfFile } from './hashing.js'

/** Of a folder whose parameter does not say, what belongs to a checkpoint, a tokenizer or a calibration; not what lies beside it. */
const usual = ['.json', '.safetensors', '.pt', '.model', '.txt', '.jinja']

type Known = Record<string, { readonly stamp: string; readonly sha256: string }>

export class Contents {
  #known: Promise<Known> | undefined
  #changed = false

  /** path: where hashes are remembered between runs. */
  constructor(private readonly path: string) {}

  /** where: whose parameter it is, for the sentence. endings: which files of a folder count. */
  async hash(path: string, kind: 'file' | 'directory', where: string, endings: readonly string[] = usual): Promise<string> {
    const found = await stat(path).catch(() => undefined)
    const isRight = kind === 'file' ? found?.isFile() : found?.isDirectory()
    if (isRight !== true) {
      const is =
        found === undefined
          ? `There is no such ${kind === 'file' ? 'file' : 'folder'}`
          : `This is no ${kind === 'file' ? 'file' : 'folder'}`
      throw new PipeError('graph', {
        where,
        message: `${is}: ${path}`,
        hint: 'A path in a graph is relative to the graph file, one in --set to the working directory.',
      })
    }
    if (kind === 'file') return this.#file(path)
    const hash = createHash('sha256')
    for (const name of (await readdir(path)).sort()) {
      const file = join(path, name)
      if (endings.includes(extname(name)) && (await stat(file).catch(() => undefined))?.isFile())
        hash.update(`${name}\0${await this.#file(file)}\0`)
    }
    return hash.digest('hex')
  }

  /** Remembers what was hashed. */
  async save(): Promise<void> {
    if (this.#changed) await writeSealed(this.path, await this.#known)
    this.#changed = false
  }

  async #file(path: string): Promise<string> {
    this.#known ??= readSealed<Known>(this.path).then(known => known ?? {})
    const known = await this.#known
    const { size, mtimeMs, ctimeMs, ino } = await stat(path)
    const stamp = `${size} ${mtimeMs} ${ctimeMs} ${ino}`
    const entry = known[path]
    if (entry?.stamp === stamp) return entry.sha256
    const sha256 = await hashOfFile(path)
    known[path] = { stamp, sha256 }
    this.#changed = true
    return sha256
  }
}
