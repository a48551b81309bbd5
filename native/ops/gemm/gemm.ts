import type { Device } from '../../device.js'
import { expectMatrix, expectWindow } from '../../expect.js'
import type { Tensor, Window } from '../../tensor.js'

export interface GemmOptions {
  window?: Window
  aWindow?: Window
  bWindow?: Window
  transposeA?: boolean
  transposeB?: boolean
  alpha?: number
  beta?: number
}

/** Whether a·bᵀ is a product of f32 and bf16, which there is on the CPU alone. */
export const isMixed = (device: Device, a: Tensor, b: Tensor, o: GemmOptions): boolean =>
  device.kind === 'cpu' && a.dtype === 'f32' && b.dtype === 'bf16' && !o.transposeA && o.transposeB === true

/**
 * c[window] = alpha · op(a[aWindow]) · op(b[bWindow]) + beta · c[window], in place; c is neither a nor b. All f32, or a and
 * b bf16 and c either, with sums in f32; or, of a·bᵀ on the CPU, b alone bf16.
 */
export const gemm =
  (device: Device) =>
  (c: Tensor, a: Tensor, b: Tensor, o: GemmOptions): void => {
    const { transposeA = false, transposeB = false, alpha = 1, beta = 0 } = o
    const mixed = isMixed(device, a, b, o)
    const [lda, ldb, ldc] = [
      expectMatrix('gemm', 'a', a, ['f32', 'bf16'])[1],
      expectMatrix('gemm', 'b', b, [mixed ? 'bf16' : a.dtype])[1],
      expectMatrix('gemm', 'c', c, a.dtype === 'bf16' ? ['f32', 'bf16'] : ['f32'])[1],
    ]
    const aw = expectWindow('gemm', 'aWindow', o.aWindow, a.shape[0]!, lda)
    const bw = expectWindow('gemm', 'bWindow', o.bWindow, b.shape[0]!, ldb)
    const cw = expectWindow('gemm', 'window', o.window, c.shape[0]!, ldc)
    const [m, k] = transposeA ? [aw.columns, aw.rows] : [aw.rows, aw.columns]
    const [depth, n] = transposeB ? [bw.columns, bw.rows] : [bw.rows, bw.columns]
    if (k !== depth || m !== cw.rows || n !== cw.columns) {
      throw new RangeError(`gemm: op(a) [${m}, ${k}] times op(b) [${depth}, ${n}] does not give c [${cw.rows}, ${cw.columns}]`)
    }
    if (c === a || c === b) throw new Error('gemm: c is also an input')
    device.run('gemm', {
      a,
      b,
      c,
      aOffset: aw.offset,
      bOffset: bw.offset,
      cOffset: cw.offset,
      lda,
      ldb,
      ldc,
      m,
      n,
      k,
      transposeA,
      transposeB,
      bf16: a.dtype === 'bf16',
      cBf16: c.dtype === 'bf16',
      bBf16: mixed,
      alpha,
      beta,
    })
  }
