/** Stages inside a stage: read from the graph, checked as its own list is, part of the key, run on rows of the stage's choice. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import t from 'tap'
import { defineStage, each, file, innerStages } from '../../pipeline/define.js'
import { graphSchema } from '../../pipeline/schema.js'
import { actions, expected, failure, folder, line, newOut, plan, run } from './harness.js'
import { calls, numbersTable, withStages } from './toys.js'

const steps = innerStages('steps', { input: numbersTable, output: numbersTable.with(), description: 'What to do, each time' })
const repeat = defineStage({
  name: 'repeat',
  version: 1,
  about: 'Does steps several times.',
  params: Type.Object({ times: Type.Integer({ default: 2 }), steps: steps.schema }, { additionalProperties: false }),
  input: numbersTable,
  output: numbersTable,
  inner: [steps],
  operator: ({ times }, { inner, ops }) =>
    each(async row => {
      let x = await row.x.open(ops)
      for (let i = 0; i < times; i++) {
        const [out] = await inner(steps, [{ ...row, x }])
        x = await (out as unknown as typeof row).x.open(ops)
      }
      return { ...row, x }
    }),
})
const add = defineStage({
  name: 'add',
  version: 1,
  about: 'Adds the length of a file.',
  params: Type.Object({ text: file('Text') }, { additionalProperties: false }),
  input: numbersTable,
  output: numbersTable,
  operator: _ => each(async row => ({ ...row })),
})
const stages = withStages(repeat, add)
const graph = (...inner: object[]) => [line[0], { use: 'repeat', steps: inner }, ...line.slice(2)]

t.test('they run on the rows they are given, with their parameters and defaults', async t => {
  const result = await run(graph({ use: 'scale' }, { use: 'scale', by: 3 }), newOut(), { stages })
  t.ok(Math.abs((result.results.total as number) - expected(12, 36)) < 1e-2, `${result.results.total} is ${expected(12, 36)}`)
  t.equal(calls.scale, 12 * 2 * 2)
  t.equal(result.live, 0, 'no tensor is left')
})

t.test('their parameters are set by either path, and are part of the key', async t => {
  const out = newOut()
  await run(graph({ use: 'scale', by: 3 }), out, { stages })
  t.equal(actions(await plan(graph({ use: 'scale', by: 3 }), out, { stages })).repeat, 'cached')
  for (const set of [['repeat.steps.0.by=5'], ['scale.by=5']]) {
    const changed = await plan(graph({ use: 'scale', by: 3 }), out, { stages, set })
    t.equal(actions(changed).numbers, 'cached')
    t.strictSame(changed.stages[1]?.why, ['steps.0.by: 3 → 5'])
  }
  for (const set of ['repeat.steps=[]', 'repeat.steps.3.by=5', 'repeat.steps.length=0']) {
    const error = await failure(plan(graph({ use: 'scale', by: 3 }), out, { stages, set: [set] }))
    t.match(error.text, /^--set repeat\.steps\S+\n {2}The stages inside repeat are those that the graph says/, set)
  }
  const newer = withStages(repeat, { ...(await stages.scale?.())!.default, version: 7 })
  t.strictSame((await plan(graph({ use: 'scale', by: 3 }), out, { stages: newer })).stages[1]?.why, ['version of scale: 1 → 7'])
})

t.test('the content of a file they name is part of the key', async t => {
  const out = newOut()
  const list = graph({ use: 'add', text: 'a.txt' })
  await writeFile(join(folder, 'a.txt'), 'one')
  await run(list, out, { stages })
  await writeFile(join(folder, 'a.txt'), 'another')
  t.strictSame((await plan(list, out, { stages })).stages[1]?.why, ['steps.0.text: a.txt was changed'])
})

t.test('every mistake in them is told, with its place', async t => {
  const told = async (...inner: object[]) => (await failure(run(graph(...inner), newOut(), { stages }))).text
  t.match(await told({ use: 'scael' }), /stages\[1\] repeat {2}steps\[0\]\s+unknown stage "scael". Did you mean "scale"\?/)
  t.match(await told({ use: 'scale', yb: 1 }), /stages\[1\] repeat {2}steps\[0\] scale\s+"yb" is no parameter of scale/)
  t.match(await told({ use: 'total' }), /total can't be run inside repeat: it needs to see all rows/)
  t.match(await told({ use: 'sum' }, { use: 'scale' }), /scale reads column "name" \(utf8\) but sum does not provide it/)
  t.match((await failure(run([line[0], { use: 'repeat' }, ...line.slice(2)], newOut(), { stages }))).text, /steps: missing \(What to do/)
  t.match((await failure(run(graph(), newOut(), { stages }))).text, /steps: must NOT have fewer than 1 items/)
})

t.test('the schema of graphs checks them', async t => {
  const check = new Ajv({ strict: false }).compile(graphSchema([repeat, add]))
  const of = (...inner: object[]) => ({ name: 'g', stages: [{ use: 'repeat', steps: inner }] })
  t.ok(check(of({ use: 'add', text: 'x' }, { use: './mine.js', any: 1 })), JSON.stringify(check.errors))
  for (const bad of [of(), of({ use: 'add' }), of({ use: 'add', text: 'x', more: 1 }), of({ use: 'repeat', steps: [] })])
    t.notOk(check(bad))
})
