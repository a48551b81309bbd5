import t from 'tap'
import hessian from '../../stages/hessian/hessian.js'
import { bytesTensor } from '../../pipeline/define.js'
import { backends, close } from '../helpers.js'
import { contextOf, correlated, floats, normals, ref, runStage, type Told } from './run-stage.js'

const n = 24
const common = { layer: 0, shares: 'a', n, source: '' }
const chunk = (x: Float32Array) => ({
  ...common,
  role: 'activation' as const,
  linear: '',
  m: 0,
  weight: undefined,
  x: ref(x, [x.length / n, n]),
  tokens: x.length / n,
})
const linear = (name: string) => ({
  ...common,
  role: 'linear' as const,
  linear: name,
  m: 8,
  weight: ref(new Float32Array(8 * n), [8, n]),
  x: undefined,
  tokens: 0,
})

/** Σ s xxᵀ/T in float64, s the mean over `each` of the finest groups from `from` on, of 8. */
function weighted(x: Float32Array, s: Float32Array, from: number, each: number): Float32Array {
  const tokens = x.length / n
  const h = new Float64Array(n * n)
  for (let t = 0; t < tokens; t++) {
    const own = s.subarray(8 * t + from, 8 * t + from + each).reduce((sum, z) => sum + z, 0) / each
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) h[i * n + j]! += (own * x[t * n + i]! * x[t * n + j]!) / tokens
  }
  return Float32Array.from(h)
}

