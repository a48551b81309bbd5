/**
 * Blobs in a Parquet file, whole or not at all. The only file that knows Parquet.
 *
 * One tensor = rows of at most 4 MB in a BYTE_ARRAY column, one row a row group, uncompressed, without statistics:
 *   tensor INT32 (its number) · sha256 UTF8 (of data, hex) · data BYTE_ARRAY
 * and a JSON value in the key-value metadata, with its own hash. Types and thrift are parquetjs's; its writer copies a page
 * five times (350 MiB/s), so pages are written here, by writev, and read by pread. As all sizes follow from the
 * tensors', reading builds the framing again and compares: no byte of the file can change unnoticed.
 */
import { createHash } from 'node:crypto'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { writeWhole } from './disk.js'
import { PipeError, sentence } from './error.js'
import { hashPieces } from './hashing.js'

/** Readers hold a page whole: small enough for any, large enough that the framing (about 200 bytes a row) is nothing. */
export const blobBytes = 4 * 2 ** 20
/** A footer holds a few hundred bytes a row of the batch and a row group; one larger than this is not ours. */
const maxFooterBytes = 256 * 2 ** 20
const magic = Buffer.from('PAR1')
const maxPiece = 64 * 2 ** 20

/** Stored content that is not what was written. */
export class Damaged extends PipeError {
  constructor(
    readonly path: string,
    why: string,
  ) {
    super('damaged', { where: path, message: `The stored file is damaged: ${why}.`, hint: 'Run again: it is discarded and computed anew.' })
  }
}

export interface Blob {
  readonly bytes: number
  /** The bytes; the reader's own, who may move them to another thread. */
  read(): Promise<Uint8Array>
}

/** Writes `path` by a temporary file beside it, fsync and rename. Returns the file's size in bytes. */
export async function writeParquet(path: string, value: unknown, blobs: readonly Blob[]): Promise<number> {
  const thrift = await loadThrift()
  const json = JSON.stringify({ value, sizes: blobs.map(blob => blob.bytes) })
  return writeWhole(path, async file => {
    await write(file, [magic])
    for (const [number, blob] of blobs.entries()) {
      const read = await blob.read()
      if (read.byteLength !== blob.bytes) throw new Error(`tensor ${number} has ${read.byteLength} bytes, not ${blob.bytes}`)
      const { bytes, sha256 } = await hashPieces(read, blobBytes)
      for (const [i, piece] of [...pieces(blob.bytes)].entries()) {
        const data = bytes.subarray(piece.from, piece.to)
        await write(file, [frame(thrift, number, data.byteLength, sha256[i]).head, data])
      }
    }
    await write(file, [tail(thrift, json)])
  })
}

/** A file open for reading a part at a time; holds no descriptor. */
export class ParquetFile {
  private constructor(
    readonly path: string,
    /** Of the file. */
    readonly bytes: number,
    readonly value: unknown,
    readonly sizes: readonly number[],
    private readonly thrift: Thrift,
    /** Where each tensor's first row begins, and the last one ends. */
    private readonly offsets: readonly number[],
  ) {}

  /** Reads and checks the footer. Throws Damaged, or what the file system throws (ENOENT). */
  static async open(path: string): Promise<ParquetFile> {
    const thrift = await loadThrift()
    // Asked before it is opened: opening a named pipe waits for somebody to write into it.
    if (!(await stat(path)).isFile()) throw new Damaged(path, 'it is no file')
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      if (size < 12) throw new Damaged(path, `it has ${size} bytes`)
      const end = await readBytes(file, path, size - 8, 8)
      const length = end.readUInt32LE(0)
      if (!end.subarray(4).equals(magic)) throw new Damaged(path, 'it is cut short')
      if (length > Math.min(size - 12, maxFooterBytes)) throw new Damaged(path, `its footer claims ${length} bytes`)
      const footer = await readBytes(file, path, size - 8 - length, length + 8)
      const json = jsonOf(thrift, path, size, footer)
      const { value, sizes } = json.parsed
      const expected = tail(thrift, json.text)
      if (!expected.equals(footer)) throw new Damaged(path, 'its footer was changed')
      const offsets = rowOffsets(thrift, sizes)
      if ((offsets.at(-1) as number) + expected.byteLength !== size) throw new Damaged(path, 'its length is wrong')
      if (!(await readBytes(file, path, 0, 4)).equals(magic)) throw new Damaged(path, 'its first bytes were changed')
      return new ParquetFile(path, size, value, sizes, thrift, offsets)
    } finally {
      await file.close()
    }
  }

  /** The bytes of a tensor, checked. */
  async read(number: number): Promise<Uint8Array> {
    const size = this.sizes[number]
    if (size === undefined) throw new Damaged(this.path, `it holds ${this.sizes.length} tensors, and number ${number} was asked for`)
    const file = await open(this.path, 'r')
    try {
      const read = new Uint8Array(size) // no Buffer: slice() of that is a view, and stages may slice
      const heads: Buffer[] = []
      let at = this.offsets[number] as number
      for (const piece of pieces(size)) {
        const data = read.subarray(piece.from, piece.to)
        const length = headBytes(this.thrift, data.byteLength)
        heads.push(await readBytes(file, this.path, at, length))
        await readInto(file, this.path, at + length, data)
        at += length + data.byteLength
      }
      const { bytes, sha256 } = await hashPieces(read, blobBytes)
      for (const [i, { from, to }] of [...pieces(size)].entries()) {
        if (frame(this.thrift, number, to - from, sha256[i]).head.equals(heads[i] as Buffer)) continue
        throw new Damaged(this.path, `tensor ${number} is not what was written`)
      }
      return bytes
    } finally {
      await file.close()
    }
  }

  /** Reads all of it. Throws Damaged. */
  async verify(): Promise<void> {
    for (const number of this.sizes.keys()) await this.read(number)
  }
}

