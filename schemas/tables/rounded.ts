/** rounded: linears as codes, then packed. */
import { f64, optional, tensor, utf8 } from '../../pipeline/define.js'
import { linears } from './linears.js'

/** Signs of the randomized Hadamard transform, and which transform it was. */
export const incoherent = linears.and({
  dense: optional(tensor('float', 'm n', 'W as it came, for a linear that is left alone')),
  su: optional(tensor('f32', 'n', 'input signs ±1, common to all linears that share the input; real numbers when trained')),
  sv: optional(tensor('f32', 'm', 'output signs ±1; real numbers when trained')),
  transform: utf8(
    'JSON {"m", "n"}: orders of the Hadamard matrices of outputs and inputs, repeated where smaller than m, n; empty for kept',
  ),
})

const { weight } = linears.columns
export const rounded = incoherent.without('hessian', 'K', 'dense').and({
  weight: optional(weight),
  codes: optional(tensor('u16', 'tiles codes', 'codes of the tiles, row-major over (row tile, column tile)')),
  codebook: utf8('JSON of the codebook with all its parameters; empty for kept'),
  scale: f64('W̃ ≈ scale · decode(codes); 0 for kept'),
  table: optional(tensor('f32', 'rows V', "entries of the code's table, where they were trained: this linear's own; none: the code's")),
  proxyError: f64('tr((W̃−Ŵ)H̃(W̃−Ŵ)ᵀ) / tr(W̃H̃W̃ᵀ), H̃ damped; 0 for kept'),
})

export const packed = rounded.without('codes').and({
  trellis: optional(tensor('i16', 'tiles words', 'the codes in their stored form')),
})
