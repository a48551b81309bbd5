/**
 * safetensors: tensors in a file. Layout: the length N of the header (u64, little-endian), the header (JSON: name →
 * {dtype, shape, data_offsets [from, to) counted from the header's end}, and "__metadata__": name → text), the bytes.
 *
 * A header is hostile until checked: its length is bounded, every tensor's bytes must equal its shape times its
 * element, and the tensors must cover the rest of the file exactly, without overlap and without a gap.
 */
import { type FileHandle, open, stat } from 'node:fs/promises'
import { bytesPerElement, type DType, elements } from '../../native/tensor.js'
import { PipeError, writeWhole } from '../../pipeline/define.js'

/** One tensor of a file; offset counted from the start of the file. */
export interface Entry {
  readonly name: string
  readonly path: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly offset: number
  readonly bytes: number
}

export interface SafetensorsFile {
  readonly entries: ReadonlyMap<string, Entry>
  readonly metadata: Readonly<Record<string, string>>
}

/** As the official reader: more is an attack or not a safetensors file. */
const longestHeader = 100_000_000

const dtypes: Readonly<Record<string, DType>> = {
  F64: 'f64',
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  I64: 'i64',
  I32: 'i32',
  I16: 'i16',
  U16: 'u16',
  I8: 'i8',
  U8: 'u8',
  BOOL: 'u8',
}
const dtypeNames: Readonly<Record<DType, string>> = {
  f64: 'F64',
  f32: 'F32',
  f16: 'F16',
  bf16: 'BF16',
  i64: 'I64',
  i32: 'I32',
  i16: 'I16',
  u16: 'U16',
  i8: 'I8',
  u8: 'U8',
}

/** Reads and checks the header of one file; no tensor's bytes are touched. Raises PipeError with one sentence for whatever is wrong. */
export async function readSafetensors(path: string): Promise<SafetensorsFile> {
  const fail = (message: string): never => {
    throw new PipeError('input', { where: path, message, hint: 'Download or copy the file again.' })
  }
  const unreadable = (error: NodeJS.ErrnoException): never => fail(`could not be opened (${error.code}).`)
  // Asked before it is opened: opening a named pipe waits for somebody to write into it.
  if (!(await stat(path).catch(unreadable)).isFile()) fail('is a folder, or something else that is no file.')
  const file = await open(path, 'r').catch(unreadable)
  try {
    const { size } = await file.stat()
    if (size < 8) fail(`expected at least 8 bytes and found ${size}: the file is truncated or no safetensors file.`)
    const length = (await readExactly(file, 0, 8)).readBigUInt64LE(0)
    if (length > longestHeader) fail(`its header claims ${length} bytes; the limit is ${longestHeader}: this is no safetensors file.`)
    const start = 8 + Number(length)
    if (start > size) fail(`its header claims ${length} bytes but the file has ${size}: it is truncated.`)
    const text = (await readExactly(file, 8, Number(length))).toString('utf8')
    let header: unknown
    try {
      header = JSON.parse(text)
    } catch {
      fail('its header is not valid JSON.')
    }
    return checkHeader(header, path, start, size, fail)
  } finally {
    await file.close()
  }
}

