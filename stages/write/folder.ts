/** A checkpoint folder in Hugging Face layout, written whole or not at all. */
import { createHash } from 'node:crypto'
import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { bytesPerElement, elements } from '../../native/tensor.js'
import { hashOfFile, PipeError, temporary } from '../../pipeline/define.js'
import { type NewEntry, readSafetensors, writeSafetensors } from '../model/safetensors.js'

export type Entry = NewEntry

export const entryBytes = (entry: Entry): number => elements(entry.shape) * bytesPerElement[entry.dtype]

/** What belongs to a model besides its config and weights. */
const companions =
  /^(tokenizer.*|special_tokens_map\.json|added_tokens\.json|generation_config\.json|vocab\.(json|txt)|merges\.txt|chat_template\..*|.*\.model|LICENSE.*|NOTICE.*)$/i

export interface Folder {
  /** Where it goes; what is there is replaced when all is written. */
  readonly folder: string
  /** The original checkpoint: its config.json and tokenizer files are taken over. */
  readonly source: string
  readonly entries: readonly Entry[]
  readonly shardBytes: number
  /** Becomes quantization_config in config.json; left out for a dense checkpoint. */
  readonly config?: Readonly<Record<string, unknown>>
  /** The head was the embedding, and is among the entries now. */
  readonly untied?: boolean
  /** Goes into the metadata of each safetensors file. */
  readonly recipe: Readonly<Record<string, unknown>>
  progress(doneBytes: number, totalBytes: number): void
}

/**
 * Writes the folder and returns its hash. Raises PipeError where something is there that no run has written, a model of the
 * user's say; and the file system's own errors (the engine words ENOSPC and its kin).
 */
export async function writeCheckpoint(o: Folder): Promise<{ sha256: string }> {
  await expectOurs(o.folder)
  const parent = dirname(o.folder)
  const partial = join(parent, `.${basename(o.folder)}.partial`)
  const old = join(parent, `.${basename(o.folder)}.old`)
  using _ = temporary(partial)
  await rm(partial, { recursive: true, force: true })
  await mkdir(partial, { recursive: true })
  try {
    await fill(partial, o)
    const sha256 = await folderHash(partial)
    await rm(old, { recursive: true, force: true })
    await rename(o.folder, old).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
    await rename(partial, o.folder)
    await sync(parent)
    await rm(old, { recursive: true, force: true })
    return { sha256 }
  } catch (error) {
    await rm(partial, { recursive: true, force: true }).catch(() => {}) // the first error is the one to tell
    throw error
  }
}

/** A checkpoint that was written before, as it was or damaged, gives way to the new one; nothing else does. */
export async function expectOurs(folder: string): Promise<void> {
  const refuse = (found: string): never => {
    throw new PipeError('failed', {
      where: folder,
      message: `expected a checkpoint that a run has written, or nothing, and found ${found}.`,
      hint: 'Move it away, or write elsewhere with --out.',
    })
  }
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOTDIR') refuse('a file')
    return []
  })
  const strange = names.filter(
    name => name !== 'config.json' && !/^model[\w.-]*\.safetensors(\.index\.json)?$/.test(name) && !companions.test(name),
  )
  if (strange.length > 0) refuse(`"${strange[0]}" in it`)
  if (names.length === 0 || (await methodOf(folder)) === 'pipe') return
  for (const name of names.filter(name => name.endsWith('.safetensors'))) {
    const file = await readSafetensors(join(folder, name)).catch(() => undefined)
    if (file?.metadata.recipe !== undefined) return
  }
  refuse('another model')
}

/** By what the model of a folder is quantized, as far as that can be read. */
async function methodOf(folder: string): Promise<unknown> {
  try {
    const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as { quantization_config?: { quant_method?: unknown } }
    return config.quantization_config?.quant_method
  } catch {
    return undefined
  }
}

async function fill(partial: string, o: Folder): Promise<void> {
  const config = JSON.parse(await readFile(join(o.source, 'config.json'), 'utf8')) as Record<string, unknown>
  delete config.quantization_config
  await writeSynced(
    join(partial, 'config.json'),
    `${JSON.stringify({ ...config, ...(o.untied && { tie_word_embeddings: false }), ...(o.config && { quantization_config: o.config }) }, null, 2)}\n`,
  )
  for (const file of (await readdir(o.source)).sort()) {
    if (!companions.test(file) || !(await stat(join(o.source, file))).isFile()) continue
    await copyFile(join(o.source, file), join(partial, file))
    await sync(join(partial, file))
  }

  const shards = intoShards(o.entries, o.shardBytes)
  const total = o.entries.reduce((sum, entry) => sum + entryBytes(entry), 0)
  const weightMap: Record<string, string> = {}
  let done = 0
  for (const [i, shard] of shards.entries()) {
    const name = shards.length === 1 ? 'model.safetensors' : `model-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`
    const counted = shard.map(entry => ({
      ...entry,
      read: async () => {
        const bytes = await entry.read()
        done += bytes.length
        o.progress(done, total)
        return bytes
      },
    }))
    await writeSafetensors(join(partial, name), counted, { format: 'pt', recipe: JSON.stringify(o.recipe) })
    for (const entry of shard) weightMap[entry.name] = name
  }
  if (shards.length > 1)
    await writeSynced(
      join(partial, 'model.safetensors.index.json'),
      `${JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2)}\n`,
    )
}

/** sha256 over the names of the files in a folder and the hashes of their contents, by name. */
export async function folderHash(folder: string): Promise<string> {
  const all = createHash('sha256')
  for (const file of (await readdir(folder)).sort()) {
    all.update(`${file}\0${await hashOfFile(join(folder, file))}\n`)
  }
  return all.digest('hex')
}

function intoShards(entries: readonly Entry[], shardBytes: number): Entry[][] {
  const shards: Entry[][] = [[]]
  let filled = 0
  for (const entry of entries) {
    const bytes = entryBytes(entry)
    if (filled > 0 && filled + bytes > shardBytes) {
      shards.push([])
      filled = 0
    }
    shards.at(-1)?.push(entry)
    filled += bytes
  }
  return shards
}

const pad = (i: number): string => String(i).padStart(5, '0')

async function writeSynced(path: string, text: string): Promise<void> {
  await writeFile(path, text)
  await sync(path)
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
