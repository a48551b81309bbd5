/** A second reader of safetensors, written from the format's description alone: what is written is read back by other code than the project's. */
import { readFileSync } from 'node:fs'

export interface Read {
  dtype: string
  shape: number[]
  bytes: Buffer
}

const sizes: Record<string, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, U16: 2, I8: 1, U8: 1 }

/** All tensors and the metadata; throws where the file breaks a rule: sizes, alignment of the header, order, gaps, overlaps, bytes left over. */
export function readAll(path: string): { tensors: Map<string, Read>; metadata: Record<string, string> } {
  const file = readFileSync(path)
  const length = Number(file.readBigUInt64LE(0))
  const text = file.subarray(8, 8 + length).toString('utf8')
  if (!text.startsWith('{')) throw new Error('the header does not begin with {')
  const { __metadata__: metadata = {}, ...entries } = JSON.parse(text) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  > & { __metadata__?: Record<string, string> }
  const data = file.subarray(8 + length)
  const tensors = new Map<string, Read>()
  let end = 0
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(entries).sort((a, b) => a[1].data_offsets[0] - b[1].data_offsets[0])) {
    const bytes = shape.reduce((a, b) => a * b, 1) * (sizes[dtype] ?? Number.NaN)
    if (from !== end || to - from !== bytes) throw new Error(`${name}: bytes ${from}…${to}, expected ${end}…${end + bytes}`)
    tensors.set(name, { dtype, shape, bytes: data.subarray(from, to) })
    end = to
  }
  if (end !== data.length) throw new Error(`${data.length - end} bytes are left over`)
  return { tensors, metadata: metadata as Record<string, string> }
}

/** The numbers of an F32, F16 or I8 tensor. */
export function numbers({ dtype, bytes }: Read): number[] {
  if (dtype === 'F32') return [...new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))]
  if (dtype === 'I8') return [...new Int8Array(bytes)]
  if (dtype !== 'F16') throw new Error(`no numbers of ${dtype}`)
  return Array.from({ length: bytes.length / 2 }, (_, i) => half(bytes.readUInt16LE(2 * i)))
}

const half = (h: number): number => {
  const [sign, exponent, mantissa] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023]
  return (
    sign *
    (exponent === 0
      ? mantissa * 2 ** -24
      : exponent === 31
        ? mantissa
          ? Number.NaN
          : Number.POSITIVE_INFINITY
        : (1 + mantissa / 1024) * 2 ** (exponent - 15))
  )
}
