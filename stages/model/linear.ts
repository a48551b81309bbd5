/**
 * linear: linears whose weights stay packed, as the forward pass multiplies by them. All that read one input with the same
 * signs SU and the same transform are one product:
 *
 *   x̃ = (x ⊙ SU)·H_n      z = x̃·Ŵᵀ, of all rows of all of them      y_i = (z_i·H_m_iᵀ) ⊙ SV_i
 *
 * QTIP (arXiv:2406.11235) section 3; the transform as in QuIP# (arXiv:2402.04396) section 3. Few rows of x go through the
 * code's kernel, which decodes as it multiplies; more through a matrix that is decoded for them and let go of at once.
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

/** What linears read: x; x normed; or silu(gate) ⊙ x. */
export interface LinearInput {
  readonly x: Value
  readonly norm?: { readonly weight: Tensor; readonly eps: number }
  readonly gate?: Value
}

/**
 * Up to so many times the most rows of a product, multiplying in parts costs less than decoding once. On an H100 16 rows of
 * 8192 × 28672 take 0.12 ms with hyb and 0.27 with mul1; with decoding, 128 tokens of Llama-2-70B took 1.9 s, 7 ms a matrix of that size.
 */
const parts = { cpu: 4, cuda: 24 }

export class PackedLinears implements Disposable {
  private constructor(
    private readonly ops: Ops,
    private readonly members: readonly PackedWeights[],
    private readonly packed: PackedProducts,
    /** Of all members, rows one after the other, as the kernels read it. */
    private readonly arranged: Tensor,
    private readonly precision: Precision,
  ) {}

  /** Linears that read one input, in the fewest products. Takes over their tensors. precision: of products with decoded weights. */
  static async group(ops: Ops, linears: readonly PackedWeights[], precision: Precision): Promise<PackedLinears[]> {
    const groups = new Map<string, PackedWeights[]>()
    const codecs = [...new Set(linears.map(({ codec }) => codec))]
    for (const one of linears) {
      const su = Buffer.from(await one.su.read()).toString('latin1')
      const key = `${codecs.indexOf(one.codec)} ${one.n} ${one.transform.n} ${su}`
      groups.set(key, [...(groups.get(key) ?? []), one])
    }
    return [...groups.values()].map(members => PackedLinears.of(ops, members, precision))
  }

  private static of(ops: Ops, members: readonly PackedWeights[], precision: Precision): PackedLinears {
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

  /** Bytes of codes that one product reads. */
  get bytes(): number {
    return this.arranged.bytes
  }

  /**
   * u f32 [t, n] of the input → u·W_iᵀ f32 [t, m_i] of each, in the order of the names; and `add` [t, m_0] to the first. Of few rows they are
   * not finished, and an x that was not is finished if somebody else reads it too.
   */
  apply(input: LinearInput, add?: Value): Value[] {
    const { ops, packed, arranged, members } = this
    const [{ su, n, transform }] = members as [PackedWeights]
    const { x, norm, gate } = input
    if (x.rows <= packed.most) {
      const rows = members.reduce((sum, { m }) => sum + m, 0)
      const keep = x.isAwaited && gate === undefined
      const o = { rows, columns: n, su, block: transform.n, norm, gate: gate?.input, keep }
      const { z, kept } = packed.linear(x.input, arranged, o)
      if (kept) x.finished(kept)
      const outputs = members.map(({ m, sv, transform }, i) => ({ rows: m, sv, block: transform.m, add: i === 0 ? add : undefined }))
      return Value.outputs(packed, z, outputs)
    }
    using made = norm ? ops.rmsnorm(x.tensor, norm.weight, { eps: norm.eps }) : gate && ops.siluMul(gate.tensor, x.tensor)
    const [first, ...others] = this.#composed(made ?? x.tensor)
    if (first === undefined || add === undefined) return [...(first ? [first] : []), ...others].map(Value.of)
    using product = first
    return [ops.add(add.tensor, product), ...others].map(Value.of)
  }

  #composed(x: Tensor): Tensor[] {
    const { ops, members } = this
    const [{ su, transform }] = members as [PackedWeights]
    using incoherent = ops.hadamard(x, { side: 'right', signs: su, block: transform.n })
    const z = this.#product(incoherent)
    using all = z
    let from = 0
    return members.map(({ m, sv, transform }) => {
      using own = members.length === 1 ? undefined : ops.copy(all, { columns: [from, from + m] })
      from += m
      return ops.hadamard(own ?? all, { side: 'right', signs: sv, block: transform.m, inverse: true })
    })
  }

  /** x̃ f32 [t, n] → x̃·Ŵᵀ f32 [t, rows]. */
  #product(x: Tensor): Tensor {
    const { ops, packed, arranged, members } = this
    const [t, columns] = x.shape as [number, number]
    const rows = members.reduce((sum, { m }) => sum + m, 0)
    if (t <= packed.most) return packed.product(x, arranged, { rows, columns })
    if (t > parts[ops.device.kind] * packed.most) return this.#decoded(x, rows)
    const y = ops.device.empty('f32', [t, rows])
    for (let from = 0; from < t; from += packed.most) {
      using part = ops.copy(x, { rows: [from, Math.min(t, from + packed.most)] })
      using product = packed.product(part, arranged, { rows, columns })
      ops.paste(y, product, { row: from })
    }
    return y
  }

  #decoded(x: Tensor, rows: number): Tensor {
    const { ops, packed, arranged, members, precision } = this
    const [{ n }] = members as [PackedWeights]
    using values = packed.decode(arranged, rows, n)
    if (precision === 'f32') return ops.matmul(x, values, { transposeB: true })
    using narrow = ops.cast(x, 'bf16')
    using matrix = ops.cast(values, 'bf16')
    return ops.matmul(narrow, matrix, { transposeB: true, dtype: 'f32' })
  }

  [Symbol.dispose](): void {
    for (const { su, sv } of this.members) for (const x of [su, sv]) x[Symbol.dispose]()
    this.arranged[Symbol.dispose]()
  }
}
