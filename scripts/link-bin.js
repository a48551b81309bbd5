/**
 * Makes `npx pipe` run this checkout. npm links the bins of dependencies only; and of a package that declares its own,
 * npx first installs a copy into its cache. So package.json declares none, and the link is made here, after every
 * build, because the compiler sets no execute bit.
 */
import { chmodSync, mkdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const target = '../../dist/pipeline/cli.js'
const link = join(root, 'node_modules/.bin/pipe')

const current = () => {
  try {
    return readlinkSync(link)
  } catch {
    return undefined
  }
}

chmodSync(join(root, 'dist/pipeline/cli.js'), 0o755)
if (current() !== target) {
  mkdirSync(dirname(link), { recursive: true })
  rmSync(link, { force: true })
  symlinkSync(target, link)
}
