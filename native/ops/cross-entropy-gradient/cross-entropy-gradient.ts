import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * Cross-entropy of logits f32 [t, v] with labels that are sparse: targets i32 [t] or [t, k], weights f32 of their shape
 * (left out: all 1); −1 is no label. With k = 1 and no weights, the next token's negative log-likelihood.
 *
 *   loss[t] = Σ_k weights[t, k] · −log softmax(logits[t])[targets[t, k]]   f32, nats
 *   gradient = factor · ∂Σloss/∂logits                                     f32 [t, v]
 */
export const crossEntropyGradient =
  (device: Device) =>
  (logits: Tensor, targets: Tensor, o: { weights?: Tensor; factor?: number } = {}): { loss: Tensor; gradient: Tensor } => {
    const { weights, factor = 1 } = o
    const [t, v] = expectMatrix('crossEntropyGradient', 'logits', logits, ['f32'])
    const k = targets.shape[1] ?? 1
    expectTensor('crossEntropyGradient', 'targets', targets, ['i32'], targets.shape.length === 1 ? [t] : [t, undefined])
    if (weights) expectTensor('crossEntropyGradient', 'weights', weights, ['f32'], targets.shape)
    const [loss, gradient] = [device.empty('f32', [t]), device.empty('f32', [t, v])]
    device.run('cross_entropy_gradient', { logits, targets, weights, loss, gradient, t, v, k, factor })
    return { loss, gradient }
  }
