/** PyTorch files byte by byte, right and wrong ones: an archive of entries, and the operations of a pickle. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface ArchiveEntry {
  readonly name: string
  readonly content: Uint8Array
  /** What the directory says in place of the truth. */
  readonly lie?: Partial<{ bytes: number; packed: number; header: number; method: number; flags: number; local: string }>
}

/** A zip archive of stored entries; `count`: of the directory, if not the true one. */
export function archive(entries: readonly ArchiveEntry[], o: { count?: number; comment?: string; zip64?: boolean } = {}): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const { name, content, lie = {} } of entries) {
    const local = Buffer.from(lie.local ?? name)
    const header = Buffer.alloc(30)
    header.writeUInt32LE(0x04034b50, 0)
    header.writeUInt32LE(content.length, 18)
    header.writeUInt32LE(content.length, 22)
    header.writeUInt16LE(local.length, 26)
    const entry = Buffer.alloc(46)
    entry.writeUInt32LE(0x02014b50, 0)
    entry.writeUInt16LE(lie.flags ?? 0, 8)
    entry.writeUInt16LE(lie.method ?? 0, 10)
    entry.writeUInt32LE(lie.packed ?? lie.bytes ?? content.length, 20)
    entry.writeUInt32LE(lie.bytes ?? content.length, 24)
    entry.writeUInt16LE(Buffer.byteLength(name), 28)
    entry.writeUInt32LE(lie.header ?? at, 42)
    const extra = Buffer.alloc(o.zip64 === true ? 28 : 0)
    if (o.zip64 === true) {
      entry.writeUInt16LE(extra.length, 30)
      for (const field of [20, 24, 42]) entry.writeUInt32LE(0xffffffff, field)
      extra.writeUInt16LE(1, 0)
      extra.writeUInt16LE(24, 2)
      for (const [i, value] of [content.length, content.length, at].entries()) extra.writeBigUInt64LE(BigInt(value), 4 + 8 * i)
    }
    directory.push(entry, Buffer.from(name), extra)
    parts.push(header, local, Buffer.from(content))
    at += 30 + local.length + content.length
  }
  const whole = Buffer.concat(directory)
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(o.count ?? entries.length, 8)
  end.writeUInt16LE(o.count ?? entries.length, 10)
  end.writeUInt32LE(whole.length, 12)
  end.writeUInt32LE(at, 16)
  end.writeUInt16LE(Buffer.byteLength(o.comment ?? ''), 20)
  if (o.zip64 === true) {
    const [wide, locator] = [Buffer.alloc(56), Buffer.alloc(20)]
    wide.writeUInt32LE(0x06064b50, 0)
    for (const [field, value] of [24, 32, 40, 48].map(
      (field, i) => [field, [entries.length, entries.length, whole.length, at][i]] as const,
    ))
      wide.writeBigUInt64LE(BigInt(value ?? 0), field)
    locator.writeUInt32LE(0x07064b50, 0)
    locator.writeBigUInt64LE(BigInt(at + whole.length), 8)
    for (const field of [8, 10]) end.writeUInt16LE(0xffff, field)
    for (const field of [12, 16]) end.writeUInt32LE(0xffffffff, field)
    return Buffer.concat([...parts, whole, wide, locator, end])
  }
  return Buffer.concat([...parts, whole, end, Buffer.from(o.comment ?? '')])
}

/** A pickle out of its operations: texts are Latin-1, numbers single bytes. */
export const pickle = (...parts: (string | number | Uint8Array)[]): Buffer =>
  Buffer.concat([
    Buffer.from([0x80, 2]),
    ...parts.map(part => (typeof part === 'number' ? Buffer.from([part]) : typeof part === 'string' ? Buffer.from(part, 'latin1') : part)),
    Buffer.from('.'),
  ])

/** BININT; beyond 32 bits LONG1 of 8 bytes. */
export const int = (value: number): Buffer => {
  const bytes = Buffer.alloc(10)
  if (value === (value | 0)) {
    bytes.write('J', 0)
    bytes.writeInt32LE(value, 1)
    return bytes.subarray(0, 5)
  }
  bytes.set([0x8a, 8])
  bytes.writeBigInt64LE(BigInt(value), 2)
  return bytes
}
export const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  const length = Buffer.alloc(5)
  length.write('X', 0)
  length.writeUInt32LE(bytes.length, 1)
  return Buffer.concat([length, bytes])
}
export const global = (module: string, name: string): string => `c${module}\n${name}\n`
export const tuple = (...items: Uint8Array[]): Buffer => Buffer.concat([Buffer.from('('), ...items, Buffer.from('t')])

/** A tensor as torch pickles it. */
export const tensor = (o: { type?: string; key?: string; numel: number; offset?: number; shape: number[]; strides: number[] }): Buffer =>
  Buffer.concat([
    Buffer.from(`${global('torch._utils', '_rebuild_tensor_v2')}((`),
    text('storage'),
    Buffer.from(global('torch', o.type ?? 'FloatStorage')),
    text(o.key ?? '0'),
    text('cpu'),
    int(o.numel),
    Buffer.from('tQ'),
    int(o.offset ?? 0),
    tuple(...o.shape.map(int)),
    tuple(...o.strides.map(int)),
    Buffer.from([0x89]),
    Buffer.from(`${global('collections', 'OrderedDict')})RtR`),
  ])

/** A dict of tensors and numbers. */
export const dict = (items: Readonly<Record<string, Uint8Array>>): Buffer =>
  Buffer.concat([Buffer.from('}('), ...Object.entries(items).flatMap(([name, value]) => [text(name), value]), Buffer.from('u')])

/** Writes a file of torch.save with this pickle and these storages. */
export function writeTorch(path: string, program: Uint8Array, storages: readonly Uint8Array[] = []): void {
  const entries = [
    { name: 'archive/data.pkl', content: program },
    { name: 'archive/byteorder', content: Buffer.from('little') },
    ...storages.map((content, i) => ({ name: `archive/data/${i}`, content })),
  ]
  writeFileSync(path, archive(entries))
}

/** The lower triangle of a Hessian in a file as the published programs write them. */
export function writeHessian(
  folder: string,
  name: string,
  flatH: Float32Array,
  more: Readonly<Record<string, number | Float32Array>> = {},
): void {
  const arrays: [string, Float32Array][] = [['flatH', flatH]]
  const numbers: Record<string, Uint8Array> = {}
  for (const [key, value] of Object.entries(more)) {
    if (typeof value === 'number') numbers[key] = int(value)
    else arrays.push([key, value])
  }
  const tensors = arrays.map(([key, { length }], i) => [key, tensor({ key: `${i}`, numel: length, shape: [length], strides: [1] })])
  writeTorch(
    join(folder, name),
    pickle(dict({ ...(Object.fromEntries(tensors) as Record<string, Uint8Array>), ...numbers })),
    arrays.map(([, { buffer, byteOffset, byteLength }]) => new Uint8Array(buffer, byteOffset, byteLength)),
  )
}
