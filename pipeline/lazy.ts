/**
 * Tensors that are somewhere else until they are opened: in a file, in a stored batch, in memory, live on a device.
 * A reference weighs a few hundred bytes, so rows may wait in queues, and resuming is only "open it again".
 */
import { type FileHandle, open } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Device } from '../native/device.js'
import { bytesPerElement, type DType, elements, type Tensor } from '../native/tensor.js'
import type { Opener, TensorRef } from '../native/tensor-ref.js'
import { PipeError } from './error.js'

/** A reference by its place: what is stored of it, when its bytes are not. */
export class LazyTensor implements TensorRef {
  readonly bytes: number

  constructor(
    readonly dtype: DType,
    readonly shape: readonly number[],
    /** 'file:/path' with the offset of the first byte; 'cache:KEY' with the tensor's number; 'live:N'; 'bytes:' */
    readonly uri: string,
    readonly offset: number,
    private readonly fetch: () => Promise<Uint8Array>,
  ) {
    this.bytes = elements(shape) * bytesPerElement[dtype]
  }

  async read(): Promise<Uint8Array> {
    const bytes = await this.fetch()
    if (bytes.byteLength !== this.bytes) {
      throw new Error(`${this.uri}: ${this.dtype}[${this.shape}] is ${this.bytes} bytes, and ${bytes.byteLength} came`)
    }
    return bytes
  }

  async open(ops: Opener, dtype: DType = this.dtype): Promise<Tensor> {
    const tensor = await this.bring(ops.device)
    if (dtype === this.dtype) return tensor
    using stored = tensor
    return ops.cast(stored, dtype)
  }

  protected async bring(device: Device): Promise<Tensor> {
    return device.bring(await this.read(), this.dtype, this.shape)
  }
}

/** Goes to a device without an array between: gigabytes of a checkpoint would keep the event loop busy with its pages. */
class FileTensor extends LazyTensor {
  constructor(
    private readonly path: string,
    dtype: DType,
    shape: readonly number[],
    offset: number,
  ) {
    super(dtype, shape, `file:${path}`, offset, () => readRange(path, offset, elements(shape) * bytesPerElement[dtype]))
  }

  protected override bring(device: Device): Promise<Tensor> {
    return reading(this.path, async file => {
      await expectWithin(file, this.path, this.offset, this.bytes)
      return device.bring({ fd: file.fd, offset: this.offset }, this.dtype, this.shape)
    })
  }
}

/** The tensor whose bytes, row-major and little-endian, begin at `offset` of the file. */
export function fileTensor(path: string, offset: number, dtype: DType, shape: readonly number[]): TensorRef {
  checkShape(shape)
  if (!Number.isSafeInteger(offset) || offset < 0) throw new Error(`${path}: a tensor can't begin at byte ${offset}`)
  return new FileTensor(resolve(path), dtype, shape, offset)
}

/** The tensor with these bytes, row-major and little-endian. */
export function bytesTensor(bytes: Uint8Array, dtype: DType, shape: readonly number[]): TensorRef {
  checkShape(shape)
  return new LazyTensor(dtype, shape, 'bytes:', 0, async () => bytes)
}

/**
 * Live tensors between stages: on the edges of live tables, and on their way into the cache. Such a tensor moves: who
 * opens it owns it, and it can be opened once.
 */
export class LiveTensors {
  readonly #tensors = new Map<number, Tensor>()
  #next = 0

  get count(): number {
    return this.#tensors.size
  }