for (const { name, skip, open } of backends) {
  t.test(`${name}: weighted by gradients, each linear has an H of its own, or one for each group of outputs`, { skip }, async t => {
    const ops = await open()
    const { x } = correlated(n, 600, 'guided')
    const s = { q: normals(8 * 600, 'q').map(z => z * z), k: normals(8 * 600, 'k').map(z => z ** 4) }
    const part = (linear: 'q' | 'k', from: number, to: number) => ({
      ...chunk(x.subarray(from * n, to * n)),
      linear,
      m: 8,
      rowWeights: ref(s[linear].slice(8 * from, 8 * to), [to - from, 8]),
    })
    const chunks = [part('q', 0, 250), part('k', 0, 250), part('q', 250, 600), part('k', 250, 600)]
    for (const groups of [1, 2, 8]) {
      const rows = await runStage(hessian, { weight: 'gradient', groups, floor: 0 }, [...chunks, linear('q'), linear('k')], contextOf(ops))
      for (const [i, name] of (['q', 'k'] as const).entries()) {
        t.strictSame(rows[i]?.hessian?.shape, [groups * n, n])
        const found = await floats(rows[i]?.hessian)
        for (let k = 0; k < groups; k++)
          close(t, found.subarray(k * n * n, (k + 1) * n * n), weighted(x, s[name], (8 / groups) * k, 8 / groups), 1e-12, `${name} ${k}`)
      }
    }
    const plain = await runStage(hessian, {}, [...chunks, linear('q'), linear('k')], contextOf(ops))
    close(t, await floats(plain[0]?.hessian), weighted(x, new Float32Array(8 * 600).fill(1), 0, 8), 1e-12, 'without weights x counts once')
    t.equal(plain[0]?.hessian, plain[1]?.hessian, 'and is shared')

    const [raised] = await runStage(hessian, { weight: 'gradient', floor: 0.25 }, [...chunks, linear('q')], contextOf(ops))
    const floored = s.q.map(z => 0.25 + 0.75 * z)
    close(t, await floats(raised?.hessian), weighted(x, floored, 0, 8), 1e-12, 'with a floor')

    using wide = ops.tensor(x, [600, n])
    using half = ops.cast(wide, 'bf16')
    const bf16 = { ...part('q', 0, 600), x: bytesTensor(await half.read(), 'bf16', [600, n]) }
    const [mixed] = await runStage(hessian, { weight: 'gradient', floor: 0 }, [bf16, linear('q')], contextOf(ops))
    close(t, await floats(mixed?.hessian), weighted(x, s.q, 0, 8), 1e-4, 'bf16')
  })

  t.test(`${name}: weighted by gradients that do not come`, { skip }, async t => {
    const { x } = correlated(n, 10, 'guided')
    await t.rejects(runStage(hessian, { weight: 'gradient' }, [chunk(x), linear('q')], contextOf(await open())), {
      code: 'input',
      hint: /calibrate.gradients=true/,
    })
  })

  t.test(`${name}: H is XᵀX/T of all chunks, one for linears that share an input`, { skip }, async t => {
    const ops = await open()
    const { x, h } = correlated(n, 700, 'hessian')
    const cut = 300 * n
    const rows = await runStage(hessian, {}, [chunk(x.subarray(0, cut)), chunk(x.subarray(cut)), linear('q'), linear('k')], contextOf(ops))
    t.strictSame(
      rows.map(row => row.linear),
      ['q', 'k'],
    )
    t.equal(rows[0]?.hessian, rows[1]?.hessian, 'the same tensor')
    close(t, await floats(rows[0]?.hessian), h, 1e-12)
  })

  t.test(`${name}: a token with NaN is left out, counted and reported`, { skip }, async t => {
    const ops = await open()
    const { x, h } = correlated(n, 100, 'hessian')
    const broken = new Float32Array([...x, ...new Float32Array(n).fill(Number.NaN)])
    const told: Told = { notes: [] }
    const rows = await runStage(hessian, {}, [chunk(broken), linear('q')], contextOf(ops, told))
    close(t, await floats(rows[0]?.hessian), h, 1e-12)
    t.strictSame(told.notes, ['hessian 0/a: 1 of 101 tokens have NaN or infinite activations and were left out'])
  })

  t.test(`${name}: activations in bf16 are summed as they are`, { skip }, async t => {
    const ops = await open()
    const { x } = correlated(n, 500, 'hessian')
    using wide = ops.tensor(x, [500, n])
    using half = ops.cast(wide, 'bf16')
    using back = ops.cast(half, 'f32')
    const values = await floats(back)
    const bytes = await half.read()
    const bf16 = (from: number, to: number) => ({
      ...chunk(values.subarray(from * n, to * n)),
      x: bytesTensor(bytes.subarray(2 * from * n, 2 * to * n), 'bf16', [to - from, n]),
    })
    const [exact, found] = [
      await runStage(hessian, {}, [chunk(values), linear('q')], contextOf(ops)),
      await runStage(hessian, {}, [bf16(0, 300), bf16(300, 500), linear('q'), linear('k')], contextOf(ops)),
    ]
    t.equal(found[0]?.hessian, found[1]?.hessian, 'the same tensor')
    t.equal(found[0]?.hessian?.dtype, 'f32')
    close(t, await floats(found[0]?.hessian), await floats(exact[0]?.hessian), 1e-11)
  })

  t.test(`${name}: nothing but NaN is an error that names the input`, { skip }, async t => {
    const ops = await open()
    await t.rejects(runStage(hessian, {}, [chunk(new Float32Array(3 * n).fill(Number.NaN)), linear('q')], contextOf(ops)), {
      code: 'input',
      where: 'hessian  0/a',
    })
  })
}

t.test('groups that outputs cannot be cut into are told before anything runs', async t => {
  const rows = [{ ...linear('q'), m: 12 }]
  const above = { name: 'calibrate', params: { gradients: true } }
  const told = (params: object) =>
    hessian.check?.(rows, { weight: 'gradient', groups: 1, floor: 0, ...params }, 'graph  stages[2] hessian', [above]) ?? []
  t.strictSame(told({ groups: 4 }), [])
  t.match(told({ groups: 8 }), [
    { where: /groups/, message: 'The 12 outputs of q can’t be cut into 8 groups of equal size.'.replace('’', "'") },
  ])
  t.match(told({ groups: 24 }), [{ hint: 'Give one of 1, 2, 4.' }])
  rows[0] = { ...linear('q'), m: 64, n: 28672 }
  t.match(told({ groups: 2 }), [{ message: /4 GiB/ }], 'nor what is too large to be stored')
  above.params.gradients = false
  t.match(told({}), [{ where: /weight/, hint: /calibrate.gradients=true/ }])
  t.match(told({ weight: 'none', groups: 2 }), [{ message: /would have the same H/ }])
})
