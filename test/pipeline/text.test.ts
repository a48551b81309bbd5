import t from 'tap'
import { bytes, count, duration, table, wrap } from '../../pipeline/text.js'

t.test('bytes', async t => {
  for (const [n, text] of [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1 kB'],
    [1499, '1.50 kB'],
    [12_340_000, '12.3 MB'],
    [999_600_000, '1.00 GB'],
    [5.5e14, '550 TB'],
  ] as const) {
    t.equal(bytes(n), text)
  }
})

t.test('duration', async t => {
  for (const [s, text] of [
    [0, '0 ms'],
    [0.0123, '12 ms'],
    [0.9999, '1.0 s'],
    [9.94, '9.9 s'],
    [9.96, '10 s'],
    [59.6, '1:00'],
    [3725, '1:02:05'],
  ] as const) {
    t.equal(duration(s), text)
  }
})

t.test('count', async t => {
  for (const [n, text] of [
    [0, '0'],
    [7, '7'],
    [0.3125, '0.31'],
    [999, '999'],
    [1234, '1.23k'],
    [999_900, '1.00M'],
    [4.56e9, '4.56G'],
  ] as const) {
    t.equal(count(n), text)
  }
})

t.test('a table aligns words to the left and figures to the right', async t => {
  t.strictSame(
    table(
      ['stage', 'time', 'why'],
      [
        ['rht', '12 s', 'never ran'],
        ['round', '1:05', ''],
      ],
    ),
    ['stage  time  why', 'rht    12 s  never ran', 'round  1:05'],
  )
  t.strictSame(
    table(
      ['a', 'b'],
      [
        ['x', '1'],
        ['y', '1000'],
      ],
    ),
    ['a     b', 'x     1', 'y  1000'],
  )
})

t.test('wrap', async t => {
  t.strictSame(wrap(['aa', 'bb', 'cccccc', 'd'], 5), ['aa bb', 'cccccc', 'd'])
  t.strictSame(wrap([], 5), [])
})