  /** Takes the tensor over. */
  hold(tensor: Tensor): LazyTensor {
    const number = this.#next++
    this.#tensors.set(number, tensor)
    return new LiveTensor(tensor, number, () => this.#take(number))
  }

  /** Its bytes; it is disposed then. */
  async take(number: number): Promise<Uint8Array> {
    const tensor = this.#tensors.get(number)
    this.#take(number)
    using held = tensor as Tensor
    return await held.read()
  }

  /** Whatever nobody opened: dropped rows, a failed run. */
  [Symbol.dispose](): void {
    for (const tensor of this.#tensors.values()) tensor[Symbol.dispose]()
    this.#tensors.clear()
  }

  #take(number: number): void {
    if (!this.#tensors.delete(number)) throw new Error('a live tensor can be opened once; keep what you opened')
  }
}

class LiveTensor extends LazyTensor {
  constructor(
    private readonly tensor: Tensor,
    number: number,
    private readonly take: () => void,
  ) {
    super(tensor.dtype, tensor.shape, 'live:', number, () => tensor.read())
  }

  override async open(ops: Opener, dtype: DType = this.dtype): Promise<Tensor> {
    this.take()
    if (dtype === this.dtype) return this.tensor
    using tensor = this.tensor
    return ops.cast(tensor, dtype)
  }
}

/**
 * Live tensors between the stages of one batch. They stay on the device until the batch is over, and may be opened any
 * number of times: through the host, W and H of a large layer would cross the bus twice (1.5 GB each way for Llama-2-7B).
 */
export class HeldTensors {
  readonly #refs = new Map<Tensor, HeldTensor>()

  /** Takes the tensor over; the same one again gives the same reference. */
  hold(tensor: Tensor): TensorRef {
    const ref = this.#refs.get(tensor) ?? new HeldTensor(tensor)
    this.#refs.set(tensor, ref)
    return ref
  }

  /** References to tensors held here → their bytes on the host, for who needs them longer. Others as they are. */
  async settle(refs: readonly TensorRef[]): Promise<Map<TensorRef, TensorRef>> {
    const known = new Set<TensorRef>(this.#refs.values())
    const settled = [...new Set(refs)].map(
      async (ref): Promise<[TensorRef, TensorRef]> => [ref, known.has(ref) ? bytesTensor(await ref.read(), ref.dtype, ref.shape) : ref],
    )
    return new Map(await Promise.all(settled))
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#refs.keys()) tensor[Symbol.dispose]()
    this.#refs.clear()
  }
}

/** To who stores it, bytes like any other. */
class HeldTensor extends LazyTensor {
  constructor(private readonly tensor: Tensor) {
    super(tensor.dtype, tensor.shape, 'bytes:', 0, () => tensor.read())
  }

  override async open(ops: Opener, dtype: DType = this.dtype): Promise<Tensor> {
    return dtype === this.dtype ? ops.copy(this.tensor) : ops.cast(this.tensor, dtype)
  }
}

export function checkShape(shape: readonly number[]): void {
  if (shape.every(size => Number.isSafeInteger(size) && size >= 0) && Number.isSafeInteger(elements(shape) * 8)) return
  throw new Error(`[${shape}] is no shape: sizes are whole numbers, and their product has to be one that can be counted`)
}

const pieceBytes = 64 * 2 ** 20 // one read call takes at most 2 GiB, and some file systems less

/** Bytes [offset, offset + length) of a file. */
export const readRange = (path: string, offset: number, length: number): Promise<Uint8Array> =>
  reading(path, file => readFrom(file, path, offset, length))

async function reading<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    throw unreadable(path, error)
  }
  try {
    return await use(file)
  } finally {
    await file.close()
  }
}

export async function readFrom(file: FileHandle, path: string, offset: number, length: number): Promise<Uint8Array> {
  if (length > 2 ** 32)
    throw new PipeError('input', { where: path, message: `A tensor of ${length} bytes does not fit into one array of at most 4 GiB.` })
  await expectWithin(file, path, offset, length)
  const bytes = new Uint8Array(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, Math.min(pieceBytes, length - done), offset + done)
    if (bytesRead === 0)
      throw new PipeError('input', { where: path, message: `The file ended at byte ${offset + done} while it was read.` })
    done += bytesRead
  }
  return bytes
}

/** Asked before memory is taken: a lying header must not make us allocate what the file can't hold. */
async function expectWithin(file: FileHandle, path: string, offset: number, length: number): Promise<void> {
  const { size } = await file.stat()
  if (offset + length <= size) return
  throw new PipeError('input', {
    where: path,
    message: `The file ends at byte ${size}, but a tensor was to be at bytes ${offset} to ${offset + length}.`,
    hint: 'It is cut short or was changed since it was first read. Copy or download it again.',
  })
}

const unreadable = (path: string, cause: unknown): PipeError => {
  const { code } = cause as NodeJS.ErrnoException
  const message = code === 'ENOENT' ? 'The file is gone.' : `The file can't be read (${code ?? String(cause)}).`
  return new PipeError('input', { where: path, message, hint: 'Put it back, or start again with the folder it is in now.' }, { cause })
}
