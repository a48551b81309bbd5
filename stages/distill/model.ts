/** The two models: what the original gives, run once; then the student's epochs, which a killed run goes on with. */
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import type { Context, NewRow } from '../../pipeline/define.js'
import type { rounded } from '../../schemas/tables/rounded.js'
import { blockBatch } from '../model/batch.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { Rotary } from '../model/forward.js'
import { precisionOf } from '../model/precision.js'
import { openWeights } from '../model/quantized.js'
import { Adam, type Progress, shuffled, Snapshot, train, trainingWindows } from '../model/training.js'
import { type In, type Params, Student } from './student.js'
import { openTeacher } from './teacher.js'

type Out = NewRow<typeof rounded>

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
  using teacher = await openTeacher(weights, windows, rotary, params.teacher, context)
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
        using told = await teacher.of(batch)
        return student.loss(batch, told, true)
      },
      validate: async () => {
        let sum = 0
        for (let from = count; from < windows.length; from += params.batch) {
          const batch = Array.from({ length: Math.min(params.batch, windows.length - from) }, (_, i) => from + i)
          using told = await teacher.of(batch)
          sum += batch.length * (await student.loss(batch, told, false))
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
