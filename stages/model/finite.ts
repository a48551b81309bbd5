/** finite: weights and predictions that are numbers, and what is said of others. */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'

/** Makes sure that no element is NaN or infinite. Raises PipeError naming the first tensor that has such, and how many. */
export async function expectFinite(ops: Ops, where: string, tensors: readonly (readonly [name: string, tensor: Tensor])[]): Promise<void> {
  const counts = tensors.map(([, tensor]) => ops.countNonFinite(tensor))
  const reads = counts.map(count => count.read())
  for (const count of counts) count[Symbol.dispose]()
  for (const [i, read] of (await Promise.all(reads)).entries()) {
    const [bad] = new Float64Array(read.slice().buffer)
    if (bad === 0) continue
    throw new PipeError('input', {
      where,
      message: `"${tensors[i]?.[0]}" has ${bad} elements that are NaN or infinite, of ${tensors[i]?.[1].size}.`,
      hint: 'The model itself is damaged: download it again, or ask who made it.',
    })
  }
}

/** What to raise where a model predicts NaN or an infinity from weights that are numbers. */
export const overflown = (where?: string): PipeError =>
  new PipeError('failed', {
    ...(where !== undefined && { where }),
    message: "the model's predictions are no numbers: what flows through it overflows.",
    hint: 'Its weights or config.json are damaged, or --precision bf16 is too narrow for it: try f32.',
  })
