/** A checkpoint's folder in another form: safetensors, config.json and the files that go with a model, whole or not at all. */
import { randomUUID } from 'node:crypto'
import { copyFile, mkdir, readdir, rename, rm, rmdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { bytesPerElement, elements } from '../../native/tensor.js'
import { PipeError, temporary, writeWhole } from '../../pipeline/define.js'
import type { Checkpoint } from './checkpoint.js'
import { type NewEntry, writeSafetensors } from './safetensors.js'

/** A file is not made longer than this. */
const shardBytes = 5e9

const dayMs = 24 * 3600 * 1000

/** Files that belong to a model beside its weights. */
const companions =
  /^(tokenizer.*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|generation_config\.json|.*\.jinja)$/

/** Raises PipeError when the folder is not empty. Shards of 5 GB; tokenizer files are copied from `source`. */
export async function writeFolder(
  folder: string,
  source: Checkpoint,
  entries: readonly NewEntry[],
  config: Readonly<Record<string, unknown>>,
  most = shardBytes,
): Promise<{ files: string[]; bytes: number }> {
  const target = resolve(folder)
  const there = await stat(target).catch(() => undefined)
  const isFree = there === undefined || (there.isDirectory() && (await readdir(target)).length === 0)
  const refused = (found: string): PipeError =>
    new PipeError('input', { where: folder, message: `expected a new or an empty folder and found ${found}.`, hint: 'Give another --out.' })
  if (!isFree) throw refused(there.isDirectory() ? 'files in it' : 'a file')
  await mkdir(dirname(target), { recursive: true })
  await sweep(target)
  // A name of its own: two may write to one folder, and the first to be done has it.
  const partial = `${beside(target)}${randomUUID()}`
  using _ = temporary(partial)
  await mkdir(partial)
  try {
    const shards = split(entries, most)
    const files = shards.map((_, i) =>
      shards.length === 1 ? 'model.safetensors' : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
    )
    for (const [i, shard] of shards.entries()) await writeSafetensors(join(partial, files[i] as string), shard, { format: 'pt' })
    const bytes = shards.flat().reduce((sum, entry) => sum + bytesOf(entry), 0)
    if (shards.length > 1) {
      const map = Object.fromEntries(shards.flatMap((shard, i) => shard.map(({ name }) => [name, files[i]])))
      await writeJson(join(partial, 'model.safetensors.index.json'), { metadata: { total_size: bytes }, weight_map: map })
    }
    await writeJson(join(partial, 'config.json'), config)
    const besides = (await readdir(source.path)).filter(name => companions.test(name))
    for (const name of besides) await copyFile(join(source.path, name), join(partial, name))
    await rmdir(target).catch(() => undefined) // an empty folder gives way
    await rename(partial, target).catch((error: NodeJS.ErrnoException) => {
      throw ['ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(error.code ?? '') ? refused('what another has written meanwhile') : error
    })
    return { files: await readdir(target), bytes }
  } catch (error) {
    await rm(partial, { recursive: true, force: true })
    throw error
  }
}

const beside = (target: string): string => join(dirname(target), `.${basename(target)}.partial-`)

/** What a killed process left half done: nobody has begun a file there for a day. */
async function sweep(target: string): Promise<void> {
  for (const name of await readdir(dirname(target))) {
    const path = join(dirname(target), name)
    const found = path.startsWith(beside(target)) ? await stat(path).catch(() => undefined) : undefined
    if (found !== undefined && Date.now() - found.mtimeMs > dayMs) await rm(path, { recursive: true, force: true })
  }
}

const number = (i: number): string => String(i).padStart(5, '0')
const bytesOf = ({ shape, dtype }: NewEntry): number => elements(shape) * bytesPerElement[dtype]
const writeJson = (path: string, value: unknown): Promise<number> =>
  writeWhole(path, file => file.writeFile(`${JSON.stringify(value, null, 2)}\n`))

function split(entries: readonly NewEntry[], most: number): NewEntry[][] {
  const shards: NewEntry[][] = [[]]
  let bytes = 0
  for (const entry of entries) {
    if (bytes > 0 && bytes + bytesOf(entry) > most) {
      shards.push([])
      bytes = 0
    }
    shards[shards.length - 1]?.push(entry)
    bytes += bytesOf(entry)
  }
  return shards
}
