/**
 * What is done, and where: a batch's key → its Parquet file. `cache/ab/ab12….parquet`, one file a batch; a key is a hash
 * of everything the batch depends on, so a file that is there is right, and nothing is ever changed in place.
 */
import { mkdir, readdir, rm, stat, unlink } from 'node:fs/promises'
import { dirname, join, sep } from 'node:path'
import { bytesPerElement, type DType, elements } from '../native/tensor.js'
import type { TensorRef } from '../native/tensor-ref.js'
import { type AnyRow, type Cell, cells, decode, encode, type RecordBatch, scalarsOf } from './arrow.js'
import type { Table } from './define.js'
import { ofEach, readSealed, writeSealed, writing } from './disk.js'
import { sentence } from './error.js'
import { fileTensor, LazyTensor, LiveTensors } from './lazy.js'
import { leftOver } from './outputs.js'
import { Damaged, ParquetFile, writeParquet } from './parquet.js'

/** Where a batch comes from. */
export interface Lineage {
  readonly stage: string
  readonly version: number
  readonly params: unknown
  /** Keys of the batches it was made from. */
  readonly inputs: readonly string[]
  /** The batch's id. */
  readonly id: string
}

type StoredCell = { dtype: DType; shape: number[] } & ({ tensor: number } | { uri: string; offset: number })
interface StoredValue {
  /** Its own; files written before there was this have none. */
  readonly key?: string
  readonly lineage: Lineage
  readonly table: { readonly name: string; readonly version: number }
  readonly scalars: readonly Record<string, string | number>[]
  readonly tensors: readonly Record<string, StoredCell>[]
  /** Of what the run read, by the hash of its content, where that lay to which cells or texts refer. */
  readonly sources?: Readonly<Record<string, string>>
}

/** The files of batches under the folder of a cache, sound or not. */
export async function batchFiles(folder: string): Promise<{ key: string; path: string }[]> {
  const names = await readdir(folder, { recursive: true }).catch(() => [])
  return names.flatMap(name => {
    const key = /^[0-9a-f]{2}[\\/]([0-9a-f]{64})\.parquet$/.exec(name)?.[1]
    return key === undefined ? [] : [{ key, path: join(folder, name) }]
  })
}

/** The file of this key's batch. Throws Damaged, also where it is another's, or what the file system throws (ENOENT). */
export async function openBatch({ key, path }: { key: string; path: string }): Promise<ParquetFile> {
  const file = await ParquetFile.open(path)
  const { key: own = key } = file.value as StoredValue
  if (own !== key) throw new Damaged(path, `it holds the batch of another key, ${own.slice(0, 12)}`)
  return file
}

export class Cache {
  readonly #files = new Map<string, Promise<ParquetFile | undefined>>()
  readonly #sizes = new Map<string, Promise<number>>()
  readonly #writes = new Set<Promise<number>>()
  #closed = false

  /**
   * discarded: told when a stored file turns out to be damaged and is deleted. sources: the folders and files that the run
   * reads, by the hash of what is in them. A key says what a batch was made from, not where that lay: it may have been
   * moved since, and something else be there.
   */
  constructor(
    readonly folder: string,
    private readonly discarded: (text: string) => void = () => {},
    private readonly sources: ReadonlyMap<string, string> = new Map(),
  ) {}

  path(key: string): string {
    return join(this.folder, key.slice(0, 2), `${key}.parquet`)
  }

