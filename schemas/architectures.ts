/**
 * What a model of one family is made of: tensor names, shapes and the steps of one block, as data. A new model of a
 * known kind is one JSON file in schemas/architectures/; a new kind of layer is one op plus one word in `steps`.
 */
import { type Static, Type } from '@sinclair/typebox'

const word = (description: string) => Type.String({ minLength: 1, description })
const variable = word('Name of the value this step makes; x is the residual stream')
const weight = word('Tensor below the block, without .weight')
const shape = word('Shape in letters of `sizes`: outputs, then inputs')

/** A bias is always there (true), or where this key of config.json is true. */
const bias = Type.Object(
  { bias: Type.Union([Type.Literal(true), Type.String()], { description: 'Always there, or the key of config.json that says so' }) },
  { additionalProperties: false },
)

/** Sliding window: keys at a distance below `size` only, in the layers from `from` on, if `when` is true. `layer_types` of config.json overrides. */
const window = Type.Object(
  {
    size: word('Key of config.json; null there means no window'),
    default: Type.Integer({ description: 'Size where config.json has no such key' }),
    when: Type.Optional(word('Key of config.json that must be true')),
    from: Type.Optional(word('First layer with a window: an expression')),
  },
  { additionalProperties: false },
)

const attention = Type.Object(
  { rope: Type.Literal('half', { description: 'Rotary embedding that pairs element i with i + e/2' }), window: Type.Optional(window) },
  { additionalProperties: false },
)

/** [value made, operation, values read, …]. Linears that read the same value share a Hessian. */
const step = Type.Union([
  Type.Tuple([variable, Type.Literal('rmsnorm'), variable, weight, shape]),
  Type.Tuple([variable, Type.Literal('linear'), variable, weight, shape]),
  Type.Tuple([variable, Type.Literal('linear'), variable, weight, shape, bias]),
  Type.Tuple([variable, Type.Literal('add linear'), word('residual, then input'), weight, shape]),
  Type.Tuple([variable, Type.Literal('add linear'), word('residual, then input'), weight, shape, bias]),
  Type.Tuple([variable, Type.Literal('attention'), word('queries keys values'), attention]),
  Type.Tuple([variable, Type.Literal('silu·'), word('gate up')]),
])

export const architectureSchema = Type.Object(
  {
    name: word('Name of the family'),
    huggingface: Type.Array(Type.String(), { minItems: 1, description: 'Values of `architectures` in config.json' }),
    sizes: Type.Object(
      {
        d: word('model width'),
        h: word('attention heads'),
        g: word('key and value heads'),
        e: word('size of a head'),
        f: word('width of the MLP'),
        vocab: word('rows of the embedding'),
        layers: word('blocks'),
      },
      {
        additionalProperties: false,
        description: 'Letter → expression: keys of config.json, letters above, numbers, * and /; "a ?? b" takes b where a is absent',
      },
    ),
    embed: word('Embedding, without .weight'),
    norm: word('Final norm, without .weight'),
    head: word('Head, without .weight; "a ?? b": b where the embedding is tied'),
    block: word('Name of a block; {layer} is its number'),
    ignore: Type.Array(Type.String(), { description: 'Endings of tensors that may be in a checkpoint and mean nothing' }),
    quantize: Type.Array(Type.String(), { description: 'Linears in the order in which fine-tuning rounds them; the others come behind' }),
    steps: Type.Array(step, { minItems: 1 }),
  },
  { additionalProperties: false },
)

export type Architecture = Static<typeof architectureSchema>
