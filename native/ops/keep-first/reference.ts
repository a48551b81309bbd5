import { ropeReference } from '../rope/reference.js'

/** R·q, R·k and v of rows at positions 0 … t−1, R as ropeReference has it. */
export const keepFirstReference = (
  [q, k, v]: readonly [Float32Array, Float32Array, Float32Array],
  [cos, sin]: readonly [Float32Array, Float32Array],
  { t, heads, kvHeads }: { t: number; heads: number; kvHeads: number },
): readonly [Float64Array, Float64Array, Float64Array] => {
  const positions = Array.from({ length: t }, (_, i) => i)
  return [ropeReference(q, cos, sin, positions, heads), ropeReference(k, cos, sin, positions, kvHeads), Float64Array.from(v)]
}
