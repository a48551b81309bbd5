/**
 * value: what a step of a packed block makes, f32 [t, n]: a tensor, or an output as its product left it. A packed linear finishes what it reads
 * as part of its own first kernel; for everybody else it is finished once, and with it all that its product has left.
 */
import type { PackedProducts, Unfinished } from '../../native/codebook.js'
import type { Tensor } from '../../native/tensor.js'

/** An output but for z and its place there. */
export interface Output extends Pick<Unfinished, 'rows' | 'sv' | 'block'> {
  readonly bias?: Tensor | undefined
  /** Added to it: shared for as long as it is not finished. */
  readonly add?: Value | undefined
}

export class Value implements Disposable {
  #owners = 1
  #is: Tensor | Product

  private constructor(is: Tensor | Product) {
    this.#is = is
  }

  /** Takes over the tensor. */
  static of(tensor: Tensor): Value {
    return new Value(tensor)
  }

  /** The outputs of a product, which follow each other in z f32 [t, rows of all]. Takes over z. */
  static outputs(packed: PackedProducts, z: Tensor, outputs: readonly Output[]): Value[] {
    const product = new Product(packed, z)
    return outputs.map(output => {
      const value = new Value(product)
      product.leave(value, output)
      return value
    })
  }

  /** Finishes those that are not, of one t, and with them all that their products have left: by one kernel where that takes so many. */
  static finish(values: readonly Value[]): void {
    const products = [...new Set(values.map(value => value.#is).filter(is => is instanceof Product))]
    const left = products.flatMap(product => product.left)
    const [packed] = products.map(product => product.packed)
    while (packed !== undefined && left.length > 0) {
      const some = left.splice(0, packed.mostOutputs)
      const made = packed.finish(some.map(([, output]) => output))
      for (const [i, [value]] of some.entries()) value.finished(made[i] as Tensor)
    }
  }

  /** t. */
  get rows(): number {
    return (this.#is instanceof Product ? this.#is.z : this.#is).shape[0] ?? 0
  }

  /** As packed linears read it; finished if only `finish` can. */
  get input(): Tensor | Unfinished {
    if (!(this.#is instanceof Product)) return this.#is
    const output = this.#is.output(this)
    return output.norm ? this.tensor : output
  }

  /** Has its heads normed as the last part of being finished: true; or false where it is finished already, is normed, or has other owners. */
  norm(norm: NonNullable<Unfinished['norm']>): boolean {
    return this.#is instanceof Product && this.#owners === 1 && this.#is.norm(this, norm)
  }

  /** Whether it has to be finished for another owner as well. */
  get isAwaited(): boolean {
    return this.#is instanceof Product && this.#owners > 1
  }

  /** Finishes it if it is not; stays the value's. */
  get tensor(): Tensor {
    Value.finish([this])
    return this.#is as Tensor
  }

  /** It was finished on the way: this is what it became, taken over. */
  finished(tensor: Tensor): void {
    if (this.#is instanceof Product) this.#is.forget(this)
    this.#is = tensor
  }

  /** One owner more, each of whom disposes it. */
  share(): Value {
    this.#owners++
    return this
  }

  /** The tensor, for its only owner, who disposes that instead. */
  take(): Tensor {
    if (this.#owners !== 1) throw new Error('a value of several owners is nobody’s to take')
    return this.tensor
  }

  [Symbol.dispose](): void {
    if (--this.#owners > 0) return
    if (this.#is instanceof Product) this.#is.forget(this)
    else this.#is[Symbol.dispose]()
  }
}

/** z, and the values that are still to be made of it. */
class Product {
  readonly #left = new Map<Value, { readonly output: Unfinished; readonly add: Value | undefined }>()
  #rows = 0

  constructor(
    readonly packed: PackedProducts,
    readonly z: Tensor,
  ) {}

  leave(value: Value, { add, bias, ...output }: Output): void {
    const unfinished = { ...output, z: this.z, first: this.#rows, ...(bias && { bias }), ...(add && { add: add.tensor }) }
    this.#left.set(value, { output: unfinished, add: add?.share() })
    this.#rows += output.rows
  }

  output(value: Value): Unfinished {
    return (this.#left.get(value) as { output: Unfinished }).output
  }

  get left(): readonly (readonly [Value, Unfinished])[] {
    return [...this.#left].map(([value, { output }]) => [value, output])
  }

  norm(value: Value, norm: NonNullable<Unfinished['norm']>): boolean {
    const { output, add } = this.#left.get(value) as { output: Unfinished; add: Value | undefined }
    if (output.norm === undefined) this.#left.set(value, { output: { ...output, norm }, add })
    return output.norm === undefined
  }

  /** The value is finished, or nobody wants it any more. */
  forget(value: Value): void {
    this.#left.get(value)?.add?.[Symbol.dispose]()
    this.#left.delete(value)
    if (this.#left.size === 0) this.z[Symbol.dispose]()
  }
}
