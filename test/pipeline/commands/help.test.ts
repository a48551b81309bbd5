import t from 'tap'
import { pipe as pipeProcess } from '../../helpers.js'
import { pipe } from './in-process.js'

t.test('no arguments, --help, help of a command', async t => {
  const bare = await pipeProcess([])
  t.equal(bare.code, 0)
  t.equal((await pipe(['--help'])).stdout, bare.stdout)
  t.match(bare.stdout, /^Usage:\n {2}pipe run <graph\.json> [\s\S]*\nOptions:\n {2}--set name=value [\s\S]*\nExamples:\n {2}# /)
  t.ok(bare.stdout.split('\n').every(line => line.length <= 110))
  t.equal(
    (await pipe(['stages', '--help'])).stdout,
    `Usage:
  pipe stages [options] [name]

List the stages, or describe one: its parameters, the columns it reads and adds.

Options:
  -h, --help  display help for command

Examples:
  # All, in the order of the pipeline
  pipe stages

  # The parameters of one
  pipe stages round
`,
  )
})

t.test('every command that the help names has its own', async t => {
  const { stdout } = await pipe(['--help'])
  const names = [...stdout.matchAll(/^ {2}pipe (\w+) /gm)].map(([, name = '']) => name)
  for (const name of new Set(names)) {
    const { code, stdout: help } = await pipe([name, '--help'])
    t.equal(code, 0, name)
    t.match(help, new RegExp(`^Usage:\\n {2}pipe ${name} `))
    t.match(help, /\nExamples:\n {2}# /, name)
    t.notMatch(help, /default: \[\]/, name)
  }
})

t.test('--version', async t => {
  t.match((await pipe(['--version'])).stdout, /^\d+\.\d+\.\d+\n$/)
})

t.test('what is misspelt is answered with a guess and exit code 2', async t => {
  for (const [args, text] of [
    [['stagse'], "Unknown command 'stagse'\n(Did you mean stages?)\n"],
    [['graph', 'x.json', '--svgg', 'y'], "Unknown option '--svgg'\n(Did you mean --svg?)\n"],
    [['graph'], "Missing required argument 'graph.json'\n"],
  ] as const) {
    t.strictSame(await pipe(args).then(({ code, stdout, stderr }) => ({ code, stdout, stderr })), { code: 2, stdout: '', stderr: text })
  }
})

t.test('a graph that is not there', async t => {
  const { code, stderr } = await pipe(['graph', 'nowhere.json'])
  t.equal(code, 2)
  t.match(stderr, /nowhere\.json/)
  t.notMatch(stderr, /\n\s+at /)
})
