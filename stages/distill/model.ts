/** The two models: what the original gives, run once; then the student's epochs, which a killed run goes on with. */
import type { Tensor, TensorRef } from '../../native/tensor.js'
import type { Context, NewRow, Row } from '../../pipeline/define.js'
import type { rounded } from '../../schemas/tables/rounded.js'
import { blockBatch } from '../model/batch.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'
import { embed, forwardBlock, Head, openBlock, Rotary } from '../model/forward.js'
import { precisionOf } from '../model/precision.js'
import { openWeights, type Weights } from '../model/quantized.js'
import { Sequences } from '../model/sequences.js'
import { Adam, type Progress, shuffled, Snapshot, train, type TrainingParams, trainingWindows } from '../model/training.js'
import { Student } from './student.js'

export type In = Row<typeof rounded>
type Out = NewRow<typeof rounded>

export interface Params extends TrainingParams {
  readonly loss: 'cross-entropy' | 'kl'
}

/** Steps from one saving of the state to the next. */
const saveEvery = 16
const saved = 'state'

export async function* distillModel(rows: readonly In[], params: Params, context: Context): AsyncGenerator<Out> {
  const { ops, note } = context
  const first = rows.find(row => row.role === 'linear')
  if (first === undefined || !rows.some(row => context.wanted(blockBatch(row)))) {
    yield* rows
    return
  }
  const checkpoint = await openCheckpoint(first.source)
  const windows = await trainingWindows(checkpoint, params, 'distill', context)
  const count = windows.length - params.validation
  const precision = precisionOf(params.precision, ops, checkpoint)
  using rotary = new Rotary(ops, checkpoint.config)
  using weights = await openWeights(ops, checkpoint)
  using teacher = await runOriginal(weights, checkpoint, windows, rotary, context)
  using head = await Head.open(ops, weights)
  const own = rows.reduce(
    (sum, row) => sum + (row.role === 'linear' ? 8 * row.m * row.n : 4 * (row.weight?.shape ?? []).reduce((a, b) => a * b, 1)),
    0,
  )
  const slot = await context.room(own)
  using student = await Student.open(context, checkpoint, rows, windows, rotary, { ...params, precision }).finally(() =>
    slot[Symbol.dispose](),
  )

  using adam = new Adam(ops, student.groups())
  using best = new Snapshot(ops, adam.parameters)
  const at = await restore(context, adam, best)
  const { epochs } = params
  const outcome = await train(
    {
      adam,
      best,
      schedule: params,
      batches: epoch => shuffled(count, params.batch, context.rng('distill', epoch).uniform(count)),
      learn: async batch => {
        using h = await teacher.gather('entering', batch)
        return student.loss(batch, h, head, true)
      },
      validate: async () => {
        let sum = 0
        for (let from = count; from < windows.length; from += params.batch) {
          const batch = Array.from({ length: Math.min(params.batch, windows.length - from) }, (_, i) => from + i)
          using h = await teacher.gather('entering', batch)
          sum += batch.length * (await student.loss(batch, h, head, false))
        }
        return sum / params.validation
      },
      stepped: async (progress, loss) => {
        const done = progress.epoch * count + Math.min(progress.batch * params.batch, count)
        context.progress(done, epochs * count, 'sequences', `loss ${loss.toFixed(4)}`)
        if (adam.steps % saveEvery === 0) await save(context, adam, best, progress)
      },
    },
    at,
  )
  if (outcome.diverged !== undefined) {
    const { rate, vectorRate, tableRate } = params
    note(
      `distill: the loss was no finite number in epoch ${outcome.diverged}; the best state before is kept. ` +
        `Lower the learning rates (rate ${rate}, vectorRate ${vectorRate}, tableRate ${tableRate}).`,
    )
  }
  note(`distill: validation loss ${outcome.first.toFixed(5)} before, ${outcome.best.toFixed(5)} after (${params.loss})`)
  for (const row of rows) yield { ...row, ...student.columns(row) }
}

/** What leaves the original's last block, a sequence each, as what enters the head. */
async function runOriginal(
  weights: Weights,
  { config, expected }: Checkpoint,
  windows: readonly Int32Array[],
  rotary: Rotary,
  context: Context,
): Promise<Sequences> {
  const { ops } = context
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
        return forwardBlock(ops, config, sequences.layer, block, x, rotary.of(length, 1))
      })
      context.progress(sequences.layer + 1, layers, 'blocks', 'the original')
    }
    return sequences
  } catch (error) {
    sequences[Symbol.dispose]()
    throw error
  }
}

async function save({ checkpoint }: Context, adam: Adam, best: Snapshot, progress: Readonly<Progress>): Promise<void> {
  const tensors: Record<string, Tensor> = {}
  for (const [i, parameter] of adam.parameters.entries()) {
    const { m, v } = adam.moments(parameter)
    Object.assign(tensors, { [`${i} value`]: parameter.value, [`${i} m`]: m, [`${i} v`]: v, [`${i} best`]: best.values[i] as Tensor })
  }
  await checkpoint.save(saved, { ...progress, steps: adam.steps }, tensors)
}

/** Puts back what was saved, if anything was. */
async function restore({ checkpoint, ops }: Context, adam: Adam, best: Snapshot): Promise<Progress | undefined> {
  const state = await checkpoint.load(saved)
  if (state === undefined) return undefined
  const put = async (into: Tensor, ref: TensorRef | undefined): Promise<void> => {
    if (ref === undefined) throw new Error('the saved state lacks a tensor')
    using x = await ref.open(ops)
    ops.assign(into, x)
  }
  for (const [i, parameter] of adam.parameters.entries()) {
    const { m, v } = adam.moments(parameter)
    await put(parameter.value, state.tensors[`${i} value`])
    await put(m, state.tensors[`${i} m`])
    await put(v, state.tensors[`${i} v`])
    await put(best.values[i] as Tensor, state.tensors[`${i} best`])
  }
  const { steps, ...progress } = state.value as unknown as Progress & { steps: number }
  adam.steps = steps
  return progress
}
