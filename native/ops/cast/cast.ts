import type { Device } from '../../device.js'
import { expectMatrix, expectTensor, expectWindow } from '../../expect.js'
import type { DType, Tensor } from '../../tensor.js'
import { copy } from '../copy/copy.js'

const floats: readonly DType[] = ['f64', 'f32', 'f16', 'bf16']
/** Numbers as in cast.h. */
const codes: readonly DType[] = ['f64', 'f32', 'f16', 'bf16', 'i32', 'i16', 'u16', 'i8', 'u8']

/**
 * Converts between f64, f32, f16, bf16 (round to nearest even), and from the integers i32, i16, u16, i8, u8 to f32. The same dtype: a copy.
 * rows [from, to): those of a matrix alone.
 */
export const cast = (device: Device) => {
  const duplicate = copy(device)
  return (x: Tensor, dtype: DType, rows?: readonly [number, number]): Tensor => {
    if (x.dtype === dtype) return duplicate(x, rows && { rows })
    expectTensor('cast', 'x', x, dtype === 'f32' ? codes : floats)
    if (!floats.includes(dtype))
      throw new TypeError(`cast: there is no conversion from ${x.dtype} to ${dtype}, only to f64, f32, f16, bf16`)
    const window = rows && expectWindow('cast', 'x', { rows }, ...expectMatrix('cast', 'x', x))
    const out = device.empty(dtype, window ? [window.rows, window.columns] : x.shape)
    device.run('cast', { x, out, from: codes.indexOf(x.dtype), to: codes.indexOf(dtype), first: window?.offset ?? 0, n: out.size })
    return out
  }
}
