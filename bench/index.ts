/**
 * `npm run bench [name …]`: runs bench/<name>.ts one after the other, prints their tables, and keeps the figures in
 * bench/results/<name>.json with the machine, the commit and the command they were measured with.
 *
 * A benchmark exports `run(): Promise<Row[]>`; index prints the rows. Units are in the columns' names.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { printTable, type Row } from './table.js'

const here = dirname(fileURLToPath(import.meta.url))
const root = dirname(dirname(here))
const names = readdirSync(here)
  .filter(name => name.endsWith('.js') && !['index.js', 'table.js'].includes(name))
  .map(name => basename(name, '.js'))
const asked = process.argv.slice(2)
const unknown = asked.filter(name => !names.includes(name))
if (unknown.length > 0) throw new Error(`no benchmark is called ${unknown.join(', ')}; there are: ${names.join(', ')}`)

/** The commit measured, with a + when files differ from it; 'unknown' outside a git checkout. */
function commit(): string {
  try {
    const git = (...args: string[]) =>
      execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
    return `${git('rev-parse', '--short=12', 'HEAD')}${git('status', '--porcelain', '--untracked-files=no') === '' ? '' : '+'}`
  } catch {
    return 'unknown'
  }
}

for (const name of asked.length > 0 ? asked : names) {
  const { run } = (await import(`./${name}.js`)) as { run(): Promise<Row[]> }
  const rows = await run()
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
        command: `npm run bench -- ${name}`,
        rows,
      },
      null,
      2,
    )}\n`,
  )
}
