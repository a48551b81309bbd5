/** Graphs nobody thought of: stages of every scope, stored or not, branched and merged at random, at once and after a failure. */
import t from 'tap'
import { type AnyStage, each } from '../../pipeline/define.js'
import { rng } from '../../pipeline/random.js'
import { actions, expected, newOut, plan, run } from './harness.js'
import { numbered, stages, withStages } from './toys.js'

const graphs = Number(process.env.RANDOM_GRAPHS ?? 40) // as many as one has time for, from the first on
const source = { ...(await stages.numbers?.())?.default, name: 'source', cache: false } as AnyStage

/** Where the next run fails: a stage, and how many rows it does before. */
let failing: { readonly name: string; rows: number } | undefined

/** Its rows go on, until it is its turn to fail. */
const failingOnce = (name: string): AnyStage['operator'] => () =>
  each(async row => {
    if (failing?.name === name && failing.rows-- === 0) throw new Error('no power')
    return { ...row }
  })

/** A graph of up to six stages and a sum behind them; copies: in how many ways a row reaches the sum. */
function graphOf(seed: number) {
  const random = rng(seed, 'graph')
  const below = (n: number): number => Math.floor((random.uniform(1)[0] as number) * n)
  const copies = [1]
  const sum = (of: readonly number[]): number => of.reduce((all, i) => all + (copies[i] as number), 0)
  const made: AnyStage[] = []
  const list: { use: string; from?: string[]; id?: string; count?: number }[] = [{ use: below(2) ? 'numbers' : 'source', count: 6, id: 'g0' }]
  const last = 1 + below(5)
  const told: string[] = [list[0]?.use as string]
  for (let i = 1; i <= last; i++) {
    const [scope, cache] = [below(2) ? ('stream' as const) : ('batch' as const), below(3) === 0]
    const from = [...new Set(below(3) === 0 ? [below(i), below(i)] : [Math.max(0, i - 1 - below(2))])].sort()
    // Behind a merge rows of one name are not neighbours, which is refused.
    const isNaming = scope === 'stream' && below(2) === 0 && sum(from) === 1
    const naming = isNaming && ({ batch: row => row.name as string } as Partial<AnyStage>)
    made.push(numbered(`g${i}`, { scope, cache, operator: failingOnce(`g${i}`), ...naming }))
    list.push({ use: `g${i}`, from: from.map(j => `g${j}`) })
    copies.push(sum(from))
    told.push(`g${i} (${scope}${isNaming ? ', naming' : ''}${cache ? '' : ', not stored'}) of ${from}`)
  }
  const ends = [...new Set(below(3) === 0 ? [last, below(last + 1)] : [last])]
  list.push({ use: 'sum', from: ends.map(i => `g${i}`) }, { use: 'total', from: ['sum'] })
  const victim = { name: `g${1 + below(last)}`, rows: below(8) }
  told.push(`sum of ${ends}`)
  return { list, total: sum(ends) * expected(6, 1), options: { stages: withStages(source, ...made) }, victim, told: `${seed}: ${told.join('; ')}` }
}

t.test(`${graphs} graphs: every row arrives once by every way, nothing is missing later, and nothing runs again`, async t => {
  for (let seed = 0; seed < graphs; seed++) {
    const { list, total, options, victim, told } = graphOf(seed)
    for (const fails of [false, true]) {
      const out = newOut()
      if (fails) {
        failing = victim
        await run(list, out, options).catch(() => {})
        failing = undefined
      }
      const what = `${told}${fails ? `; after ${victim.name} had failed` : ''}`
      const { results, events, live } = await run(list, out, options)
      const after = actions(await plan(list, out, options))
      const notes = events.flatMap(event => (event.kind === 'note' ? [event.text] : []))
      t.strictSame([Math.abs((results.total as number) - total) < 1e-2, live, notes, after.sum, after.total], [true, 0, [], 'cached', 'cached'], what)
    }
  }
})
