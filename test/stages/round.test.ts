import { join } from 'node:path'
import t from 'tap'
import type { Ops } from '../../native/ops.js'
import type { Row } from '../../pipeline/define.js'
import type { incoherent } from '../../schemas/tables/rounded.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import round from '../../stages/round/round.js'
import { backends, root } from '../helpers.js'
import { contextOf, correlated, normals, ref, runStage, settled, type Told } from './run-stage.js'
import { numbers, readAll } from './safetensors-reader.js'

type In = Row<typeof incoherent>
const row = (linear: string, m: number, n: number, weight: Float32Array, h: Float32Array): In => ({
  role: 'linear',
  layer: 0,
  linear,
  shares: 'a',
  m,
  n,
  source: '',
  transform: JSON.stringify({ m, n }),
  weight: ref(weight, [m, n]),
  hessian: ref(h, [n, n]),
  su: ref(new Float32Array(n).fill(1), [n]),
  sv: ref(new Float32Array(m).fill(1), [m]),
})
const hyb2 = { use: 'trellis/hyb', K: 2 }

/** The tensors of a file of fixtures/vectors, as numbers. */
function vectors(name: string) {
  const { tensors, metadata } = readAll(join(root, 'fixtures/vectors', `${name}.safetensors`))
  const tensor = (key: string): Float32Array => {
    const found = tensors.get(key)
    if (found === undefined) throw new Error(`${name} has no ${key}`)
    return Float32Array.from(numbers(found))
  }
  return { tensor, metadata }
}

/** W and H made incoherent with the given signs, as the published program does before rounding. */
async function incoherentPair(
  ops: Ops,
  w: Float32Array,
  h: Float32Array,
  su: Float32Array,
  sv: Float32Array,
): Promise<[Float32Array, Float32Array]> {
  const [m, n] = [sv.length, su.length]
  using signsIn = ops.tensor(su, [n])
  using signsOut = ops.tensor(sv, [m])
  using w0 = ops.tensor(w, [m, n])
  using w1 = ops.hadamard(w0, { side: 'right', signs: signsIn, block: n })
  using w2 = ops.hadamard(w1, { side: 'left', signs: signsOut, block: m })
  using h0 = ops.tensor(h, [n, n])
  using h1 = ops.hadamard(h0, { side: 'right', signs: signsIn, block: n })
  using h2 = ops.hadamard(h1, { side: 'left', signs: signsIn, block: n })
  return [new Float32Array((await w2.read()).slice().buffer), new Float32Array((await h2.read()).slice().buffer)]
}

