/** The habits of the package: exact versions, what is shipped, nothing of one machine in the lockfile. */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs'
import t from 'tap'
import { root } from './helpers.js'

const read = (name: string) => JSON.parse(readFileSync(`${root}/${name}`, 'utf8'))
const pkg = read('package.json')
const lock = read('package-lock.json')

t.test('every version is exact', async t => {
  for (const [name, version] of Object.entries({ ...pkg.dependencies, ...pkg.devDependencies })) {
    t.match(version, /^(npm:@?[\w/-]+@)?\d+\.\d+\.\d+(-[\w.]+)?$/, `${name} ${version}`)
  }
})

t.test('the lockfile says the same, and names no registry', async t => {
  const top = lock.packages['']
  t.strictSame(top.dependencies, pkg.dependencies)
  t.strictSame(top.devDependencies, pkg.devDependencies)
  t.equal(top.version, pkg.version)
  const packages = Object.entries<{ integrity?: string; optional?: boolean; funding?: unknown }>(lock.packages)
  for (const [path, { funding: _, ...entry }] of packages) {
    if (/resolved|https?:/.test(JSON.stringify(entry))) t.fail(`${path} says where it came from`)
  }
  const unlocked = packages.filter(([path, entry]) => path !== '' && entry.integrity === undefined && entry.optional !== true)
  t.strictSame(
    unlocked.map(([path]) => path),
    [],
    'every package that is not for some platforms only has a hash',
  )
})

t.test('bin, files, engines', async t => {
  // With a "bin", npx installs the package into a cache of its own before it runs it, and a run that was cut short
  // there leaves a state in which npx fails for good. The link that the build makes is found at once.
  t.equal(pkg.bin, undefined)
  t.equal(realpathSync(`${root}/node_modules/.bin/pipe`), `${realpathSync(root)}/dist/pipeline/cli.js`)
  t.ok(statSync(`${root}/dist/pipeline/cli.js`).mode & 0o100, 'can be executed')
  t.strictSame(pkg.engines, { node: '>=20' })
  t.strictSame(pkg.binary, { napi_versions: [9] })
  t.equal(pkg.type, 'module')
  t.equal(pkg.license, 'Apache-2.0')
  for (const name of pkg.files) t.ok(existsSync(`${root}/${name}`), `${name} is there`)
  for (const entry of [pkg.exports['.'], pkg.exports['./tables'], pkg.exports['./text'], pkg.exports['./device']]) {
    t.strictSame(Object.keys(entry)[0], 'types', 'types come first')
    for (const path of Object.values<string>(entry)) t.ok(existsSync(`${root}/${path}`), `${path} is built`)
  }
  t.match(readFileSync(`${root}/dist/pipeline/cli.js`, 'utf8'), /^#!\/usr\/bin\/env node\n/)
})
