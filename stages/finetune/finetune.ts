/**
 * finetune: round a block linear by linear, and after each train what is left of the block, so that later linears make
 * up for the errors of those before them.
 *
 *   for each linear P of the block, in the architecture's order:
 *     Ŵ_P, SU_P, SV_P = perLinear(W_P as it is by now, H_P)
 *     minimize  ‖block(X) − Y‖²/size  over the weights not rounded yet, norms, biases, SU, SV (and tables) of the rounded
 *
 * X and Y are what enters and leaves the block in the original model, so blocks are independent of each other. Without
 * epochs nothing depends on the order, and the linears of one input are rounded together, as by the flat list.
 *
 * QTIP (arXiv:2406.11235) §5, QuIP# (arXiv:2402.04396) §5.
 * Differs from the published code: the scale is part of SV while training (there it is part of SU for o and down);
 * a rate of its own for SU and SV and for tables, where it has one for all; tables are trained when asked for.
 */
import { Type } from '@sinclair/typebox'
import { toArray } from 'rxjs'
import { defineStage, file, innerStages, spread } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { rounded } from '../../schemas/tables/rounded.js'
import { blockBatch } from '../model/batch.js'
import { trainingPrecision } from '../model/precision.js'
import { most, mostOfLayer, savedStreams, sizesOf } from '../model/sizes.js'
import { trainingMistakes } from '../model/training.js'
import { finetuneBlocks } from './blocks.js'

export const perLinear = innerStages('perLinear', {
  input: linears,
  output: rounded,
  description: 'The stages that round a linear: [{ "use": "rht" }, { "use": "round", … }]',
})

const rate = (description: string, fallback: number) => Type.Number({ default: fallback, minimum: 0, description })
const params = Type.Object(
  {
    within: Type.Literal('block', { default: 'block', description: 'Blocks are trained one by one, each against the original block' }),
    perLinear: perLinear.schema,
    text: file('Text to train on: .jsonl with one {"text": …} a line, or plain text; its first sequences are used'),
    sequences: Type.Integer({ default: 384, minimum: 2, description: 'Sequences of text, those for validation included' }),
    length: Type.Integer({ default: 2048, minimum: 1, description: 'Tokens of a sequence' }),
    validation: Type.Integer({
      default: 128,
      minimum: 1,
      description: 'Sequences, the last ones, that only judge: the state with the least loss on them is kept',
    }),
    epochs: Type.Integer({ default: 5, minimum: 0, description: 'Passes over the text after each linear; 0 rounds without training' }),
    batch: Type.Integer({ default: 4, minimum: 1, description: 'Sequences of a batch' }),
    update: Type.Integer({ default: 1, minimum: 1, description: 'Batches whose gradients are added up for a step' }),
    rate: rate('Learning rate of weights, norms and biases (Adam)', 3e-6),
    vectorRate: rate('Learning rate of SU and SV', 3e-6),
    tableRate: rate("Learning rate of the code's table, of which each linear then has its own; 0: the table stays", 0),
    precision: trainingPrecision,
    validate: Type.Integer({ default: 1, minimum: 1, description: 'Epochs from one look at the validation loss to the next' }),
    patience: Type.Integer({ default: 5, minimum: 1, description: 'Looks without a better loss that end the training of a linear' }),
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'finetune',
  version: 1,
  about: 'Round each block linear by linear, training what is left of it after each.',
  params,
  input: linears,
  output: rounded,
  inner: [perLinear],
  scope: 'stream',
  batch: blockBatch,
  check: (rows, params, where) => (params.epochs > 0 ? trainingMistakes(rows, params, where) : []),
  estimate(rows, { epochs, sequences, length, validation, batch }) {
    const sizes = sizesOf(rows)
    const { groups, weights } = sizes
    const linearsOfBlock = 7
    // Forward, and back twice as much; each epoch also looks at the validation sequences.
    const passes = epochs * linearsOfBlock * (3 * (sequences - validation) + validation) + (epochs > 0 ? sequences : 0)
    // A block in f32 with gradients, moments and the best state; activations of a batch and its tape.
    const block = 20 * mostOfLayer(groups, ({ m, n }) => m * n)
    const activations = 4 * batch * length * 3 * mostOfLayer(groups, ({ m, n }) => m + n)
    const width = most(groups, ({ n }) => n)
    const scratch = epochs > 0 ? savedStreams(sizes, sequences * length, { last: true }) : 0
    return { operations: weights * passes * length, memory: block + activations + 8 * sequences * length * width, disk: 0, scratch }
  },
  operator: (params, context) => source =>
    source.pipe(
      toArray(),
      spread(rows => finetuneBlocks(rows, perLinear, params, context)),
    ),
})
