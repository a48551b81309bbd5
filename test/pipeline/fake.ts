/** A device of host buffers with a queue that takes a moment, for tests of the engine alone. */
import { readSync } from 'node:fs'
import type { Device, FileRange } from '../../native/device.js'
import type { Ops } from '../../native/ops.js'
import { bytesPerElement, type DType, elements, Tensor } from '../../native/tensor.js'

export class FakeDevice implements Device {
  readonly kind = 'cpu'
  liveBytes = 0
  peakBytes = 0
  readonly #buffers = new Map<object, Uint8Array>()

  constructor(readonly name = 'fake') {}

  get liveTensors(): number {
    return this.#buffers.size
  }
  empty(dtype: DType, shape: readonly number[]): Tensor {
    return this.upload(new Uint8Array(elements(shape) * bytesPerElement[dtype]), dtype, shape)
  }
  upload(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor {
    if (bytes.byteLength !== elements(shape) * bytesPerElement[dtype]) throw new Error(`${bytes.byteLength} bytes for ${dtype} [${shape}]`)
    const handle = {}
    this.#buffers.set(handle, bytes.slice())
    this.liveBytes += bytes.byteLength
    this.peakBytes = Math.max(this.peakBytes, this.liveBytes)
    return new Tensor(this, dtype, shape, handle)
  }
  async bring(source: Uint8Array | FileRange, dtype: DType, shape: readonly number[]): Promise<Tensor> {
    if (source instanceof Uint8Array) return this.upload(source, dtype, shape)
    const bytes = new Uint8Array(elements(shape) * bytesPerElement[dtype])
    readSync(source.fd, bytes, 0, bytes.length, source.offset)
    return this.upload(bytes, dtype, shape)
  }
  run(): void {
    throw new Error('the fake device runs nothing')
  }
  write(): void {
    throw new Error('the fake device overwrites nothing')
  }
  record(): never {
    throw new Error('the fake device records nothing')
  }
  finish(): Promise<void> {
    return new Promise(resolve => setImmediate(resolve))
  }
  async read(tensor: Tensor): Promise<Uint8Array> {
    const bytes = this.#buffers.get(tensor.handle)
    await this.finish()
    return (bytes as Uint8Array).slice()
  }
  bytesOf(tensor: Tensor): Uint8Array {
    return this.#buffers.get(tensor.handle) as Uint8Array
  }
  release(handle: object): void {
    this.liveBytes -= this.#buffers.get(handle)?.byteLength ?? 0
    this.#buffers.delete(handle)
  }
  info(): { isa: string; threads: number; blas: string } {
    return { isa: 'none', threads: 1, blas: 'none' }
  }
  stats(): Record<string, never> {
    return {}
  }
}

/** Only what the engine itself asks of ops. */
export const fakeOps = (device = new FakeDevice()): Ops & { readonly device: FakeDevice } =>
  ({
    device,
    cast: () => {
      throw new Error('no cast')
    },
    copy: (x: Tensor) => device.upload(device.bytesOf(x), x.dtype, x.shape),
    finish: () => device.finish(),
  }) as unknown as Ops & { readonly device: FakeDevice }
