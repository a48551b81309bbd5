/** safetensors: what is written parses by the format's rules, and what breaks them is refused with a sentence. */
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fileTensor } from '../../../pipeline/define.js'
import { readSafetensors, writeSafetensors } from '../../../stages/model/safetensors.js'
import { temporary } from '../../helpers.js'

/** A file with this header (as JSON, or as it is) and so many bytes after it. */
const fake = (t: Test, header: unknown, bytes: number, claimed?: bigint): string => {
  const path = join(temporary(t), 'model.safetensors')
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(claimed ?? BigInt(text.length))
  writeFileSync(path, Buffer.concat([length, text, Buffer.alloc(bytes)]))
  return path
}
const entry = (dtype: string, shape: unknown, data_offsets: unknown) => ({ dtype, shape, data_offsets })

t.test('written files parse by the rules of the format', async t => {
  const path = join(temporary(t), 'a.safetensors')
  const values = Float32Array.of(1, 2, 3, 4, 5, 6)
  const read = (array: NodeJS.ArrayBufferView) => async () => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
  await writeSafetensors(
    path,
    [
      { name: 'bytes', dtype: 'u8', shape: [3], read: async () => Uint8Array.of(7, 8, 9) },
      { name: 'matrix', dtype: 'f32', shape: [2, 3], read: read(values) },
      { name: 'half', dtype: 'f16', shape: [1], read: async () => Uint8Array.of(0, 0x3c) },
      { name: 'empty', dtype: 'f32', shape: [0, 4], read: async () => new Uint8Array(0) },
    ],
    { format: 'pt', recipe: '{"K":2}' },
  )

  // A second reader, from the format's description.
  const file = readFileSync(path)
  const length = Number(file.readBigUInt64LE(0))
  t.equal(length % 8, 0, 'the header is padded to 8')
  const header = JSON.parse(file.subarray(8, 8 + length).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  t.strictSame(header.__metadata__, { format: 'pt', recipe: '{"K":2}' })
  const bytes = (name: string) => file.subarray(8 + length + header[name]!.data_offsets[0], 8 + length + header[name]!.data_offsets[1])
  t.strictSame([...new Float32Array(Uint8Array.from(bytes('matrix')).buffer)], [...values])
  t.strictSame([...bytes('bytes')], [7, 8, 9])
  t.strictSame([...bytes('half')], [0, 0x3c])
  const ends = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([, { data_offsets }]) => data_offsets)
    .sort((a, b) => a[0] - b[0] || a[1] - b[1])
  t.ok(
    ends.every(([from], i) => from === (ends[i - 1]?.[1] ?? 0)),
    'no holes, no overlaps',
  )
  t.equal(8 + length + ends[ends.length - 1]![1], file.length, 'and nothing after them')

  const { entries, metadata } = await readSafetensors(path)
  t.strictSame(metadata, { format: 'pt', recipe: '{"K":2}' })
  const { offset, dtype, shape } = entries.get('matrix')!
  t.strictSame(new Float32Array((await fileTensor(path, offset, dtype, shape).read()).slice().buffer), values)
})

t.test('a file appears whole or not at all', async t => {
  const folder = temporary(t)
  const path = join(folder, 'a.safetensors')
  await t.rejects(
    writeSafetensors(path, [
      { name: 'a', dtype: 'u8', shape: [1], read: async () => Uint8Array.of(1) },
      { name: 'b', dtype: 'u8', shape: [1], read: () => Promise.reject(new Error('no room')) },
    ]),
    { message: 'no room' },
  )
  await t.rejects(writeSafetensors(path, [{ name: 'a', dtype: 'u8', shape: [2], read: async () => Uint8Array.of(1) }]), {
    message: 'tensor "a" gave 1 bytes, not 2',
  })
  t.strictSame(readdirSync(folder), [])
})