  /** Is this batch stored, with all that it refers to? A damaged file is deleted, and the answer is no. */
  async has(key: string): Promise<boolean> {
    const file = await this.#open(key)
    if (file === undefined) return false
    const value = file.value as StoredValue
    const now = this.#whereNow(value)
    for (const row of value.tensors) {
      for (const cell of Object.values(row)) if ('uri' in cell && !(await this.#isThere({ ...cell, uri: now(cell.uri) }))) return false
    }
    return true
  }

  /** Keys of all batches that are stored. */
  async keys(): Promise<string[]> {
    const keys = (await batchFiles(this.folder)).map(({ key }) => key)
    const stored = await ofEach(keys, key => this.has(key))
    return keys.filter((_, i) => stored[i])
  }

  /** The batch, its tensors as references into the file. */
  async load(key: string, table: Table): Promise<RecordBatch> {
    const file = await this.#open(key)
    if (file === undefined) throw new Damaged(this.path(key), 'it is gone')
    const { scalars, tensors } = file.value as StoredValue
    const now = this.#whereNow(file.value as StoredValue)
    const known = new Map<string, TensorRef>()
    const rows = scalars.map((row, i): AnyRow => {
      const numbers = Object.entries(row).map(([name, value]) => {
        if (table.columns[name]?.kind === 'f64') return [name, Number(value)]
        return [name, typeof value === 'string' ? now(value) : value]
      })
      const refs = Object.entries(tensors[i] ?? {}).map(([name, cell]) => {
        const place = 'uri' in cell ? { uri: now(cell.uri), offset: cell.offset } : { uri: `cache:${key}`, offset: cell.tensor }
        const id = `${place.uri} ${place.offset} ${cell.dtype} ${cell.shape}`
        const ref = known.get(id) ?? this.#locate({ ...cell, ...place })
        known.set(id, ref)
        return [name, ref]
      })
      return { ...Object.fromEntries(numbers), ...Object.fromEntries(refs) }
    })
    return encode(table, rows, () => {
      throw new Error('a stored batch has no live tensors')
    })
  }

  /** The rows of a batch of ours, or of an edge: places become references. */
  rows(batch: RecordBatch): AnyRow[] {
    return decode(batch, cell => this.#locate(cell))
  }

  /** Stores rows as a batch; their live tensors are read, written and disposed. Returns the bytes written. */
  async store(key: string, table: Table, rows: readonly AnyRow[], lineage: Lineage): Promise<number> {
    using live = new LiveTensors()
    const batch = await encode(table, rows, tensor => live.hold(tensor))
    const blobs: { bytes: number; read(): Promise<Uint8Array> }[] = []
    const numbers = new Map<string, number>()
    const stored = (cell: Cell): StoredCell => {
      const { dtype, uri, offset = 0, data } = cell
      const shape = [...cell.shape]
      if (uri !== undefined && uri !== 'live:') return { dtype, shape, uri, offset }
      const id = data === undefined ? `${offset} ${dtype} ${shape}` : `data ${blobs.length}`
      const known = numbers.get(id)
      if (known !== undefined) return { dtype, shape, tensor: known }
      const bytes = elements(shape) * bytesPerElement[dtype]
      const tensor = blobs.push({ bytes, read: data === undefined ? () => live.take(offset) : async () => data.slice() }) - 1
      numbers.set(id, tensor)
      return { dtype, shape, tensor }
    }
    const scalars: Record<string, string | number>[] = []
    const tensors: Record<string, StoredCell>[] = []
    for (let i = 0; i < batch.numRows; i++) {
      scalars.push(Object.fromEntries(Object.entries(scalarsOf(batch, i)).map(([name, value]) => [name, exact(value)])))
      tensors.push(Object.fromEntries([...cells(batch, i)].map(([name, cell]) => [name, stored(cell)])))
    }
    const texts = [...scalars, ...tensors].flatMap(row => Object.values(row).map(cell => (typeof cell === 'object' && 'uri' in cell ? cell.uri : cell)))
    const referred = [...this.sources].filter(([, path]) => texts.some(text => typeof text === 'string' && isWithin(text, path)))
    const sources = Object.fromEntries(referred)
    const value: StoredValue = { key, lineage, table: { name: table.name, version: table.version }, scalars, tensors, sources }
    if (this.#closed) throw new Error('the run is over')
    const path = this.path(key)
    const written = writing(`batch ${lineage.id} of ${lineage.stage}`, path, async () => {
      await mkdir(dirname(path), { recursive: true })
      return writeParquet(path, value, blobs)
    })
    this.#writes.add(written)
    try {
      return await written
    } finally {
      this.#writes.delete(written)
      this.#files.delete(key)
    }
  }

  /** Finishes what is being written (a run that was stopped may be within a file), and stores nothing any more. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.allSettled(this.#writes)
  }

  /** After Damaged: the file is deleted, so that it is computed again. */
  async discard(path: string, why: string): Promise<void> {
    this.#files.clear()
    await unlink(path).catch(() => {}) // gone already is as good
    this.discarded(why)
  }

  /** Manifest of a stream: the ids of its batches, written when it was complete. */
  manifest(key: string): Promise<string[] | undefined> {
    return readSealed<string[]>(this.#manifestPath(key))
  }

  async complete(key: string, ids: readonly string[]): Promise<void> {
    const path = this.#manifestPath(key)
    await writing('the list of finished batches', path, () => writeSealed(path, ids))
  }

  /** What a killed run left half done: temporary files. Only for who holds the lock. */
  async sweep(): Promise<void> {
    const files = await readdir(this.folder, { recursive: true }).catch(() => [])
    for (const file of files) if (leftOver.test(file)) await rm(join(this.folder, file), { force: true })
  }

  /** Where that lies now to which a text or a place of this batch refers. */
  #whereNow({ sources = {} }: StoredValue): (text: string) => string {
    const moved = Object.entries(sources).flatMap(([hash, old]) => {
      const present = this.sources.get(hash)
      return present === undefined || present === old ? [] : [{ old, present }]
    })
    return text => {
      const found = moved.find(({ old }) => isWithin(text, old))
      return found === undefined ? text : text.replace(found.old, () => found.present)
    }
  }

  #manifestPath(key: string): string {
    return join(this.folder, 'streams', `${key}.json`)
  }

  #open(key: string): Promise<ParquetFile | undefined> {
    const open = async (): Promise<ParquetFile | undefined> => {
      try {
        return await openBatch({ key, path: this.path(key) })
      } catch (error) {
        if (error instanceof Damaged) await this.discard(error.path, sentence(error))
        else if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
        return undefined
      }
    }
    const known = this.#files.get(key) ?? open()
    this.#files.set(key, known)
    known.then(
      file => {
        if (file === undefined) this.#files.delete(key)
      },
      () => this.#files.delete(key),
    )
    return known
  }

  #locate(cell: Cell & { readonly uri: string; readonly offset: number }): TensorRef {
    if (cell.uri.startsWith('file:')) return fileTensor(cell.uri.slice(5), cell.offset, cell.dtype, cell.shape)
    const key = cell.uri.slice(6)
    return new LazyTensor(cell.dtype, cell.shape, cell.uri, cell.offset, async () => {
      const file = await this.#open(key)
      if (file === undefined) throw new Damaged(this.path(key), 'it is gone')
      return file.read(cell.offset)
    })
  }

  async #isThere(cell: { dtype: DType; shape: number[]; uri: string; offset: number }): Promise<boolean> {
    if (cell.uri.startsWith('cache:')) return this.has(cell.uri.slice(6))
    const path = cell.uri.slice(5)
    const size =
      this.#sizes.get(path) ??
      stat(path).then(
        s => s.size,
        () => -1,
      )
    this.#sizes.set(path, size)
    return (await size) >= cell.offset + elements(cell.shape) * bytesPerElement[cell.dtype]
  }
}

/** Whether a text is this path, or a place of a tensor in it. */
const isWithin = (text: string, path: string): boolean =>
  text === path || text === `file:${path}` || text.startsWith(`file:${path.endsWith(sep) ? path : path + sep}`)

/** JSON knows no NaN, no infinity and no −0. */
const exact = (value: string | number): string | number =>
  typeof value === 'number' && (!Number.isFinite(value) || Object.is(value, -0)) ? (Object.is(value, -0) ? '-0' : String(value)) : value
