/**
 * `npm run schemas`: writes what is generated from the stages: schemas/graph.schema.json, and the tables of parameters
 * between the marks in the stages' READMEs. With --check it writes nothing and fails when something is not current.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { graphSchema, parameters } from '../pipeline/schema.js'
import { stages } from '../stages/index.js'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const loaded = await Promise.all(Object.values(stages).map(async load => (await load()).default))

const read = (path: string): string => {
  try {
    return readFileSync(join(root, path), 'utf8')
  } catch {
    return ''
  }
}

function page(name: string): string {
  const text = read(`stages/${name}/README.md`)
  const [open, end] = [`<!-- params:${name} -->`, '<!-- /params -->']
  const [from, to] = [text.indexOf(open), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`stages/${name}/README.md has no marks ${open} … ${end}`)
  const rows = parameters(loaded.find(stage => stage.name === name)?.params).map(
    parameter =>
      `| \`${parameter.name}\` | ${[parameter.type, parameter.default, parameter.about].map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |`,
  )
  const table = ['| parameter | type | default | |', '|---|---|---|---|', ...rows].join('\n')
  return `${text.slice(0, from)}${open}\n${table}\n${text.slice(to)}`
}

const files = new Map([
  ['schemas/graph.schema.json', `${JSON.stringify(graphSchema(loaded), null, 2)}\n`],
  ...loaded.map(({ name }): [string, string] => [`stages/${name}/README.md`, page(name)]),
])
const stale = [...files].filter(([path, text]) => read(path) !== text)
if (process.argv.includes('--check')) {
  if (stale.length > 0) {
    console.error(`not current: ${stale.map(([path]) => path).join(', ')}; run: npm run schemas`)
    process.exitCode = 1
  } else console.log(`${files.size} generated files are current`)
} else {
  for (const [path, text] of stale) {
    writeFileSync(join(root, path), text)
    console.log(path)
  }
}
