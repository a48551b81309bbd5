/** linears: a linear layer on its way from weights to bits, one a row. Tensors that are carried along are rows too. */
import { defineTable, optional, tensor, u32, utf8 } from '../../pipeline/define.js'

export const linears = defineTable('linears', 1, {
  role: utf8<'linear' | 'kept'>('a linear to quantize, or a tensor carried through (norms, embedding, head, biases)'),
  layer: u32('index of the block, from 0; kept tensors outside blocks: 0'),
  linear: utf8('full name of the tensor without .weight, e.g. model.layers.0.self_attn.q_proj; kept: the full name'),
  shares: utf8('name of the input the linear reads inside its block: linears of one layer with the same name share H'),
  m: u32('outputs (rows of W)'),
  n: u32('inputs (columns of W)'),
  source: utf8('folder of the checkpoint this comes from'),
  weight: tensor('float', 'm n', 'W, one output a row; kept: any shape and type'),
  K: optional(u32('bits a weight that this linear is to have; none: as the code says')),
  hessian: optional(
    tensor('f32', 'n n', 'H = E[x xᵀ], not damped; with g groups of outputs theirs, one below the other: [g·n, n]; kept: none'),
  ),
})
