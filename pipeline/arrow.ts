/**
 * Rows ↔ Arrow record batches with the edge's schema. The only file that knows Arrow.
 *
 * A tensor cell is a Struct { dtype, shape, data?, uri?, offset?, bytes? } with the extension name pipe.tensor: its
 * bytes are in the batch (data), or at a place (uri, offset). Arrow has no bf16, so data is raw bytes, and dtype says what they are.
 */
import {
  Binary,
  type Data,
  type DataType,
  Field,
  Float64,
  Int32,
  Int64,
  List,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Uint32,
  Utf8,
  vectorFromArray,
} from 'apache-arrow'
import { bytesPerElement, type DType, Tensor } from '../native/tensor.js'
import type { TensorRef } from '../native/tensor-ref.js'
import type { Column, Table } from './define.js'
import { bytesTensor, checkShape, LazyTensor } from './lazy.js'

export type AnyRow = Readonly<Record<string, unknown>>
export type { RecordBatch } from 'apache-arrow'

/** A tensor cell of a batch, apart from Arrow. */
export interface Cell {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data?: Uint8Array
  readonly uri?: string
  readonly offset?: number
}

const tensorType = new Struct([
  new Field('dtype', new Utf8()),
  new Field('shape', new List(new Field('item', new Int32()))),
  new Field('data', new Binary(), true),
  new Field('uri', new Utf8(), true),
  new Field('offset', new Int64(), true),
  new Field('bytes', new Int64(), true),
])

/** The Arrow schema of an edge: name and version of the table in its metadata, docs in the fields'. */
export function schemaOf(table: Table): Schema {
  const fields = Object.entries(table.columns).map(([name, column]) => {
    const metadata = new Map([['doc', column.doc]])
    if (column.kind === 'tensor') {
      metadata.set('ARROW:extension:name', 'pipe.tensor')
      metadata.set('ARROW:extension:metadata', JSON.stringify({ dtype: column.dtype, shape: column.shape }))
    }
    return new Field(name, typeOf(column), column.optional, metadata)
  })
  return new Schema(
    fields,
    new Map([
      ['table', table.name],
      ['version', String(table.version)],
    ]),
  )
}

const typeOf = ({ kind }: Column<unknown>): DataType =>
  kind === 'u32' ? new Uint32() : kind === 'i64' ? new Int64() : kind === 'f64' ? new Float64() : kind === 'utf8' ? new Utf8() : tensorType

/**
 * A batch of rows. Columns the table lacks are left out. Live tensors must have been put into references before
 * (`hold` does it); references of other makers are read, and their bytes go into the batch.
 */
export async function encode(table: Table, rows: readonly AnyRow[], hold: (tensor: Tensor) => LazyTensor): Promise<RecordBatch> {
  const schema = schemaOf(table)
  const children: Data[] = []
  const held = new Map<Tensor, LazyTensor>()
  for (const [name, column] of Object.entries(table.columns)) {
    const values = rows.map((row, i) => checked(name, column, row[name], i))
    if (column.kind !== 'tensor') {
      children.push(scalars(column, values))
      continue
    }
    const cells: (Cell | undefined)[] = []
    for (const value of values) cells.push(value === undefined ? undefined : await cellOf(value as TensorRef | Tensor, held, hold))
    children.push(tensors(cells))
  }
  return new RecordBatch(schema, makeData({ type: new Struct(schema.fields), length: rows.length, nullCount: 0, children }))
}

/** The rows of a batch; `locate` turns a place into a reference. Absent values are undefined. */
export function decode(
  batch: RecordBatch,
  locate: (cell: Cell & { readonly uri: string; readonly offset: number }) => TensorRef,
): AnyRow[] {
  const columns = batch.schema.fields.map(({ name, type }) => ({ name, vector: batch.getChild(name), isTensor: type instanceof Struct }))
  const rows: AnyRow[] = []
  const known = new Map<string, TensorRef>() // one reference a place, so that a tensor shared by rows stays shared
  const reference = (cell: Cell): TensorRef => {
    if (cell.uri === undefined) return bytesTensor(cell.data ?? new Uint8Array(0), cell.dtype, cell.shape)
    const place = { ...cell, uri: cell.uri, offset: cell.offset ?? 0 }
    const id = `${place.uri} ${place.offset} ${cell.dtype} ${cell.shape}`
    const ref = known.get(id) ?? locate(place)
    known.set(id, ref)
    return ref
  }
  for (let i = 0; i < batch.numRows; i++) {
    const row: Record<string, unknown> = {}
    for (const { name, vector, isTensor } of columns) {
      const value: unknown = vector?.get(i) ?? undefined
      row[name] =
        value === undefined ? undefined : isTensor ? reference(cellFrom(value)) : typeof value === 'bigint' ? Number(value) : value
    }
    rows.push(row)
  }
  return rows
}

/** The tensor cells of row i, by column. */
export function* cells(batch: RecordBatch, i: number): Generator<[column: string, cell: Cell]> {
  for (const { name, type } of batch.schema.fields) {
    const value: unknown = type instanceof Struct ? batch.getChild(name)?.get(i) : undefined
    if (value !== undefined && value !== null) yield [name, cellFrom(value)]
  }
}

/** Scalars of row i as JSON values, tensors left out. */
export function scalarsOf(batch: RecordBatch, i: number): Record<string, string | number> {
  const row: Record<string, string | number> = {}
  for (const { name, type } of batch.schema.fields) {
    if (type instanceof Struct) continue
    const value: unknown = batch.getChild(name)?.get(i) ?? undefined
    if (value !== undefined) row[name] = typeof value === 'bigint' ? Number(value) : (value as string | number)
  }
  return row
}

