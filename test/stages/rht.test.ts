import t from 'tap'
import rht from '../../stages/rht/rht.js'
import { backends, close } from '../helpers.js'
import { contextOf, correlated, floats, normals, ref, runStage, settled, type Told } from './run-stage.js'

/** tr(W H Wᵀ) in float64. */
function trace(w: Float32Array, h: Float32Array, m: number, n: number): number {
  let sum = 0
  for (let r = 0; r < m; r++)
    for (let i = 0; i < n; i++) {
      let dot = 0
      for (let j = 0; j < n; j++) dot += (h[i * n + j] ?? 0) * (w[r * n + j] ?? 0)
      sum += (w[r * n + i] ?? 0) * dot
    }
  return sum
}

const row = (linear: string, m: number, n: number, h: Float32Array, hessian = ref(h, [h.length / n, n])) => ({
  role: 'linear' as const,
  layer: 3,
  linear,
  shares: 'a',
  m,
  n,
  source: '',
  weight: ref(normals(m * n, 'w', linear, m, n), [m, n]),
  hessian,
})

for (const { name, skip, open } of backends) {
  t.test(`${name}: keeps tr(WHWᵀ), and the inverse gives W back`, { skip }, async t => {
    for (const [m, n, orders] of [
      [16, 64, { m: 16, n: 64 }],
      [172, 48, { m: 172, n: 48 }],
      [36, 172, { m: 36, n: 172 }],
    ] as const) {
      const ops = await open()
      const { h } = correlated(n, 200, 'rht', n)
      const before = row('q', m, n, h)
      const [after] = await runStage(rht, {}, [before], contextOf(ops))
      if (!after) return t.fail('no row')
      t.strictSame(JSON.parse(after.transform), orders)
      const w = await floats(after.weight)
      const expected = trace(await floats(before.weight), h, m, n)
      t.ok(Math.abs(trace(w, await floats(after.hessian), m, n) / expected - 1) < 1e-5, `${m}×${n}: trace`)
      using wt = await (await settled(after.weight)).open(ops)
      using su = await (await settled(after.su)).open(ops)
      using sv = await (await settled(after.sv)).open(ops)
      using left = ops.hadamard(wt, { side: 'left', signs: sv, block: m, inverse: true })
      using back = ops.hadamard(left, { side: 'right', signs: su, block: n, inverse: true })
      close(t, await floats(back), await floats(before.weight), 1e-12, `${m}×${n}: inverse`)
    }
  })

  t.test(`${name}: signs belong to names: su to the input, sv to the linear, the same in any company`, { skip }, async t => {
    const ops = await open()
    const { h } = correlated(32, 100, 'rht')
    const shared = ref(h, [32, 32])
    const together = await runStage(rht, {}, [row('q', 16, 32, h, shared), row('k', 16, 32, h, shared)], contextOf(ops))
    const [alone] = await runStage(rht, {}, [row('k', 16, 32, h)], contextOf(ops))
    t.strictSame(await floats(together[0]?.su), await floats(together[1]?.su))
    t.notSame(await floats(together[0]?.sv), await floats(together[1]?.sv))
    t.strictSame(await floats(together[1]?.weight), await floats(alone?.weight))
    t.equal(together[0]?.hessian, together[1]?.hessian, 'H̃ is computed once')
  })

  t.test(`${name}: with an H for each of two groups of outputs, groups stay apart and each keeps its trace`, { skip }, async t => {
    const ops = await open()
    const [m, n] = [32, 48]
    const [first, second] = [correlated(n, 200, 'first').h, correlated(n, 200, 'second').h]
    const before = row('q', m, n, Float32Array.from([...first, ...second]))
    const [after] = await runStage(rht, {}, [before], contextOf(ops))
    t.strictSame(JSON.parse(after?.transform ?? ''), { m: 16, n: 48 })
    const [w, mixed, h] = [await floats(before.weight), await floats(after?.weight), await floats(after?.hessian)]
    for (const [k, own] of [first, second].entries()) {
      const rows = (x: Float32Array) => x.subarray((k * m * n) / 2, ((k + 1) * m * n) / 2)
      const ratio = trace(rows(mixed), h.subarray(k * n * n, (k + 1) * n * n), m / 2, n) / trace(rows(w), own, m / 2, n)
      t.ok(Math.abs(ratio - 1) < 1e-5, `group ${k}: ${ratio}`)
    }
    const broken = row('q', m, n, new Float32Array(3 * n * n))
    await t.rejects(runStage(rht, {}, [broken], contextOf(ops)), { code: 'failed', where: 'q' }, '3 groups of 32 outputs')
  })

  t.test(`${name}: a size without a Hadamard matrix gets blocks, and the run says so`, { skip }, async t => {
    const ops = await open()
    const told: Told = { notes: [] }
    const { h } = correlated(88, 200, 'rht')
    const [after] = await runStage(rht, {}, [row('q', 16, 88, h)], contextOf(ops, told))
    t.strictSame(JSON.parse(after?.transform ?? ''), { m: 16, n: 8 })
    t.strictSame(told.notes, ['rht q: no Hadamard matrix of order 88 is known here; used blocks of 8'])
    const [chosen] = await runStage(rht, { block: 4 }, [row('q', 16, 88, h)], contextOf(ops))
    t.strictSame(JSON.parse(chosen?.transform ?? ''), { m: 16, n: 4 })
  })
}
