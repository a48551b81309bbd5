/** Groups of a linear's outputs, equal in size and one after the other, that may have an H each. */
import type { TensorRef } from '../../native/tensor-ref.js'
import { PipeError } from '../../pipeline/define.js'

export const mostGroups = 8

/** The most groups that m outputs can be cut into: 8, 4, 2 or 1. Squared gradients are averaged over these, so that any coarser ones can be made of them. */
export const finestGroups = (m: number): number => [mostGroups, 4, 2].find(groups => m % groups === 0) ?? 1

/** g of a row whose `hessian` is [g·n, n]; 1 without one. Raises PipeError where there can be no such groups. */
export function hessianGroups({
  hessian,
  linear,
  m,
  n,
}: {
  hessian?: TensorRef | undefined
  linear: string
  m: number
  n: number
}): number {
  if (hessian === undefined) return 1
  const [rows = 0, columns = 0] = hessian.shape
  const groups = rows / n
  if (hessian.shape.length === 2 && columns === n && Number.isInteger(groups) && groups > 0 && m % groups === 0) return groups
  throw new PipeError('failed', {
    where: linear,
    message: `A Hessian [${hessian.shape}] came for ${m} outputs of ${n} inputs; expected [${n}, ${n}], or [g·${n}, ${n}] for g groups of outputs.`,
    hint: 'Whatever made it (a stage of your own, hessian-files) must give one H, or one for each of g groups of equal size.',
  })
}
