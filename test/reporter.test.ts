import t from 'tap'
import { Reporter } from './reporter.js'

/** The lines printed for these test files, given as what each would print to stdout, indented as tap does. */
function report(...files: { name: string; body: string; ok: boolean }[]): { lines: string[]; ok: boolean } {
  const lines: string[] = []
  const reporter = new Reporter(line => lines.push(line))
  const text = files.map(
    ({ name, body, ok }, i) =>
      `# Subtest: ${name}\n${body.trim().replace(/^/gm, '    ')}\n${ok ? 'ok' : 'not ok'} ${i + 1} - ${name} # time=${1500 * (i + 1)}ms\n`,
  )
  let passed = false
  reporter.parser.on('complete', () => {
    passed = reporter.end()
  })
  reporter.parser.end(`TAP version 14\n${text.join('\n')}\n1..${files.length}\n`)
  return { lines: lines.join('\n').split('\n'), ok: passed }
}

const nested = '# Subtest: inner\n    ok 1 - a\n    ok 2 - b\n    1..2\nok 1 - inner\nok 2 - c\n1..2'

t.test('counts assertions, not the summaries of subtests', async t => {
  const { lines, ok } = report({ name: 'a.test.ts', body: nested, ok: true })
  t.equal(lines.at(-1), '3 passed, 0 failed, 0 skipped')
  t.match(lines[0], /1\.5 s {2}a\.test\.ts {2}3 passed/)
  t.equal(ok, true)
})

t.test('names what is skipped', async t => {
  const body = 'ok 1 - here\nok 2 - gram # SKIP no CUDA device\nok 3 - later # TODO soon\n1..3'
  const { lines, ok } = report({ name: 'a.test.ts', body, ok: true })
  t.equal(lines.at(-1), '1 passed, 0 failed, 2 skipped')
  t.ok(lines.some(line => line.includes('gram (no CUDA device)')))
  t.equal(ok, true)
})

t.test('shows a failure with its difference and place', async t => {
  const body = 'not ok 1 - sums\n  ---\n  diff: "-1 +2"\n  stack: "test/a.test.ts:7:3"\n  ...\n1..1'
  const { lines, ok } = report({ name: 'a.test.ts', body, ok: false }, { name: 'b.test.ts', body: nested, ok: true })
  t.equal(lines.at(-1), '3 passed, 1 failed, 0 skipped')
  const at = lines.findIndex(line => line.includes('a.test.ts > sums'))
  t.match(lines.slice(at).join('\n'), /-1 \+2\n\s+test\/a\.test\.ts:7:3/)
  t.equal(ok, false)
})

t.test('a crash, a broken plan and an empty file are failures', async t => {
  t.equal(report({ name: 'crash.test.ts', body: 'ok 1 - a\n1..1', ok: false }).lines.at(-1), '1 passed, 1 failed, 0 skipped')
  t.equal(report({ name: 'plan.test.ts', body: 'ok 1 - a\n1..2', ok: false }).lines.at(-1), '1 passed, 1 failed, 0 skipped')
  const lines: string[] = []
  const reporter = new Reporter(line => lines.push(line))
  reporter.parser.end('TAP version 14\n# Subtest: a\n    1..0 # no tests found\nok 1 - a # SKIP no tests found\n\n1..1\n')
  t.equal(reporter.end(), false)
  t.match(lines.join('\n'), /a\n\s+holds no test\n[\s\S]*0 passed, 1 failed, 0 skipped$/)
})

t.test('a run of nothing is a failure', async t => {
  const reporter = new Reporter(() => {})
  reporter.parser.end('TAP version 14\n1..0\n')
  t.equal(reporter.end(), false)
})
