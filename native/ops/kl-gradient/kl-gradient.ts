import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * How far a student's distribution is from a teacher's, P = softmax(teacher), Q = softmax(student), both f32 [t, v]:
 *
 *   divergence[t] = Σ_j P_j·(log P_j − log Q_j)      crossEntropy[t] = −Σ_j P_j·log Q_j      f32, nats
 *   gradient = factor · (Q − P)                      f32 [t, v]; that of both by the student's logits: they differ by P's entropy
 */
export const klGradient =
  (device: Device) =>
  (teacher: Tensor, student: Tensor, o: { factor?: number } = {}): { divergence: Tensor; crossEntropy: Tensor; gradient: Tensor } => {
    const [t, v] = expectMatrix('klGradient', 'teacher', teacher, ['f32'])
    expectMatrix('klGradient', 'student', student, ['f32'], [t, v])
    const [divergence, crossEntropy, gradient] = [device.empty('f32', [t]), device.empty('f32', [t]), device.empty('f32', [t, v])]
    device.run('kl_gradient', { teacher, student, divergence, crossEntropy, gradient, t, v, factor: o.factor ?? 1 })
    return { divergence, crossEntropy, gradient }
  }
