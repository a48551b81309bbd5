/**
 * The values of the trellis codes: state s → V weights, from s alone (computed codes) or through a small table.
 * A new code is one entry here: `values` for a computed one, `table` for one that reads a table.
 *
 * QTIP (arXiv:2406.11235) section 3.1, figures 2 and 3: 1MAD, 3INST, HYB; 2MAD is of its program. mcg and mul1 are EXL3's. All arithmetic on states is
 * modulo 2³². Published kernels round every value to f16; here that is left to who stores f16: products with packed weights are sums of exact values,
 * and decoded weights are to be the same.
 */
import { type TObject, type TProperties, Type } from '@sinclair/typebox'
import { gaussian, quantile } from '../gaussian.js'
import { fromHalf, toHalf } from '../half.js'
import { type HybDomain, hybTable } from './hyb-table.js'

/** What a code with a table reads: rows of V values, and which row a state takes. */
export interface Lookup {
  readonly name: string
  readonly rows: number
  /** f16 bits, [rows, V]; made when asked for: a checkpoint brings its own. */
  entries(): Uint16Array
  /** Row of state s; plus 2¹⁶: its first component negated. */
  index(s: number): number
}

export interface CodeParams {
  readonly L: number
  readonly V: number
  readonly Q?: number
  readonly seed?: number
  readonly table?: HybDomain
}

export interface TrellisCode {
  /** Raise when values change, or what the search makes of them. */
  readonly version: number
  readonly about: string
  /** Weights that a step may give, the default first. */
  readonly V: readonly number[]
  /** Parameters besides L, K, V, Tx, Ty. */
  readonly params: TProperties
  /** The value of state s < 2¹⁶; used as f32. */
  readonly value?: (s: number) => number
  readonly table?: (params: CodeParams) => Lookup
}

const bytesum = (x: number): number => (x & 0xff) + ((x >>> 8) & 0xff) + ((x >>> 16) & 0xff) + (x >>> 24)
/** a·s + b modulo 2³². */
const affine = (a: number, s: number, b: number): number => (Math.imul(a, s) + b) >>> 0

/** A sum of four bytes, spread as a Gaussian with its mean and deviation. */
const oneMad = (s: number): number => (bytesum(affine(34038481, s, 76625530)) - 510) / 147.800537109375

/** The same of two congruential generators, one after the other; products are below 2⁵³. */
const twoMad = (s: number): number => {
  const x = affine(264435761, s, 1013904223)
  return (bytesum((Math.floor((1664525 * x) / 2 ** 32) + x) >>> 0) - 510) / 147.800537109375
}

/** Two f16 numbers with random signs, mantissas and low exponent bits, added: exact in f32. */
const twoHalves = (x: number): number => {
  const r = (x & 0x8fff8fff) ^ 0x3b603b60
  return fromHalf(r >>> 16) + fromHalf(r & 0xffff)
}
const threeInst = (s: number): number => twoHalves(affine(89226354, s, 64248484))
const mcg = (s: number): number => twoHalves(affine(0xcbac1fed, s, 0))

/** (1024 + bytesum)·a + b, a and b f16; about (bytesum − 510)/147.8. Exact in f32. */
const mul1 = (s: number): number => (1024 + bytesum(affine(0x83dcd12d, s, 0))) * fromHalf(0x1eee) + fromHalf(0xc931)

/** HYB's hash: u = s(s+1), of which only the low 16 bits are read, whatever L is. */
const hash = (s: number): number => (s * (s + 1)) & 0xffff

const seed = Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1, default: 0, description: 'Seed of the table' })
const order = Type.Union([Type.Literal('rows'), Type.Literal('tensor-core')], {
  default: 'rows',
  description: 'Weights of a tile one after the other: row by row, or as in published checkpoints (L = 16, Q = 9, tiles of 16 × 16)',
})
const Q = (maximum: number) =>
  Type.Integer({ minimum: 1, maximum, default: 9, description: 'Bits that index the table: 2^Q rows; at most L' })

