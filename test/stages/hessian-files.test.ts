/** Hessians from files: equal to the definition, whoever wrote them; a run that takes them; files that don't fit. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Row } from '../../pipeline/define.js'
import type { linears } from '../../schemas/tables/linears.js'
import hessianFiles from '../../stages/hessian-files/hessian-files.js'
import model from '../../stages/model/model.js'
import { writeSafetensors } from '../../stages/model/safetensors.js'
import { close, pipe, root, temporary, testDevice } from '../helpers.js'
import { bytesOf, scalar } from './model/qtip-folder.js'
import { writeHessian } from './model/torch-writer.js'
import { contextOf, correlated, floats, normals, ref, runStage } from './run-stage.js'

const ops = await openBackend(testDevice)
const llama = join(root, 'fixtures/hf-reference/llama-gqa')
const fixture = (name: string): string => join(root, 'fixtures/torch', name)
type In = Row<typeof linears>

const row = (linear: string, n: number, layer = 0): In => ({
  role: 'linear',
  layer,
  linear: `model.layers.${layer}.${linear}`,
  shares: linear,
  m: 4,
  n,
  source: '',
  weight: ref(new Float32Array(4 * n), [4, n]),
  hessian: undefined,
})
const run = async (folder: string, rows: readonly In[]): Promise<Float32Array[]> => {
  const out = await runStage(hessianFiles, { path: folder }, rows, contextOf(ops))
  const all: Float32Array[] = []
  for (const { hessian } of out) all.push(await floats(hessian))
  for (const { hessian } of out) if (hessian !== undefined && Symbol.dispose in hessian) hessian[Symbol.dispose]()
  return all
}
const lower = (h: Float32Array, n: number): Float32Array =>
  Float32Array.from({ length: (n * (n + 1)) / 2 }, (_, at) => {
    const i = Math.floor((Math.sqrt(8 * at + 1) - 1) / 2)
    return h[i * n + at - (i * (i + 1)) / 2] ?? Number.NaN
  })

t.test('files that torch wrote, with and without the mean', async t => {
  const folder = temporary(t)
  copyFileSync(fixture('hessian.pt'), join(folder, '0_qkv.pt'))
  copyFileSync(fixture('hessian-mu.pt'), join(folder, '0_down.pt'))
  const n = 48
  const entry = (at: number): number => {
    const [i, j] = [Math.floor(at / n), at % n]
    return i === j ? 2 + i / 64 : Math.fround(1 / (1 + Math.abs(i - j)))
  }
  const mean = (i: number): number => i / 16 - 1
  const [h, centred] = await run(folder, [row('self_attn.k_proj', n), row('mlp.down_proj', n)])
  t.strictSame(
    h,
    Float32Array.from({ length: n * n }, (_, at) => entry(at)),
    'to the bit',
  )
  const second = Float64Array.from({ length: n * n }, (_, at) => entry(at) + mean(Math.floor(at / n)) * mean(at % n))
  close(t, centred ?? [], second, 1e-13)
})

t.test('each linear gets that of its input, from .pt and .safetensors; those that share one share it', async t => {
  const folder = temporary(t)
  const made = new Map<string, Float32Array>()
  for (const [i, [name, n]] of Object.entries({ qkv: 8, o: 12, up: 8, down: 20 }).entries()) {
    const { h } = correlated(n, 64, name)
    made.set(name, h)
    const flatH = lower(h, n)
    if (i % 2 === 0) writeHessian(folder, `3_${name}.pt`, flatH, { n, ct: 64 })
    else {
      const mu = normals(n, 'mu', name)
      const centred = Float64Array.from(flatH) // f64 in a file is read as well
      for (let at = 0, a = 0; a < n; a++) for (let b = 0; b <= a; b++, at++) centred[at] = (centred[at] ?? 0) - (mu[a] ?? 0) * (mu[b] ?? 0)
      await writeSafetensors(join(folder, `3_${name}.safetensors`), [
        { name: 'flatH', dtype: 'f64', shape: [centred.length], read: bytesOf(centred) },
        { name: 'mu', dtype: 'f32', shape: [n], read: bytesOf(mu) },
        scalar('n', n),
        scalar('ct', 64),
      ])
    }
  }
  const names = { q_proj: 'qkv', k_proj: 'qkv', v_proj: 'qkv', o_proj: 'o', up_proj: 'up', gate_proj: 'up', down_proj: 'down' }
  const rows = Object.entries(names).map(([linear, file]) => ({ ...row(linear, Math.sqrt(made.get(file)?.length ?? 0), 3), shares: file }))
  const out = await run(folder, rows)
  for (const [i, file] of Object.values(names).entries()) close(t, out[i] ?? [], made.get(file) ?? [], 1e-12, `${Object.keys(names)[i]}`)
  const [q, k] = await runStage(hessianFiles, { path: folder }, rows.slice(0, 2), contextOf(ops))
  t.equal(q?.hessian, k?.hessian, 'the same tensor')
  if (q?.hessian !== undefined && Symbol.dispose in q.hessian) q.hessian[Symbol.dispose]()
})

t.test("files that don't fit", async t => {
  const folder = temporary(t)
  const n = 8
  const flatH = lower(correlated(n, 64, 'fit').h, n)
  const file = join(folder, '0_qkv.pt')
  const cases: [() => void, string | RegExp][] = [
    [() => writeHessian(folder, '0_qkv.pt', flatH.subarray(1)), '"flatH" is [35], which is the triangle of no matrix.'],
    [() => writeHessian(folder, '0_qkv.pt', flatH.subarray(8)), 'its Hessian is of 7 inputs, and model.layers.0.q_proj has 8.'],
    [() => writeHessian(folder, '0_qkv.pt', flatH, { n: 9 }), 'says n = 9, and its "flatH" is of 8 inputs.'],
    [() => writeHessian(folder, '0_qkv.pt', flatH, { mu: new Float32Array(7) }), '"mu" is [7], not [8].'],
    [() => writeHessian(folder, '0_qkv.pt', flatH.with(3, Number.NaN)), 'its Hessian has 2 entries that are NaN or infinite, of 64.'],
    [() => copyFileSync(fixture('kinds-2.pt'), file), /expected the lower triangle of a Hessian, "flatH", and found "f64", /],
    [() => copyFileSync(fixture('legacy.pt'), file), /before version 1.6/],
    [() => writeFileSync(file, ''), 'is no PyTorch file'],
    [() => rmSync(file), /expected 0_qkv.pt or 0_qkv.safetensors, the Hessian of model.layers.0.q_proj, and found neither/],
  ]
  for (const [make, message] of cases) {
    make()
    const error = (await run(folder, [row('q_proj', n)]).catch((error: unknown) => error)) as Error
    t.equal(error.name, 'PipeError', error.message)
    t.match(error.message, message)
  }
  await t.rejects(run(folder, [row('mixer.in', n)]), {
    name: 'PipeError',
    message: 'no file is known to hold the Hessian of such a linear.',
  })
})

t.test('pipe run with Hessians from files; with files that can not be used, one sentence each, no stack', async t => {
  const folder = temporary(t)
  const hessians = join(folder, 'hessians')
  mkdirSync(hessians)
  for (const layer of [0, 1])
    for (const [name, n] of Object.entries({ qkv: 96, o: 96, up: 96, down: 176 }))
      writeHessian(hessians, `${layer}_${name}.pt`, lower(correlated(n, 300, name, layer).h, n), { n })
  const stages = [
    { use: 'model', path: llama },
    { use: 'hessian-files', path: './hessians' },
    { use: 'rht' },
    { use: 'round', codebook: { use: 'scalar', K: 2 } },
    { use: 'pack' },
    { use: 'write' },
  ]
  const [file, out] = [join(folder, 'graph.json'), join(folder, 'out')]
  writeFileSync(file, JSON.stringify({ name: 'from-files', about: 'Hessians from files', stages }))
  const { code, stderr } = await pipe(['run', file, '--out', out])
  t.equal(code, 0, stderr)
  t.ok(existsSync(join(out, 'model/config.json')))
  const { proxyError } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as { proxyError: { byLinear: Record<string, number> } }
  t.equal(Object.keys(proxyError.byLinear).length, 14)

  // Another file makes its linears again, and only those.
  const bad = '1_o.pt'
  const five = Float32Array.from({ length: 96 * 96 }, (_, at) => (at % 97 === 0 ? 1 : 5))
  const cases: [() => void, string | RegExp][] = [
    [() => copyFileSync(fixture('code.pt'), join(hessians, bad)), 'asks for "posix.system", which may be code: only tensors, numbers,'],
    [
      () => writeHessian(hessians, bad, lower(correlated(64, 80).h, 64)),
      'its Hessian is of 64 inputs, and model.layers.1.self_attn.o_proj has 96.',
    ],
    [() => writeHessian(hessians, bad, lower(five, 96)), /H is not positive definite with damp 1: pivot \d+ is -/],
  ]
  for (const [damage, message] of cases) {
    damage()
    const refused = await pipe(['run', file, '--out', out])
    t.equal(refused.code, 1)
    t.match(refused.stderr, message)
    t.notMatch(refused.stderr, /\n\s+at /)
  }
})

t.test('rows that are carried along pass', async t => {
  const rows = (await runStage(model, { path: llama }, [{}], contextOf(ops))).filter(({ role }) => role === 'kept') as In[]
  const out = await runStage(hessianFiles, { path: temporary(t) }, rows, contextOf(ops))
  t.strictSame(
    out.map(({ linear }) => linear),
    rows.map(({ linear }) => linear),
  )
})

t.test('nothing is left on the device', async t => {
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
