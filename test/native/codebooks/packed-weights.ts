/** Random packed weights of the codes that have products, for tests of what reads them. */
import type { PackedLinear, PackedProducts, Unfinished } from '../../../native/codebook.js'
import { roundHalf } from '../../../native/codebooks/half.js'
import { kernelOrder } from '../../../native/codebooks/trellis/kernel-layout.js'
import type { Tensor } from '../../../native/tensor.js'
import { gaussian, uniform } from '../devices.js'

/** By name, less trellis/. */
export const codes = ['hyb', '1mad', '3inst', 'mul1', 'mcg']
/** A table for hyb, f16 numbers [512, 2]. */
export const entries = Float32Array.from(gaussian(1024, 7), roundHalf)

/** Any bits are tiles: their strings are circular. */
export const randomWords = (count: number, seed: number): Int16Array => {
  const next = uniform(seed)
  return Int16Array.from({ length: count }, () => next() * 65536 - 32768)
}

export const shapeOf = (code: string, K: number, tensorCore: boolean) => {
  const V = code === 'hyb' ? 2 : 1
  return { L: 16, KV: K * V, V, Tx: 16, Ty: 16, ...(tensorCore && { order: kernelOrder }) }
}

type Asked = Omit<PackedLinear, 'rows'> & {
  readonly outputs: readonly (Omit<Unfinished, 'z' | 'first' | 'add'> & { readonly add?: Tensor })[]
}
/** A product and, of its outputs, each finished. */
export const finished = (products: PackedProducts, x: Tensor, arranged: Tensor, { outputs, ...o }: Asked): Tensor[] => {
  const rows = outputs.reduce((sum, output) => sum + output.rows, 0)
  using z = products.linear(x, arranged, { ...o, rows }).z
  const before = (i: number): number => outputs.slice(0, i).reduce((sum, output) => sum + output.rows, 0)
  return products.finish(outputs.map((output, i) => ({ ...output, z, first: before(i) })))
}
