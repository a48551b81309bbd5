/**
 * zip: where the entries of an archive lie in its file. Entries that are stored as they are, zip64 included; names, sizes
 * and places are checked against each other before anything is read by them: no entry overlaps another or the directory.
 */
import { type FileHandle, open } from 'node:fs/promises'

export interface ZipEntry {
  readonly name: string
  /** Of the first byte of its content, in the file. */
  readonly offset: number
  readonly bytes: number
}

const largestDirectory = 2 ** 26
const longestTail = 22 + 65535

/** Entries by name. Throws an Error whose message is a sentence to follow the file's name. */
export async function readZip(path: string): Promise<Map<string, ZipEntry>> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    const { count, start, end } = await findDirectory(file, size)
    const directory = await read(file, start, end - start)
    const found: (ZipEntry & { readonly header: number })[] = []
    const names = new Set<string>()
    for (let at = 0, i = 0; i < count; i++) {
      const { next, name, bytes, header } = directoryEntry(directory, at)
      if (names.has(name)) throw new Error(`has two entries "${name}".`)
      names.add(name)
      found.push({ name, bytes, header, offset: await contentOffset(file, header, name, start) })
      at = next
    }
    checkPlaces(found, start)
    return new Map(found.map(entry => [entry.name, entry]))
  } finally {
    await file.close()
  }
}

function checkPlaces(found: readonly (ZipEntry & { readonly header: number })[], end: number): void {
  let [before, from] = ['', 0]
  for (const { name, header, offset, bytes } of [...found].sort((a, b) => a.header - b.header)) {
    if (header < from) throw new Error(`has entries "${before}" and "${name}" that overlap at byte ${header}.`)
    if (offset + bytes > end)
      throw new Error(`has the entry "${name}" of ${bytes} bytes at byte ${offset}, beyond the ${end} bytes that entries may take.`)
    before = name
    from = offset + bytes
  }
}

/** The directory's entries and its bytes [start, end). */
async function findDirectory(file: FileHandle, size: number): Promise<{ count: number; start: number; end: number }> {
  const from = Math.max(0, size - longestTail)
  const tail = await read(file, from, size - from)
  let at = tail.length - 22
  while (at >= 0 && !(tail.readUInt32LE(at) === 0x06054b50 && at + 22 + tail.readUInt16LE(at + 20) === tail.length)) at--
  if (at < 0) throw new Error('has no directory at its end: it is cut short, or no zip file.')
  let count = tail.readUInt16LE(at + 10)
  let bytes = tail.readUInt32LE(at + 12)
  let start = tail.readUInt32LE(at + 16)
  let end = from + at
  if (count === 0xffff || bytes === 0xffffffff || start === 0xffffffff) {
    if (at < 20 || tail.readUInt32LE(at - 20) !== 0x07064b50) throw new Error('says that its directory is of zip64, and has none.')
    end = whole(tail.readBigUInt64LE(at - 20 + 8))
    if (end + 56 > size) throw new Error(`has its directory's end at byte ${end} of ${size}.`)
    const record = await read(file, end, 56)
    if (record.readUInt32LE(0) !== 0x06064b50) throw new Error('says that its directory is of zip64, and has none.')
    count = whole(record.readBigUInt64LE(32))
    bytes = whole(record.readBigUInt64LE(40))
    start = whole(record.readBigUInt64LE(48))
  }
  if (start + bytes > end || bytes > largestDirectory || count * 46 > bytes)
    throw new Error(`has a directory of ${count} entries in ${bytes} bytes at byte ${start}, which can't be.`)
  return { count, start, end: start + bytes }
}

function directoryEntry(directory: Buffer, at: number): { next: number; name: string; bytes: number; header: number } {
  if (at + 46 > directory.length || directory.readUInt32LE(at) !== 0x02014b50) throw new Error('has a damaged directory.')
  const [flags, method] = [directory.readUInt16LE(at + 8), directory.readUInt16LE(at + 10)]
  const nameEnd = at + 46 + directory.readUInt16LE(at + 28)
  const extraEnd = nameEnd + directory.readUInt16LE(at + 30)
  const next = extraEnd + directory.readUInt16LE(at + 32)
  if (next > directory.length) throw new Error('has a damaged directory.')
  const name = directory.toString('utf8', at + 46, nameEnd)
  if ((flags & 1) !== 0 || method !== 0)
    throw new Error(`has the entry "${name}" ${(flags & 1) !== 0 ? 'encrypted' : 'compressed'}; PyTorch stores entries as they are.`)
  const short = [directory.readUInt32LE(at + 24), directory.readUInt32LE(at + 20), directory.readUInt32LE(at + 42)]
  const [bytes = 0, packed = 0, header = 0] = wide(directory.subarray(nameEnd, extraEnd), short, name)
  if (bytes !== packed) throw new Error(`has the entry "${name}" of ${packed} bytes that claims to be ${bytes}.`)
  return { next, name, bytes, header }
}

/** Sizes and place with those that don't fit 32 bits taken from the zip64 field. */
function wide(extra: Buffer, short: readonly number[], name: string): number[] {
  let field: Buffer = Buffer.alloc(0)
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    const end = at + 4 + extra.readUInt16LE(at + 2)
    if (extra.readUInt16LE(at) === 1 && end <= extra.length) field = extra.subarray(at + 4, end)
  }
  let at = 0
  return short.map(value => {
    if (value !== 0xffffffff) return value
    if (at + 8 > field.length) throw new Error(`has the entry "${name}" without its zip64 sizes.`)
    at += 8
    return whole(field.readBigUInt64LE(at - 8))
  })
}

/** Where the content begins, behind the entry's own header, which has to bear the same name. */
async function contentOffset(file: FileHandle, header: number, name: string, end: number): Promise<number> {
  const length = Buffer.byteLength(name)
  const bytes = await read(file, header, Math.min(30 + length, Math.max(0, end - header)))
  if (
    bytes.length < 30 + length ||
    bytes.readUInt32LE(0) !== 0x04034b50 ||
    bytes.toString('utf8', 30, 30 + bytes.readUInt16LE(26)) !== name
  )
    throw new Error(`has no entry "${name}" at byte ${header}, where its directory says.`)
  return header + 30 + length + bytes.readUInt16LE(28)
}

const whole = (value: bigint): number => {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`has a size of ${value} bytes, which can't be.`)
  return Number(value)
}

async function read(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done)
    if (bytesRead === 0) throw new Error(`ends at byte ${position + done}: it is cut short.`)
    done += bytesRead
  }
  return buffer
}
