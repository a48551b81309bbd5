import { ropeReference } from '../rope/reference.js'

/** R·q, R·k and v of rows at positions from `before` on, R as ropeReference has it. */
export const keepRowsReference = (
  [q, k, v]: readonly [Float32Array, Float32Array, Float32Array],
  [cos, sin]: readonly [Float32Array, Float32Array],
  { t, before, heads, kvHeads }: { t: number; before: number; heads: number; kvHeads: number },
): readonly [Float64Array, Float64Array, Float64Array] => {
  const positions = Array.from({ length: t }, (_, i) => before + i)
  return [ropeReference(q, cos, sin, positions, heads), ropeReference(k, cos, sin, positions, kvHeads), Float64Array.from(v)]
}
