/** The blocks of the model one after the other: what enters and leaves each, and its rows rounded and trained. */
import type { Tensor } from '../../native/tensor.js'
import type { Context, InnerStage, InnerStages, NewRow, Row } from '../../pipeline/define.js'
import type { linears } from '../../schemas/tables/linears.js'
import type { rounded } from '../../schemas/tables/rounded.js'
import { blockBatch, headInput } from '../model/batch.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { embed, forwardBlock, openBlock, Rotary } from '../model/forward.js'
import { precisionOf } from '../model/precision.js'
import { openWeights } from '../model/quantized.js'
import { Sequences } from '../model/sequences.js'
import { type TrainingParams, trainingWindows } from '../model/training.js'
import { TrainedBlock } from './trained-block.js'

export type In = Row<typeof linears>
export type Out = NewRow<typeof rounded>
export type PerLinear = InnerStages<typeof linears, typeof rounded>

export interface Params extends TrainingParams {
  readonly perLinear: readonly InnerStage[]
}

const carried = ({ hessian: _, ...row }: In, weight: Tensor | undefined = undefined): Out => ({
  ...row,
  weight: weight ?? row.weight,
  su: undefined,
  sv: undefined,
  transform: '',
  codes: undefined,
  codebook: '',
  scale: 0,
  table: undefined,
  proxyError: 0,
})

export async function* finetuneBlocks(rows: readonly In[], perLinear: PerLinear, params: Params, context: Context): AsyncGenerator<Out> {
  const all = grouped(rows, blockBatch)
  const batches = all.filter(([row]) => row !== undefined && context.wanted(blockBatch(row)))
  const isBlock = (batch: readonly In[]): boolean => batch.some(row => isLinear(row) && row.shares !== headInput)
  const layers = batches.filter(isBlock).map(batch => batch[0]?.layer ?? 0)
  const first = rows[0]
  if (params.epochs === 0 || layers.length === 0 || first === undefined) {
    for (const batch of all) yield* batches.includes(batch) ? await roundOnly(batch, perLinear, context) : stored(batch)
    return
  }
  const { ops } = context
  const { length } = params
  const checkpoint = await openCheckpoint(first.source)
  const { config } = checkpoint
  using weights = await openWeights(ops, checkpoint)
  const windows = await trainingWindows(checkpoint, params, 'finetune', context)
  const precision = precisionOf(params.precision, ops, checkpoint)
  using rotary = new Rotary(ops, config)
  using sequences = await Sequences.open(context, windows.length, Math.min(...layers), 4 * config.sizes.d * length * windows.length)
  if (sequences.layer === 0) sequences.start(await embed(ops, weights, windows))
  const perBlock = params.epochs * (windows.length - params.validation) * Math.max(...batches.map(batch => batch.filter(isLinear).length))
  let done = 0
  for (const batch of all) {
    const layer = batch[0]?.layer ?? 0
    if (!batches.includes(batch)) {
      yield* stored(batch)
      continue
    }
    if (!isBlock(batch)) {
      yield* await roundOnly(batch, perLinear, context) // a head, if anything: no block is trained against it
      continue
    }
    for (; sequences.layer <= layer; await sequences.advance()) {
      context.signal.throwIfAborted()
      const at = sequences.layer
      const own = checkpoint.expected
        .filter(tensor => tensor.layer === at)
        .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
      // In f32: as it is opened; then with gradients, moments and the best state.
      const slot = await context.room(24 * own)
      using original = await openBlock(ops, weights, at).finally(() => slot[Symbol.dispose]())
      await sequences.pass(x => {
        context.signal.throwIfAborted()
        return forwardBlock(ops, config, at, original, x, rotary.of(length))
      })
      if (at < layer) continue
      using block = await TrainedBlock.open(context, config, layer, original, { ...params, precision, sequences, rotary })
      const finished = new Map<string, Out>()
      for (const row of block.inOrder(batch.filter(isLinear))) {
        const [out] = await context.inner(perLinear, [{ ...row, weight: ops.copy(block.weight(row.linear)) }])
        if (out === undefined) throw new Error(`${row.linear}: the inner stages gave no row`)
        finished.set(row.linear, out)
        if (out.role === 'kept') continue // left alone: it is trained as long as the block is
        await block.replace(row.linear, out)
        await block.train(row.linear, (sequence, loss) =>
          context.progress(done + sequence, perBlock * layers.length, 'sequences', `${row.linear}, loss ${loss.toExponential(2)}`),
        )
        done += params.epochs * (windows.length - params.validation)
      }
      context.note(block.summary())
      for (const row of batch) {
        const out = finished.get(row.linear)
        if (out === undefined) yield carried(row, block.trained(row.linear))
        else if (out.role === 'kept') yield { ...out, weight: ops.cast(block.weight(row.linear), row.weight.dtype) }
        else yield { ...out, ...block.result(row.linear) }
      }
    }
  }
}

/** What stands for a batch that is stored already: it only has to be in its place. */
const stored = (batch: readonly In[]): Out[] => batch.slice(0, 1).map(row => carried(row))

/** By key, in the order in which keys first come. */
function grouped(rows: readonly In[], key: (row: In) => string): In[][] {
  const groups = new Map<string, In[]>()
  for (const row of rows) groups.set(key(row), [...(groups.get(key(row)) ?? []), row])
  return [...groups.values()]
}

const isLinear = (row: In): boolean => row.role === 'linear'

/** Without training: what shares an input goes together. */
async function roundOnly(batch: readonly In[], perLinear: PerLinear, context: Context): Promise<Out[]> {
  const out = new Map<string, Out>()
  for (const rows of grouped(batch.filter(isLinear), row => row.shares)) {
    for (const [i, row] of (await context.inner(perLinear, rows)).entries()) out.set(rows[i]?.linear ?? row.linear, row)
    context.signal.throwIfAborted()
  }
  return batch.map(row => out.get(row.linear) ?? carried(row))
}
