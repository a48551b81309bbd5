/** Tensors that are somewhere, and what it takes to open one. */
import type { Device } from './device.js'
import type { DType, Tensor } from './tensor.js'

/** What opening a tensor takes; every Ops is one. */
export interface Opener {
  readonly device: Device
  cast(x: Tensor, dtype: DType): Tensor
  copy(x: Tensor): Tensor
}

/**
 * A tensor that is somewhere: in a batch, in a file, or live on a device. What a stage finds in a tensor
 * column. Costs a few hundred bytes until it is opened, and can be opened any number of times.
 */
export interface TensorRef {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly bytes: number
  /** A tensor on the device of `ops`, converted to `dtype` if given (float types only). The caller disposes it, and may change it. */
  open(ops: Opener, dtype?: DType): Promise<Tensor>
  /** The stored bytes on the host, not converted. */
  read(): Promise<Uint8Array>
}
