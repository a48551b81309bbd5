/** What estimates are made from: the sizes of a model's linears, before anything has run. */
import type { TensorRef } from '../../native/tensor-ref.js'
import type { KnownRow } from '../../pipeline/define.js'
import { tokensAtOnce } from './streams.js'

/** Linears that share an input, as one matrix [m, n]. */
export interface Group {
  readonly layer: number
  readonly n: number
  m: number
  linears: number
  /** Matrices H that they have: one for all, unless their outputs count differently. */
  hessians: number
  /** Of their weights, as they are stored. */
  bytes: number
}

export interface Sizes {
  readonly groups: readonly Group[]
  /** Weights of the linears. */
  readonly weights: number
  /** Bytes of tensors that are carried along, and elements of the largest: the embedding, as large as the head. */
  readonly keptBytes: number
  readonly head: number
  /** Numbers that a token is between blocks. */
  readonly d: number
  /** Of a weight as it is stored, where a checkpoint says it. */
  readonly bits?: number
  /** That are measured: the original and the quantized; of a checkpoint by itself, one. */
  readonly models: number
}

export function sizesOf(rows: readonly KnownRow[]): Sizes {
  const [first] = rows
  if (first?.path !== undefined)
    return { ...sizesOfCheckpoint(Number(first.weights), first.source === undefined ? 1 : 2), bits: Number(first.bitsPerWeight) }
  const groups = new Map<string, Group>()
  const known = new Set<TensorRef>()
  let [weights, keptBytes, head, d] = [0, 0, 0, 0]
  for (const row of rows) {
    const { role, layer, shares, m, n } = row as { role: string; layer: number; shares: string; m: number; n: number }
    const bytes = (row.weight as TensorRef | undefined)?.bytes ?? 0
    if (role !== 'linear') {
      keptBytes += bytes
      if (m * n > head) d = n // the embedding's
      head = Math.max(head, m * n)
      continue
    }
    const group = groups.get(`${layer} ${shares}`) ?? { layer, n, m: 0, linears: 0, hessians: 0, bytes: 0 }
    groups.set(`${layer} ${shares}`, group)
    group.m += m
    group.linears++
    // Linears share an H unless a stage before says otherwise, or those that are there do.
    const hessian = row.hessian as TensorRef | undefined
    if (hessian === undefined) group.hessians = row.hessians === undefined ? 1 : group.hessians + Number(row.hessians)
    else if (!known.has(hessian)) group.hessians += (hessian.shape[0] ?? n) / n
    if (hessian !== undefined) known.add(hessian)
    group.bytes += bytes
    weights += m * n
  }
  return { groups: [...groups.values()], weights, keptBytes, head, d, models: 2 }
}

/** Of a row that stands for a checkpoint: it has no linears to look at, so they are taken for 32 blocks of 7 squares, the embedding for a block's. */
function sizesOfCheckpoint(weights: number, models: number): Sizes {
  const n = Math.ceil(Math.sqrt(weights / (32 * 7)))
  const groups = Array.from({ length: 32 }, (_, layer) => ({ layer, n, m: 7 * n, linears: 7, hessians: 1, bytes: 28 * n * n }))
  return { groups, weights, keptBytes: 0, head: weights / 32, d: n, models }
}

/** Bytes of weights that are decoded at a time (prompt_cuda.cu). */
const slice = 2 ** 27

/** Bytes of a block's weights as it is run: decoded; or a checkpoint by itself from its bits, with a slice decoded at a time. */
export function blockBytes({ groups, models, bits = 32 }: Sizes, form: 'packed' | 'dense'): number {
  const dense = mostOfLayer(groups, ({ m, n }) => 4 * m * n)
  if (form === 'dense' || models > 1) return dense
  return Math.min(
    dense,
    mostOfLayer(groups, ({ m, n }) => (m * n * bits) / 8) +
      Math.min(
        slice,
        most(groups, ({ m, n, linears }) => (4 * m * n) / linears),
      ),
  )
}

/**
 * Bytes of the residual streams that are saved on the way, f32 of so many tokens: three at the most, what entered the block
 * before, what enters this one and what leaves it. That of the first block is made from the text again; that which leaves the last
 * one is kept where it is asked for.
 */
export function savedStreams({ groups, d }: Sizes, tokens: number, { last = false } = {}): number {
  const layers = Math.max(0, ...groups.map(({ layer }) => layer + 1))
  return Math.min(3, Math.max(0, layers - (last ? 0 : 1))) * 4 * d * tokens
}

/** Decoding as operations, some 50 a weight: once, or from bits whenever so many tokens go through. */
export const decodingOperations = ({ weights, models }: Sizes, tokens: number, form: 'packed' | 'dense'): number =>
  50 * models * weights * (form === 'packed' ? Math.ceil(tokens / tokensAtOnce) : 1)

/** The most that f takes over groups, summed within each layer. */
export function mostOfLayer(groups: readonly Group[], f: (group: Group) => number): number {
  const layers = new Map<number, number>()
  for (const group of groups) layers.set(group.layer, (layers.get(group.layer) ?? 0) + f(group))
  return Math.max(0, ...layers.values())
}
export const most = (groups: readonly Group[], f: (group: Group) => number): number => Math.max(0, ...groups.map(f))
export const sum = (groups: readonly Group[], f: (group: Group) => number): number => groups.reduce((total, group) => total + f(group), 0)

/** Of the linears' codes when they are packed; round says of each row how many bits a weight that is. */
export const bytesOfCodes = (rows: readonly KnownRow[]): number =>
  rows.reduce((total, { role, m, n, bits }) => total + (role === 'linear' ? (Number(m) * Number(n) * Number(bits ?? 16)) / 8 : 0), 0)
