import type { Device } from '../../device.js'
import type { DType, Tensor, TypedArray } from '../../tensor.js'

const dtypes = new Map<unknown, DType>([
  [Float64Array, 'f64'],
  [Float32Array, 'f32'],
  [Int32Array, 'i32'],
  [Int16Array, 'i16'],
  [Uint16Array, 'u16'],
  [Int8Array, 'i8'],
  [Uint8Array, 'u8'],
])

/** A tensor with these values; dtype follows the array's type unless given: f16, bf16 come as Uint16Array, and any dtype as bytes. */
export const tensor =
  (device: Device) =>
  (data: TypedArray, shape: readonly number[], dtype?: DType): Tensor => {
    const own = data instanceof Uint8Array ? 'u8' : dtypes.get(data.constructor)
    const half = own === 'u16' && (dtype === 'f16' || dtype === 'bf16')
    if (own === undefined || (dtype !== undefined && dtype !== own && own !== 'u8' && !half)) {
      throw new TypeError(
        `tensor: a ${data.constructor.name} cannot hold ${dtype ?? 'a tensor'}; give the values in its own type or as bytes`,
      )
    }
    return device.upload(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), dtype ?? own, shape)
  }
