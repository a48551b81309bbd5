/**
 * `npm test`: runs the compiled test files, two at a time (on a GPU as many as there are cores), through tap's own API, and reports. Arguments are parts of
 * the paths of the files to run; none = all. The tap command line is not used: its loaders cost a second a file.
 *
 * PIPE_TEST_DEVICE=cuda:0 (npm run test:gpu) runs the tests of ops, codebooks and stages on that device; without it they
 * are skipped by name. UPDATE=1 lets tests rewrite what they compare with (committed tables).
 */
import { existsSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { openBackend } from '../native/index.js'
import { testDevice } from './helpers.js'
import { Reporter } from './reporter.js'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
/** Files at a time. A GPU serves many, and is mostly waiting for the definitions in float64 that results are compared with. */
const jobs = testDevice === 'cpu' ? 2 : Math.max(2, Math.min(14, availableParallelism()))
/** Seconds a file may take: the longest (the whole main job, several times) takes a minute or two on 2 idle cores. */
const timeout = testDevice === 'cpu' ? 600 : 120

// Listed by source, so that what was compiled from a file now deleted is not run.
const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
  .filter(
    name =>
      name.endsWith('.test.ts') &&
      (testDevice === 'cpu' || /^(native|stages)\//.test(name)) &&
      process.argv.slice(2).every(part => `test/${name}`.includes(part)),
  )
  .map(name => `test/${name.replaceAll('\\', '/')}`)
  .sort()
if (files.length === 0) throw new Error(`no test file has ${process.argv.slice(2).join(' and ')} in its path`)

const reporter = new Reporter(line => process.stdout.write(`${line}\n`))
reporter.parser.on('complete', () => {
  process.exitCode = reporter.end() ? 0 : 1
})
process.on('exit', code => {
  if (reporter.parser.results === null && code === 0) process.exitCode = 1
})

t.jobs = jobs
t.setTimeout(0)
t.pipe(reporter.parser)
const lacks =
  testDevice === 'cpu'
    ? undefined
    : await openBackend(testDevice).then(
        () => undefined,
        error => (error as Error).message.split('\n')[0],
      )
for (const file of files) {
  if (lacks !== undefined) {
    void t.test(file, { skip: lacks }, async () => {})
    continue
  }
  const compiled = join(root, 'dist', file.replace(/\.ts$/, '.js'))
  if (!existsSync(compiled)) throw new Error(`${file} is not compiled; run: npm run build`)
  void t.spawn(
    process.execPath,
    ['--enable-source-maps', compiled],
    {
      cwd: root,
      timeout: timeout * 1000,
      env: { ...process.env, TAP_TIMEOUT: `${timeout}`, NO_COLOR: '1' },
    },
    file,
  )
}
t.end()
