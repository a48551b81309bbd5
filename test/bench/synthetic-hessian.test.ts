import t from 'tap'
import { spectral } from '../../bench/synthetic-hessian.js'
import { openBackend } from '../../native/index.js'
import { rng } from '../../pipeline/random.js'

t.test('H of a synthetic spectrum: symmetric, dense, of the trace and the norm that its eigenvalues give', async t => {
  const ops = await openBackend('cpu')
  const n = 64
  using h = spectral(ops, n, rng(0, 'h'))
  const x = new Float32Array((await h.read()).slice().buffer)
  const at = (i: number, j: number): number => x[i * n + j] as number
  const lambda = Array.from({ length: n }, (_, i) => 1 / (1 + i / 8) + 1e-3)
  const outliers = Array.from({ length: n }, (_, i) => (i % 8 === 0 ? 10 : 0))
  const total = (list: number[]): number => list.reduce((a, b) => a + b, 0)
  let [trace, asymmetry, square, largest] = [0, 0, 0, 0]
  for (let i = 0; i < n; i++) {
    trace += at(i, i)
    for (let j = 0; j < n; j++) {
      asymmetry = Math.max(asymmetry, Math.abs(at(i, j) - at(j, i)))
      const body = at(i, j) - (i === j ? (outliers[i] as number) : 0)
      square += body ** 2
      if (i !== j) largest = Math.max(largest, Math.abs(body))
    }
  }
  t.ok(Math.abs(trace / (total(lambda) + total(outliers)) - 1) < 1e-5, `trace ${trace}`)
  t.ok(asymmetry < 1e-5)
  t.ok(Math.abs(square / total(lambda.map(v => v * v)) - 1) < 1e-4, 'Σ h² = Σ λ²')
  t.ok(largest > 0.05, 'and not diagonal')
})
