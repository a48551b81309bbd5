/** Small stages in a folder of their own, and a graph of them: what commands are tried on. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

const head = `import { defineStage, defineTable, each, f64, fold, nothing, spread, Type, u32, utf8 } from 'pipe'
const numbers = defineTable('numbers', 1, { layer: u32('which'), value: f64('a number') })
const object = properties => Type.Object(properties, { additionalProperties: false })
`

const stages: Readonly<Record<string, string>> = {
  // Gives rows 0 … count−1, a batch each.
  'count.js': `${head}
export default defineStage({
  name: 'count', version: 1, about: 'Counts from 0.', scope: 'stream', cache: false,
  params: object({ count: Type.Integer({ minimum: 1, default: 6, description: 'How many' }) }),
  input: nothing, output: numbers, batch: row => String(row.layer),
  operator: ({ count }) => spread(async function* () { for (let layer = 0; layer < count; layer++) yield { layer, value: layer } }),
})`,
  // Takes its time, so that there is something to stop.
  'square.js': `${head}
export default defineStage({
  name: 'square', version: 1, about: 'Squares, slowly.',
  params: object({
    factor: Type.Number({ default: 1, description: 'Multiplies the square' }),
    wait: Type.Number({ minimum: 0, default: 0, description: 'Milliseconds a row takes' }),
    fail: Type.Integer({ default: -1, description: 'The row at which it fails' }),
  }),
  input: numbers, output: numbers.and({ square: f64('factor · value²') }),
  operator: ({ factor, wait, fail }, { progress, note }) => each(async row => {
    for (let i = 0; i < 4; i++) { progress(i, 4, 'steps'); await new Promise(done => setTimeout(done, wait / 4)) }
    if (row.layer === fail) throw new Error('row ' + fail + ' is refused')
    if (row.layer === 3) note('three is odd')
    return { ...row, square: factor * row.value ** 2 }
  }),
})`,
  'sum.js': `${head}
const totals = defineTable('totals', 1, { what: utf8('all'), total: f64('the sum') })
export default defineStage({
  name: 'sum', version: 1, about: 'Adds the squares up.', scope: 'stream',
  params: object({}), input: numbers.and({ square: f64('a square') }), output: totals, batch: () => 'all',
  report: ({ total }) => ({ result: { total }, table: { columns: ['what', 'total'], rows: [['all squares', String(total)]] } }),
  operator: () => fold({ key: () => 'all' }, {
    zero: () => ({ total: 0 }), step: (state, { square }) => { state.total += square }, end: ({ total }) => ({ what: 'all', total }),
  }),
})`,
}

/** Writes the stages and a graph into `folder`; gives the graph's path. `change` may edit the graph before it is written. */
export function toyGraph(folder: string, change: (graph: ToyGraph) => void = () => {}): string {
  for (const [name, text] of Object.entries(stages)) writeFileSync(join(folder, name), text)
  const graph: ToyGraph = {
    name: 'toy',
    about: 'Sum of squares.',
    inputs: { factor: { about: 'Multiplies', default: '1' } },
    stages: [{ use: './count.js' }, { use: './square.js' }, { use: './sum.js' }],
  }
  change(graph)
  const path = join(folder, 'toy.json')
  writeFileSync(path, JSON.stringify(graph))
  return path
}

export interface ToyGraph {
  name: string
  about: string
  inputs: Record<string, unknown>
  stages: Record<string, unknown>[]
}