for (const { name, skip, open } of backends) {
  t.test(`${name}: as good as the published program on its own inputs`, { skip }, async t => {
    for (const [file, use] of [
      ['qtip_hyb_k2', 'trellis/hyb'],
      ['qtip_hyb_k4', 'trellis/hyb'],
      ['qtip_1mad_k2', 'trellis/1mad'],
      ['qtip_lut_l12_k2', 'trellis/lut'],
    ] as const) {
      const ops = await open()
      const { tensor, metadata } = vectors(file)
      const [L, K, V, Q] = JSON.parse(metadata.cfg ?? '[]') as number[]
      const [su, sv] = [tensor('SU'), tensor('SV')]
      const [w, h] = await incoherentPair(ops, tensor('W'), tensor('H'), su, sv)
      const codebook = { use, L, K, ...(use === 'trellis/hyb' && { V, Q }), ...(use === 'trellis/lut' && { V }) }
      const [out] = await runStage(round, { codebook }, [row('w', sv.length, su.length, w, h)], contextOf(ops))
      const theirs = Number(metadata.proxy_err)
      t.ok((out?.proxyError ?? 1) <= 1.015 * theirs, `${file}: ours ${out?.proxyError.toExponential(4)}, theirs ${theirs.toExponential(4)}`)
    }
  })

  t.test(`${name}: LDLQ beats nearest rounding; more bits beat fewer; trellis beats scalar`, { skip }, async t => {
    const ops = await open()
    const { h } = correlated(128, 1000, 'round')
    const at = async (settings: object) =>
      (await runStage(round, settings as Record<string, unknown>, [row('w', 64, 128, normals(64 * 128, 'w'), h)], contextOf(ops)))[0]
        ?.proxyError ?? 1
    const ldlq = await at({ codebook: hyb2 })
    t.ok(ldlq < (await at({ codebook: hyb2, feedback: false })), 'LDLQ below nearest')
    t.ok(ldlq < (await at({ codebook: { use: 'scalar', K: 2 } })), 'hyb below scalar at 2 bits')
    const three = await at({ codebook: { ...hyb2, K: 3 } })
    t.ok(three < ldlq && (await at({ codebook: { ...hyb2, K: 4 } })) < three, '4 < 3 < 2 bits')
    t.ok(ldlq < 1.01 * (await at({ codebook: hyb2, scale: 0.8 })), 'the scale found is not worse than 0.8')
  })

  t.test(`${name}: scales of rows in sv give back what rounding shrank; the error is that of what decodes with them`, { skip }, async t => {
    const ops = await open()
    const [m, n] = [48, 64]
    const { h } = correlated(n, 300, 'rows')
    const input = row('w', m, n, normals(m * n, 'w'), h)
    const [plain] = await runStage(round, { codebook: hyb2 }, [input], contextOf(ops))
    const [scaled] = await runStage(round, { codebook: hyb2, rowScale: true }, [input], contextOf(ops))
    const [least = 0, error = 1] = [plain?.proxyError, scaled?.proxyError]
    t.ok(error < (1 + 2 * least) * least, `${least}, and ${error} of the signal given back in full`)
    t.strictSame(await scaled?.codes?.read(), await plain?.codes?.read())
    const { codebook, params } = codebookOf(scaled?.codebook ?? '')
    using codec = codebook.open(ops, params)
    using codes = await (await settled(scaled?.codes)).open(ops)
    using decoded = codec.decode(codes, m, n)
    using values = ops.scale(decoded, { factor: scaled?.scale ?? 0 })
    using sv = await (await settled(scaled?.sv)).open(ops, 'f32')
    using ones = ops.tensor(new Float32Array(m).fill(1), [m])
    using w = ops.tensor(normals(m * n, 'w'), [m, n])
    using outputs = ops.hadamard(w, { side: 'left', signs: ones, block: m, inverse: true })
    using read = ops.hadamard(values, { side: 'left', signs: sv, block: m, inverse: true })
    using raw = ops.tensor(h, [n, n])
    using damped = ops.damp(raw, 0.01)
    using traces = ops.proxyError(outputs, read, damped)
    const [lost = 0, total = 1] = new Float64Array((await traces.read()).slice().buffer)
    t.ok(Math.abs(lost / total / error - 1) < 1e-4, `${lost / total}, said to be ${error}`)
    const [original, given, metric] = [await outputs.read(), await read.read(), await damped.read()].map(
      x => new Float32Array(x.slice().buffer),
    )
    const inner = (i: number, x: Float32Array, y: Float32Array): number =>
      x.subarray(i * n, i * n + n).reduce((sum, a, j) => {
        const hy = y.subarray(i * n, i * n + n).reduce((dot, b, k) => dot + b * (metric?.[j * n + k] ?? 0), 0)
        return sum + a * hy
      }, 0)
    for (let i = 0; i < m; i++) {
      const slope = inner(i, original!, given!) / inner(i, original!, original!)
      t.ok(Math.abs(slope - 1) < 1e-4, `output ${i} has slope ${slope}`)
    }
  })

  t.test(`${name}: linears rounded together give what they give alone, but for the common scale`, { skip }, async t => {
    const ops = await open()
    const { h } = correlated(64, 300, 'together')
    const rows = [
      row('q', 32, 64, normals(32 * 64, 'q'), h),
      row(
        'k',
        16,
        64,
        normals(16 * 64, 'k').map(x => 5 * x),
        h,
      ),
    ]
    const together = await runStage(round, { codebook: hyb2, scale: 1 }, rows, contextOf(ops))
    const [alone] = await runStage(round, { codebook: hyb2, scale: 1 }, rows.slice(1), contextOf(ops))
    t.strictSame(await together[1]?.codes?.read(), await alone?.codes?.read())
    t.equal(together[1]?.scale, alone?.scale)
  })

  t.test(`${name}: the scale is found on real weights: not on padding, nor on a linear of zeros`, { skip }, async t => {
    const ops = await open()
    const [m, n] = [32, 64]
    const { h } = correlated(n, 300, 'zeros')
    const one = row('q', m, n, normals(m * n, 'q'), h)
    const [alone] = await runStage(round, { codebook: hyb2 }, [one], contextOf(ops))
    for (const rows of [64, 7]) {
      const zeros = row('k', rows, n, new Float32Array(rows * n), h)
      const [zero, beside] = await runStage(round, { codebook: hyb2 }, [zeros, one], contextOf(ops))
      t.strictSame([zero?.scale, zero?.proxyError, beside?.scale], [0, 0, alone?.scale])
      t.strictSame(await beside?.codes?.read(), await alone?.codes?.read())
    }
    const identity = Float32Array.from({ length: 256 * 256 }, (_, i) => (i % 257 === 0 ? 1 : 0))
    for (const rows of [1, 4]) {
      const errors = async (o: object): Promise<number> => {
        const codebook = { use: 'trellis/hyb', K: 4, L: 12 }
        const of = async (i: number) =>
          (await runStage(round, { codebook, ...o }, [row('thin', rows, 256, normals(rows * 256, 'thin', i), identity)], contextOf(ops)))[0]
        return (await Promise.all([0, 1, 2, 3].map(of))).reduce((sum, one) => sum + (one?.proxyError ?? 1), 0) / 4
      }
      const [found, given] = [await errors({}), await errors({ scale: 0.9 })]
      t.ok(found < 1.01 * given, `${rows} outputs: ${found}, at the scale 0.9 ${given}`)
    }
    const least = row('least', 3, 5, normals(15, 'least'), correlated(5, 300, 'least').h)
    t.ok(((await runStage(round, { codebook: hyb2 }, [least], contextOf(ops)))[0]?.proxyError ?? 1) < 0.1, 'less than a tile')
  })

  t.test(`${name}: each of two groups of outputs is rounded with its own H; a tile across their border too`, { skip }, async t => {
    const ops = await open()
    const [m, n] = [32, 64]
    const a = normals(m * n, 'groups')
    const hs = [correlated(n, 500, 'first').h, correlated(n, 500, 'second').h]
    const both = (rows: number, weight: Float32Array): In => ({
      ...row('both', rows, n, weight, hs[0]!),
      transform: JSON.stringify({ m: rows / 2, n }),
      hessian: ref(Float32Array.from([...hs[0]!, ...hs[1]!]), [2 * n, n]),
    })
    const rounded = async (one: In, o = {}) => {
      const [out] = await runStage(round, { codebook: hyb2, scale: 1, ...o }, [one], contextOf(ops))
      const sv = new Float32Array((await (await settled(out?.sv)).read()).slice().buffer)
      return { codes: Buffer.from(await (await settled(out?.codes)).read()), error: out?.proxyError ?? 1, sv }
    }
    const apart = await Promise.all(hs.map((h, i) => rounded(row(`${i}`, m, n, a, h))))
    const whole = both(2 * m, Float32Array.from([...a, ...a]))
    const together = await rounded(whole)
    t.ok(together.codes.equals(Buffer.concat(apart.map(({ codes }) => codes))), 'the codes of the two alone')
    t.ok(together.error > Math.min(...apart.map(({ error }) => error)) && together.error < Math.max(...apart.map(({ error }) => error)))
    const scaled = await rounded(whole, { rowScale: true })
    const own = (await Promise.all(hs.map((h, i) => rounded(row(`${i}`, m, n, a, h), { rowScale: true })))).flatMap(({ sv }) => [
      ...sv.map(Math.abs),
    ])
    t.ok(
      own.every((s, i) => Math.abs(s / Math.abs(scaled.sv[i] ?? 0) - 1) < 1e-4),
      'scales of rows, each in the metric of its group',
    )
    const uneven = both(40, normals(40 * n, 'uneven'))
    t.ok((await rounded(uneven)).error < (await rounded(uneven, { feedback: false })).error, 'groups of 20, tiles of 16')
  })

  t.test(`${name}: sizes that tiles do not divide are padded, and decode to what was rounded`, { skip }, async t => {
    const ops = await open()
    const { h } = correlated(44, 300, 'odd')
    const [out] = await runStage(round, { codebook: hyb2 }, [row('w', 20, 44, normals(20 * 44, 'odd'), h)], contextOf(ops))
    t.strictSame(out?.codes?.shape, [2 * 3, 128])
    t.ok((out?.proxyError ?? 1) < 0.12)
  })

  t.test(`${name}: a linear whose input is always 0 is rounded without feedback, and said so`, { skip }, async t => {
    const ops = await open()
    const told: Told = { notes: [] }
    const [m, n] = [20, 44]
    const weight = normals(m * n, 'unread')
    const [out] = await runStage(round, { codebook: hyb2 }, [row('w', m, n, weight, new Float32Array(n * n))], contextOf(ops, told))
    t.strictSame(told.notes, ['round  w: H is 0, as its input or its gradient always is: rounded without feedback'])
    t.equal(out?.proxyError, 0)
    const { h } = correlated(n, 300, 'read')
    const [plain] = await runStage(round, { codebook: hyb2, feedback: false }, [row('w', m, n, weight, h)], contextOf(ops))
    t.strictSame(await out?.codes?.read(), await plain?.codes?.read())
    const half = {
      ...row('w', m, n, weight, h),
      transform: JSON.stringify({ m: m / 2, n }),
      hessian: ref(Float32Array.from([...h, ...h.map(() => 0)]), [2 * n, n]),
    }
    const [grouped] = await runStage(round, { codebook: hyb2 }, [half], contextOf(ops, told))
    t.match(told.notes[1], /w, group 1 of outputs: H is 0/)
    t.ok((grouped?.proxyError ?? 1) < 0.12)
  })

  t.test(`${name}: an error that can't be told is none of 0: H that is not positive, holds NaN or overflows; weights next to 0`, { skip }, async t => {
    const ops = await open()
    const [m, n] = [16, 32]
    const { h } = correlated(n, 300, 'broken')
    const w = normals(m * n, 'broken')
    const rounded = async (weight: Float32Array, hessian: Float32Array, o: object, told?: Told) =>
      (await runStage(round, { codebook: hyb2, ...o }, [row('w', m, n, weight, hessian)], contextOf(ops, told)))[0]
    for (const [hessian, o] of [
      [h.map((x, i) => (i === 1 || i === n ? Number.NaN : x)), { feedback: false }],
      [h.map(x => -x), { feedback: false }],
      [h.map((_, i) => (i % (n + 1) === 0 ? 3e38 : 0)), {}],
    ] as const)
      await t.rejects(rounded(w, hessian, o), {
        code: 'input',
        where: 'round  w',
        message: 'tr(WHWᵀ), or the error that is a share of it, is no finite number above 0.',
      })
    const told: Told = { notes: [] }
    const least = await rounded(w.map(x => x * 1e-39), h, {}, told)
    t.strictSame([least?.scale, least?.proxyError], [0, 1])
    t.match(told.notes, [/^round {2}w: weights of 1\.0e-39 are too small for f32; rounded as zeros$/])
    t.ok(((await rounded(w.map(x => x * 1e-38), h, {}))?.proxyError ?? 1) < 0.08, 'those that are not')
  })

  t.test(`${name}: a matrix that is not positive definite is damped more, and said so; NaN is refused`, { skip }, async t => {
    const ops = await open()
    const told: Told = { notes: [] }
    const n = 32
    const { h } = correlated(n, 4, 'few tokens') // rank 4
    for (let i = 0; i < n; i++) h[i * n + i] = (h[i * n + i] ?? 0) * 0.999 // and slightly indefinite
    const [out] = await runStage(round, { codebook: hyb2, damp: 0.0001 }, [row('w', 16, n, normals(16 * n, 'pd'), h)], contextOf(ops, told))
    t.ok(Number.isFinite(out?.proxyError))
    t.match(told.notes[0], /^round {2}w: H is not positive definite with damp 0.0001; used 0\.\d+$/)
    const broken = row(
      'w',
      16,
      n,
      normals(16 * n, 'pd').map((x, i) => (i === 7 ? Number.NaN : x)),
      h,
    )
    await t.rejects(runStage(round, { codebook: hyb2 }, [broken], contextOf(ops)), {
      code: 'input',
      where: 'round  w',
      message: 'The weights hold NaN or infinite values.',
    })
    await t.rejects(
      runStage(
        round,
        { codebook: hyb2 },
        [
          row(
            'w',
            16,
            n,
            normals(16 * n, 'pd'),
            h.map(() => Number.NaN),
          ),
        ],
        contextOf(ops),
      ),
      { code: 'input', message: /not positive definite/ },
    )
  })
}
