/**
 * tasks: zero-shot accuracy of the original and of the quantized model, as the lm-evaluation-harness (0.4.3) measures it:
 * each choice's log-likelihood after the question, the largest is the answer. QuIP# and QTIP (arXiv:2406.11235) §4 report
 * ARC, PIQA and Winogrande so.
 *
 * Answers are kept every 512 items, so that a killed run asks the others alone.
 */
import { resolve } from 'node:path'
import { Type } from '@sinclair/typebox'
import { defineStage, directory, each } from '../../pipeline/define.js'
import { checkpoint, taskScores } from '../../schemas/tables/checkpoint.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { precisionOf, precisionParameter } from '../model/precision.js'
import { openWeights } from '../model/quantized.js'
import { blockBytes, decodingOperations, mostOfLayer, sizesOf } from '../model/sizes.js'
import { formParameter } from '../model/streams.js'
import { readItems, taskNames } from './formulation.js'
import { ask, mark, type Part, type TaskScore, written } from './score.js'

const params = Type.Object(
  {
    data: directory("Folder with one .jsonl a task, its name in the file's, with Hugging Face's field names", ['.jsonl']),
    tasks: Type.Array(Type.Union(taskNames.map(name => Type.Literal(name))), {
      default: ['arc_easy', 'arc_challenge', 'piqa', 'winogrande'],
      minItems: 1,
      uniqueItems: true,
      description: `Which: ${taskNames.join(', ')}`,
    }),
    limit: Type.Optional(Type.Integer({ minimum: 1, description: 'Only the first items of each task' })),
    precision: precisionParameter,
    weights: formParameter,
  },
  { additionalProperties: false },
)

type Scores = Readonly<Record<string, { readonly original?: TaskScore; readonly quantized: TaskScore }>>

export default defineStage({
  name: 'tasks',
  version: 1,
  about: 'Measure zero-shot accuracy of the original and the quantized model on tasks of multiple choice.',
  params,
  input: checkpoint,
  output: taskScores,
  scope: 'stream',
  batch: () => 'all',
  estimate(rows, { tasks, limit = 2000, weights: form }) {
    const sizes = sizesOf(rows)
    const { groups, weights, head, models } = sizes
    const tokens = tasks.length * limit * 2 * 80 // items of two choices and more, of 80 tokens or so
    const memory = blockBytes(sizes, form) + 4 * 2048 * mostOfLayer(groups, ({ m, n }) => m + n) + 2 ** 28 + 4 * head
    return { operations: models * tokens * weights + decodingOperations(sizes, tokens, form), memory, disk: 0 }
  },
  operator: ({ data, tasks, limit, precision, weights: form }, context) =>
    each(async row => {
      const found = []
      for (const task of tasks) found.push({ task, items: await readItems(data, task, limit) })
      const quantized = ['quantized', resolve(context.out, row.path)] as const
      const models = row.source === undefined ? [quantized] : [['original', row.source] as const, quantized]
      const scores: Record<string, Record<string, TaskScore>> = {}
      const total = models.length * found.reduce((sum, { items }) => sum + items.length, 0)
      let before = 0
      for (const [which, folder] of models) {
        const opened = await openCheckpoint(folder)
        using weights = await openWeights(context.ops, opened)
        for (const { task, items } of found) {
          const answers = await ask(context.ops, weights, task, items, {
            precision: precisionOf(precision, context.ops, opened),
            form,
            signal: context.signal,
            known: async part => {
              const saved = await context.checkpoint.load(`${which}-${task}-${part}`)
              // Older ones don't say how many questions were cut.
              return saved === undefined ? undefined : { cut: 0, ...(saved.value as Pick<Part, 'answers'> & Partial<Part>) }
            },
            done: (part, found) => context.checkpoint.save(`${which}-${task}-${part}`, { ...found }, {}),
            note: text => context.note(`${which}: ${text}`),
            progress: done => context.progress(before + done, total, 'items'),
          })
          before += items.length
          scores[task] = { ...scores[task], [which]: mark(task, items, answers) }
        }
      }
      return { ...row, tasks: JSON.stringify(scores) }
    }),
  report(row) {
    const scores = JSON.parse(row.tasks) as Scores
    const metrics = ['acc', 'accNorm', 'perplexity'] as const
    const compared = Object.values(scores).every(({ original }) => original !== undefined)
    const rows = Object.entries(scores).flatMap(([task, { original, quantized }]) =>
      metrics.flatMap(metric => {
        const [before, after] = [original?.[metric], quantized[metric]]
        return after === undefined ? [] : [[`${task} ${metric}`, ...(before ? [written(before)] : []), written(after)]]
      }),
    )
    const result = compared ? scores : Object.fromEntries(Object.entries(scores).map(([task, { quantized }]) => [task, quantized]))
    return { result: { tasks: result }, table: { columns: compared ? ['', 'original', 'quantized'] : ['', 'value'], rows } }
  },
})
