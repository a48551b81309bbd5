/**
 * Requests of zero-shot tasks beside those that the lm-evaluation-harness makes of the same items, string by string: context
 * and continuation of every choice, which is right, and the characters that acc_norm divides by.
 *
 *   --harness FILE     what bench/original/wording.py has written
 *   --data FOLDER      the items it read
 */
import { readFileSync } from 'node:fs'
import { type Item, readItems, taskNames } from '../stages/tasks/formulation.js'
import type { Figures, Options, Row } from './table.js'

interface Theirs {
  readonly commit: string
  readonly tasks: Readonly<Record<string, { readonly metrics: readonly string[]; readonly items: readonly Asked[] }>>
}
interface Asked {
  readonly requests: readonly (readonly [context: string, continuation: string])[]
  readonly gold: number
  readonly lengths: readonly number[]
}

/** Lengths count where something is divided by them. */
const asked = ({ questions, gold, lengths }: Item, counts: boolean): Asked => ({
  requests: questions.map(({ context, continuation }) => [context, continuation] as const),
  gold,
  lengths: counts ? lengths : [],
})

export async function run({ harness, data }: Options): Promise<Figures> {
  if (harness === undefined || data === undefined) throw new Error('expected --harness FILE and --data FOLDER')
  const theirs = JSON.parse(readFileSync(harness, 'utf8')) as Theirs
  const rows: Row[] = []
  for (const task of taskNames) {
    const { metrics = [], items = [] } = theirs.tasks[task] ?? {}
    const counts = metrics.includes('acc_norm')
    const wanted = items.map(item => JSON.stringify(counts ? item : { ...item, lengths: [] }))
    const found = (await readItems(data, task)).map(item => JSON.stringify(asked(item, counts)))
    const different = wanted.flatMap((item, i) => (item === found[i] ? [] : [i]))
    for (const i of different.slice(0, 3)) console.error(`${task} ${i}\n  harness ${wanted[i]}\n  here    ${found[i]}`)
    rows.push({
      task,
      items: found.length,
      requests: items.reduce((sum, { requests }) => sum + requests.length, 0),
      different: different.length + Math.abs(found.length - items.length),
      metrics: metrics.join(', '),
    })
  }
  return { harness: theirs.commit, rows }
}
