/**
 * checkpoint: a model that is on disk already, dense or quantized, as what `write` would have given: for graphs that only
 * measure. Headers are read, no weights.
 *
 *   bits a weight = 8 · bytes of what linears are stored as / their weights      quantized ones; of a dense model, all
 */
import { Type } from '@sinclair/typebox'
import { defineStage, directory, nothing, PipeError, spread } from '../../pipeline/define.js'
import { checkpoint } from '../../schemas/tables/checkpoint.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'

const params = Type.Object(
  {
    path: directory('The model to measure: config.json, *.safetensors and tokenizer.json, dense or quantized'),
    original: Type.Optional(directory('What to compare it with: the model it was made from')),
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'checkpoint',
  version: 1,
  about: 'Take a checkpoint that is on disk, dense or quantized, to measure it.',
  params,
  input: nothing,
  output: checkpoint,
  scope: 'stream',
  cache: false,
  batch: () => 'all',
  operator: ({ path, original }, { note }) =>
    spread(async function* () {
      const opened = await openCheckpoint(path)
      const source = original === undefined ? undefined : await openCheckpoint(original)
      const [vocab, theirs] = [opened.config.sizes.vocab, source?.config.sizes.vocab ?? opened.config.sizes.vocab]
      if (vocab !== theirs)
        throw new PipeError('input', {
          where: path,
          message: `expected a model with ${theirs} tokens, as ${original} has, and found one with ${vocab}.`,
          hint: 'Predictions can be compared over the same tokens only: give the model it was made from.',
        })
      if (opened.unused.length > 0) note(`left out, because the model does not use them: ${opened.unused.join(', ')}`)
      yield {
        path,
        ...storage(opened),
        ...(source && { source: source.path, bytesOriginal: storage(source).bytesQuantized }),
      }
    }),
})

/** What a checkpoint takes: weights of its linears, bits of each, bytes of all that the model uses. */
function storage({ expected, tensors, unused }: Checkpoint): { weights: number; bitsPerWeight: number; bytesQuantized: number } {
  const dense = new Set(expected.map(({ name }) => name))
  const linears = expected.filter(({ role }) => role === 'linear')
  const packed = expected.filter(({ name }) => !tensors.has(name))
  const size = (list: typeof linears): number => list.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  const used = [...tensors].filter(([name]) => !unused.includes(name))
  const bytesOf = (counts: (name: string) => boolean): number =>
    used.reduce((sum, [name, { bytes }]) => sum + (counts(name) ? bytes : 0), 0)
  const names = new Set(linears.map(({ name }) => name))
  const bytes = packed.length > 0 ? bytesOf(name => !dense.has(name)) : bytesOf(name => names.has(name))
  return {
    weights: size(linears),
    bitsPerWeight: (8 * bytes) / size(packed.length > 0 ? packed : linears),
    bytesQuantized: bytesOf(() => true),
  }
}
