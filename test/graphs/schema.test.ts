/** Every graph file that is shipped is what its JSON Schema says, and names the schema. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import t from 'tap'
import { root } from '../helpers.js'

const read = (path: string) => JSON.parse(readFileSync(join(root, path), 'utf8'))
const graphs = readdirSync(join(root, 'graphs')).filter(name => name.endsWith('.json'))
const check = new Ajv({ strict: false }).compile(read('schemas/graph.schema.json'))

t.ok(graphs.includes('qtip-2bit.json'))
for (const name of graphs) {
  t.test(name, async t => {
    const graph = read(`graphs/${name}`)
    t.ok(check(graph), JSON.stringify(check.errors))
    t.equal(graph.$schema, '../schemas/graph.schema.json')
    t.equal(`${graph.name}.json`, name)
    for (const input of Object.values<{ default?: string }>(graph.inputs)) {
      if (input.default !== undefined) t.ok(existsSync(join(root, 'graphs', input.default)), input.default)
    }
  })
}
