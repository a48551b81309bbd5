import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { BuiltInStages, Graph } from '../../pipeline/graph.js'
import { loadGraph } from '../../pipeline/load-graph.js'
import { PipeError } from '../../pipeline/error.js'
import { stages } from './toys.js'

const folder = await mkdtemp(join(tmpdir(), 'pipe-graph-'))
t.teardown(() => rm(folder, { recursive: true }))
let count = 0

const load = async (graph: unknown, set: string[] = [], builtIn: BuiltInStages = stages): Promise<Graph> => {
  const file = join(folder, `g${count++}.json`)
  await writeFile(file, typeof graph === 'string' ? graph : JSON.stringify(graph))
  return loadGraph(file, { stages: builtIn, set, directory: folder })
}
const refused = async (graph: unknown, set: string[] = []): Promise<string> => {
  const error = await load(graph, set).then(
    () => undefined,
    (e: unknown) => e,
  )
  if (!(error instanceof PipeError)) throw error ?? new Error('the graph was accepted')
  return `${error.exitCode} ${error.text.replaceAll(/\S*g\d+\.json/g, 'GRAPH')}`
}
const numbers = { use: 'numbers', count: 4 }

t.test('a line: ids, from, defaults', async t => {
  const graph = await load({ name: 'a', stages: [numbers, { use: 'scale' }, { use: 'scale', by: 3 }, { use: 'sum' }] })
  t.same(
    graph.stages.map(({ id, from }) => [id, from]),
    [
      ['numbers', []],
      ['scale', ['numbers']],
      ['scale-2', ['scale']],
      ['sum', ['scale-2']],
    ],
  )
  t.same(
    graph.stages.map(({ params }) => params),
    [{ count: 4, size: 8, rows: 2 }, { by: 2 }, { by: 3 }, {}],
  )
  t.equal(graph.seed, 0)
})

t.test('branches: id, from, several', async t => {
  const graph = await load({
    name: 'a',
    stages: [
      { ...numbers, id: 'n' },
      { use: 'scale', id: 'two' },
      { use: 'scale', id: 'three', by: 3, from: 'n' },
      { use: 'sum', from: ['two', 'three'] },
    ],
  })
  t.same(
    graph.stages.map(({ id, from }) => [id, from]),
    [
      ['n', []],
      ['two', ['n']],
      ['three', ['n']],
      ['sum', ['two', 'three']],
    ],
  )
})

t.test('inputs: substituted, defaults relative to the graph, --set to the working directory, follows', async t => {
  const inner = join(folder, 'inner')
  await mkdir(inner)
  const file = join(inner, 'g.json')
  await writeFile(
    file,
    JSON.stringify({
      name: 'a',
      inputs: {
        text: { about: 'a text', default: 'a.txt' },
        test: { about: 'another', default: 'b.txt', follows: 'text' },
        more: 'not needed',
      },
      stages: [{ use: 'lines', text: '$text', also: '$test', inline: 'c.txt' }],
    }),
  )
  const params = async (...set: string[]) => (await loadGraph('inner/g.json', { stages, set, directory: folder })).stages[0]?.params
  t.same(await params(), { text: join(inner, 'a.txt'), also: join(inner, 'b.txt'), inline: join(inner, 'c.txt') })
  t.same(
    await params('text=x.txt'),
    { text: join(folder, 'x.txt'), also: join(folder, 'x.txt'), inline: join(inner, 'c.txt') },
    'test follows text',
  )
  t.same(await params('text=x.txt', 'test=y.txt'), {
    text: join(folder, 'x.txt'),
    also: join(folder, 'y.txt'),
    inline: join(inner, 'c.txt'),
  })
  t.same(await params('test=y.txt', 'lines.inline=/z.txt'), { text: join(inner, 'a.txt'), also: join(folder, 'y.txt'), inline: '/z.txt' })
  t.same(await params('lines.inline=z.txt'), { text: join(inner, 'a.txt'), also: join(inner, 'b.txt'), inline: join(folder, 'z.txt') })
})

t.test('--set reaches parameters by a dotted path, as JSON where it is JSON', async t => {
  const graph = {
    name: 'a',
    stages: [numbers, { use: 'scale' }, { use: 'scale', id: 'second' }, { use: 'code', code: { use: 'a', K: 2 } }],
  }
  const params = async (...set: string[]) => (await load(graph, set)).stages.map(stage => stage.params)
  t.same((await params('scale.by=7'))[1], { by: 7 }, 'by id')
  t.same((await params('scale.by=7'))[2], { by: 2 }, 'the id comes before the name')
  t.same((await params('second.by=1.5', 'second.by=-2'))[2], { by: -2 }, 'the last one counts')
  t.same((await params('code.code.K=3'))[3], { code: { use: 'a', K: 3, deep: 1 } })
  t.same((await params('code.code={"use":"b"}'))[3], { code: { use: 'b', L: 16 } })
})

