/**
 * trainable: the weights of a block as training sees them. Linears are dense, or quantized with what can still be trained
 * when the codes are fixed: the vectors of the randomized Hadamard transform, a bias, and the entries of the code's table.
 *
 *   dense      y = x·Wᵀ + b
 *   quantized  y = ((x ⊙ su)·Mᵀ) ⊙ sv + b,  M = scale · H_m · Ŵ · H_nᵀ      su, sv real vectors (QTIP, arXiv:2406.11235, §5)
 *
 * The precision of a pass is that of its products of matrices: f32, or operands rounded to bf16 with sums and results in
 * f32. Values and gradients are f32 always; bf16 has the range of f32, so losses need no scaling.
 *
 * Gradients are added up until `clear`, so that several batches may go into one step.
 */
import type { TableTraining } from '../../native/codebook.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { blockName } from './architecture.js'
import type { ModelConfig } from './config.js'
import type { Precision } from './precision.js'

/** A tensor that is trained: its f32 value and the gradient of the loss by it, added up since the last `clear`. */
export class Parameter implements Disposable {
  private constructor(
    readonly name: string,
    readonly value: Tensor,
    readonly gradient: Tensor,
  ) {}

  /** Takes over `value`, f32; training changes it in place. */
  static of(ops: Ops, name: string, value: Tensor): Parameter {
    return new Parameter(name, value, ops.zeros('f32', value.shape))
  }

  /** Sets the gradient to zero. */
  clear(ops: Ops): void {
    ops.clear(this.gradient)
  }

  [Symbol.dispose](): void {
    this.value[Symbol.dispose]()
    this.gradient[Symbol.dispose]()
  }
}

/** A linear as the forward and backward passes see it. Disposing it lets go of its weights and parameters. */
export interface TrainableLinear extends Disposable {
  /** By the tensor's name below the linear: weight, bias, SU, SV, or the table's. */
  readonly parameters: ReadonlyMap<string, Parameter>
  /**
   * x f32 [t, n] → y f32 [t, m], and what `backward` needs besides x. x stays the caller's, who disposes y and `kept`.
   * precision: of the products; f32, if left out.
   */
  forward(x: Tensor, precision?: Precision): { y: Tensor; kept: readonly Tensor[] }
  /** dy f32 [t, m] → dx f32 [t, n]; adds the parameters' gradients. Disposes nothing it is given. */
  backward(dy: Tensor, x: Tensor, kept: readonly Tensor[], precision?: Precision): Tensor
}

/** What a block is trained by. Keys are the steps' names: 'input_layernorm', 'self_attn.q_proj'. */
export interface TrainableBlock {
  readonly norms: ReadonlyMap<string, Parameter>
  readonly linears: ReadonlyMap<string, TrainableLinear>
}

/** Every parameter of a block, each once. */
export const parametersOf = ({ norms, linears }: TrainableBlock): Parameter[] => [
  ...new Set([...norms.values(), ...[...linears.values()].flatMap(linear => [...linear.parameters.values()])]),
]

/** Lets go of a block's weights, parameters and gradients. */
export function disposeBlock({ norms, linears }: TrainableBlock): void {
  for (const part of [...norms.values(), ...linears.values()]) part[Symbol.dispose]()
}

/** The dense block of a layer, all of it trained; `open` gives its tensors, f32, by their full names. */
export async function openTrainable(
  ops: Ops,
  config: ModelConfig,
  layer: number,
  open: (name: string) => Promise<Tensor>,
): Promise<TrainableBlock> {
  const [norms, linears] = [new Map<string, Parameter>(), new Map<string, TrainableLinear>()]
  const block = blockName(config.architecture, layer)
  const parameter = async (name: string) => Parameter.of(ops, name, await open(name))
  try {
    for (const { name, op, bias } of config.steps) {
      if (name === undefined) continue
      const weight = await parameter(`${block}.${name}.weight`)
      if (op === 'rmsnorm') norms.set(name, weight)
      else linears.set(name, new DenseLinear(ops, weight, bias ? await parameter(`${block}.${name}.bias`) : undefined))
    }
    return { norms, linears }
  } catch (error) {
    disposeBlock({ norms, linears })
    throw error
  }
}

/** y = x·Wᵀ + b. A weight or bias given as a tensor is frozen, as a Parameter trained; both are taken over. */
export class DenseLinear implements TrainableLinear {
  readonly parameters: ReadonlyMap<string, Parameter>

  constructor(
    private readonly ops: Ops,
    private readonly weight: Tensor | Parameter,
    private readonly bias?: Tensor | Parameter,
  ) {
    this.parameters = named({ weight, bias })
  }

  forward(x: Tensor, precision: Precision = 'f32'): { y: Tensor; kept: readonly Tensor[] } {
    const { ops, weight, bias } = this
    return { y: biased(ops, product(ops, precision, x, tensorOf(weight), { transposeB: true }), bias), kept: [] }
  }

  backward(dy: Tensor, x: Tensor, _kept: readonly Tensor[], precision: Precision = 'f32'): Tensor {
    const { ops, weight, bias } = this
    if (weight instanceof Parameter) addProduct(ops, precision, weight.gradient, dy, x)
    if (bias instanceof Parameter) ops.addColumnDots(bias.gradient, dy)
    return product(ops, precision, dy, tensorOf(weight))
  }

  [Symbol.dispose](): void {
    this.weight[Symbol.dispose]()
    this.bias?.[Symbol.dispose]()
  }
}

