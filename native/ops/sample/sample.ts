import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** Numbers that say how a row's token is drawn: repetition penalty, temperature, top-k, top-p, min-p, u (sample.h). */
export const numbersOfDraw = 6

/**
 * The next token of each row of logits f32 [t, v], v ≤ 2²¹, as i32 [t]; −1 where a logit is NaN or the largest is infinite:
 *
 *   how    f64 [t, 6]  repetition penalty r (1: none), temperature T (0: the largest, of equal ones the first), top-k (0: all),
 *                      top-p (1: all), min-p (0: all), and u in [0, 1)
 *   slots  i32 [t]     which row of `seen` is the text's, all different
 *   seen   u8 [s, v]   1 where a token was seen; where r is not 1, what is drawn is added
 *
 * The penalty is applied first (Keskar et al., arXiv:1909.05858, section 4.1), then softmax(z / T), then each cut on what the
 * one before left (top-p: Holtzman et al., arXiv:1904.09751, 3.1; min-p: arXiv:2407.01082, 3). Of what is left, the likeliest
 * first, the token is the first with which the sum is more than u of it all. Throws TypeError and RangeError on other shapes.
 */
export const sample =
  (device: Device) =>
  (logits: Tensor, { how, slots, seen }: { how: Tensor; slots: Tensor; seen: Tensor }): Tensor => {
    const [t, v] = expectMatrix('sample', 'logits', logits, ['f32'])
    if (v < 1 || v > 2 ** 21) throw new RangeError(`sample: a row has from 1 to ${2 ** 21} logits, got ${v}`)
    expectMatrix('sample', 'how', how, ['f64'], [t, numbersOfDraw])
    expectTensor('sample', 'slots', slots, ['i32'], [t])
    const [s] = expectMatrix('sample', 'seen', seen, ['u8'], [undefined, v])
    const out = device.empty('i32', [t])
    device.run('sample', { logits, how, slots, seen, out, t, v, s })
    return out
  }
