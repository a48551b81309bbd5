/**
 * linear: linears whose weights stay packed, as the forward pass multiplies by them. All that read one input with the same
 * signs SU and the same transform are one product:
 *
 *   x̃ = (x ⊙ SU)·H_n      z = x̃·Ŵᵀ, of all rows of all of them      y_i = (z_i·H_m_iᵀ) ⊙ SV_i
 *
 * QTIP (arXiv:2406.11235) section 3; the transform as in QuIP# (arXiv:2402.04396) section 3. Few rows of x go through the
 * code's kernel, which decodes as it multiplies; more, a prompt's, through a matrix that is decoded for them slice by slice.
 */
import type { Codec, PackedProducts } from '../../native/codebook.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { Precision } from './precision.js'
import { Value } from './value.js'

/** A linear W = diag(SV)·H_m·Ŵ·H_nᵀ·diag(SU) as it is stored, in a code that has products. */
export interface PackedWeights {
  readonly linear: string
  readonly m: number
  readonly n: number
  /** Orders of H_m and H_n. */
  readonly transform: { readonly m: number; readonly n: number }
  /** Linears of one code have one codec. It is the weights'. */
  readonly codec: Codec
  /** i16 [tiles, words]; f32 [n]; f32 [m]. Whoever asked disposes them. */
  readonly trellis: Tensor
  readonly su: Tensor
  readonly sv: Tensor
}

/** What packed linears multiply by: f32, or whole numbers of 8 bits (CPU). */
export type Activations = 'f32' | 'int8'

/** How products are done. */
export interface PackedPrecision {
  /** Of decoded weights, for many rows. */
  readonly precision: Precision
  /** int8 (CPU): x̃ is rounded to 8 bits a row, and hyb's table too; twice as fast, NMSE 1e-4 to 2e-4. Nothing is decoded then. Default: f32. */
  readonly activations?: Activations | undefined
}

/** What linears read: x; x normed; or silu(gate) ⊙ x. */
export interface LinearInput {
  readonly x: Value
  readonly norm?: { readonly weight: Tensor; readonly eps: number }
  readonly gate?: Value
}

export class PackedLinears implements Disposable {
  private constructor(
    private readonly ops: Ops,
    private readonly members: readonly PackedWeights[],
    private readonly packed: PackedProducts,
    /** Of all members, rows one after the other, as the kernels read it. */
    private readonly arranged: Tensor,
    private readonly precision: PackedPrecision,
  ) {}

  /** Linears that read one input, in the fewest products. Takes over their tensors. */
  static async group(ops: Ops, linears: readonly PackedWeights[], precision: PackedPrecision): Promise<PackedLinears[]> {
    const groups = new Map<string, PackedWeights[]>()
    const codecs = [...new Set(linears.map(({ codec }) => codec))]
    for (const one of linears) {
      const su = Buffer.from(await one.su.read()).toString('latin1')
      const key = `${codecs.indexOf(one.codec)} ${one.n} ${one.transform.n} ${su}`
      groups.set(key, [...(groups.get(key) ?? []), one])
    }
    return [...groups.values()].flatMap(members => {
      const most = members[0]?.codec.packed?.mostOutputs ?? 1
      const parts = Array.from({ length: Math.ceil(members.length / most) }, (_, i) => members.slice(i * most, (i + 1) * most))
      return parts.map(part => PackedLinears.of(ops, part, precision))
    })
  }

  private static of(ops: Ops, members: readonly PackedWeights[], precision: PackedPrecision): PackedLinears {
    const [{ codec, n, trellis: first }] = members as [PackedWeights]
    const { packed } = codec
    if (packed === undefined) throw new Error('a linear of a code without products is no packed one')
    // Rows of tiles come one after the other, and so do those of several matrices.
    const trellis = members.length === 1 ? first : ops.concat(members.map(one => one.trellis))
    const rows = members.reduce((sum, { m }) => sum + m, 0)
    const arranged = packed.arrange(trellis, rows, n)
    for (const stored of new Set([trellis, ...members.map(one => one.trellis)])) stored[Symbol.dispose]()
    return new PackedLinears(ops, members, packed, arranged, precision)
  }

  get names(): readonly string[] {
    return this.members.map(({ linear }) => linear)
  }

  get #int8(): 'int8' | undefined {
    return this.precision.activations === 'int8' ? 'int8' : undefined
  }

  /** Bytes of codes that one product reads. */
  get bytes(): number {
    return this.arranged.bytes
  }

  /**
   * u f32 [t, n] of the input → u·W_iᵀ + bias_i f32 [t, m_i] of each, in the order of the names; and `add` [t, m_0] to the first. Of few rows
   * they are not finished, and an x that was not is finished if somebody else reads it too.
   */
  apply(input: LinearInput, biases: readonly (Tensor | undefined)[], add?: Value): Value[] {
    const { ops, packed, arranged, members } = this
    const [{ su, n, transform }] = members as [PackedWeights]
    const { x, norm, gate } = input
    if (x.rows <= packed.most) {
      const rows = members.reduce((sum, { m }) => sum + m, 0)
      const given = x.input
      const keep = x.isAwaited && gate === undefined
      const o = { rows, columns: n, su, block: transform.n, norm, gate: gate?.input, keep, precision: this.#int8 }
      const { z, kept } = packed.linear(given, arranged, o)
      if (kept) x.finished(kept)
      const outputs = members.map(({ m: rows, sv, transform: { m: block } }, i) => ({
        rows,
        sv,
        block,
        bias: biases[i],
        ...(i === 0 && { add }),
      }))
      return Value.outputs(packed, z, outputs)
    }
    const linears = members.map(({ m, sv, transform }, i) => ({ rows: m, sv, block: transform.m, add: i === 0 ? add?.tensor : undefined }))
    const rounded = this.precision.precision === 'bf16'
    const o = { columns: n, su, block: transform.n, norm, gate: gate?.tensor, linears, rounded, precision: this.#int8 }
    return packed.prompt(x.tensor, arranged, o).map((y, i) => {
      const bias = biases[i]
      if (bias === undefined) return Value.of(y)
      using unbiased = y
      return Value.of(ops.addBias(unbiased, bias))
    })
  }

  [Symbol.dispose](): void {
    for (const { su, sv } of this.members) for (const x of [su, sv]) x[Symbol.dispose]()
    this.arranged[Symbol.dispose]()
  }
}