t.test('a choice by "use" gets the defaults of what was chosen', async t => {
  const params = async (code: unknown) => (await load({ name: 'a', stages: [numbers, { use: 'code', code }] })).stages[1]?.params
  t.same(await params({ use: 'a', K: 4 }), { code: { use: 'a', K: 4, deep: 1 } })
  t.same(await params({ use: 'b' }), { code: { use: 'b', L: 16 } })
})

t.test('mistakes', async t => {
  const line = (...more: unknown[]) => ({ name: 'a', stages: [numbers, ...more] })
  t.matchOnly(
    await refused(line({ use: 'scal' })),
    /^2 GRAPH {2}stages\[1\]\n {2}unknown stage "scal"\. Did you mean "scale"\?\n {2}Known: numbers, /,
  )
  t.matchOnly(
    await refused(line({ use: 'scale', bye: 1 })),
    /^2 GRAPH {2}stages\[1\] scale\n {2}"bye" is no parameter of scale\. Did you mean "by"\?\n {2}Known: by$/,
  )
  t.matchOnly(await refused(line({ use: 'scale', by: 'x' })), /stages\[1\] scale\n {2}by: must be number, and "x" came\.$/)
  const beyond = JSON.stringify(line({ use: 'scale', by: 7 })).replace('7', '1e400')
  t.matchOnly(await refused(beyond), /stages\[1\] scale\n {2}by: must be number, and Infinity came\.$/)
  t.matchOnly(await refused({ name: 'a', stages: [{ use: 'numbers' }] }), /stages\[0\] numbers\n {2}count: missing \(How many\)\.$/)
  t.matchOnly(await refused(line({ use: 'code', code: { use: 'q' } })), /code: unknown "q"\. Did you mean "a"\?\n {2}Known: a, b$/)
  t.matchOnly(await refused(line({ use: 'code', code: { use: 'a', K: 9 } })), /stages\[1\] code\n {2}code\.K: must be <= 4, and 9 came\.$/)
  t.matchOnly(
    await refused(line({ use: 'code', code: { use: 'a', K: 2, Kk: 9 } })),
    /"Kk" is no parameter of code, in "code"\. Did you mean "K"\?\n {2}Known: K, deep$/,
  )
  t.matchOnly(
    await refused(line({ use: 'total' })),
    /^2 GRAPH {2}stages\[0\] numbers → stages\[1\] total\n {2}total reads column "sum" \(f64\) but numbers does not provide it\.\n {2}Put "sum" before/,
  )
  t.matchOnly(await refused(line({ use: 'halves' })), /halves reads column "x" \(f16 \[k\]\) but numbers gives it as f32 \[k\]\./)
  t.matchOnly(await refused(line({ use: 'live' })), /live gives live tensors, which are never stored, and no stage reads them/)
  t.matchOnly(await refused({ name: 'a', stages: [{ use: 'sum' }] }), /sum reads rows, and no stage above gives any\./)
  t.matchOnly(
    await refused({ name: 'a', stages: [numbers, { use: 'scale', id: 'p', from: 'q' }, { use: 'scale', id: 'q', from: 'p' }] }),
    /stages\[1\] p\n {2}These stages wait for each other in a circle: p \(from q\) → q \(from p\)\./,
  )
  t.matchOnly(
    await refused(line({ use: 'sum', from: 'nubmers' })),
    /"from" names "nubmers", which no stage is called\. Did you mean "numbers"\?/,
  )
  t.matchOnly(await refused(line({ use: 'scale', id: 'x' }, { use: 'scale', id: 'x' })), /The id "x" is given twice\./)
  t.matchOnly(await refused({ name: 'a', seeed: 1, stages: [numbers] }), /"seeed" is nothing a graph has\. Did you mean "seed"\?/)
  t.matchOnly(await refused('{ "name": "a"\n  "stages": [] }'), /^2 GRAPH {2}line 2, column 3\n {2}This is no JSON/)
  t.matchOnly(
    await refused('{ "name": "a",\n  "stages": [\n  { "use": "numbers" },\n] }'),
    /^2 GRAPH {2}line 4, column 1\n {2}This is no JSON: expected a value and found "]": the comma before "]" is one too many\.$/,
  )
  t.matchOnly(await refused(`{ "name": "a", "stages": ${'['.repeat(1e5)}${']'.repeat(1e5)} }`), /nested deeper than 64 levels/)
  t.matchOnly(await refused(line(...Array(200).fill({ use: 'scale' }))), /"stages" has 201 entries; 200 is the most\.$/)
  t.matchOnly(
    await refused(line({ use: 'scale', id: '__proto__' })),
    /"id" is a word of letters, digits and dashes, and "__proto__" came\.$/,
  )
  t.matchOnly(await refused(line({ use: 'scale' }), ['scale.__proto__.by=1']), /^2 --set scale\.__proto__\.by=1\n {2}Expected name=value/)
  t.equal((Object.prototype as { by?: unknown }).by, undefined, 'and nothing else was set')
  t.matchOnly(
    await refused(line({ use: './gone.js' })),
    /"\.\/gone\.js" is not there: .*gone\.js\n {2}The path is relative to the graph file\./,
  )
  t.matchOnly(await refused(line({ use: '/dev/zero' })), /"\/dev\/zero" can't be loaded: it is no file\n/)
  const inputs = { name: 'a', inputs: { text: 'a text' }, stages: [{ use: 'lines', text: '$text' }] }
  t.matchOnly(await refused(inputs), /stages\[0\] lines\n {2}text: the input "text" is not given \(a text\)\.\n {2}Give it: --set text=…$/)
  t.matchOnly(
    await refused({ ...inputs, stages: [{ use: 'lines', text: '$txt' }] }),
    /text: "\$txt" is no input of this graph\. Did you mean "text"\?/,
  )
  const declared = (text: unknown): Promise<string> => refused({ ...inputs, inputs: { text } })
  t.matchOnly(await refused({ ...inputs, inputs: [] }), /^2 GRAPH {2}inputs\n {2}Inputs are an object: \{ "model": "what it is" \}\.\n/)
  t.matchOnly(await declared(5), /^2 GRAPH {2}inputs\.text\n {2}An input is a text that says what it is, .*, and 5 came\.\n/)
  t.matchOnly(await declared({ about: 'a', defalt: 'b' }), /"defalt" is nothing an input has\. Did you mean "default"\?\n {2}Known: about, /)
  t.matchOnly(await declared({ about: 'a', default: 5 }), /inputs\.text\n {2}"default" is a text, and 5 came\./)
  t.matchOnly(await declared({ about: 'a', follows: 'text' }), /"follows" names another input, and "text" came\.\n {2}There is no other\./)
  t.matchOnly(
    await refused({ ...inputs, inputs: { text: { about: 'a', follows: 'tets' }, test: 'b' } }),
    /"follows" names another input, and "tets" came\.\n {2}Known: test\n/,
  )
  t.matchOnly(await refused({ name: 'a', seed: 1.5, stages: [numbers] }), /^2 GRAPH\n {2}"seed" is a whole number, and 1\.5 came\.$/)
  t.matchOnly(await refused(line('scale')), /stages\[1\]\n {2}A stage is an object that says which: /)
  t.matchOnly(await refused(line({ use: 'scale', from: 3 })), /stages\[1\] scale\n {2}"from" is the id of a stage or a list of ids, and 3 came\.$/)
  t.matchOnly(await refused(line({ use: 'scale', from: ['numbers', 'numbers'] })), /scale\n {2}"from" names "numbers" twice\.\n {2}Its rows come once\.$/)
  t.matchOnly(await refused(line({ ...numbers, from: 'numbers' })), /numbers reads no rows, so it can't come "from" numbers\.$/)
  t.matchOnly(await refused(line({ use: 'code', code: 'a' })), /code: an object with "use" is expected, and "a" came\.\n {2}Known: a, b$/)
  t.matchOnly(await refused(inputs, ['text=a', 'txt=b']), /^2 --set txt=b\n {2}"txt" is no input of this graph\. Did you mean "text"\?/)
  t.matchOnly(await refused(line(), ['scale.by=b']), /No stage is called "scale"\.\n {2}Stages: numbers$/)
  t.matchOnly(await refused(line(), ['nonsense']), /Expected name=value/)
  await t.rejects(loadGraph(join(folder, 'none.json'), { stages }), { code: 'graph', message: /There is no such file/ })
})

t.test('what comes of a mistake is not told beside it', async t => {
  const mistakes = (...more: unknown[]): Promise<number> =>
    load({ name: 'a', stages: [numbers, ...more] }).then(
      () => 0,
      (error: PipeError) => error.mistakes.length,
    )
  t.equal(await mistakes({ id: 'a' }, { use: 'total' }), 1, 'no "use"')
  t.equal(await mistakes('sum', { use: 'total' }), 1, 'no object')
  t.equal(await mistakes({ use: 'sum', from: 3 }, { use: 'total', from: 'numbers' }), 2, 'no list')
  t.equal(await mistakes({ use: 'total', from: 'sums' }), 1, '"from" one that is not there')
  t.equal(await mistakes({ use: 'scale', id: 'x' }, { use: 'sum', id: 'x' }, { use: 'total' }), 1, 'an id twice')
})

t.test('a stage behind one that drops what it reads', async t => {
  t.match(
    await refused({ name: 'a', stages: [numbers, { use: 'sum' }, { use: 'scale' }] }),
    /sum does not provide it\.\n {2}Put "scale" before "sum", which drops it\./,
  )
})

t.test('all mistakes at once', async t => {
  const text = await refused(
    { name: '', stages: [{ use: 'numbrs' }, { use: 'scale', by: [] }, { use: 'scale', bi: 1 }, { use: 'total' }] },
    ['x=1'],
  )
  t.equal(text.split('\n\n').length, 6, text)
})

t.test("stages of one's own, in any folder", async t => {
  const body = `
    import { defineStage, each, defineTable, u32, tensor, Type } from 'pipe'
    import { linears } from 'pipe/tables'
    import { map } from 'rxjs'
    const table = defineTable('numbers', 1, { i: u32('i'), x: tensor('f32', 'k', 'x') })
    export default defineStage({ name: 'mine', version: 1, about: linears.name, params: Type.Object({ p: Type.Number({ default: 5 }) }),
      input: table, output: table, operator: ({ p }) => each(row => ({ ...row, i: row.i + p })) })`
  await writeFile(join(folder, 'mine.js'), body)
  await writeFile(join(folder, 'typed.ts'), body.replace('({ p })', '({ p }: { p: number })'))
  await mkdir(join(folder, 'node_modules/pipe-stage-mine'), { recursive: true })
  await writeFile(
    join(folder, 'node_modules/pipe-stage-mine/package.json'),
    '{ "name": "pipe-stage-mine", "type": "module", "exports": { "import": "./m.js" } }',
  )
  await writeFile(join(folder, 'node_modules/pipe-stage-mine/m.js'), body)
  for (const use of ['./mine.js', './typed.ts', 'pipe-stage-mine', join(folder, 'mine.js')]) {
    const stage = (await load({ name: 'a', stages: [numbers, { use }] })).stages[1]
    t.same([stage?.id, stage?.params, stage?.stage.about], ['mine', { p: 5 }, 'linears'], use)
    t.match(stage?.moduleHash, /^[0-9a-f]{64}$/)
  }
  await writeFile(join(folder, 'whole.js'), body.replace('version: 1', 'version: 1, condenses: true, mayWrite: async () => {}'))
  t.equal((await load({ name: 'a', stages: [numbers, { use: './whole.js' }] })).stages[1]?.stage.condenses, true, 'whatever defineStage takes')
  await writeFile(join(folder, 'wrong.js'), 'export default { name: "Wrong", version: 0, about: "x", operater: 1, condenses: 1, mayWrite: 1 }')
  const wrong = await refused({ name: 'a', stages: [{ use: './wrong.js' }] })
  const says = [
    /"\.\/wrong\.js" is no stage:/,
    /name: expected a name in small letters, digits and dashes, "Wrong" came/,
    /version: /,
    /params: /,
    /input: /,
    /output: /,
    /operator: expected a function, nothing came/,
    /condenses: expected a boolean, 1 came/,
    /mayWrite: expected a function, 1 came/,
    /operater: a stage has no such field\. Did you mean "operator"\?/,
  ]
  for (const one of says) t.match(wrong, one)
  await writeFile(join(folder, 'broken.js'), 'export default {')
  t.matchOnly(await refused({ name: 'a', stages: [{ use: './broken.js' }] }), /"\.\/broken\.js" can't be loaded: /)
})

t.test("what a stage of one's own imports by relative paths counts as its own file does", async t => {
  const hash = async (use: string) => (await load({ name: 'a', stages: [numbers, { use }] })).stages[1]?.moduleHash
  await mkdir(join(folder, 'lib'))
  const helper = join(folder, 'lib/helper.mjs')
  const body = `import { defineStage, each, defineTable, u32, Type } from 'pipe'
    import { step } from './lib/index.js'
    const table = defineTable('numbers', 1, { i: u32('i') })
    export default defineStage({ name: 'mine', version: 1, about: 'x', params: Type.Object({}), input: table, output: table,
      operator: () => each(row => ({ ...row, i: row.i + step })) })`
  await writeFile(join(folder, 'imports.mjs'), body.replace('index.js', 'index.mjs'))
  await writeFile(join(folder, 'imports.ts'), body)
  for (const ending of ['mjs', 'ts']) await writeFile(join(folder, `lib/index.${ending}`), `export * from "./helper.mjs"\nexport * from '../lib/index.mjs'`)
  const hashes = new Set<string | undefined>()
  for (const step of [1, 2]) {
    await writeFile(helper, `export const step = ${step}`)
    for (const use of ['./imports.mjs', './imports.ts']) {
      hashes.add(await hash(use))
      t.equal(await hash(use), [...hashes].at(-1), 'and nothing else does')
    }
  }
  t.equal(hashes.size, 4)
})
