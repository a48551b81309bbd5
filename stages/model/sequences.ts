/**
 * sequences: what enters a block of the original model and what leaves it, a sequence each, to be looked at in any order.
 * Kept so that a killed run goes on from it, a group of sequences a file. What fits stays on the device; more than that
 * is read back from where it was saved.
 */
import { totalmem } from 'node:os'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import type { Context } from '../../pipeline/define.js'

/** Share of the device's memory that the two sides of a block may take. */
const share = 0.4
/** Sequences of a file. */
const together = 16

const nameOf = (layer: number, group: number): string => `${layer}.${group}`
type Held = { readonly tensor: Tensor } | { readonly ref: TensorRef }

export class Sequences implements Disposable {
  #entering = new Map<number, Held>()
  #leaving = new Map<number, Held>()
  #saved: string[]

  private constructor(
    private readonly context: Context,
    /** How many there are. */
    readonly count: number,
    private readonly fits: boolean,
    /** The block that they enter. */
    public layer: number,
    saved: string[],
  ) {
    this.#saved = saved
  }

  /** Those entering the latest layer up to `first` that are saved; at layer 0 they are to be given with `start`. `bytes`: of all of them. */
  static async open(context: Context, count: number, first: number, bytes: number): Promise<Sequences> {
    const groups = Math.ceil(count / together)
    const saved = await context.checkpoint.list()
    const { totalBytes = totalmem() } = context.ops.device.info()
    const complete = (layer: number): boolean =>
      Array.from({ length: groups }, (_, i) => nameOf(layer, i)).every(name => saved.includes(name))
    let layer = first
    while (layer > 0 && !complete(layer)) layer--
    const sequences = new Sequences(context, count, 2 * bytes < share * totalBytes, layer, saved)
    for (let group = 0; layer > 0 && group < groups; group++) await sequences.#load(sequences.#entering, layer, group)
    return sequences
  }

  /** Takes over what enters layer 0, one tensor a sequence. */
  start(embedded: readonly Tensor[]): void {
    for (const [i, tensor] of embedded.entries()) this.#entering.set(i, { tensor })
  }

  /** These sequences one below the other: f32 [indices · length, d]. The caller disposes it. */
  async gather(side: 'entering' | 'leaving', indices: readonly number[]): Promise<Tensor> {
    const { ops } = this.context
    const parts: Tensor[] = []
    const opened: Tensor[] = []
    try {
      for (const i of indices) {
        const held = (side === 'entering' ? this.#entering : this.#leaving).get(i)
        if (held === undefined) throw new Error(`sequence ${i} is not there (${side} layer ${this.layer})`)
        if ('ref' in held) opened.push(await held.ref.open(ops))
        parts.push('ref' in held ? (opened.at(-1) as Tensor) : held.tensor)
      }
      return ops.concat(parts)
    } finally {
      for (const tensor of opened) tensor[Symbol.dispose]()
    }
  }

  /** Runs every sequence through `forward`, which takes over what it is given; what comes out leaves the layer. */
  async pass(forward: (x: Tensor) => Tensor): Promise<void> {
    const { ops, checkpoint } = this.context
    for (let group = 0; group * together < this.count; group++) {
      const indices = Array.from({ length: Math.min(together, this.count - group * together) }, (_, i) => group * together + i)
      const tensors: Record<string, Tensor> = {}
      for (const i of indices) tensors[i] = forward(await this.gather('entering', [i]))
      const name = nameOf(this.layer + 1, group)
      await checkpoint.save(name, {}, tensors)
      this.#saved.push(name)
      if (this.fits) for (const i of indices) this.#leaving.set(i, { tensor: tensors[i] as Tensor })
      else {
        for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]()
        await this.#load(this.#leaving, this.layer + 1, group)
      }
      await ops.finish()
    }
  }

  /** What left the layer enters the next. What entered it stays saved until the next has been passed: the layer's results may not be stored yet. */
  async advance(): Promise<void> {
    const old = this.#saved.filter(name => Number(name.split('.')[0]) < this.layer)
    for (const name of old) await this.context.checkpoint.drop(name)
    this.#saved = this.#saved.filter(name => !old.includes(name))
    this.layer++
    letGo(this.#entering)
    this.#entering = this.#leaving
    this.#leaving = new Map()
  }

  [Symbol.dispose](): void {
    for (const side of [this.#entering, this.#leaving]) letGo(side)
  }

  async #load(into: Map<number, Held>, layer: number, group: number): Promise<void> {
    const name = nameOf(layer, group)
    const stored = await this.context.checkpoint.load(name)
    if (stored === undefined) throw new Error(`the saved sequences ${name} are gone`)
    for (const [i, ref] of Object.entries(stored.tensors)) {
      into.set(Number(i), this.fits ? { tensor: await ref.open(this.context.ops) } : { ref })
    }
  }
}

function letGo(side: Map<number, Held>): void {
  for (const held of side.values()) if ('tensor' in held) held.tensor[Symbol.dispose]()
  side.clear()
}
