/** What tests of forward and backward passes compare with: a block in float64. */
import { addBiasReference } from '../../../native/ops/add-bias/reference.js'
import { attentionReference } from '../../../native/ops/attention/reference.js'
import { gemmReference } from '../../../native/ops/gemm/reference.js'
import { rmsnormReference } from '../../../native/ops/rmsnorm/reference.js'
import { ropeReference } from '../../../native/ops/rope/reference.js'
import { siluMulReference } from '../../../native/ops/silu-mul/reference.js'
import { blockName } from '../../../stages/model/architecture.js'
import type { ModelConfig } from '../../../stages/model/config.js'

export interface Place {
  readonly config: ModelConfig
  readonly layer: number
  readonly sequences: number
  readonly length: number
  readonly cos: ArrayLike<number>
  readonly sin: ArrayLike<number>
}

/** A block in float64, step by step as its architecture says. `moved` is told what each linear gives, and may change it. */
export const blockReference = (
  place: Place,
  weights: ReadonlyMap<string, Float64Array>,
  x: ArrayLike<number>,
  moved: (linear: string, y: Float64Array) => void = () => {},
): Float64Array => {
  const { config, layer, sequences, length, cos, sin } = place
  const { h: heads, g: kvHeads, e } = config.sizes
  const rows = sequences * length
  const positions = Int32Array.from({ length: rows }, (_, t) => t % length)
  const made = new Map<string, Float64Array>([['x', Float64Array.from(x)]])
  for (const { op, out, reads, name, shape, bias } of config.steps) {
    const [first, second, third] = reads.map(read => made.get(read)!) as [Float64Array, Float64Array, Float64Array]
    const weight = (ending: string) => weights.get(`${blockName(config.architecture, layer)}.${name}.${ending}`)!
    const linear = (input: Float64Array) => {
      const [m, n] = shape as [number, number]
      const y = gemmReference(input, weight('weight'), rows, m, n, { lda: n, ldb: n, transposeB: true })
      const biased = bias ? addBiasReference(y, weight('bias')) : y
      moved(name!, biased)
      return biased
    }
    const run = {
      rmsnorm: () => rmsnormReference(first, weight('weight'), config.eps),
      linear: () => linear(first),
      'add linear': () => linear(second).map((y, i) => y + first[i]!),
      attention: () =>
        attentionReference(ropeReference(first, cos, sin, positions, heads), ropeReference(second, cos, sin, positions, kvHeads), third, {
          heads,
          kvHeads,
          e,
          length,
          window: config.windows[layer],
          scale: 1 / Math.sqrt(e),
        }),
      silu·: () => siluMulReference(first, second),
    }
    made.set(out, run[op]())
  }
  return made.get('x')!
}
