/** precision: what the forward pass computes in, f32 or bf16 matrices with f32 sums. */
import { type Static, Type } from '@sinclair/typebox'
import type { Ops } from '../../native/ops.js'
import { elements } from '../../native/tensor.js'
import { headName } from './architecture.js'
import type { Checkpoint } from './checkpoint.js'

export type Precision = 'f32' | 'bf16'

/** The parameter of stages that run the model. What auto gives depends on the device's kind and on the model, which are part of every key. */
export const precisionParameter = Type.Union([Type.Literal('auto'), Type.Literal('f32'), Type.Literal('bf16')], {
  default: 'auto',
  description:
    'What the model runs in: f32, or bf16 with sums in f32; auto: bf16 on a GPU for a large model that is stored in 16 bits, else f32',
})

/**
 * Weights of the linears of a large model. One with fewer takes seconds in f32, and small models are what results of CPU
 * and GPU are compared on: every change of a Hessian in its last places is another draw of the codes.
 */
const large = 2 ** 28

/** What the parameter means for this model on this device. */
export function precisionOf(asked: Static<typeof precisionParameter>, ops: Ops, { config, tensors, expected }: Checkpoint): Precision {
  if (asked !== 'auto') return asked
  const dtype = tensors.get(`${config.architecture.embed}.weight`)?.dtype
  const weights = expected.reduce((sum, { role, shape }) => (role === 'linear' ? sum + elements(shape) : sum), 0)
  return ops.device.kind === 'cuda' && (dtype === 'bf16' || dtype === 'f16') && weights >= large ? 'bf16' : 'f32'
}

/**
 * What embedding and head are held in where text is made. On a CPU bf16 stays bf16: the same numbers in half the bytes, and reading a head
 * takes most of the time of its product with a row.
 */
export const precisionOfHead = (precision: Precision, ops: Ops, { config, tensors }: Checkpoint): Precision => {
  const names = [config.architecture.embed, headName(config.architecture, config.tied)]
  const isStoredSo = names.every(name => tensors.get(`${name}.weight`)?.dtype === 'bf16')
  return ops.device.kind === 'cpu' && isStoredSo ? 'bf16' : precision
}

/** The parameter of stages that train. Validation, by which states are kept, is in f32 whatever it says. */
export const trainingPrecision = Type.Union([Type.Literal('auto'), Type.Literal('f32'), Type.Literal('bf16')], {
  default: 'f32',
  description: 'Products and attention while training: f32, or bf16 with sums, gradients and trained values in f32; auto: as in calibrate',
})