/** What a quantized linear is made of; everything but `table` is taken over. */
export interface QuantizedParts {
  /** [n], [m]: signs at first. */
  readonly su: Parameter
  readonly sv: Parameter
  readonly scale: number
  /** Orders of H_m and H_n. */
  readonly transform: { readonly m: number; readonly n: number }
  /** u16 [tiles, steps], tiles row-major over [m, n] padded to whole tiles. */
  readonly codes: Tensor
  readonly bias?: Tensor | Parameter
  /** How codes become values: f32 [m, n] (padding cut off) with the entries of a table that stays the caller's, or once and for all. */
  readonly decode: ((codes: Tensor) => Tensor) | { readonly table: Parameter; readonly training: TableTraining }
}

/** See the file's head. With a trained table M is made anew by every forward pass, and kept by its tape. */
export class QuantizedLinear implements TrainableLinear {
  readonly parameters: ReadonlyMap<string, Parameter>
  readonly #fixed: Tensor | undefined

  constructor(
    private readonly ops: Ops,
    private readonly parts: QuantizedParts,
  ) {
    const { su, sv, bias, codes, decode } = parts
    this.parameters = named({ SU: su, SV: sv, bias, ...('table' in decode && { [decode.table.name]: decode.table }) })
    if ('table' in decode) return
    using values = decode(codes)
    this.#fixed = this.#spread(values)
  }

  forward(x: Tensor, precision: Precision = 'f32'): { y: Tensor; kept: readonly Tensor[] } {
    const { ops } = this
    const { su, sv, bias } = this.parts
    const dense = this.#fixed ?? this.#decoded()
    using scaled = ops.scale(x, { columns: su.value })
    const u = product(ops, precision, scaled, dense, { transposeB: true })
    const y = biased(ops, ops.scale(u, { columns: sv.value }), bias)
    return { y, kept: dense === this.#fixed ? [u] : [u, dense] }
  }

  backward(dy: Tensor, x: Tensor, kept: readonly Tensor[], precision: Precision = 'f32'): Tensor {
    const { ops } = this
    const { su, sv, bias, decode, codes, transform, scale } = this.parts
    const [u, dense = this.#fixed] = kept
    if (u === undefined || dense === undefined) throw new Error('backward of a quantized linear without what its forward kept')
    if (bias instanceof Parameter) ops.addColumnDots(bias.gradient, dy)
    ops.addColumnDots(sv.gradient, dy, u)
    using du = ops.scale(dy, { columns: sv.value })
    using dScaled = product(ops, precision, du, dense)
    ops.addColumnDots(su.gradient, dScaled, x)
    if ('table' in decode) {
      using scaled = ops.scale(x, { columns: su.value })
      using dM = product(ops, precision, du, scaled, { transposeA: true, alpha: scale })
      using right = ops.hadamard(dM, { side: 'right', block: transform.n })
      using dValues = ops.hadamard(right, { side: 'left', block: transform.m }) // H_mᵀ·dM·H_n
      decode.training.addGradient(decode.table.gradient, codes, dValues)
    }
    return ops.scale(dScaled, { columns: su.value })
  }

  #decoded(): Tensor {
    const { codes, decode, su, sv } = this.parts
    if (!('table' in decode)) throw new Error('a code without a table is decoded once')
    using values = decode.training.decode(codes, sv.value.size, su.value.size, decode.table.value)
    return this.#spread(values)
  }

  /** Ŵ → M. */
  #spread(values: Tensor): Tensor {
    const { transform, scale } = this.parts
    using right = this.ops.hadamard(values, { side: 'right', block: transform.n, inverse: true })
    using both = this.ops.hadamard(right, { side: 'left', block: transform.m, inverse: true })
    return this.ops.scale(both, { factor: scale })
  }

  [Symbol.dispose](): void {
    const { su, sv, codes, bias } = this.parts
    for (const part of [su, sv, codes, bias, this.#fixed]) part?.[Symbol.dispose]()
  }
}

/** op(a)·op(b) in f32, from f32 operands that `precision` rounds; b may be in bf16 already. */
function product(
  ops: Ops,
  precision: Precision,
  a: Tensor,
  b: Tensor,
  o: { transposeA?: boolean; transposeB?: boolean; alpha?: number } = {},
): Tensor {
  if (precision === 'f32') return ops.matmul(a, b, o)
  using left = ops.cast(a, 'bf16')
  if (b.dtype === 'bf16') return ops.matmul(left, b, { ...o, dtype: 'f32' }) // a frozen weight may be kept so
  using right = ops.cast(b, 'bf16')
  return ops.matmul(left, right, { ...o, dtype: 'f32' })
}

/** c += aᵀ·b. */
function addProduct(ops: Ops, precision: Precision, c: Tensor, a: Tensor, b: Tensor): void {
  const sum = (left: Tensor, right: Tensor) => ops.gemm(c, left, right, { transposeA: true, beta: 1 })
  if (precision === 'f32') {
    sum(a, b)
    return
  }
  using left = ops.cast(a, 'bf16')
  using right = ops.cast(b, 'bf16')
  sum(left, right)
}

const tensorOf = (x: Tensor | Parameter): Tensor => (x instanceof Parameter ? x.value : x)

const named = (parts: Readonly<Record<string, Tensor | Parameter | undefined>>): Map<string, Parameter> =>
  new Map(Object.entries(parts).flatMap(([name, part]) => (part instanceof Parameter ? [[name, part] as const] : [])))

/** Takes over y. */
function biased(ops: Ops, y: Tensor, bias: Tensor | Parameter | undefined): Tensor {
  if (bias === undefined) return y
  using unbiased = y
  return ops.addBias(unbiased, tensorOf(bias))
}