/** Where the rows of a tensor of `bytes` begin and end. An empty tensor is one empty row. */
function* pieces(bytes: number): Generator<{ from: number; to: number }> {
  for (let from = 0; from === 0 || from < bytes; from += blobBytes) yield { from, to: Math.min(bytes, from + blobBytes) }
}

// ── framing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Thrift {
  readonly types: typeof import('parquetjs/dist/gen-nodejs/parquet_types.js')
  readonly int64: (value: number) => never
  readonly serialize: (value: unknown) => Buffer
  readonly decode: (value: unknown, bytes: Buffer) => number
}
let loaded: Promise<Thrift> | undefined

/** On first use: the package takes a tenth of a second to load. */
const loadThrift = (): Promise<Thrift> => {
  loaded ??= Promise.all([import('parquetjs/dist/gen-nodejs/parquet_types.js'), import('parquetjs/dist/lib/util.js')]).then(
    ([types, util]) => ({
      types: types.default as unknown as Thrift['types'], // CommonJS: what it exports is the default
      int64: value => util.cloneInteger(value as never) as never,
      serialize: util.serializeThrift as Thrift['serialize'],
      decode: util.decodeThrift as unknown as Thrift['decode'],
    }),
  )
  return loaded
}

interface Chunk {
  readonly column: string
  readonly type: 'INT32' | 'BYTE_ARRAY'
  readonly header: Buffer
  readonly bytes: number
}
const sha256Bytes = 64 // in hex

/** What stands before the data of one row. The sizes don't depend on the hash. */
function frame(thrift: Thrift, number: number, length: number, sha256 = '0'.repeat(sha256Bytes)): { head: Buffer; chunks: Chunk[] } {
  const integer = Buffer.alloc(4)
  integer.writeInt32LE(number)
  const values = [integer, byteArray(sha256Bytes, Buffer.from(sha256)), byteArray(length)]
  const chunks: Chunk[] = columns.map(({ name, type }, i) => {
    const bytes = (values[i] as Buffer).byteLength + (name === 'data' ? length : 0)
    return { column: name, type, header: pageHeader(thrift, bytes), bytes }
  })
  return { head: Buffer.concat(chunks.flatMap((chunk, i) => [chunk.header, values[i] as Buffer])), chunks }
}

const columns = [
  { name: 'tensor', type: 'INT32' },
  { name: 'sha256', type: 'BYTE_ARRAY' },
  { name: 'data', type: 'BYTE_ARRAY' },
] as const

function byteArray(length: number, value: Buffer = Buffer.alloc(0)): Buffer {
  const prefix = Buffer.alloc(4)
  prefix.writeUInt32LE(length)
  return Buffer.concat([prefix, value])
}

function pageHeader({ types, serialize }: Thrift, bytes: number): Buffer {
  const plain = types.Encoding.PLAIN
  const data = new types.DataPageHeader({
    num_values: 1,
    encoding: plain,
    definition_level_encoding: types.Encoding.RLE,
    repetition_level_encoding: types.Encoding.RLE,
  })
  return serialize(
    new types.PageHeader({
      type: types.PageType.DATA_PAGE,
      uncompressed_page_size: bytes,
      compressed_page_size: bytes,
      data_page_header: data,
    }),
  )
}

const headLengths = new Map<number, number>()
/** Bytes before the data of a row: they follow from the data's length alone. */
function headBytes(thrift: Thrift, length: number): number {
  const known = headLengths.get(length) ?? frame(thrift, 0, length).head.byteLength
  headLengths.set(length, known)
  return known
}

