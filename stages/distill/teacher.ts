/**
 * The original's predictions of the training text, by which the student is judged. It runs once, block by block. Then either
 * what leaves its last block is kept, d numbers a token, and the logits are made again from that whenever they are needed;
 * or the k most likely tokens of each position are, with what probability is left for all others: 8·k + 8 bytes a token.
 *
 *   P of k + 1 classes, the others being one:  KL = Σ_k P·log(P/Q) + P_rest·log(P_rest/Q_rest)
 */
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { type Context, PipeError } from '../../pipeline/define.js'
import { embed, forwardBlock, Head, openBlock, type Rotary } from '../model/forward.js'
import type { Weights } from '../model/quantized.js'
import { Sequences } from '../model/sequences.js'

export type TeacherKind = 'recompute' | { readonly topK: number }

export interface Teacher extends Disposable {
  /** Predictions of these sequences, one below the other. The caller disposes them. */
  of(batch: readonly number[]): Promise<Predictions>
}

export interface Predictions extends Disposable {
  /** Logits of these rows, f32 [rows, vocab]; what is not known of them as the student's own logits `like` have it. */
  logits(rows: readonly [number, number], like: Tensor): Tensor
  /** Entropy of each row's distribution, nats, where it is not that of all logits: KL and entropy are the cross-entropy then. */
  readonly entropy?: Float32Array
}

/** Logits are made for so many rows at a time. */
export const logitsBytes = 256 * 2 ** 20
/** Sequences that are saved together. */
const together = 16

export function openTeacher(
  weights: Weights,
  windows: readonly Int32Array[],
  rotary: Rotary,
  kind: TeacherKind = 'recompute',
  context: Context,
): Promise<Teacher> {
  return kind === 'recompute' ? recomputed(weights, windows, rotary, context) : topK(weights, windows, rotary, kind.topK, context)
}

async function recomputed(weights: Weights, windows: readonly Int32Array[], rotary: Rotary, context: Context): Promise<Teacher> {
  const { ops } = context
  const sequences = await runOriginal(weights, windows, rotary, context)
  try {
    const head = await Head.open(ops, weights)
    return {
      async of(batch) {
        const h = await sequences.gather('entering', batch)
        return {
          logits(rows) {
            using part = ops.copy(h, { rows })
            return head.logits(part)
          },
          [Symbol.dispose]: () => h[Symbol.dispose](),
        }
      },
      [Symbol.dispose]() {
        head[Symbol.dispose]()
        sequences[Symbol.dispose]()
      },
    }
  } catch (error) {
    sequences[Symbol.dispose]()
    throw error
  }
}

/** Of a sequence: i32 and f32 [length, k], f32 [length] twice. */
const parts = ['indices', 'values', 'rest', 'entropy'] as const
type Kept = Readonly<Record<(typeof parts)[number], TensorRef>>

async function topK(weights: Weights, windows: readonly Int32Array[], rotary: Rotary, k: number, context: Context): Promise<Teacher> {
  const { ops } = context
  const { vocab } = weights.checkpoint.config.sizes
  if (k > vocab)
    throw new PipeError('input', {
      where: 'distill  teacher',
      message: `"topK" is ${k}, and the model has ${vocab} tokens.`,
      hint: 'Give fewer, or "recompute".',
    })
  const kept = await keepTop(weights, windows, rotary, k, context)
  return {
    async of(batch) {
      const opened = new Map<string, Tensor>()
      try {
        for (const part of parts) {
          const tensors: Tensor[] = []
          try {
            for (const i of batch) tensors.push(await (kept[i] as Kept)[part].open(ops))
            opened.set(part, joined(context, tensors))
          } finally {
            for (const tensor of tensors) tensor[Symbol.dispose]()
          }
        }
        const [indices, values, rest, entropy] = parts.map(part => opened.get(part)) as [Tensor, Tensor, Tensor, Tensor]
        return {
          entropy: new Float32Array((await entropy.read()).slice().buffer),
          logits(rows, like) {
            using a = ops.copy(indices, { rows })
            using b = ops.copy(values, { rows })
            using c = ops.copy(rest, { rows })
            using flat = ops.reshape(c, [c.size])
            return ops.sparseLogits({ indices: a, values: b, rest: flat }, like)
          },
          [Symbol.dispose]() {
            for (const tensor of opened.values()) tensor[Symbol.dispose]()
          },
        }
      } catch (error) {
        for (const tensor of opened.values()) tensor[Symbol.dispose]()
        throw error
      }
    },
    [Symbol.dispose]() {},
  }
}

/** Matrices one below the other, vectors as columns. */
function joined({ ops }: Context, tensors: readonly Tensor[]): Tensor {
  const matrices = tensors.map(x => ops.reshape(x, [x.shape[0] ?? 0, x.shape[1] ?? 1]))
  try {
    return ops.concat(matrices)
  } finally {
    for (const x of matrices) x[Symbol.dispose]()
  }
}

