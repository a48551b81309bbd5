/** The ops that distillation needs besides gradients: the largest logits, distributions of which only those are known, the embedding's gradient. */
import t, { type Test } from 'tap'
import { openBackend } from '../../native/index.js'
import { embedGradientReference } from '../../native/ops/embed-gradient/reference.js'
import { klDivergenceReference } from '../../native/ops/kl-divergence/reference.js'
import { klGradientReference } from '../../native/ops/kl-gradient/reference.js'
import { sparseLogitsReference } from '../../native/ops/sparse-logits/reference.js'
import { topKReference } from '../../native/ops/top-k/reference.js'
import type { Ops } from '../../native/ops.js'
import { testDevice } from '../helpers.js'
import { everyDevice, gaussian, nmse, same, values } from './devices.js'

const devices = await everyDevice()

/** Every device and level: within the bound, and the same bits again. */
async function check(
  t: Test,
  label: string,
  run: (ops: Ops) => readonly (readonly [Uint8Array | Promise<Uint8Array>, Float64Array | Int32Array])[],
) {
  for (const [name, ops] of devices) {
    const seen: Uint8Array[] = []
    for (let again = 0; again < 2; again++) {
      for (const [i, [reading, expected]] of run(ops).entries()) {
        const bytes = await reading
        if (!same(seen[i] ?? bytes, bytes)) t.fail(`${label}, ${name}, output ${i}: not the same bits`)
        seen[i] = bytes
        const exact = expected instanceof Int32Array
        const got = exact ? new Int32Array(bytes.slice().buffer) : new Float32Array(bytes.slice().buffer)
        const error = exact ? got.findIndex((x, e) => x !== expected[e]) : nmse(Float64Array.from(got), expected)
        if (exact ? error !== -1 : !(error <= 1e-12)) t.fail(`${label}, ${name}, output ${i}: ${exact ? 'differs at' : 'NMSE'} ${error}`)
      }
    }
    await ops.finish()
    if (ops.device.liveBytes !== 0) t.fail(`${label}, ${name}: ${ops.device.liveBytes} bytes are left`)
  }
  t.pass(label)
}

t.test('topK: the largest, their log-probabilities, and the mass of the others, with ties', async t => {
  for (const [n, v, k] of [
    [1, 1, 1],
    [3, 7, 7],
    [5, 513, 64],
    [2, 3000, 1000],
  ] as const) {
    // Steps of a quarter, so that many are equal; infinities of both signs elsewhere are the model's fault, not looked for.
    const x = gaussian(n * v, 1).map(z => Math.round(12 * z) / 4)
    if (v === 513) x[5] = Number.NEGATIVE_INFINITY
    const { indices, values: tops, rest } = topKReference(x, v, k)
    await check(t, `[${n}, ${v}], ${k}`, ops => {
      using logits = ops.tensor(x, [n, v])
      const made = ops.topK(logits, k)
      using a = made.indices
      using b = made.values
      using c = made.rest
      return v === k
        ? [[a.read(), indices] as const, [b.read(), tops] as const]
        : [[a.read(), indices] as const, [b.read(), tops] as const, [c.read(), rest] as const]
    })
  }
})

t.test('topK: nothing is left of all of them; a confident distribution keeps what is left', async t => {
  for (const [name, ops] of devices) {
    using logits = ops.tensor(Float32Array.of(1, 3, 2, 40, 0, 0), [2, 3])
    const all = ops.topK(logits, 3)
    const one = ops.topK(logits, 1)
    t.strictSame([...(await values(all.rest))], [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY], name)
    const [, small = 0] = await values(one.rest)
    t.ok(Math.abs(small - (Math.log(2) - 40)) < 1e-5, `${name}: ${small}`)
    for (const tensor of [all, one].flatMap(made => Object.values(made))) tensor[Symbol.dispose]()
  }
})

