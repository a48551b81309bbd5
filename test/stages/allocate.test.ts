/** allocate: the target is met, bits go where they are worth most; tr(D) against its definition; the model that comes of it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { choleskyReference } from '../../native/ops/block-ldl/reference.js'
import type { PipeError } from '../../pipeline/error.js'
import stage from '../../stages/allocate/allocate.js'
import { allocate } from '../../stages/allocate/greedy.js'
import { traceOfD } from '../../stages/allocate/sensitivity.js'
import { temporary, testDevice } from '../helpers.js'
import { contextOf, correlated, normals, ref, runStage } from './run-stage.js'
import { notes, smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)

t.test('a hundred linears and more: within 0.01 bits, never above; the optimum of all that use as many', async t => {
  const noise = normals(224, 'errors')
  const candidates = [...noise].map((x, i) => ({ weights: [4096, 11008, 1024][i % 3] as number, error: Math.exp(2 * x) }))
  const weights = candidates.reduce((sum, one) => sum + one.weights, 0)
  for (const bits of [2, 2.25, 2.5, 3.1, 4]) {
    const given = allocate(candidates, bits, [4, 2, 3])
    const average = candidates.reduce((sum, one, i) => sum + one.weights * (given[i] ?? 0), 0) / weights
    t.ok(average <= bits + 1e-9 && average > bits - 0.01, `${average} for ${bits}`)
  }
})

t.test('of few linears every choice is tried: none within what was used has less error', async t => {
  const candidates = [...normals(7, 'few')].map(x => ({ weights: 100, error: Math.exp(2 * x) }))
  const errorOf = (rates: readonly number[]): number => rates.reduce((sum, K, i) => sum + (candidates[i]?.error ?? 0) * 2 ** (-2 * K), 0)
  const given = allocate(candidates, 20 / 7, [2, 3, 4])
  t.equal(
    given.reduce((a, b) => a + b, 0),
    20,
  )
  let least = Number.POSITIVE_INFINITY
  for (let code = 0; code < 3 ** 7; code++) {
    const rates = Array.from({ length: 7 }, (_, i) => 2 + (Math.floor(code / 3 ** i) % 3))
    if (rates.reduce((a, b) => a + b, 0) <= 20) least = Math.min(least, errorOf(rates))
  }
  t.ok(errorOf(given) <= least * (1 + 1e-12), `${errorOf(given)}, the least is ${least}`)
})

t.test('tr(D) is that of the block LDL', async t => {
  for (const n of [64, 40]) {
    const { h } = correlated(n, 400, 'trace', n)
    const c = choleskyReference(h, n)
    const width = n % 16 === 0 ? 16 : 1
    let trace = 0 // D of a block is C·Cᵀ of the block of the Cholesky factor
    for (let i = 0; i < n; i++) for (let j = i - (i % width); j <= i; j++) trace += (c[i * n + j] ?? 0) ** 2
    using tensor = ops.tensor(h, [n, n])
    const measured = await traceOfD(ops, tensor, normals(4000 * n, 'rows'))
    t.ok(Math.abs((measured ?? 0) / trace - 1) < 0.02, `n = ${n}: ${measured}, exactly ${trace}`)
  }
})

t.test('a linear whose input is always 0 loses nothing, and gets the least', async t => {
  const n = 64
  const linear = (name: string, h: Float32Array) => ({
    role: 'linear' as const,
    layer: 0,
    linear: name,
    shares: name,
    m: n,
    n,
    source: '',
    weight: ref(normals(n * n, name), [n, n]),
    hessian: ref(h, [n, n]),
  })
  const rows = [linear('read', correlated(n, 300, 'read').h), linear('unread', new Float32Array(n * n))]
  const given = await runStage(stage, { bits: 3 }, rows, contextOf(ops))
  t.strictSame(
    given.map(({ K }) => K),
    [4, 2],
  )
  const broken = { ...linear('broken', correlated(n, 300, 'read').h), weight: ref(new Float32Array(n * n).fill(Number.NaN), [n, n]) }
  await t.rejects(runStage(stage, { bits: 3 }, [...rows, broken], contextOf(ops)), {
    where: 'allocate  broken',
    message: 'Its weights or its Hessian hold NaN or infinite values.',
  })
})

t.test('a model at 2.5 bits: between 2 and 3, each linear as it was given', async t => {
  const folder = temporary(t)
  const model = join(folder, 'model')
  await writeSmallModel(model)
  const small = smallRuns(ops, folder, model)
  const round = { use: 'round', codebook: { use: 'trellis/hyb', L: 8, K: 2, Q: 8 } }
  const result = await small.run([{ use: 'allocate', bits: 2.5 }, { use: 'rht' }, round])
  t.match(notes(result.events), [/^allocate: \d+ linears at 2, \d+ linears at 3, \d+ linears at 4 bits; 2\.\d+ bits a weight$/])
  const config = JSON.parse(readFileSync(join(folder, 'shared/model/config.json'), 'utf8')).quantization_config
  const codes = [config.codebook, ...config.more] as { K: number }[]
  let [bits, weights] = [0, 0]
  for (const { m, n, code = 0 } of Object.values(config.modules) as { m: number; n: number; code?: number }[]) {
    bits += m * n * (codes[code]?.K ?? 0)
    weights += m * n
  }
  const largest = 64 * 96
  t.ok(bits <= 2.5 * weights && bits > 2.5 * weights - largest, `${bits / weights} bits a weight`)
  const wrong = await small.run([{ use: 'allocate', bits: 1.5 }, { use: 'rht' }, round]).catch((error: unknown) => error)
  t.match((wrong as PipeError).text, /bits: 1\.5 bits a weight can't be made of 2, 3, 4\.\n.*A target from 2 to 4/)
})

t.test('bits that the code of a linear does not have are refused before anything runs', async t => {
  const folder = temporary(t)
  const model = join(folder, 'model')
  await writeSmallModel(model)
  const small = smallRuns(ops, folder, model)
  const given = { use: 'allocate', bits: 3.5, overrides: { '*.down_proj': { K: 6 } } }
  const round = { use: 'round', codebook: { use: 'trellis/hyb', L: 8, K: 2, Q: 8 } }
  const refused = async (middle: object[]): Promise<string> => ((await small.run(middle).catch((error: unknown) => error)) as PipeError).text
  const six = /"allocate" above may give K = 6: .*with V = 2, K is from 1 to 4, got 6\.\n.*Give "allocate" other "K", or "round" another code\./
  const flat = await refused([given, { use: 'rht' }, round])
  t.match(flat, /graph\.json {2}stages\[5\] round {2}codebook\n/)
  t.match(flat, six)
  const text = { text: small.text, sequences: 24, length: 32, validation: 8, epochs: 0 }
  const inside = await refused([given, { use: 'finetune', ...text, perLinear: [{ use: 'rht' }, round] }])
  t.match(inside, /stages\[4\] finetune {2}perLinear\[1\] round {2}codebook\n/)
  t.match(inside, six)
  t.match(await refused([{ use: 'allocate', bits: 4.5, K: [4, 5] }, { use: 'rht' }, round]), /may give K = 5: /)
  const apart = { ...round, overrides: { '*.down_proj': { codebook: { use: 'trellis/mul1', L: 8, K: 6 } } } }
  t.ok('tensors' in (await small.run([given, { use: 'rht' }, apart])), 'whose code is another')
})

t.test('bits that the graph says count in the target; the others make up for them', async t => {
  const folder = temporary(t)
  const model = join(folder, 'model')
  await writeSmallModel(model)
  const small = smallRuns(ops, folder, model)
  const round = { use: 'round', codebook: { use: 'scalar' } }
  const run = (o: object) => small.run([{ use: 'allocate', bits: 2.5, ...o }, { use: 'rht' }, round])
  const result = await run({ overrides: { '*.down_proj': { K: 4 }, '*.1.mlp.down_proj': { K: 1 } } })
  t.match(notes(result.events), [
    /^allocate: \d+ linears at 2, \d+ linears at 3, \d+ linears at 4, 1 linears at 1 bits; 2\.\d+ bits a weight$/,
  ])
  const config = JSON.parse(readFileSync(join(folder, 'shared/model/config.json'), 'utf8')).quantization_config
  const codes = [config.codebook, ...config.more] as { K: number }[]
  const modules = Object.entries(config.modules) as [string, { m: number; n: number; code?: number }][]
  const bitsOf = Object.fromEntries(modules.map(([linear, { code = 0 }]) => [linear, codes[code]?.K ?? 0]))
  t.match(bitsOf, { 'model.layers.0.mlp.down_proj': 4, 'model.layers.1.mlp.down_proj': 1 })
  t.ok(modules.every(([linear]) => /down_proj/.test(linear) || (bitsOf[linear] ?? 0) <= 4))
  const weights = modules.reduce((sum, [, { m, n }]) => sum + m * n, 0)
  const bits = modules.reduce((sum, [linear, { m, n }]) => sum + m * n * (bitsOf[linear] ?? 0), 0)
  t.ok(bits <= 2.5 * weights && bits > 2.5 * weights - 64 * 96, `${bits / weights} bits a weight`)

  const refused = async (o: object): Promise<string> => ((await run(o).catch((error: unknown) => error)) as PipeError).text
  t.match(
    await refused({ overrides: { '*.down_prj': { K: 4 } } }),
    /overrides "\*\.down_prj"\n.*matches none of the 14 linears\. Did you mean/,
  )
  t.match(
    await refused({ overrides: { '*.mlp.*': { K: 4 } } }),
    /bits: with 2\.5 bits a weight "overrides" leave 0\.25 for the other 8 linears, which can't be made of 2, 3, 4\./,
  )
  t.match(await refused({ overrides: { '*': { K: 4 } } }), /overrides: they say the bits of all 14 linears, and leave none to choose\./)
})
