/** What `npm ci` does when the addon does not build: scripts/build-native.js beside a cmake-js that does as it is told. */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { root, temporary } from './helpers.js'

/** fails: whether this call of cmake-js does, given its options; nvcc: what CMake found. */
const run = (folder: string, nvcc: string, fails: string) => {
  mkdirSync(join(folder, 'scripts'), { recursive: true })
  mkdirSync(join(folder, 'node_modules/cmake-js/bin'), { recursive: true })
  mkdirSync(join(folder, 'build'), { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{"type": "module"}')
  writeFileSync(join(folder, 'node_modules/cmake-js/package.json'), '{"type": "commonjs"}')
  cpSync(join(root, 'scripts/build-native.js'), join(folder, 'scripts/build-native.js'))
  const cache = `CMAKE_CACHEFILE_DIR:INTERNAL=${join(folder, 'build')}\nPIPE_NVCC:FILEPATH=${nvcc}\n`
  writeFileSync(
    join(folder, 'node_modules/cmake-js/bin/cmake-js'),
    `const { appendFileSync, existsSync, writeFileSync } = require('node:fs')
     const options = process.argv.slice(2).join(' ')
     appendFileSync('calls', (existsSync('build/CMakeCache.txt') ? 'again: ' : 'anew: ') + options + '\\n')
     writeFileSync('build/CMakeCache.txt', ${JSON.stringify(cache)})
     process.exit(${fails} ? 1 : 0)`,
  )
  const { status, stderr } = spawnSync(process.execPath, [join(folder, 'scripts/build-native.js')], { cwd: folder, encoding: 'utf8' })
  const calls = readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n')
  return { status, stderr, calls, isConfigured: existsSync(join(folder, 'build/CMakeCache.txt')) }
}
const usual = 'anew: compile -d native -O build -l warn'

t.test('what builds is built once', async t => {
  t.strictSame(run(temporary(t), '/usr/bin/nvcc', 'false'), { status: 0, stderr: '', calls: [usual], isConfigured: true })
})

t.test('a toolkit that does not work takes cuda.node away, not cpu.node; the next build tries again', async t => {
  const { status, stderr, calls, isConfigured } = run(temporary(t), '/usr/bin/nvcc', "!options.includes('PIPE_CUDA=OFF')")
  t.equal(status, 0)
  t.strictSame(calls, [usual, `${usual} --CDPIPE_CUDA=OFF`])
  t.match(stderr, /^pipe: cuda\.node did not build, the reason is above; cpu\.node did.*\n {2}npx cmake-js compile -d native -O build\n$/)
  t.equal(isConfigured, false)
})

t.test('what fails without CUDA is an error', async t => {
  const both = run(temporary(t), '/usr/bin/nvcc', 'true')
  t.equal(both.status, 1)
  t.equal(both.calls.length, 2)
  t.match(both.stderr, /^pipe: the native addon did not build; the reason is above\./)
  const none = run(temporary(t), 'PIPE_NVCC-NOTFOUND', 'true')
  t.equal(none.status, 1)
  t.strictSame(none.calls, [usual], 'nothing else to try')
})
