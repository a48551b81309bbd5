/** Sampling: what each setting leaves, and that draws follow the model's probabilities. */
import t from 'tap'
import { greedy, type Sampling, sample } from '../../../stages/model/sampling.js'
import { gaussian, uniform } from '../../native/devices.js'

const none: ReadonlySet<number> = new Set()
const drawn: Sampling = { ...greedy, temperature: 1 }
/** log of probabilities that sum to 1. */
const p = [0.1, 0.4, 0.05, 0.25, 0.2]
const logits = Float32Array.from(p, Math.log)
/** How often each token came in n draws. */
const draw = (z: Float32Array, o: Sampling, n = 4000, seed = 1): number[] => {
  const next = uniform(seed)
  const counts = new Array<number>(z.length).fill(0)
  for (let i = 0; i < n; i++) counts[sample(z, none, o, next)]! += 1
  return counts.map(count => count / n)
}
const left = (o: Partial<Sampling>): number[] => draw(logits, { ...drawn, ...o }).flatMap((share, id) => (share > 0 ? [id] : []))

t.test('greedy: the largest, of equal ones the first, and no random number', async t => {
  const never = (): number => {
    throw new Error('asked for a random number')
  }
  t.equal(sample(logits, none, greedy, never), 1)
  t.equal(sample(Float32Array.of(1, 3, 3, 2), none, greedy, never), 1)
  t.equal(sample(Float32Array.of(-1e30, Number.NEGATIVE_INFINITY), none, greedy, never), 0)
  t.throws(() => sample(Float32Array.of(1, Number.NaN), none, greedy, () => 0), {
    name: 'PipeError',
    message: /predictions are no numbers/,
  })
})

t.test('temperature: shares are p^(1/T)', async t => {
  for (const temperature of [0.5, 1, 2]) {
    const powers = p.map(x => x ** (1 / temperature))
    const sum = powers.reduce((a, b) => a + b)
    const shares = draw(logits, { ...drawn, temperature })
    for (const [id, power] of powers.entries()) t.ok(Math.abs(shares[id]! - power / sum) < 0.03, `T=${temperature}, ${id}: ${shares[id]}`)
  }
  t.equal(draw(Float32Array.of(1e30, 0, 1), { ...drawn, temperature: 0.01 }, 10)[0], 1, 'nothing overflows')
})

t.test('top-k, top-p, min-p: which tokens are left', async t => {
  t.strictSame(left({ topK: 1 }), [1])
  t.strictSame(left({ topK: 3 }), [1, 3, 4])
  t.strictSame(left({ topK: 99 }), [0, 1, 2, 3, 4])
  t.strictSame(left({ topP: 0 }), [1])
  t.strictSame(left({ topP: 0.39 }), [1])
  t.strictSame(left({ topP: 0.6 }), [1, 3])
  t.strictSame(left({ topP: 0.66 }), [1, 3, 4])
  t.strictSame(left({ minP: 0.45 }), [1, 3, 4])
  t.strictSame(left({ minP: 1 }), [1])
  t.strictSame(left({ topK: 3, topP: 0.7 }), [1, 3], 'top-p is of what top-k left: 0.65 of 0.85')
  t.strictSame(left({ topK: 4, minP: 0.2 }), [0, 1, 3, 4])
})

t.test('repetition penalty: tokens seen before become less likely, whatever their sign', async t => {
  const z = Float32Array.of(2, 1.5, -1, -1.5)
  t.equal(
    sample(z, new Set([0]), { ...greedy, repetitionPenalty: 2 }, () => 0),
    1,
  )
  t.equal(
    sample(z.subarray(2), new Set([0]), { ...greedy, repetitionPenalty: 2 }, () => 0),
    1,
  )
  t.equal(
    sample(z, new Set([0]), greedy, () => 0),
    0,
  )
})

t.test('deterministic; whatever the random number, a token that is left', async t => {
  const z = gaussian(1000, 1)
  const o = { ...drawn, topK: 50, topP: 0.9 }
  const run = (seed: number): number[] => {
    const next = uniform(seed)
    return Array.from({ length: 50 }, () => sample(z, none, o, next))
  }
  t.strictSame(run(1), run(1))
  t.strictNotSame(run(1), run(2))
  const best = new Set([...z.keys()].sort((a, b) => z[b]! - z[a]!).slice(0, 50))
  for (const u of [0, 0.5, 1 - 2 ** -53]) t.ok(best.has(sample(z, none, o, () => u)), `u = ${u}`)
})

t.test('what is sorted by parts gives what a whole sort gives', async t => {
  /** The definition: all sorted, then each setting on what the one before left. */
  const whole = (z: Float32Array, o: Sampling, u: number): number => {
    const p = [...z].map(x => Math.exp((x - Math.max(...z)) / o.temperature))
    const total = (ids: readonly number[]) => ids.reduce((sum, id) => sum + p[id]!, 0)
    let ids = [...p.keys()].sort((a, b) => p[b]! - p[a]! || a - b)
    if (o.topK > 0) ids = ids.slice(0, o.topK)
    const enough = o.topP * total(ids)
    if (o.topP < 1) ids = ids.filter((_, i) => i === 0 || total(ids.slice(0, i)) < enough)
    ids = ids.filter((id, i) => i === 0 || p[id]! >= o.minP)
    const below = u * total(ids)
    return ids.find((_, i) => total(ids.slice(0, i + 1)) > below) ?? ids.at(-1)!
  }
  const next = uniform(7)
  const equal = new Float32Array(100)
  const outlier = gaussian(100, 2).fill(Number.NEGATIVE_INFINITY, 9, 12).fill(40, 17, 18)
  for (const z of [gaussian(100, 3), equal, outlier, gaussian(100, 4).map(x => 50 * x), Float32Array.of(3)])
    for (const temperature of [0.1, 1, 30])
      for (const rest of [{}, { topK: 7 }, { topP: 0.8 }, { minP: 0.1 }, { topK: 20, topP: 0.9, minP: 0.02 }]) {
        const o = { ...greedy, temperature, ...rest }
        for (const u of [0, next(), 0.9999]) if (sample(z, none, o, () => u) !== whole(z, o, u)) t.fail(JSON.stringify({ o, u }))
      }
  t.pass('looked at all')
  t.equal(
    sample(Float32Array.of(Number.NEGATIVE_INFINITY, 1, 1), none, drawn, () => 1),
    2,
    'never one that is impossible',
  )
})
