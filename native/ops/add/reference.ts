/** out[i] = alpha·x[i] + beta·y[i]. */
export const addReference = (x: ArrayLike<number>, y: ArrayLike<number>, alpha: number, beta: number): Float64Array =>
  Float64Array.from({ length: x.length }, (_, i) => alpha * x[i]! + beta * y[i]!)
