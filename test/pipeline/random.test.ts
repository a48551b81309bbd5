import t from 'tap'
import { philox4x32, rng } from '../../pipeline/random.js'

const hex = (words: readonly number[]): string => words.map(w => w.toString(16).padStart(8, '0')).join(' ')

t.test('philox4x32-10 gives the published answers', async t => {
  // Known answers distributed with the paper's authors' Random123.
  t.equal(hex(philox4x32([0, 0, 0, 0], [0, 0])), '6627e8d5 e169c58d bc57ac4c 9b00dbd8')
  const ones = 0xffffffff
  t.equal(hex(philox4x32([ones, ones, ones, ones], [ones, ones])), '408f276d 41c83b0e a20bc7c6 6d5451fd')
  const pi = philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])
  t.equal(hex(pi), 'd16cfe09 94fdcceb 5001e420 24126ea1')
})

t.test('a name gives the same numbers in any order; another name, seed or type of part gives others', async t => {
  const first = rng(7, 'su', 0, 'q').uniform(5)
  rng(7, 'sv', 0, 'q').uniform(100)
  t.same(rng(7, 'su', 0, 'q').uniform(5), first)
  for (const other of [rng(8, 'su', 0, 'q'), rng(7, 'su', 1, 'q'), rng(7, 'su', '0', 'q'), rng(7, 'su0', 'q')]) {
    t.notSame(other.uniform(5), first)
  }
})

t.test('calls go on in the stream', async t => {
  const parts = rng(1, 'a')
  const whole = rng(1, 'a').uniform(6)
  t.same([...parts.uniform(4), ...parts.uniform(2)], [...whole])
})

t.test('distributions', async t => {
  const n = 100_000
  const mean = (x: ArrayLike<number>): number => Array.from(x).reduce((a, b) => a + b, 0) / x.length
  const within = (value: number, expected: number, sigma: number, name: string): void => {
    t.ok(Math.abs(value - expected) < 5 * sigma, `${name}: ${value} within 5σ of ${expected}`)
  }
  const random = rng(3, 'distributions')
  const uniform = random.uniform(n)
  t.ok(uniform.every(u => u >= 0 && u < 1))
  within(mean(uniform), 0.5, Math.sqrt(1 / 12 / n), 'uniform mean')
  const normal = random.normal(n)
  within(mean(normal), 0, Math.sqrt(1 / n), 'normal mean')
  within(mean(normal.map(x => x * x)), 1, Math.sqrt(2 / n), 'normal variance')
  within(mean(Float64Array.from(normal, x => x ** 4)), 3, Math.sqrt(96 / n), 'normal 4th moment')
  const signs = random.signs(n)
  t.ok(signs.every(s => s === 1 || s === -1))
  within(mean(signs), 0, Math.sqrt(1 / n), 'signs mean')
  const integers = random.integers(n, 6)
  for (let face = 0; face < 6; face++) {
    within(integers.filter(i => i === face).length / n, 1 / 6, Math.sqrt(5 / 36 / n), `share of ${face}`)
  }
  within(mean(random.bytes(n)), 127.5, 256 / Math.sqrt(12 * n), 'bytes mean')
  t.equal(random.normal(7).length, 7, 'an odd number of normals')
  t.throws(() => random.integers(1, 0), /below is a whole number/)
})

t.test('the numbers themselves are pinned: they are part of results', async t => {
  t.same([...rng(0, 'su', 0, 'q_proj').signs(16)], [-1, 1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, 1, -1])
  t.same([...rng(0, 'a').integers(4, 1000)], [609, 200, 642, 723])
  t.same(
    [...rng(0, 'a').normal(2)].map(x => x.toFixed(5)),
    ['0.17806', '-0.75377'],
  )
})
