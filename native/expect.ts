/** Checks of ops' arguments; what is wrong is said in a sentence that repeats the shapes. For programmers: an engine's user never sees one. */
import type { DType, Tensor, Window } from './tensor.js'

/** A dimension that may be anything is undefined. */
export type Shape = readonly (number | undefined)[]

const text = (shape: Shape): string => `[${shape.map(size => size ?? '?').join(', ')}]`

/** Throws unless x has one of these dtypes (all, if left out) and this shape (any, if left out). */
export const expectTensor = (op: string, name: string, x: Tensor, dtypes?: readonly DType[], shape?: Shape): void => {
  const typed = dtypes === undefined || dtypes.includes(x.dtype)
  const shaped =
    shape === undefined || (x.shape.length === shape.length && shape.every((size, i) => size === undefined || x.shape[i] === size))
  if (typed && shaped) return
  throw new TypeError(
    `${op}: ${name} must be ${dtypes?.join(' or ') ?? 'a tensor'}${shape ? ` ${text(shape)}` : ''}, got ${x.dtype} ${text(x.shape)}`,
  )
}

/** The same for a matrix; gives its rows and columns. */
export const expectMatrix = (
  op: string,
  name: string,
  x: Tensor,
  dtypes?: readonly DType[],
  shape: Shape = [undefined, undefined],
): readonly [number, number] => {
  expectTensor(op, name, x, dtypes, shape)
  return [x.shape[0]!, x.shape[1]!]
}

/** The same for a square matrix; gives its order. */
export const expectSquare = (op: string, name: string, x: Tensor, dtypes: readonly DType[]): number => {
  const [n, columns] = expectMatrix(op, name, x, dtypes)
  if (n !== columns) throw new TypeError(`${op}: ${name} must be square, got ${x.dtype} ${text(x.shape)}`)
  return n
}

/** A whole number within bounds. */
export const expectWhole = (op: string, name: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER): void => {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(
      `${op}: ${name} must be a whole number from ${least}${most === Number.MAX_SAFE_INTEGER ? '' : ` to ${most}`}, got ${value}`,
    )
  }
}

/** The rectangle that a window cuts out of [m, n]: its size, and the index of its first element. */
export const expectWindow = (op: string, name: string, window: Window | undefined, m: number, n: number) => {
  const [top, bottom] = window?.rows ?? [0, m]
  const [left, right] = window?.columns ?? [0, n]
  const whole = [top, bottom, left, right].every(Number.isInteger)
  if (!whole || top < 0 || bottom < top || bottom > m || left < 0 || right < left || right > n) {
    throw new RangeError(`${op}: ${name} rows ${top}…${bottom}, columns ${left}…${right} is not within [${m}, ${n}]`)
  }
  return { rows: bottom - top, columns: right - left, offset: top * n + left }
}

/** q [t, heads·e], rows of whole heads, of which kvHeads is a divisor: gives t and e. window: undefined or at least 1. */
export const expectHeads = (
  op: string,
  q: Tensor,
  dtypes: readonly DType[],
  { heads, kvHeads, window }: { heads: number; kvHeads: number; window?: number },
): { t: number; e: number } => {
  expectWhole(op, 'kvHeads', kvHeads, 1)
  expectWhole(op, 'heads', heads, kvHeads)
  if (window !== undefined) expectWhole(op, 'window', window, 1)
  const [t, n] = expectMatrix(op, 'q', q, dtypes)
  const e = n / heads
  if (!Number.isInteger(e) || heads % kvHeads !== 0)
    throw new RangeError(`${op}: ${n} columns, ${heads} heads, ${kvHeads} of keys do not divide`)
  return { t, e }
}
