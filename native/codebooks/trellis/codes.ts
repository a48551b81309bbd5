/**
 * The values of the trellis codes: state s → V weights, from s alone (computed codes) or through a small table.
 * A new code is one entry here: `values` for a computed one, `table` for one that reads a table.
 *
 * QTIP (arXiv:2406.11235) section 3.1, figures 2 and 3: 1MAD, 3INST, HYB. mul1 is EXL3's. All arithmetic on states is
 * modulo 2³²; every value is rounded to f16, as the kernels that decode them produce it.
 */
import { type TObject, type TProperties, Type } from '@sinclair/typebox'
import { gaussian } from '../gaussian.js'
import { fromHalf, roundHalf, toHalf } from '../half.js'
import { hybTable } from './hyb-table.js'

/** What a code with a table reads: rows of V values, and which row a state takes. */
export interface Lookup {
  /** f16 bits, [rows, V]. */
  readonly entries: Uint16Array
  readonly name: string
  readonly rows: number
  /** Row of state s; plus 2¹⁶: its first component negated. */
  index(s: number): number
}

export interface CodeParams {
  readonly L: number
  readonly V?: number
  readonly Q?: number
  readonly seed?: number
}

export interface TrellisCode {
  /** Raise when values change. */
  readonly version: number
  readonly about: string
  /** Weights a step; left out: the parameter V. */
  readonly V?: 1 | 2
  /** Parameters besides L, K, Tx, Ty. */
  readonly params: TProperties
  /** The value of state s < 2¹⁶. */
  readonly value?: (s: number) => number
  readonly table?: (params: CodeParams) => Lookup
}

const bytesum = (x: number): number => (x & 0xff) + ((x >>> 8) & 0xff) + ((x >>> 16) & 0xff) + (x >>> 24)
/** a·s + b modulo 2³². */
const affine = (a: number, s: number, b: number): number => (Math.imul(a, s) + b) >>> 0

/** A sum of four bytes, spread as a Gaussian with its mean and deviation. */
const oneMad = (s: number): number => roundHalf((bytesum(affine(34038481, s, 76625530)) - 510) / 147.800537109375)

/** Two f16 numbers with random signs, mantissas and low exponent bits, added in f16. */
const threeInst = (s: number): number => {
  const r = (affine(89226354, s, 64248484) & 0x8fff8fff) ^ 0x3b603b60
  return roundHalf(fromHalf(r >>> 16) + fromHalf(r & 0xffff))
}

/** (1024 + bytesum)·a + b as one f16 fused multiply-add; about (bytesum − 510)/147.8. Products and sums here are exact in float64. */
const mul1 = (s: number): number => roundHalf((1024 + bytesum(affine(0x83dcd12d, s, 0))) * fromHalf(0x1eee) + fromHalf(0xc931))

const V = Type.Integer({ minimum: 1, maximum: 2, default: 1, description: 'Weights a step' })
const seed = Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1, default: 0, description: 'Seed of the table' })
const order = Type.Union([Type.Literal('rows'), Type.Literal('tensor-core')], {
  default: 'rows',
  description: 'Weights of a tile one after the other: row by row, or as in published checkpoints (L = 16, Q = 9, tiles of 16 × 16)',
})
const Q = Type.Integer({ minimum: 1, maximum: 12, default: 9, description: 'Bits that index the table: 2^Q pairs' })

export const trellisCodes: Readonly<Record<string, TrellisCode>> = {
  hyb: {
    version: 1,
    about: 'QTIP HYB: a hash of the state picks one of 2^Q trained pairs and a sign; V = 2.',
    V: 2,
    params: { Q, order },
    table: ({ Q = 9 }) => ({
      name: 'tlut',
      rows: 2 ** Q,
      entries: hybTable(Q),
      index(s) {
        const u = (s * (s + 1)) >>> 0
        return ((u >>> (15 - Q)) & (2 ** Q - 1)) | (((u >>> 15) & 1) << 16)
      },
    }),
  },
  '1mad': { version: 1, about: 'QTIP 1MAD: one multiply-add and a sum of bytes; no table.', V: 1, params: {}, value: oneMad },
  '3inst': {
    version: 1,
    about: 'QTIP 3INST: one multiply-add, a mask, a sum of two halves; no table.',
    V: 1,
    params: {},
    value: threeInst,
  },
  mul1: {
    version: 1,
    about: 'EXL3 mul1: one multiplication and a sum of bytes; no table. The least error at 2 to 4 bits.',
    V: 1,
    params: {},
    value: mul1,
  },
  lut: {
    version: 1,
    about: 'A table of 2^L Gaussian random values or pairs: what the computed codes imitate.',
    params: { V, seed },
    table: ({ L, V = 1, seed = 0 }) => ({
      name: 'tlut',
      rows: 2 ** L,
      entries: Uint16Array.from(gaussian(2 ** L * V, seed), toHalf),
      index: s => s,
    }),
  },
}

/** Parameters of a code, with descriptions and bounds. */
export const codeParams = (code: TrellisCode): TObject =>
  Type.Object(
    {
      L: Type.Integer({ minimum: 1, maximum: 16, default: 16, description: 'Bits of a state: 2^L states' }),
      K: Type.Integer({ minimum: 1, maximum: 4, default: 2, description: 'Bits a weight' }),
      ...(code.V !== undefined && { V: Type.Literal(code.V, { default: code.V, description: 'Weights a step: this code has no other' }) }),
      ...code.params,
      Tx: Type.Integer({ minimum: 1, maximum: 64, default: 16, description: 'Rows of a tile: Tx·Ty weights are one sequence' }),
      Ty: Type.Integer({ minimum: 1, maximum: 64, default: 16, description: 'Columns of a tile; also the block of LDL' }),
    },
    { additionalProperties: false },
  )