function checkHeader(header: unknown, path: string, start: number, size: number, fail: (message: string) => never): SafetensorsFile {
  if (typeof header !== 'object' || header === null || Array.isArray(header)) return fail('its header is not a JSON object.')
  const entries: Entry[] = []
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(header) as [string, unknown][]) {
    if (name === '__metadata__') {
      if (typeof value !== 'object' || value === null || Object.values(value).some(text => typeof text !== 'string')) {
        fail('its "__metadata__" is not a map from text to text.')
      }
      metadata = value as Record<string, string>
      continue
    }
    const { dtype, shape, data_offsets: offsets } = (value ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown }
    const type = typeof dtype === 'string' && Object.hasOwn(dtypes, dtype) ? dtypes[dtype] : undefined
    if (type === undefined)
      return fail(
        `tensor "${name}" has the element type ${shown(dtype)}; known are ${Object.keys(dtypes).join(', ')}.`,
      )
    if (!isCounts(shape) || !Number.isSafeInteger(elements(shape) * 8)) {
      return fail(`tensor "${name}" has the shape ${shown(shape)}, which is no list of sizes.`)
    }
    if (!isCounts(offsets) || offsets.length !== 2)
      return fail(`tensor "${name}" has the offsets ${shown(offsets)}, not [from, to].`)
    const [from, to] = offsets as [number, number]
    const bytes = elements(shape) * bytesPerElement[type]
    if (to < from || to - from !== bytes) {
      fail(`tensor "${name}" is ${dtype} [${shape}], which is ${bytes} bytes, but its offsets [${from}, ${to}] say ${to - from}.`)
    }
    if (start + to > size)
      fail(`tensor "${name}" ends at byte ${start + to} of a file of ${size} bytes: the file is truncated, or its header lies.`)
    entries.push({ name, path, dtype: type, shape, offset: start + from, bytes })
  }
  entries.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = start
  let before = ''
  for (const entry of entries) {
    if (entry.offset < end) fail(`tensors "${before}" and "${entry.name}" overlap at byte ${entry.offset}.`)
    if (entry.offset > end) fail(`${entry.offset - end} bytes before "${entry.name}" belong to no tensor.`)
    end = entry.offset + entry.bytes
    before = entry.name
  }
  if (end !== size) fail(`${size - end} bytes at the end belong to no tensor.`)
  return { entries: new Map(entries.map(entry => [entry.name, entry])), metadata }
}

/** A value of the header; one may be nested deeper than can be written out. */
function shown(value: unknown): string {
  try {
    return JSON.stringify(value) ?? '(none)'
  } catch {
    return '(too deeply nested)'
  }
}

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every(count => Number.isSafeInteger(count) && count >= 0)

async function readExactly(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length)
  let done = 0
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done)
    if (bytesRead === 0) throw new Error(`the file became shorter while it was read, at byte ${position + done}`)
    done += bytesRead
  }
  return buffer
}

/** A tensor to be written; its bytes are asked for when its turn comes, and let go afterwards. */
export interface NewEntry {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  read(): Promise<Uint8Array>
}

/**
 * Writes a file in constant memory: whole or not at all (temporary name, fsync, rename, fsync of the folder). Tensors of
 * wide elements come first, so that each is aligned to its element; the header is padded with spaces to 8 bytes.
 */
export async function writeSafetensors(
  path: string,
  entries: readonly NewEntry[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = [...entries].sort((a, b) => bytesPerElement[b.dtype] - bytesPerElement[a.dtype])
  const size = ({ shape, dtype }: NewEntry): number => elements(shape) * bytesPerElement[dtype]
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {}
  let offset = 0
  for (const entry of ordered) {
    if (Object.hasOwn(header, entry.name)) throw new Error(`two tensors are named "${entry.name}"`)
    header[entry.name] = { dtype: dtypeNames[entry.dtype], shape: entry.shape, data_offsets: [offset, offset + size(entry)] }
    offset += size(entry)
  }
  const json = Buffer.from(JSON.stringify(header))
  const start = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  start.writeBigUInt64LE(BigInt(start.length - 8), 0)
  json.copy(start, 8)

  await writeWhole(path, async file => {
    await file.writeFile(start)
    for (const entry of ordered) {
      const bytes = await entry.read()
      if (bytes.byteLength !== size(entry)) throw new Error(`tensor "${entry.name}" gave ${bytes.byteLength} bytes, not ${size(entry)}`)
      // Not writeFile: it writes half a megabyte at a time.
      for (let done = 0; done < bytes.byteLength; ) done += (await file.write(bytes, done)).bytesWritten
    }
  })
}
