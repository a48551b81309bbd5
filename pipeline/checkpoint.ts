/** State of a stream stage on disk: so that a killed run need not start over. One Parquet file a name, whole or not at all. */
import type { Stats } from 'node:fs'
import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { bytesPerElement, type DType, elements, type Tensor } from '../native/tensor.js'
import type { Cache } from './cache.js'
import type { Checkpoint } from './define.js'
import { ofEach, writing } from './disk.js'
import { LazyTensor } from './lazy.js'
import { Damaged, ParquetFile, writeParquet } from './parquet.js'

const folderOf = (cache: Cache, key: string): string => join(cache.folder, 'checkpoints', key)

/** What a stage that was stopped has left for its next run. */
export interface SavedState {
  /** Of the stage and the stream. */
  readonly key: string
  readonly path: string
  readonly bytes: number
  /** When its last file was written. */
  readonly time: Date
}

/** Whole ones. A run may be at work on it, so a file may go while this looks. */
async function filesIn(folder: string): Promise<Stats[]> {
  const files = (await readdir(folder).catch(() => [])).filter(name => name.endsWith('.parquet'))
  const found = await ofEach(files, file => stat(join(folder, file)).catch(() => undefined))
  return found.filter(one => one !== undefined)
}

const sum = (files: readonly Stats[]): number => files.reduce((total, { size }) => total + size, 0)

/** All under the folder of a cache. */
export async function listCheckpoints(folder: string): Promise<SavedState[]> {
  const all = join(folder, 'checkpoints')
  const keys = (await readdir(all).catch(() => [])).filter(name => /^[0-9a-f]{64}$/.test(name)).sort()
  const found = await ofEach(keys, async (key): Promise<SavedState | undefined> => {
    const path = join(all, key)
    const files = await filesIn(path)
    const times = files.map(({ mtimeMs }) => mtimeMs)
    return files.length === 0 ? undefined : { key, path, bytes: sum(files), time: new Date(Math.max(...times)) }
  })
  return found.filter(one => one !== undefined)
}

/** Bytes of all checkpoints under this key. */
export async function savedBytes(cache: Cache, key: string): Promise<number> {
  return sum(await filesIn(folderOf(cache, key)))
}

interface Saved {
  readonly value: Readonly<Record<string, unknown>>
  readonly tensors: readonly { readonly name: string; readonly dtype: DType; readonly shape: readonly number[] }[]
}

/** Checkpoints of one stage on one stream; key: of both. */
export class Checkpoints implements Checkpoint {
  readonly #folder: string

  constructor(cache: Cache, key: string) {
    this.#folder = folderOf(cache, key)
  }

  async save(name: string, value: Readonly<Record<string, unknown>>, tensors: Readonly<Record<string, Tensor>>): Promise<void> {
    const entries = Object.entries(tensors)
    const saved: Saved = { value, tensors: entries.map(([name, { dtype, shape }]) => ({ name, dtype, shape })) }
    await writing(`checkpoint ${name}`, this.#folder, async () => {
      await mkdir(this.#folder, { recursive: true })
      await writeParquet(
        this.#path(name),
        saved,
        entries.map(([, tensor]) => ({ bytes: tensor.bytes, read: () => tensor.read() })),
      )
    })
  }

  /** Undefined: there is none. Throws Damaged: who listed it counts on it, so the run discards it and begins the stage again. */
  async load(
    name: string,
  ): Promise<{ value: Readonly<Record<string, unknown>>; tensors: Readonly<Record<string, LazyTensor>> } | undefined> {
    const path = this.#path(name)
    try {
      const file = await ParquetFile.open(path)
      await file.verify()
      const { value, tensors } = file.value as Saved
      const refs = tensors.map(({ name, dtype, shape }, i): [string, LazyTensor] => {
        if (file.sizes[i] !== elements(shape) * bytesPerElement[dtype]) throw new Damaged(path, `tensor ${name} has another size`)
        return [name, new LazyTensor(dtype, shape, `checkpoint:${path}`, i, () => file.read(i))]
      })
      return { value, tensors: Object.fromEntries(refs) }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  async list(): Promise<string[]> {
    const files = (await readdir(this.#folder).catch(() => [])).filter(file => file.endsWith('.parquet'))
    const dated = await Promise.all(
      files.map(async file => ({ file, time: (await stat(join(this.#folder, file), { bigint: true })).mtimeNs })),
    )
    return dated.sort((a, b) => (a.time < b.time ? -1 : 1)).map(({ file }) => decodeURIComponent(file.slice(0, -'.parquet'.length)))
  }

  async drop(name: string): Promise<void> {
    await rm(this.#path(name), { force: true })
  }

  /** The stream is complete. */
  async dropAll(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true })
  }

  #path(name: string): string {
    return join(this.#folder, `${encodeURIComponent(name)}.parquet`)
  }
}
