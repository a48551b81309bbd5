/**
 * `npm run bench -- [name …] [--option value …]`: runs bench/<name>.ts one after the other, prints their tables, and keeps
 * the figures in bench/results/<name>.json with the machine, the commit and the command they were measured with.
 *
 * A benchmark exports `run(options): Promise<Row[]>`, or rows with what else is worth keeping; index prints the rows. Units
 * are in the columns' names. A file that exports no `run` is part of another.
 */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { commit, root } from './commit.js'
import { type Figures, type Options, printTable, type Row } from './table.js'

const here = dirname(fileURLToPath(import.meta.url))
const names = readdirSync(here)
  .filter(
    name =>
      name.endsWith('.js') &&
      !['index.js', 'commit.js', 'table.js', 'gpu.js', 'anchors.js', 'equal-files.js', 'synthetic-hessian.js'].includes(name),
  )
  .map(name => basename(name, '.js'))
function usage(message: string): never {
  console.error(message)
  process.exit(2)
}

const asked: string[] = []
const options: Record<string, string> = {}
for (let words = process.argv.slice(2); words.length > 0; ) {
  const [word = '', value, ...rest] = words
  if (!word.startsWith('--')) asked.push(word)
  else if (value === undefined) usage(`${word} needs a value`)
  else options[word.slice(2)] = value
  words = word.startsWith('--') ? rest : words.slice(1)
}
const unknown = asked.filter(name => !names.includes(name))
if (unknown.length > 0) usage(`no benchmark is called ${unknown.join(', ')}; there are: ${names.join(', ')}`)

for (const name of asked.length > 0 ? asked : names) {
  const { run } = (await import(`./${name}.js`)) as { run(options: Options): Promise<Row[] | Figures> }
  const figures = await run(options)
  const { rows, ...more } = Array.isArray(figures) ? { rows: figures } : figures
  console.log(`\n${name}`)
  printTable(rows)
  const results = join(root, 'bench/results')
  mkdirSync(results, { recursive: true })
  const cpu = cpus()
  writeFileSync(
    join(results, `${name}.json`),
    `${JSON.stringify(
      {
        date: new Date().toISOString().slice(0, 10),
        cpu: cpu[0]?.model ?? 'unknown',
        cores: cpu.length,
        node: process.version,
        commit: commit(),
        command: ['npm run bench --', name, ...Object.entries(options).map(([option, value]) => `--${option} ${value}`)].join(' '),
        ...more,
        rows,
      },
      null,
      2,
    )}\n`,
  )
}