export const trellisCodes: Readonly<Record<string, TrellisCode>> = {
  hyb: {
    version: 4,
    about: 'QTIP HYB: a hash of the state picks one of 2^Q trained pairs and a sign.',
    V: [2, 1, 4],
    params: {
      Q: Q(15),
      table: Type.Union([Type.Literal('plane'), Type.Literal('half-plane')], {
        default: 'plane',
        description:
          'Where the table is trained: as published, or knowing that the sign mirrors it; the format is the same, the error less at 3 and 4 bits',
      }),
      order,
    },
    table: ({ Q = 9, V, table = 'plane' }) => ({
      name: 'tlut',
      rows: 2 ** Q,
      entries: () => hybTable({ Q, V, domain: table }),
      index(s) {
        const u = hash(s)
        return ((u >>> (15 - Q)) & (2 ** Q - 1)) | ((u >>> 15) << 16)
      },
    }),
  },
  quantlut: {
    version: 2,
    about: 'QTIP HYB without the sign: a hash of the state picks one of 2^Q quantiles of the Gaussian.',
    V: [1],
    params: { Q: Q(16) },
    table: ({ Q = 9 }) => ({
      name: 'tlut',
      rows: 2 ** Q,
      entries: () => Uint16Array.from({ length: 2 ** Q }, (_, i) => toHalf(quantile((i + 0.5) / 2 ** Q))),
      index: s => hash(s) >>> (16 - Q),
    }),
  },
  '1mad': { version: 3, about: 'QTIP 1MAD: one multiply-add and a sum of bytes; no table.', V: [1], params: {}, value: oneMad },
  '2mad': { version: 3, about: 'QTIP 2MAD: two multiply-adds and a sum of bytes; no table.', V: [1], params: {}, value: twoMad },
  '3inst': {
    version: 3,
    about: 'QTIP 3INST: one multiply-add, a mask, a sum of two halves; no table.',
    V: [1],
    params: {},
    value: threeInst,
  },
  mcg: { version: 3, about: "EXL3 mcg: one multiplication, 3INST's mask and sum; no table.", V: [1], params: {}, value: mcg },
  mul1: {
    version: 3,
    about: 'EXL3 mul1: one multiplication and a sum of bytes; no table. The least error at 2 to 4 bits.',
    V: [1],
    params: {},
    value: mul1,
  },
  lut: {
    version: 2,
    about: 'A table of 2^L rows of Gaussian random values: what the computed codes imitate.',
    V: [1, 2, 4],
    params: { seed },
    table: ({ L, V, seed = 0 }) => ({
      name: 'tlut',
      rows: 2 ** L,
      entries: () => Uint16Array.from(gaussian(2 ** L * V, seed), toHalf),
      index: s => s,
    }),
  },
}

/** Parameters of a code, with descriptions and bounds. */
export const codeParams = (code: TrellisCode): TObject =>
  Type.Object(
    {
      L: Type.Integer({ minimum: 1, maximum: 16, default: 16, description: 'Bits of a state: 2^L states' }),
      K: Type.Integer({ minimum: 1, maximum: 8, default: 2, description: 'Bits a weight; K·V, the new bits of a step, is at most 8' }),
      V:
        code.V.length === 1
          ? Type.Literal(code.V[0]!, { default: code.V[0]!, description: 'Weights a step: this code has no other' })
          : Type.Integer({ minimum: 1, maximum: 4, default: code.V[0]!, description: 'Weights a step: 1, 2 or 4' }),
      ...code.params,
      Tx: Type.Integer({
        minimum: 1,
        maximum: 1024,
        default: 16,
        description: 'Rows of a tile: Tx·Ty weights, at most 1024, are one sequence',
      }),
      Ty: Type.Integer({
        minimum: 1,
        maximum: 1024,
        default: 16,
        description: 'Columns of a tile, a multiple of V; also the block of LDL',
      }),
    },
    { additionalProperties: false },
  )
