import type { Device } from '../../device.js'
import { expectMatrix, expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** Orders K of the matrices that the addon builds (native/ops/hadamard/hadamard_matrix.h), in the order in which they are tried. */
const orders = [172, 156, 140, 124, 116, 108, 60, 52, 36, 28, 20, 12, 1]

/** block = K·2ᵖ with K the first known order for which there is such a p; undefined when there is none. */
export const hadamardFactor = (block: number): { K: number; p: number } | undefined => {
  for (const K of orders) {
    const p = Math.log2(block / K)
    if (block % K === 0 && Number.isInteger(p)) return { K, p }
  }
  return undefined
}

/**
 * The block to transform n coordinates with: n itself where a matrix of that order is known, otherwise the largest
 * power of two that divides n and is at most `most`.
 */
export const hadamardBlock = (n: number, most = Number.POSITIVE_INFINITY): number => {
  if (hadamardFactor(n)) return n
  let block = 1
  while (n % (block * 2) === 0 && block * 2 <= most) block *= 2
  return block
}

/** What tables say of a transform: '256', '172x4' (K × 2ᵖ), '5632 in blocks of 512'. */
export const hadamardText = (n: number, block: number): string => {
  if (block !== n) return `${n} in blocks of ${hadamardText(block, block)}`
  const factor = hadamardFactor(block)
  return factor === undefined || factor.K === 1 ? `${block}` : `${factor.K}x${2 ** factor.p}`
}

/**
 * Randomized Hadamard transform from one side, x f32 [m, n], signs (or scales) s f32 [n] (right) or [m] (left), left out = 1:
 *
 *   right: x·diag(s)·H      left: Hᵀ·diag(s)·x      right, inverse: x·Hᵀ·diag(s)      left, inverse: diag(s)·H·x
 *
 * with H = (M_K ⊗ Sylvester(2ᵖ))/√block of order block = K·2ᵖ; where block < n (or m), H is block diagonal.
 * Throws when the block does not divide the side or no matrix of its order is known.
 * QuIP# (arXiv:2402.04396) section 3, with H and Hᵀ as in the authors' code.
 */
export const hadamard =
  (device: Device) =>
  (x: Tensor, o: { side: 'left' | 'right'; signs?: Tensor; block: number; inverse?: boolean }): Tensor => {
    const [m, n] = expectMatrix('hadamard', 'x', x, ['f32'])
    const { side, signs, block, inverse = false } = o
    const length = side === 'left' ? m : n
    expectWhole('hadamard', 'block', block, 1)
    const factor = hadamardFactor(block)
    if (factor === undefined)
      throw new RangeError(`hadamard: no matrix of order ${block} is known; hadamardBlock(${length}) is ${hadamardBlock(length)}`)
    if (length % block !== 0) throw new RangeError(`hadamard: block ${block} does not divide ${length}, the ${side} side of x [${m}, ${n}]`)
    if (signs) expectTensor('hadamard', 'signs', signs, ['f32'], [length])
    const out = device.empty('f32', [m, n])
    device.run('hadamard', { x, signs, out, m, n, block, factor: factor.K, left: side === 'left', inverse })
    return out
  }
