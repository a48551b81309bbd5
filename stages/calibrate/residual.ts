/**
 * residual: the residual stream entering a block, chunk by chunk, kept so that a killed run goes on from it. What fits
 * stays on the device; more than that is read back from where it was saved.
 */
import type { Tensor } from '../../native/tensor.js'
import type { Context } from '../../pipeline/define.js'

/** A larger stream is not kept on the device between blocks. */
const kept = 256 * 2 ** 20

const nameOf = (layer: number, chunk: number): string => `${layer}.${chunk}`

export class Residual implements Disposable {
  /** Of the chunks entering `layer`: those on the device. */
  #entering = new Map<number, Tensor>()
  /** Chunks entering the layer after it, as they are made. */
  #leaving = new Map<number, Tensor>()
  #saved: string[]

  private constructor(
    private readonly context: Context,
    private readonly lastLayer: number,
    private readonly fits: boolean,
    /** The block that the stream enters next. */
    public layer: number,
    saved: string[],
  ) {
    this.#saved = saved
  }

  /** The newest saved stream from which every layer from `first` on can be reached; layer 0 when there is none. `bytes`: size of the stream. */
  static async open(context: Context, chunks: number, first: number, last: number, bytes: number): Promise<Residual> {
    const saved = await context.checkpoint.list()
    const complete = (layer: number): boolean =>
      Array.from({ length: chunks }, (_, i) => nameOf(layer, i)).every(name => saved.includes(name))
    let layer = first
    while (layer > 0 && !complete(layer)) layer--
    return new Residual(context, last, bytes <= kept, layer, saved)
  }

  /** At layer 0: the stream is the embedding of the text. */
  async start(embed: () => Promise<Tensor[]>): Promise<void> {
    for (const [i, x] of (await embed()).entries()) this.#entering.set(i, x)
  }

  /** A chunk entering `layer`; the caller owns it. */
  async take(chunk: number): Promise<Tensor> {
    const x = this.#entering.get(chunk)
    this.#entering.delete(chunk)
    if (x !== undefined) return x
    const name = nameOf(this.layer, chunk)
    const stored = (await this.context.checkpoint.load(name))?.tensors.x
    if (stored === undefined) throw new Error(`the residual stream ${name} is gone`)
    return stored.open(this.context.ops)
  }

  /** Takes over the chunk as it leaves `layer`. */
  async put(chunk: number, x: Tensor): Promise<void> {
    this.#leaving.set(chunk, x)
    if (this.layer === this.lastLayer) return this.#release(chunk)
    const name = nameOf(this.layer + 1, chunk)
    await this.context.checkpoint.save(name, {}, { x })
    this.#saved.push(name)
    if (!this.fits) this.#release(chunk)
  }

  /** All chunks have passed `layer`. The stream entering it stays saved until the next has passed: its last results may not be stored yet. */
  async advance(): Promise<void> {
    const old = this.#saved.filter(name => Number(name.split('.')[0]) < this.layer)
    for (const name of old) await this.context.checkpoint.drop(name)
    this.#saved = this.#saved.filter(name => !old.includes(name))
    this.layer++
    this.#entering = this.#leaving
    this.#leaving = new Map()
  }

  [Symbol.dispose](): void {
    for (const x of [...this.#entering.values(), ...this.#leaving.values()]) x[Symbol.dispose]()
  }

  #release(chunk: number): void {
    this.#leaving.get(chunk)?.[Symbol.dispose]()
    this.#leaving.delete(chunk)
  }
}