t.test('sparseLogits: the divergence of k + 1 classes, and its gradient', async t => {
  const [n, v, k] = [4, 300, 9]
  const [teacher, student] = [gaussian(n * v, 1).map(x => 3 * x), gaussian(n * v, 2).map(x => 3 * x)]
  const top = topKReference(teacher, v, k)
  const expected = sparseLogitsReference(top, student, v)
  // By definition: k classes, and the others as one.
  const lumped = (z: ArrayLike<number>): number[] =>
    Array.from({ length: n }, (_, i) => {
      const row = Array.from({ length: v }, (_, j) => z[i * v + j]!)
      const max = Math.max(...row)
      const logSum = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0))
      const known = [...top.indices.subarray(i * k, (i + 1) * k)]
      const q = known.map(j => row[j]! - logSum)
      const others = Math.log(row.reduce((sum, x, j) => (known.includes(j) ? sum : sum + Math.exp(x - logSum)), 0))
      const kl = q.reduce((sum, z, c) => sum + Math.exp(top.values[i * k + c]!) * (top.values[i * k + c]! - z), 0)
      return kl + Math.exp(top.rest[i]!) * (top.rest[i]! - others)
    })
  const { gradient } = klGradientReference(expected, student, v, 1)
  for (const e of [0, v + 3, 3 * v + (top.indices[3 * k] ?? 0)]) {
    const moved = (by: number): number => lumped(Float64Array.from(student, (x, i) => (i === e ? x + by : x))).reduce((a, b) => a + b)
    t.ok(Math.abs((moved(1e-5) - moved(-1e-5)) / 2e-5 - gradient[e]!) < 1e-6, `gradient of logit ${e}`)
  }
  t.ok(nmse(klDivergenceReference(expected, student, v), Float64Array.from(lumped(student))) < 1e-12)
  t.ok(
    lumped(student).every((x, i) => x < klDivergenceReference(teacher, student, v)[i]!),
    'never above that of all classes',
  )
  await check(t, `[${n}, ${v}], ${k}`, ops => {
    using indices = ops.tensor(top.indices, [n, k])
    using logs = ops.tensor(Float32Array.from(top.values), [n, k])
    using rest = ops.tensor(Float32Array.from(top.rest), [n])
    using like = ops.tensor(student, [n, v])
    using out = ops.sparseLogits({ indices, values: logs, rest }, like)
    return [[out.read(), expected]]
  })
})

t.test('sparseLogits: classes without mass stay finite; a class that there is not is refused', async t => {
  const ops = await openBackend(testDevice)
  using logs = ops.tensor(Float32Array.of(0, Number.NEGATIVE_INFINITY), [1, 2])
  using rest = ops.tensor(Float32Array.of(Number.NEGATIVE_INFINITY), [1])
  using like = ops.tensor(Float32Array.of(1, 2, 3, 4), [1, 4])
  {
    using indices = ops.tensor(Int32Array.of(2, 0), [1, 2])
    using out = ops.sparseLogits({ indices, values: logs, rest }, like)
    const { divergence, crossEntropy, gradient } = ops.klGradient(out, like)
    for (const tensor of [divergence, crossEntropy, gradient]) t.ok((await values(tensor)).every(Number.isFinite))
    const q = [1, 2, 3, 4].map(x => Math.exp(x) / [1, 2, 3, 4].reduce((sum, z) => sum + Math.exp(z), 0))
    t.ok(Math.abs((await values(divergence))[0]! + Math.log(q[2]!)) < 1e-6)
  }
  using none = ops.tensor(Int32Array.of(2, 4), [1, 2])
  using out = ops.sparseLogits({ indices: none, values: logs, rest }, like)
  if (testDevice === 'cpu') await t.rejects(out.read(), { message: /class 4 of row 0 is none of 4/ })
  else t.ok((await values(out)).every(Number.isNaN), 'NaN in all of the row')
})

t.test('addEmbedGradient: rows that are met often, once and never', async t => {
  for (const [n, v, d] of [
    [1, 1, 1],
    [70, 9, 33],
    [300, 40, 300],
  ] as const) {
    const ids = gaussian(n, 1).map(x => Math.min(v - 1, Math.floor(4 * Math.abs(x))))
    const [dy, before] = [gaussian(n * d, 2), gaussian(v * d, 3)]
    await check(t, `[${n}] of [${v}, ${d}]`, ops => {
      using into = ops.tensor(before, [v, d])
      using rows = ops.tensor(Int32Array.from(ids), [n])
      using slope = ops.tensor(dy, [n, d])
      ops.addEmbedGradient(into, rows, slope)
      return [[into.read(), embedGradientReference(before, ids, dy, d)]]
    })
  }
})

t.test('wrong arguments are refused with a sentence', async t => {
  const ops = await openBackend(testDevice)
  using x = ops.zeros('f32', [2, 8])
  t.throws(() => ops.topK(x, 9), { message: 'topK: k must be from 1 to 8, got 9' })
  t.throws(() => ops.topK(x, 0), { message: 'topK: k must be from 1 to 8, got 0' })
  using ids = ops.tensor(Int32Array.of(1, 2), [2])
  t.throws(() => ops.addEmbedGradient(ops.zeros('f32', [2, 4]), ids, x), {
    message: /addEmbedGradient: dy must be f32 \[\?, 4\], got f32 \[2, 8\]/,
  })
  const into = ops.zeros('f32', [2, 8])
  ops.addEmbedGradient(into, ids, x)
  await t.rejects(into.read(), { message: /token 1 is 2, and the table has 2 rows/ })
})
