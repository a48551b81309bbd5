import { existsSync } from 'node:fs'
import t from 'tap'
import { pipe } from '../../helpers.js'

t.test('lists every stage with its sentence, in the order of the pipeline', async t => {
  const { code, stdout } = await pipe(['stages'])
  t.equal(code, 0)
  const names = stdout
    .split('\n')
    .map(line => /^(\w+) +\S/.exec(line)?.[1])
    .filter(name => name !== undefined)
  const order = ['model', 'calibrate', 'hessian', 'rht', 'round', 'pack', 'write', 'evaluate']
  t.strictSame(
    names.filter(name => order.includes(name)),
    order,
  )
})

t.test('in two columns, whatever the longest name', async t => {
  const [list = ''] = (await pipe(['stages'])).stdout.split('\n\n')
  const begins = list.split('\n').map(line => /^\S+ +/.exec(line)?.[0].length)
  t.equal(new Set(begins).size, 1, list)
  const { stdout } = await pipe(['stages', 'round'])
  t.match(stdout, /\n {2}codebook +\{ use: … \} {2,}must be given {2,}.*: scalar or trellis\/hyb or /)
  t.match(stdout, /\n {2}damp {2,}number 0–1 {2,30}default 0\.01 /)
})

t.test('describes one', async t => {
  const { code, stdout } = await pipe(['stages', 'model'])
  t.equal(code, 0)
  t.match(stdout, /^model, version \d+\n/)
  t.match(stdout, /\nParameters\n {2}path +directory +must be given +\S/)
  t.match(stdout, /\nGives \(linears\)\n(.*\n)* {2}weight +float \[m n\] +\S/)
  t.match(stdout, /\nIn a graph\n {2}\{ "use": "model", "path": "\$path" \}\n$/)
})

t.test('one that is not there', async t => {
  const { code, stdout, stderr } = await pipe(['stages', 'modle'])
  t.equal(code, 1)
  t.equal(stdout, '')
  t.match(stderr, /^There is no stage "modle"\. Did you mean "model"\?\nKnown: model/)
})

t.test('a reader that goes away is no error', async t => {
  const { spawnSync } = await import('node:child_process')
  const { root } = await import('../../helpers.js')
  const { stderr } = spawnSync('sh', ['-c', `"${process.execPath}" dist/pipeline/cli.js stages model | head -n 1`], {
    cwd: root,
    encoding: 'utf8',
  })
  t.equal(stderr, '')
  if (!existsSync('/dev/full')) return
  const full = spawnSync('sh', ['-c', `"${process.execPath}" dist/pipeline/cli.js --version > /dev/full`], { cwd: root, encoding: 'utf8' })
  t.same([full.status, full.stderr], [1, "What is printed can't be written: ENOSPC: no space left on device, write.\n"], 'a full disk is')
})
