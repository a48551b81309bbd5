/**
 * residual: the residual stream entering a block, chunk by chunk, kept so that a killed run goes on from it. What fits
 * stays on the device; more than that is read back from where it was saved.
 *
 * Saving takes the disk's time: 9 GB for 256 sequences of a 7B model, whose block a GPU runs in less than a second. So a
 * large stream that is kept on the device is saved only when computing has taken ten times as long as saving it did or
 * is expected to; a killed run loses that much at most. Chunks are saved while the next ones are computed.
 */
import type { Tensor } from '../../native/tensor.js'
import type { Context } from '../../pipeline/define.js'

/** A stream up to this size is kept on any device, and saved after every block. */
export const small = 256 * 2 ** 20
/** A larger one stays on a GPU while it takes no more of its memory than this. */
const share = 0.25
/** Bytes a second that a disk is expected to take. */
const expectedRate = 500e6
/** Computing takes this many times as long as saving, at least. */
const patience = 10

const nameOf = (layer: number, chunk: number): string => `${layer}.${chunk}`
const layerOf = (name: string): number => Number(name.split('.')[0])

export class Residual implements Disposable {
  /** Of the chunks entering `layer`: those on the device. */
  #entering = new Map<number, Tensor>()
  /** Chunks entering the layer after it, as they are made. */
  #leaving = new Map<number, Tensor>()
  #saved: string[]
  /** The chunk that is being saved; rejections wait for whoever looks. */
  #saving: Promise<void> = Promise.resolve()
  /** Whether the stream that leaves this layer is saved; milliseconds that saving took last, and take now; when it was done. */
  #saves: boolean
  #cost: number
  #spent = 0
  #since = performance.now()

  private constructor(
    private readonly context: Context,
    private readonly lastLayer: number,
    private readonly bytes: number,
    private readonly fits: boolean,
    /** The block that the stream enters next. */
    public layer: number,
    saved: string[],
  ) {
    this.#saved = saved
    this.#cost = (1000 * bytes) / expectedRate
    this.#saves = this.#due()
  }

  /** The newest saved stream from which every layer from `first` on can be reached; layer 0 when there is none. `bytes`: size of the stream. */
  static async open(context: Context, chunks: number, first: number, last: number, bytes: number): Promise<Residual> {
    const saved = (await context.checkpoint.list()).filter(name => /^\d+\.\d+$/.test(name)) // gradients are saved beside it
    const { device } = context.ops
    const fits = bytes <= small || (device.kind === 'cuda' && bytes <= share * (device.info().totalBytes ?? 0))
    const complete = (layer: number): boolean =>
      Array.from({ length: chunks }, (_, i) => nameOf(layer, i)).every(name => saved.includes(name))
    let layer = first
    while (layer > 0 && !complete(layer)) layer--
    return new Residual(context, last, bytes, fits, layer, saved)
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

  /** Takes over the chunk as it leaves `layer`. It is being saved when this resolves, and the one before it is saved. */
  async put(chunk: number, x: Tensor): Promise<void> {
    this.#leaving.set(chunk, x)
    if (this.layer === this.lastLayer) return this.#release(chunk)
    if (!this.#saves) return
    await this.#saving
    this.#saving = this.#save(chunk, x)
    this.#saving.catch(() => undefined)
  }

  async #save(chunk: number, x: Tensor): Promise<void> {
    const name = nameOf(this.layer + 1, chunk)
    const start = performance.now()
    await this.context.checkpoint.save(name, {}, { x })
    this.#saved.push(name)
    this.#spent += performance.now() - start
    if (!this.fits) this.#release(chunk)
  }

  /** All chunks have passed `layer`. The last stream saved before the one leaving it stays: the layer's last results may not be stored yet. */
  async advance(): Promise<void> {
    await this.#saving
    if (this.#saves) {
      this.#cost = this.#spent
      this.#since = performance.now()
    }
    this.#spent = 0
    const kept = Math.max(0, ...this.#saved.map(layerOf).filter(layer => layer <= this.layer))
    const old = this.#saved.filter(name => layerOf(name) < kept)
    for (const name of old) await this.context.checkpoint.drop(name)
    this.#saved = this.#saved.filter(name => !old.includes(name))
    this.layer++
    this.#saves = this.#due()
    this.#entering = this.#leaving
    this.#leaving = new Map()
  }

  [Symbol.dispose](): void {
    for (const x of [...this.#entering.values(), ...this.#leaving.values()]) x[Symbol.dispose]()
  }

  #due(): boolean {
    return !this.fits || this.bytes <= small || performance.now() - this.#since >= patience * this.#cost
  }

  #release(chunk: number): void {
    this.#leaving.get(chunk)?.[Symbol.dispose]()
    this.#leaving.delete(chunk)
  }
}