t.test('lying and damaged files', async t => {
  const cases: [label: string, header: unknown, bytes: number, message: string, claimed?: bigint][] = [
    ['sizes', { a: entry('F32', [2, 3], [0, 20]) }, 20, 'tensor "a" is F32 [2,3], which is 24 bytes, but its offsets [0, 20] say 20.'],
    ['backwards', { a: entry('F32', [1], [4, 0]) }, 4, 'tensor "a" is F32 [1], which is 4 bytes, but its offsets [4, 0] say -4.'],
    ['overlap', { a: entry('U8', [4], [0, 4]), b: entry('U8', [4], [2, 6]) }, 6, 'tensors "a" and "b" overlap at byte 115.'],
    ['gap', { a: entry('U8', [4], [0, 4]), b: entry('U8', [4], [6, 10]) }, 10, '2 bytes before "b" belong to no tensor.'],
    ['gap at the start', { a: entry('U8', [4], [1, 5]) }, 5, '1 bytes before "a" belong to no tensor.'],
    ['leftover', { a: entry('U8', [4], [0, 4]) }, 9, '5 bytes at the end belong to no tensor.'],
    [
      'past the end',
      { a: entry('U8', [400], [0, 400]) },
      4,
      'tensor "a" ends at byte 465 of a file of 69 bytes: the file is truncated, or its header lies.',
    ],
    [
      'huge shape',
      { a: entry('F32', [2 ** 40, 2 ** 40], [0, 4]) },
      4,
      'tensor "a" has the shape [1099511627776,1099511627776], which is no list of sizes.',
    ],
    ['negative shape', { a: entry('F32', [-1, -1], [0, 4]) }, 4, 'tensor "a" has the shape [-1,-1], which is no list of sizes.'],
    [
      'deep shape',
      `{"a":{"dtype":"F32","shape":${'['.repeat(50_000)}${']'.repeat(50_000)},"data_offsets":[0,4]}}`,
      4,
      'tensor "a" has the shape (too deeply nested), which is no list of sizes.',
    ],
    ['no shape', { a: { dtype: 'F32', data_offsets: [0, 4] } }, 4, 'tensor "a" has the shape (none), which is no list of sizes.'],
    ['no offsets', { a: { dtype: 'F32', shape: [1] } }, 4, 'tensor "a" has the offsets (none), not [from, to].'],
    ['fractional offsets', { a: entry('U8', [1], [0.5, 1.5]) }, 2, 'tensor "a" has the offsets [0.5,1.5], not [from, to].'],
    [
      'element type',
      { a: entry('F8_E4M3', [4], [0, 4]) },
      4,
      'tensor "a" has the element type "F8_E4M3"; known are F64, F32, F16, BF16, I64, I32, I16, U16, I8, U8, BOOL.',
    ],
    [
      'prototype',
      { a: entry('constructor', [4], [0, 4]) },
      4,
      'tensor "a" has the element type "constructor"; known are F64, F32, F16, BF16, I64, I32, I16, U16, I8, U8, BOOL.',
    ],
    [
      'null entry',
      { a: null },
      4,
      'tensor "a" has the element type (none); known are F64, F32, F16, BF16, I64, I32, I16, U16, I8, U8, BOOL.',
    ],
    ['metadata', { __metadata__: { a: 1 } }, 0, 'its "__metadata__" is not a map from text to text.'],
    ['not JSON', '{"a": ', 0, 'its header is not valid JSON.'],
    ['a list', '[1, 2]', 0, 'its header is not a JSON object.'],
    ['longer than the file', '{}', 0, 'its header claims 1000 bytes but the file has 10: it is truncated.', 1000n],
    ['over 100 MB', '{}', 0, 'its header claims 100000001 bytes; the limit is 100000000: this is no safetensors file.', 100_000_001n],
    [
      'over 2⁶³',
      '{}',
      0,
      'its header claims 18446744073709551615 bytes; the limit is 100000000: this is no safetensors file.',
      2n ** 64n - 1n,
    ],
  ]
  for (const [label, header, bytes, message, claimed] of cases) {
    const path = fake(t, header, bytes, claimed)
    await t.rejects(readSafetensors(path), { name: 'PipeError', where: path, message }, label)
  }
  const folder = temporary(t)
  await t.rejects(readSafetensors(folder), { name: 'PipeError', where: folder, message: /^is a folder, or something else that is no file/ })
})

t.test('large files', async t => {
  const each = 3e9
  const path = fake(t, { a: entry('U8', [each], [0, each]), b: entry('F32', [each / 4], [each, 2 * each]) }, 0)
  truncateSync(path, readFileSync(path).length + 2 * each) // nothing is written: the file has a hole
  const { entries } = await readSafetensors(path)
  t.equal(entries.get('b')!.offset - entries.get('a')!.offset, each)
})

t.test('truncated anywhere, a file is refused', async t => {
  const path = join(temporary(t), 'a.safetensors')
  await writeSafetensors(path, [{ name: 'a', dtype: 'u8', shape: [100], read: async () => new Uint8Array(100) }])
  const { length } = readFileSync(path)
  for (let size = length - 1; size >= 0; size -= 7) {
    truncateSync(path, size)
    await t.rejects(readSafetensors(path), { name: 'PipeError', message: /truncated|at least 8 bytes/ }, `${size} of ${length} bytes`)
  }
  await t.rejects(readSafetensors(`${path}.none`), { name: 'PipeError', message: 'could not be opened (ENOENT).' })
})
