/** The rooms and their borders (ARCHITECTURE.md), read off the imports; and the habits that keep files small and searchable. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import t, { type Test } from 'tap'
import { root } from './helpers.js'

const rooms = ['pipeline', 'stages', 'native', 'schemas', 'scripts', 'test', 'bench', 'fixtures/make']
const files = rooms
  .filter(room => existsSync(join(root, room)))
  .flatMap(room => readdirSync(join(root, room), { recursive: true, encoding: 'utf8' }).map(name => `${room}/${name}`))
  .filter(name => /\.(ts|js|cc|h|cu|cuh|py)$/.test(name))
  .map(name => ({ name, text: readFileSync(join(root, name), 'utf8') }))
const typescript = files.filter(({ name }) => name.endsWith('.ts'))
const within = (...folders: string[]) => typescript.filter(({ name }) => folders.some(folder => name.startsWith(folder)))

interface Import {
  from: string
  to: string
  typeOnly: boolean
}

/** What a file imports: files of this package by path (with .ts), everything else as written. */
function imports({ name, text }: { name: string; text: string }): Import[] {
  const statements = text.matchAll(/^(?:import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?'([^']+)'|\bimport\('([^']+)'\)/gm)
  return [...statements].map(([, type, direct, lazy]) => {
    const path = direct ?? lazy ?? ''
    const to = path.startsWith('.') ? relative(root, join(root, dirname(name), path)).replace(/\.js$/, '.ts') : path
    return { from: name, to, typeOnly: type !== undefined }
  })
}

/** Fails with the sentence for each import that is not allowed. */
function obey(t: Test, folder: string, sentence: string, allowed: (to: string, it: Import) => boolean): void {
  const bad = within(`${folder}/`)
    .flatMap(imports)
    .filter(it => !allowed(it.to, it))
    .map(({ from, to }) => `${from} imports ${to}`)
  t.strictSame(bad, [], sentence)
}
const isPackage = (to: string) => !/^(pipeline|stages|native|schemas|scripts|test|bench|fixtures|node:)/.test(to)
const inRoom = (room: string) => (to: string) => to.startsWith(`${room}/`)

t.test('the reader of imports sees every form', async t => {
  const text =
    "import a from './a.js'\nimport type { B } from '../b.js'\nexport { c } from 'c'\nconst d = () => import('./d/d.js')\nimport 'e'"
  t.strictSame(
    imports({ name: 'stages/x/y.ts', text }).map(({ to, typeOnly }) => `${to}${typeOnly ? ' type' : ''}`),
    ['stages/x/a.ts', 'stages/b.ts type', 'c', 'stages/x/d/d.ts', 'e'],
  )
})

t.test('no file imports itself, by whatever way; types count', async t => {
  const known = new Map(within('pipeline/', 'stages/', 'schemas/').map(file => [file.name, imports(file).map(({ to }) => to)]))
  const done = new Set<string>()
  const circles: string[] = []
  const walk = (name: string, way: readonly string[]): void => {
    if (way.includes(name)) circles.push([...way.slice(way.indexOf(name)), name].join(' → '))
    if (way.includes(name) || done.has(name)) return
    for (const to of known.get(name) ?? []) walk(to, [...way, name])
    done.add(name)
  }
  for (const name of known.keys()) walk(name, [])
  t.strictSame(circles, [])
})

t.test('imports go one way', async t => {
  const library = (to: string) => /^stages\/model\/(?!model\.ts)/.test(to)
  obey(t, 'native', 'native knows no graphs, rows, layers, models', to => isPackage(to) || /^node:/.test(to) || inRoom('native')(to))
  obey(t, 'schemas/tables', 'tables are only calls of defineTable', to => to === 'pipeline/define.ts' || inRoom('schemas/tables')(to))
  obey(
    t,
    'stages',
    'stages know define, native, schemas, and no other stage',
    (to, { from }) =>
      isPackage(to) ||
      /^node:/.test(to) ||
      to === 'pipeline/define.ts' ||
      inRoom('native')(to) ||
      inRoom('schemas')(to) ||
      library(to) ||
      inRoom(dirname(from))(to) ||
      from === 'stages/index.ts',
  )
  obey(
    t,
    'pipeline',
    'pipeline knows of native what a tensor is and the types of ops and device, and no stage',
    (to, { from, typeOnly }) => {
      if (isPackage(to) || /^node:/.test(to) || inRoom('pipeline')(to)) return true
      if (from === 'pipeline/cli.ts') return true // the one wiring place
      if (/^pipeline\/commands\/(bench|chat|eval|export|generate|serve|talk)\.ts$/.test(from))
        return inRoom('native')(to) || library(to) || inRoom('stages/evaluate')(to) || inRoom('stages/tasks')(to)
      return to === 'native/tensor.ts' || (typeOnly && /^native\/(device|ops|tensor-ref)\.ts$/.test(to))
    },
  )
})