/** The k largest of each position, saved; the original runs for them unless they are there already. */
async function keepTop(weights: Weights, windows: readonly Int32Array[], rotary: Rotary, k: number, context: Context): Promise<Kept[]> {
  const { ops, checkpoint, note } = context
  const { vocab } = weights.checkpoint.config.sizes
  const nameOf = (group: number): string => `top.${group}`
  const groups = Math.ceil(windows.length / together)
  const saved = await checkpoint.list()
  if (!Array.from({ length: groups }, (_, i) => nameOf(i)).every(name => saved.includes(name))) {
    using sequences = await runOriginal(weights, windows, rotary, context)
    using head = await Head.open(ops, weights)
    let [left, positions] = [0, 0]
    for (let group = 0; group < groups; group++) {
      const tensors: Record<string, Tensor> = {}
      try {
        for (let i = group * together; i < Math.min(windows.length, (group + 1) * together); i++) {
          context.signal.throwIfAborted()
          using h = await sequences.gather('entering', [i])
          const top = await topOf(h, head, k, vocab, context)
          for (const part of parts) tensors[`${i} ${part}`] = top[part]
          left += top.left
          positions += h.shape[0] ?? 0
        }
        await checkpoint.save(nameOf(group), {}, tensors)
      } finally {
        for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]()
      }
    }
    const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`
    note(
      `distill: the original's ${k} most likely tokens of ${positions} positions are kept, ${megabytes(positions * (8 * k + 8))} in place of ` +
        `${megabytes(4 * positions * vocab)} for all logits; ${((100 * left) / positions).toFixed(2)} % of the probability is left for the others`,
    )
    // What entered its blocks is needed no more.
    for (const name of (await checkpoint.list()).filter(name => /^\d+\./.test(name))) await checkpoint.drop(name)
  }
  const kept: Kept[] = []
  for (let group = 0; group < groups; group++) {
    const stored = await checkpoint.load(nameOf(group))
    for (let i = group * together; i < Math.min(windows.length, (group + 1) * together); i++) {
      const of = Object.fromEntries(parts.map(part => [part, stored?.tensors[`${i} ${part}`]])) as Partial<Kept>
      if (parts.some(part => of[part] === undefined)) throw new Error(`the original's predictions of sequence ${i} are gone`)
      kept.push(of as Kept)
    }
  }
  return kept
}

/** Of one sequence, h f32 [length, d] leaving the last block; `left`: Σ of the probability that is left. */
async function topOf(
  h: Tensor,
  head: Head,
  k: number,
  vocab: number,
  { ops }: Context,
): Promise<Record<(typeof parts)[number], Tensor> & { left: number }> {
  const [length = 0] = h.shape
  const indices = ops.zeros('i32', [length, k])
  const values = ops.zeros('f32', [length, k])
  const rest = ops.zeros('f32', [length, 1])
  const rows = Math.max(1, Math.floor(logitsBytes / (4 * vocab)))
  for (let from = 0; from < length; from += rows) {
    using part = ops.copy(h, { rows: [from, Math.min(length, from + rows)] })
    using logits = head.logits(part)
    const top = ops.topK(logits, k)
    using a = top.indices
    using b = top.values
    using c = top.rest
    using column = ops.reshape(c, [c.size, 1])
    ops.paste(indices, a, { row: from })
    ops.paste(values, b, { row: from })
    ops.paste(rest, column, { row: from })
  }
  const logs = new Float32Array((await values.read()).slice().buffer)
  const others = new Float32Array((await rest.read()).slice().buffer)
  const term = (log: number): number => (log === Number.NEGATIVE_INFINITY ? 0 : -Math.exp(log) * log)
  const entropy = Float32Array.from(others, (log, i) => logs.subarray(i * k, (i + 1) * k).reduce((sum, x) => sum + term(x), term(log)))
  return {
    indices,
    values,
    rest,
    entropy: ops.tensor(entropy, [length, 1]),
    left: others.reduce((sum, log) => sum + Math.exp(log), 0),
  }
}

/** What leaves the original's last block, a sequence each, as what enters the head. */
async function runOriginal(weights: Weights, windows: readonly Int32Array[], rotary: Rotary, context: Context): Promise<Sequences> {
  const { ops } = context
  const { config, expected } = weights.checkpoint
  const { layers, d } = config.sizes
  const length = windows[0]?.length ?? 0
  const sequences = await Sequences.open(context, windows.length, layers, 4 * d * length * windows.length)
  try {
    if (sequences.layer === 0) sequences.start(await embed(ops, weights, windows))
    for (; sequences.layer < layers; await sequences.advance()) {
      const own = expected
        .filter(({ layer }) => layer === sequences.layer)
        .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
      const slot = await context.room(4 * own)
      using block = await openBlock(ops, weights, sequences.layer).finally(() => slot[Symbol.dispose]())
      await sequences.pass(x => {
        context.signal.throwIfAborted()
        return forwardBlock(ops, config, sequences.layer, block, x, rotary.of(length))
      })
      context.progress(sequences.layer + 1, layers, 'blocks', 'the original')
    }
    return sequences
  } catch (error) {
    sequences[Symbol.dispose]()
    throw error
  }
}
