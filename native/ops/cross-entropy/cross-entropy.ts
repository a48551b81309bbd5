import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** f32 [t], nats: −log softmax(logits[t])[targets[t]]; logits f32 [t, v]; targets i32 [t], −1 = left out (0). */
export const crossEntropy =
  (device: Device) =>
  (logits: Tensor, targets: Tensor): Tensor => {
    const [t, v] = expectMatrix('crossEntropy', 'logits', logits, ['f32'])
    expectTensor('crossEntropy', 'targets', targets, ['i32'], [t])
    const out = device.empty('f32', [t])
    device.run('cross_entropy', { logits, targets, out, t, v })
    return out
  }
