/** The table of the published recipe beside this project, as it is made from results. */
import t from 'tap'
import { originalTable } from '../../bench/original.js'
import { withTable } from '../../bench/table.js'

const row = (method: string, tuning: string, scales: 'no' | 'yes', seed: number, after: number, error: number) => ({
  method,
  bits: 2,
  'fine-tuning': tuning,
  'row scales': scales,
  seed,
  'perplexity before': 1.9,
  'perplexity after': after,
  'proxy error, mean': error,
  'time s': 1,
})

t.test('means, their errors, spreads and differences; what was not measured is left out', async t => {
  const rows = [
    row('pipe', 'none', 'no', 0, 2.02, 0.025),
    row('pipe', 'none', 'no', 1, 2.04, 0.027),
    row('pipe', 'none', 'yes', 0, 2.0, 0.028),
    row('plain PyTorch', 'none', 'no', 0, 2.1, 0.03),
    row('pipe', 'inside blocks', 'no', 0, 1.98, 0.026),
  ]
  const head =
    'bits | fine-tuning | our row scales | draws | plain PyTorch, perplexity | pipe, perplexity | difference | proxy error, mean: PyTorch / pipe'
  t.equal(
    originalTable({ rows }),
    [
      `| ${head} |`,
      '| --- | --- | --- | --- | --- | --- | --- | --- |',
      '| 2 | none | no | 1, 2 | 2.1000 | 2.0300 (2.0200–2.0400) | −3.33 ± 0.48 % | 3.00e-2 / 2.60e-2 |',
      '| 2 | none | yes | 1, 1 | 2.1000 | 2.0000 | −4.76 ± 0.00 % | 3.00e-2 / 2.80e-2 |',
    ].join('\n'),
  )
})

t.test('a table goes between its marks, again and again', async t => {
  const marks = ['<!-- a -->', '<!-- /a -->'] as const
  const once = withTable('before\n<!-- a -->\n<!-- /a -->\nafter', marks, '| x |')
  t.equal(once, 'before\n<!-- a -->\n| x |\n<!-- /a -->\nafter')
  t.equal(withTable(once, marks, '| x |'), once)
  t.throws(() => withTable('no marks', marks, ''), { message: 'the text has no <!-- a --> … <!-- /a -->' })
})