/** Where the rows of each tensor begin, the first behind the magic; and where the last ends. */
function rowOffsets(thrift: Thrift, sizes: readonly number[]): number[] {
  const offsets = [magic.byteLength]
  for (const size of sizes) {
    let at = offsets.at(-1) as number
    for (const { from, to } of pieces(size)) at += headBytes(thrift, to - from) + to - from
    offsets.push(at)
  }
  return offsets
}

function rowGroups(thrift: Thrift, sizes: readonly number[]): unknown[] {
  const { types, int64 } = thrift
  const list: unknown[] = []
  let at = magic.byteLength
  for (const [number, size] of sizes.entries()) {
    for (const { from, to } of pieces(size)) {
      const begin = at
      const cells = frame(thrift, number, to - from).chunks.map(({ column, type, header, bytes }) => {
        const offset = at
        const total = header.byteLength + bytes
        at += total
        return new types.ColumnChunk({
          file_offset: int64(offset),
          meta_data: new types.ColumnMetaData({
            type: types.Type[type],
            encodings: [types.Encoding.PLAIN],
            path_in_schema: [column],
            codec: types.CompressionCodec.UNCOMPRESSED,
            num_values: int64(1),
            total_uncompressed_size: int64(total),
            total_compressed_size: int64(total),
            data_page_offset: int64(offset),
          }),
        })
      })
      list.push(new types.RowGroup({ columns: cells, total_byte_size: int64(at - begin), num_rows: int64(1) }))
    }
  }
  return list
}

/** Footer, its length, magic. */
function tail(thrift: Thrift, json: string): Buffer {
  const { types, int64, serialize } = thrift
  const list = rowGroups(thrift, (JSON.parse(json) as { sizes: number[] }).sizes)
  const root = new types.SchemaElement({ name: 'root', num_children: columns.length })
  const fields = columns.map(
    ({ name, type }) =>
      new types.SchemaElement({
        name,
        type: types.Type[type],
        repetition_type: types.FieldRepetitionType.REQUIRED,
        ...(name === 'sha256' ? { converted_type: types.ConvertedType.UTF8 } : {}),
      }),
  )
  const metadata = serialize(
    new types.FileMetaData({
      version: 1,
      schema: [root, ...fields],
      num_rows: int64(list.length),
      row_groups: list as never[],
      created_by: 'pipe',
      key_value_metadata: [
        new types.KeyValue({ key: 'pipe', value: json }),
        new types.KeyValue({ key: 'pipe.sha256', value: createHash('sha256').update(json).digest('hex') }),
      ],
    }),
  )
  const length = Buffer.alloc(4)
  length.writeUInt32LE(metadata.byteLength)
  return Buffer.concat([metadata, length, magic])
}

function jsonOf(
  thrift: Thrift,
  path: string,
  fileBytes: number,
  footer: Buffer,
): { text: string; parsed: { value: unknown; sizes: number[] } } {
  const { types, decode } = thrift
  try {
    const metadata = new types.FileMetaData()
    decode(metadata, footer)
    const of = (key: string): string => String(metadata.key_value_metadata?.find((entry: { key: string }) => entry.key === key)?.value)
    const text = of('pipe')
    if (createHash('sha256').update(text).digest('hex') !== of('pipe.sha256')) throw new Error('the hash of its metadata differs')
    const parsed = JSON.parse(text) as { value: unknown; sizes: number[] }
    if (!parsed.sizes.every(size => Number.isSafeInteger(size) && size >= 0)) throw new Error('its sizes are no sizes')
    if (parsed.sizes.reduce((a, b) => a + b, 0) > fileBytes) throw new Error('its tensors are larger than the file')
    return { text, parsed }
  } catch (error) {
    throw new Damaged(path, `its footer can't be read (${sentence(error)})`)
  }
}

async function write(file: FileHandle, buffers: Uint8Array[]): Promise<void> {
  const total = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0)
  const { bytesWritten } = await file.writev(buffers)
  if (bytesWritten === total) return
  // A short write: the rest piece by piece, so that a full disk says so.
  const rest = Buffer.concat(buffers).subarray(bytesWritten)
  for (let done = 0; done < rest.byteLength; ) done += (await file.write(rest, done)).bytesWritten
}

async function readBytes(file: FileHandle, path: string, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  await readInto(file, path, offset, bytes)
  return bytes
}

async function readInto(file: FileHandle, path: string, offset: number, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesRead } = await file.read(bytes, done, Math.min(maxPiece, bytes.byteLength - done), offset + done)
    if (bytesRead === 0) throw new Damaged(path, 'it is cut short')
    done += bytesRead
  }
}
