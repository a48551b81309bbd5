/**
 * distill: train what is left of the whole rounded model against the original's predictions.
 *
 *   P = softmax(logits of the original), Q = softmax(logits of the rounded model), all positions but a sequence's last
 *   minimize  mean of −Σ P·log Q  over SU, SV, norms, biases, the head, and tables where asked for; codes stay
 *
 * The original runs once, block by block; what leaves its last block is kept, and its logits are made again from that for
 * each batch: exact, at d numbers a token in place of as many as the vocabulary has. Of the student only what enters each
 * block is kept on the way forward; blocks run a second time on the way back.
 *
 * With `teacher` { topK: k } what is kept of the original are the k most likely tokens of each position, all others being one.
 *
 * QTIP (arXiv:2406.11235) §5, QuIP# (arXiv:2402.04396) §5: end-to-end fine-tuning.
 * Differs from the published code: tables are trained where asked for (there the option has no effect); so is the embedding,
 * and with it a head that is the embedding; both models are on one device.
 */
import { Type } from '@sinclair/typebox'
import { toArray } from 'rxjs'
import { defineStage, file, spread } from '../../pipeline/define.js'
import { rounded } from '../../schemas/tables/rounded.js'
import { blockBatch } from '../model/batch.js'
import { trainingPrecision } from '../model/precision.js'
import { most, savedStreams, sizesOf, sum } from '../model/sizes.js'
import { trainingMistakes } from '../model/training.js'
import { distillModel } from './model.js'

const rate = (description: string, fallback: number) => Type.Number({ default: fallback, minimum: 0, description })
const params = Type.Object(
  {
    text: file('Text to train on: .jsonl with one {"text": …} a line, or plain text; its first sequences are used'),
    sequences: Type.Integer({ default: 640, minimum: 2, description: 'Sequences of text, those for validation included' }),
    length: Type.Integer({ default: 2048, minimum: 2, description: 'Tokens of a sequence' }),
    validation: Type.Integer({ default: 128, minimum: 1, description: 'Sequences, the last ones, that only judge' }),
    epochs: Type.Integer({ default: 1, minimum: 1, description: 'Passes over the text' }),
    batch: Type.Integer({ default: 2, minimum: 1, description: 'Sequences of a batch' }),
    update: Type.Integer({ default: 2, minimum: 1, description: 'Batches whose gradients are added up for a step' }),
    loss: Type.Union([Type.Literal('cross-entropy'), Type.Literal('kl')], {
      default: 'cross-entropy',
      description: 'What is told and compared: they differ by the entropy of the original, and have the same gradients',
    }),
    teacher: Type.Optional(
      Type.Union(
        [Type.Literal('recompute'), Type.Object({ topK: Type.Integer({ minimum: 1, maximum: 1024 }) }, { additionalProperties: false })],
        {
          description:
            'What is kept of the original: "recompute" (if left out), what enters its head, exact; { "topK": k }, the k most likely tokens of each position, all others as one',
        },
      ),
    ),
    embedding: Type.Optional(Type.Boolean({ description: 'Train the embedding as well, and with it a head that is the embedding (tied)' })),
    rate: rate('Learning rate of norms, biases, head and embedding (Adam)', 1e-5),
    vectorRate: rate('Learning rate of SU and SV', 1e-5),
    tableRate: rate("Learning rate of the code's table, of which each linear then has its own; 0: tables stay", 0),
    precision: trainingPrecision,
    validate: Type.Integer({ default: 1, minimum: 1, description: 'Epochs from one look at the validation loss to the next' }),
    patience: Type.Integer({ default: 3, minimum: 1, description: 'Looks without a better loss that end the training' }),
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'distill',
  version: 1,
  about: 'Train what is left of the whole rounded model against the predictions of the original.',
  params,
  input: rounded,
  output: rounded,
  scope: 'stream',
  batch: blockBatch,
  check: (rows, params, where) => trainingMistakes(rows, params, where),
  estimate(rows, { epochs, sequences, length, validation, batch, embedding, teacher }) {
    const sizes = sizesOf(rows)
    const { weights, head, groups } = sizes
    // Forward twice and back twice as much; each epoch also looks at the validation sequences. The original once.
    const passes = epochs * (4 * (sequences - validation) + validation) + sequences
    const width = most(groups, ({ n }) => n)
    const memory = 4 * weights + (embedding ? 32 : 16) * head + 4 * batch * length * width * 64
    // What the original's blocks give; its likeliest tokens where they are kept; the student's state, 16 bytes a number that is
    // trained, twice while it is replaced.
    const tokens = sequences * length
    const trained = sum(groups, ({ m, n, linears }) => m + n * linears) + (embedding ? 2 : 1) * head
    const kept = typeof teacher === 'object' ? tokens * (8 * teacher.topK + 8) : 0
    const scratch = savedStreams(sizes, tokens, { last: true }) + kept + 32 * trained
    return { operations: (weights + 2 * head) * passes * length, memory, disk: 0, scratch }
  },
  operator: (params, context) => source =>
    source.pipe(
      toArray(),
      spread(rows => distillModel(rows, params, context)),
    ),
})
