import t from 'tap'
import hessian from '../../stages/hessian/hessian.js'
import { bytesTensor } from '../../pipeline/define.js'
import { backends, close } from '../helpers.js'
import { contextOf, correlated, floats, ref, runStage, type Told } from './run-stage.js'

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

for (const { name, skip, open } of backends) {
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
