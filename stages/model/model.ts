/**
 * model: a Hugging Face folder as rows, one a linear, and one a tensor that is carried along.
 *
 * Reads headers only: every weight is a reference into its file. Rows come in the order of use: embedding; block by
 * block its norms and biases, then its linears as the forward pass meets them; final norm and head. Linears of a block
 * that read the same input have the same `shares`, and travel in one batch.
 */
import { Type } from '@sinclair/typebox'
import { defineStage, directory, nothing, PipeError, spread } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { batchOf } from './batch.js'
import { openCheckpoint } from './checkpoint.js'

const params = Type.Object(
  {
    path: directory('Folder with config.json, *.safetensors (one file, or shards and their index) and tokenizer.json'),
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'model',
  version: 1,
  about: 'Read a Hugging Face checkpoint: a row for each linear to quantize, and for each tensor carried along.',
  params,
  input: nothing,
  output: linears.without('hessian'),
  scope: 'stream',
  cache: false,
  batch: batchOf,
  operator: ({ path }, { note }) =>
    spread(async function* () {
      const checkpoint = await openCheckpoint(path)
      if (checkpoint.quantization !== undefined) {
        throw new PipeError('input', { where: path, message: 'the model is quantized already.', hint: 'Give the model it was made from.' })
      }
      if (checkpoint.unused.length > 0) note(`left out, because the model does not use them: ${checkpoint.unused.join(', ')}`)
      for (const { name, shape, role, layer, shares } of checkpoint.expected) {
        const n = shape[shape.length - 1] ?? 1
        yield {
          role,
          n,
          m: shape.length > 1 ? (shape[0] ?? 1) : 1,
          layer: typeof layer === 'number' ? layer : 0,
          linear: role === 'linear' ? name.replace(/\.weight$/, '') : name,
          shares: role === 'linear' ? shares : typeof layer === 'number' ? 'block' : layer,
          source: path,
          weight: checkpoint.ref(name),
        }
      }
    }),
})