/** Throws, with row's column and what came, when the row does not fit the table. */
export function checkRow(table: Table, row: AnyRow): void {
  for (const [name, column] of Object.entries(table.columns)) checked(name, column, row[name])
}

function checked(name: string, column: Column<unknown>, value: unknown, i?: number): unknown {
  const fail = (came: string): never => {
    const wanted = column.kind === 'tensor' ? `${column.dtype} [${column.shape}]` : column.kind
    throw new Error(`${i === undefined ? '' : `row ${i}, `}column "${name}" (${wanted}): ${came}`)
  }
  if (value === undefined || value === null) return column.optional ? undefined : fail('nothing came, and the column is not optional')
  const shown = (): string => (typeof value === 'object' ? `an object came` : `${JSON.stringify(value) ?? String(value)} came`)
  switch (column.kind) {
    case 'u32':
      return typeof value === 'number' && value >>> 0 === value ? value : fail(shown())
    case 'i64':
      return Number.isSafeInteger(value) ? value : fail(shown())
    case 'f64':
      return typeof value === 'number' ? value : fail(shown())
    case 'utf8':
      return typeof value === 'string' ? value : fail(shown())
    default: {
      const tensor = value as Partial<TensorRef>
      if (tensor.dtype === undefined || !(tensor.dtype in bytesPerElement) || !Array.isArray(tensor.shape)) return fail(shown())
      checkShape(tensor.shape)
      // 'float' columns also carry tensors that are only kept, of whatever type.
      if (column.dtype !== 'float' && column.dtype !== tensor.dtype) return fail(`a tensor ${tensor.dtype} [${tensor.shape}] came`)
      return value
    }
  }
}

async function cellOf(value: TensorRef | Tensor, held: Map<Tensor, LazyTensor>, hold: (tensor: Tensor) => LazyTensor): Promise<Cell> {
  const { dtype, shape } = value
  let ref: TensorRef
  if (value instanceof Tensor) {
    ref = held.get(value) ?? hold(value)
    held.set(value, ref as LazyTensor)
  } else ref = value
  if (ref instanceof LazyTensor && ref.uri !== 'bytes:') return { dtype, shape, uri: ref.uri, offset: ref.offset }
  return { dtype, shape, data: await ref.read() }
}

function scalars(column: Column<unknown>, values: readonly unknown[]): Data {
  const type = typeOf(column)
  const arrow = column.kind === 'i64' ? values.map(v => (v === undefined ? null : BigInt(v as number))) : values.map(v => v ?? null)
  return chunk(type, arrow)
}

/** vectorFromArray gives no chunk for no values. */
const chunk = (type: DataType, values: readonly unknown[]): Data =>
  vectorFromArray(values as unknown[], type).data[0] ?? makeData({ type: type as Utf8, length: 0 })

function tensors(cells: readonly (Cell | undefined)[]): Data {
  const bytes = (cell: Cell): bigint => BigInt(cell.shape.reduce((a, b) => a * b, 1) * bytesPerElement[cell.dtype])
  const child = (name: string, of: (cell: Cell) => unknown): Data => {
    const field = tensorType.children.find(f => f.name === name) as Field
    return chunk(
      field.type,
      cells.map(cell => (cell === undefined ? null : (of(cell) ?? null))),
    )
  }
  const present = Uint8Array.from({ length: (cells.length + 7) >> 3 }, (_, byte) => {
    let bits = 0
    for (let i = 0; i < 8; i++) if (cells[8 * byte + i] !== undefined) bits |= 1 << i
    return bits
  })
  return makeData({
    type: tensorType,
    length: cells.length,
    nullCount: cells.filter(cell => cell === undefined).length,
    nullBitmap: present,
    children: [
      child('dtype', cell => cell.dtype),
      child('shape', cell => Int32Array.from(cell.shape)),
      binary(cells.map(cell => cell?.data)),
      child('uri', cell => cell.uri),
      child('offset', cell => (cell.offset === undefined ? undefined : BigInt(cell.offset))),
      child('bytes', bytes),
    ],
  })
}

/** One value is not copied; several are laid end to end. */
function binary(values: readonly (Uint8Array | undefined)[]): Data<Binary> {
  const present = values.filter(value => value !== undefined)
  const valueOffsets = new Int32Array(values.length + 1)
  values.forEach((value, i) => {
    valueOffsets[i + 1] = (valueOffsets[i] as number) + (value?.byteLength ?? 0)
  })
  const total = present.reduce((sum, value) => sum + value.byteLength, 0)
  if (total >= 2 ** 31) throw new Error(`${total} bytes of tensors in one batch: Arrow holds 2 GiB; give them as live tensors or files`)
  let data = present.length === 1 ? (present[0] as Uint8Array) : new Uint8Array(total)
  if (present.length > 1) {
    let at = 0
    for (const value of present) {
      data.set(value, at)
      at += value.byteLength
    }
  }
  if (data.byteLength === 0) data = new Uint8Array(1)
  const nullBitmap = Uint8Array.from({ length: (values.length + 7) >> 3 }, (_, byte) => {
    let bits = 0
    for (let i = 0; i < 8; i++) if (values[8 * byte + i] !== undefined) bits |= 1 << i
    return bits
  })
  return makeData({ type: new Binary(), length: values.length, nullCount: values.length - present.length, nullBitmap, valueOffsets, data })
}

function cellFrom(value: unknown): Cell {
  const cell = value as { dtype: DType; shape: Iterable<number>; data: Uint8Array | null; uri: string | null; offset: bigint | null }
  return {
    dtype: cell.dtype,
    shape: [...cell.shape],
    ...(cell.data === null ? {} : { data: cell.data }),
    ...(cell.uri === null ? {} : { uri: cell.uri, offset: Number(cell.offset ?? 0n) }),
  }
}
