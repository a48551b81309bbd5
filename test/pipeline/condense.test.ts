/** A stage that condenses: what it alone reads is not stored, and nothing is lost by that. */
import t from 'tap'
import { Type } from '@sinclair/typebox'
import { type AnyStage, defineStage, each } from '../../pipeline/define.js'
import { actions, expected, line, newOut, plan, run } from './harness.js'
import { called, calls, numbersTable, stages as toys } from './toys.js'

const short = defineStage({
  name: 'short',
  version: 1,
  about: 'The same in less.',
  params: Type.Object({}, { additionalProperties: false }),
  input: numbersTable,
  output: numbersTable,
  condenses: true,
  operator: (_, { ops }) =>
    each(async row => {
      called('short')
      return { ...row, x: await row.x.open(ops) }
    }),
})
const stages = { ...toys, short: async () => ({ default: short as AnyStage }) }
const list = [{ use: 'numbers', count: 6 }, { use: 'scale' }, { use: 'short' }, { use: 'sum' }, { use: 'total' }]
const o = { stages }

t.test('the stage before it is not stored; what is above, and what comes out, is as without it', async t => {
  const out = newOut()
  const { results, stages: usage, live } = await run(list, out, o)
  t.equal(results.total, expected(6))
  t.equal(live, 0)
  t.same(calls, { numbers: 6, scale: 6, short: 6, sum: 6, total: 1 })
  t.equal(usage.find(stage => stage.id === 'scale')?.batches.run, 3)
  t.match(actions(await plan(list, out, o)), { scale: 'inline', short: 'cached' })
  await run(list, out, o)
  t.same(calls, { numbers: 6, scale: 6, short: 6, sum: 6, total: 1 }, 'nothing runs twice')
})

t.test('--force of it, or of what runs with it, runs both', async t => {
  const out = newOut()
  await run(list, out, o)
  await run(list, out, { ...o, part: { force: ['scale'] } })
  t.same(calls, { numbers: 6, scale: 12, short: 12, sum: 6, total: 1 }, 'only those: their results did not change')
  await run(list, out, { ...o, part: { force: ['short'] } })
  t.match(calls, { scale: 18, short: 18 })
})

t.test('--to the stage before it stores it, and the whole graph goes on from there', async t => {
  const out = newOut()
  await run(list, out, { ...o, part: { to: 'scale' } })
  t.match(calls, { scale: 6 })
  const { results } = await run(list, out, o)
  t.equal(results.total, expected(6))
  t.match(calls, { numbers: 6, scale: 6, short: 6 })
})

t.test('read by another stage as well, it is stored', async t => {
  const out = newOut()
  const forked = [...list.slice(0, 3), { use: 'sum', id: 'own', from: ['scale'] }, { use: 'sum', from: ['short'] }]
  t.match(actions(await plan(forked, out, o)), { scale: 'run' })
  t.match(actions(await plan(line, out, o)), { scale: 'run' })
  await run(forked, out, o)
  await run(forked, out, { ...o, part: { from: 'short', force: ['short'] } })
  t.match(calls, { scale: 6, short: 12 }, 'a part without that stage takes what is stored')
})