t.test('the server knows no model, and no command', async t => {
  obey(
    t,
    'pipeline/serve',
    'it knows errors and HTTP',
    to => /^node:/.test(to) || to === 'pipeline/error.ts' || inRoom('pipeline/serve')(to),
  )
})

t.test('references are for tests', async t => {
  const bad = within('pipeline/', 'stages/', 'native/', 'schemas/')
    .flatMap(imports)
    .filter(({ from, to }) => to.endsWith('/reference.ts') && !from.endsWith('/reference.ts'))
  t.strictSame(bad, [])
})

t.test('stages: no groupBy (loses rows), no mergeMap without a concurrency', async t => {
  for (const { name, text } of within('stages/')) {
    t.notMatch(text, /\bgroupBy\b/, name)
    for (const [call] of text.matchAll(/\bmergeMap\((?:[^()]|\([^()]*\))*\)/g)) t.match(call, /,\s*[\w.]+\s*\)$/, `${name}: ${call}`)
  }
  t.ok(within('stages/').length > 0)
})

t.test('one subscription runs the chain, and only the command line ends the process', async t => {
  for (const { name, text } of within('pipeline/')) {
    if (name === 'pipeline/run.ts') t.equal(text.match(/\.subscribe\(/g)?.length, 1, name)
    if (name !== 'pipeline/cli.ts') t.notMatch(text, /process\.exit\(/, name)
  }
  for (const { name, text } of within('stages/', 'native/', 'schemas/')) t.notMatch(text, /process\.exit\(/, name)
  for (const { name, text } of files.filter(file => /\.(cc|cu|h|cuh)$/.test(file.name))) t.notMatch(text, /\b(exit|abort)\(/, name)
})

t.test('files are small, lines are short, names say something', async t => {
  const vague = /(^|\/)(utils?|helpers?|common|misc|\w*manager|\w*service)(\/|\.|$)/i
  for (const { name, text } of files) {
    const lines = text.split('\n')
    if (lines.length > 501) t.fail(`${name} has ${lines.length} lines, 500 at most`)
    if (vague.test(name) && name !== 'test/helpers.ts') t.fail(`${name} is named vaguely`)
    // Sentences and patterns are as long as they are; code is not. Tests may hold data.
    const code = lines.map(line => line.replace(/'[^']*'|`[^`]*`|\/\^.*\$\/|\*\* .*\*\//g, ''))
    const long = name.startsWith('test/') ? -1 : code.findIndex(line => [...line].length > 160)
    if (long >= 0) t.fail(`${name}:${long + 1} is longer than 160 characters`)
  }
  t.ok(files.length > 10)
})

t.test('no export *, no any', async t => {
  for (const { name, text } of typescript) {
    if (/^export \*/m.test(text)) t.fail(`${name}: export *`)
    const any = text.split('\n').findIndex((line, i, all) => {
      const code = line.replace(/'[^']*'|`[^`]*`|\/\/.*|^\s*\/?\*.*|\/.*\//g, '')
      return /(:\s*any\b|<any\b|\bas any\b|\bany\[\])/.test(code) && !all[i - 1]?.includes('biome-ignore lint/suspicious/noExplicitAny:')
    })
    if (any >= 0) t.fail(`${name}:${any + 1}: any`)
  }
  t.pass('looked at every file')
})

t.test('every stage has a page with the six headings, and is in the index', async t => {
  const index = readFileSync(join(root, 'stages/index.ts'), 'utf8')
  const folders = readdirSync(join(root, 'stages'), { withFileTypes: true })
    .filter(entry => entry.isDirectory())
    .map(entry => entry.name)
  for (const name of folders) {
    const key = name.includes('-') ? `'${name}'` : name
    t.ok(index.includes(`${key}: () => import('./${name}/${name}.js')`), `${name} is in stages/index.ts`)
    const page = readFileSync(join(root, `stages/${name}/README.md`), 'utf8')
    for (const heading of ['What', 'Why', 'Formula', 'Parameters', 'Reads and adds', 'Checked by']) {
      t.match(page, new RegExp(`^## ${heading}$`, 'm'), `${name}: ${heading}`)
    }
  }
})
