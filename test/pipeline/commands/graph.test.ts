import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { pipe as startedPipe, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'
import { toyGraph } from './toys.js'

t.test('draws stages, parameters, tables and columns', async t => {
  const graph = toyGraph(temporary(t))
  const { code, stdout, stderr } = await startedPipe(['graph', graph])
  t.equal(code, 0, stderr)
  const lines = stdout.split('\n')
  t.equal(lines[0], 'toy: Sum of squares.')
  t.match(stdout, /│ count .*\n│ Counts from 0\. +│\n│ count 6 +│/)
  t.match(stdout, /\n {5}│ numbers: layer value\n/)
  t.match(stdout, /\n {5}│ numbers: layer value \+square\n/)
})

t.test('--set changes what is drawn', async t => {
  const { stdout } = await pipe(['graph', toyGraph(temporary(t)), '--set', 'square.factor=3'])
  t.match(stdout, /│ factor 3 +│/)
})

t.test('--set names an entry of a list by its number', async t => {
  const set = (setting: string) => pipe(['graph', 'graphs/tasks.json', '--set', 'data=items', '--set', setting])
  t.match((await set('tasks.tasks.3=boolq')).stdout, /"piqa","boolq"\]/)
  t.match((await set('tasks.tasks.4=boolq')).stdout, /"winogrande","boolq"\]/, 'one more')
  for (const place of ['boolq', '5', '99999999', '01', '-1', 'length']) {
    const { code, stderr } = await set(`tasks.tasks.${place}=true`)
    t.equal(code, 2, place)
    t.equal(
      stderr,
      `--set tasks.tasks.${place}=true\n  tasks.tasks is a list of 4: expected a number from 0 to 4, and "${place}" came.\n` +
        '  Numbers count from 0; 4 adds one at the end.\n',
    )
  }
})

t.test('--svg writes a picture, --mermaid prints text', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const svg = join(folder, 'toy.svg')
  t.equal((await pipe(['graph', graph, '--svg', svg])).stdout, `${svg}\n`)
  t.match(readFileSync(svg, 'utf8'), /^<\?xml [\s\S]*>square \(\.\/square\.js\)<[\s\S]*<\/svg>\n$/)
  t.match(
    (await pipe(['graph', graph, '--mermaid'])).stdout,
    /flowchart TD\n {2}s0\["count \(\.\/count\.js\)<br>[\s\S]*s1 -->\|"numbers: layer value \+square"\| s2\n/,
  )
})

t.test('--svg and --mermaid are two drawings', async t => {
  const { code, stderr } = await pipe(['graph', toyGraph(temporary(t)), '--svg', 'toy.svg', '--mermaid'])
  t.equal(code, 2)
  t.match(stderr, /--mermaid.* cannot be used with .*--svg/)
})

t.test('--svg where no folder is, or none can be', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const deep = join(folder, 'pictures/new/toy.svg')
  t.equal((await pipe(['graph', graph, '--svg', deep])).stdout, `${deep}\n`, 'it is made')
  const below = join(graph, 'new/toy.svg')
  for (const [svg, said] of [
    [below, 'something on the way is a file, not a folder'],
    [folder, 'a folder is where a file has to be'],
    ['', 'a folder is where a file has to be'],
  ] as const) {
    const { code, stdout, stderr } = await pipe(['graph', graph, '--svg', svg], { cwd: folder })
    t.strictSame([code, stdout], [1, ''])
    t.match(stderr, `Can't write the picture: ${said} (`)
    t.match(stderr, /\n {2}Make the folder writable, or write elsewhere with --svg\.\n {2}Without --svg it is printed\.\n$/)
  }
})

t.test('all mistakes of a graph at once, exit code 2', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder, ({ stages }) => {
    stages[1] = { use: './square.js', factr: 2 }
    stages.push({ use: 'modle' }, { use: './sum.js', id: 'again', from: ['nobody'] })
  })
  const { code, stdout, stderr } = await pipe(['graph', graph])
  t.equal(code, 2)
  t.equal(stdout, '')
  t.match(stderr, /"factr" is no parameter of .*Did you mean "factor"\?/)
  t.match(stderr, /unknown stage "modle"\. Did you mean "model"\?/)
  t.match(stderr, /nobody/)
  t.notMatch(stderr, /\n\s+at /, 'no stack')
})

t.test('a column that is missing, a cycle', async t => {
  const missing = await pipe([
    'graph',
    toyGraph(temporary(t), ({ stages }) => {
      stages.splice(1, 1)
    }),
  ])
  t.equal(missing.code, 2)
  t.match(missing.stderr, /sum reads column "square" \(f64\)/)
  const cycle = await pipe([
    'graph',
    toyGraph(temporary(t), ({ stages }) => {
      Object.assign(stages[1] ?? {}, { from: ['sum'] })
    }),
  ])
  t.equal(cycle.code, 2)
  t.match(cycle.stderr, /square|sum/)
  t.match(cycle.stderr, /circle|cycle|itself/i)
})
