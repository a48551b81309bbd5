/** packed-block: the weights of a block whose linears stay packed where there are kernels for that; all else is dense. */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { type Block, expectFinite, Opened } from './forward.js'
import { PackedLinears, type PackedWeights } from './linear.js'
import type { Precision } from './precision.js'
import type { Weights } from './quantized.js'

export class PackedBlock implements Block {
  /** Activations are f32: what the products take and give. */
  readonly precision = 'f32'
  readonly #groups = new Map<string, PackedLinears>()
  /** Results that linears of one product have not asked for yet, and what they are of. */
  readonly #waiting = new Map<string, { x: Tensor; y: Tensor }>()

  private constructor(
    private readonly dense: Opened,
    groups: readonly PackedLinears[],
  ) {
    for (const group of groups) for (const name of group.names) this.#groups.set(name, group)
  }

  /** precision: of products with decoded weights, for many rows. Raises PipeError as Opened.open does. */
  static async open(ops: Ops, weights: Weights, layer: number, precision: Precision): Promise<PackedBlock> {
    const { checkpoint } = weights
    const tensors = checkpoint.expected.filter(tensor => tensor.layer === layer)
    const groups: PackedLinears[] = []
    const inputs = new Map<string, PackedWeights[]>()
    const open: Tensor[] = []
    try {
      for (const { name, role, shares } of tensors) {
        const one = role === 'linear' ? await weights.packed?.(name.replace(/\.weight$/, '')) : undefined
        if (one === undefined) continue
        open.push(one.trellis, one.su, one.sv)
        inputs.set(shares, [...(inputs.get(shares) ?? []), one])
      }
      const packed = [...inputs.values()].flat()
      await expectFinite(
        ops,
        checkpoint.path,
        packed.flatMap(({ linear, su, sv }) => [[`${linear}.SU`, su] as const, [`${linear}.SV`, sv] as const]),
      )
      for (const linears of inputs.values()) groups.push(...(await PackedLinears.group(ops, linears, precision)))
      const known = new Set(packed.map(({ linear }) => `${linear}.weight`))
      const others = tensors.map(({ name }) => name).filter(name => !known.has(name))
      return new PackedBlock(await Opened.open(ops, weights, others), groups)
    } catch (error) {
      for (const part of [...groups, ...open]) part[Symbol.dispose]()
      throw error
    }
  }

  /** Bytes of codes and of dense linears that a row of x reads. */
  get bytes(): number {
    return [...new Set(this.#groups.values())].reduce((sum, group) => sum + group.bytes, this.dense.bytes)
  }

  get(name: string): Tensor {
    return this.dense.get(name)
  }

  linear(name: string, x: Tensor): Tensor | undefined {
    const waiting = this.#waiting.get(name)
    this.#waiting.delete(name)
    if (waiting?.x === x) return waiting.y
    waiting?.y[Symbol.dispose]()
    const group = this.#groups.get(name)
    if (group === undefined) return undefined
    let own: Tensor | undefined
    for (const [i, y] of group.apply(x).entries()) {
      const of = group.names[i] as string
      if (of === name) own = y
      else this.#waiting.set(of, { x, y })
    }
    return own
  }

  [Symbol.dispose](): void {
    for (const { y } of this.#waiting.values()) y[Symbol.dispose]()
    for (const part of [this.dense, ...new Set(this.#groups.values())]) part[Symbol.dispose]()
  }
}
