/**
 * model: a Hugging Face folder as rows, one a linear, and one a tensor that is carried along.
 *
 * Reads headers only: every weight is a reference into its file. Rows come in the order of use: embedding; block by
 * block its norms and biases, then its linears as the forward pass meets them; final norm and head. Linears of a block
 * that read the same input have the same `shares`, and travel in one batch. With `head`, the head is a linear as well, of
 * the layer after the last and with the input 'head', what leaves the final norm; one that is the embedding (tied) becomes
 * a row of its own, and the embedding is carried along as ever.
 */
import { Type } from '@sinclair/typebox'
import { defineStage, directory, nothing, PipeError, spread } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { headName } from './architecture.js'
import { batchOf, headInput } from './batch.js'
import { openCheckpoint } from './checkpoint.js'

const params = Type.Object(
  {
    path: directory('Folder with config.json, *.safetensors (one file, or shards and their index) and tokenizer.json'),
    head: Type.Optional(
      Type.Boolean({ description: 'The head (lm_head) is one of the linears to round; left out, it is carried along as it is' }),
    ),
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
  operator: ({ path, head = false }, { note }) =>
    spread(async function* () {
      const checkpoint = await openCheckpoint(path)
      if (checkpoint.quantization !== undefined) {
        throw new PipeError('input', { where: path, message: 'the model is quantized already.', hint: 'Give the model it was made from.' })
      }
      if (checkpoint.unused.length > 0) note(`left out, because the model does not use them: ${checkpoint.unused.join(', ')}`)
      const { architecture, sizes, tied } = checkpoint.config
      const headWeight = `${headName(architecture, false)}.weight`
      for (const { name, shape, role, layer, shares } of checkpoint.expected.filter(({ name }) => !head || name !== headWeight)) {
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
      if (!head) return
      yield {
        role: 'linear' as const,
        n: sizes.d,
        m: sizes.vocab,
        layer: sizes.layers,
        linear: headName(architecture, false),
        shares: headInput,
        source: path,
        weight: checkpoint.ref(`${headName(architecture, tied)}.weight`),
      }
    }),
})
