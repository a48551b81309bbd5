/** activations: what linears read, a chunk of tokens a row, followed by the linears that read it. Never stored. */
import { defineTable, optional, tensor, u32, utf8 } from '../../pipeline/define.js'
import { linears } from './linears.js'

const { weight, hessian: _, ...key } = linears.columns
export const activations = defineTable(
  'activations',
  3,
  {
    ...key,
    role: utf8<'activation' | 'linear' | 'kept'>('a chunk of activations; or a row of linears, after all chunks of its (layer, shares)'),
    weight: optional(weight),
    x: optional(tensor('float', 't n', 'activations, one token a row')),
    rowWeights: optional(
      tensor('f32', 't groups', 'what each token counts in H, for each of the finest groups of outputs; x is of this linear alone then'),
    ),
    tokens: u32('tokens in x; 0 for linears and kept'),
  },
  { live: true },
)
