/**
 * A tensor is a parcel: bytes on a device, with a type and a shape. No strides, no broadcasting, no
 * operators, no autograd. It owns its bytes until it is disposed; an op that was enqueued keeps them
 * alive until it has run, so disposing right after enqueueing is safe and usual.
 */
/** Element types. f16, bf16 and the integers are stored as they are; arithmetic is in f32 and f64. */
export type DType = 'f64' | 'f32' | 'f16' | 'bf16' | 'i64' | 'i32' | 'i16' | 'u16' | 'i8' | 'u8'

/** Bytes of one element. */
export const bytesPerElement: Readonly<Record<DType, number>> = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  i16: 2,
  u16: 2,
  i8: 1,
  u8: 1,
}

export const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

/** A rectangle of a matrix; left out = all. Bounds as in slice: from inclusive, to exclusive. */
export interface Window {
  readonly rows?: readonly [number, number]
  readonly columns?: readonly [number, number]
}

export type TypedArray = Float64Array | Float32Array | Int32Array | Int16Array | Uint16Array | Int8Array | Uint8Array

/** Opaque to TypeScript: the addon's reference to a buffer. */
export type Handle = object

/** Where a tensor's bytes are, as far as it asks. */
export interface Holder {
  read(tensor: Tensor): Promise<Uint8Array>
  release(handle: Handle): void
}

export class Tensor {
  #handle: Handle | undefined

  /** For devices; everybody else gets tensors from ops. Takes over `handle`. */
  constructor(
    readonly device: Holder,
    readonly dtype: DType,
    readonly shape: readonly number[],
    handle: Handle,
  ) {
    this.#handle = handle
  }

  get size(): number {
    return elements(this.shape)
  }

  get bytes(): number {
    return this.size * bytesPerElement[this.dtype]
  }

  /** The addon's buffer. Throws when the tensor has been disposed: a use after dispose is a bug. */
  get handle(): Handle {
    if (this.#handle === undefined) throw new Error(`tensor ${this.dtype}[${this.shape}] was used after it was disposed`)
    return this.#handle
  }

  get disposed(): boolean {
    return this.#handle === undefined
  }

  /**
   * The bytes, row-major, little-endian, once every op enqueued before has run. Waits; never blocks the
   * event loop. A copy: the tensor may be disposed afterwards. Rejects with the first failure of the queue.
   */
  read(): Promise<Uint8Array> {
    return this.device.read(this)
  }

  [Symbol.dispose](): void {
    if (this.#handle === undefined) return
    this.device.release(this.#handle)
    this.#handle = undefined
  }
}
