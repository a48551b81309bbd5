/** Builds native/ into build/Release: cpu.node, and cuda.node where nvcc is found. Runs on `npm ci`, before any TypeScript is compiled: plain JavaScript, Node alone. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const runs = command => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0

const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
const missing = [
  ...(runs('cmake') ? [] : ['CMake 3.24 or newer (cmake)']),
  ...(compilers.some(runs) ? [] : [`a C++20 compiler (looked for ${compilers.join(', ')})`]),
  ...(runs('make') || runs('ninja') ? [] : ['make or ninja']),
]
if (missing.length > 0) {
  console.error(`pipe: the native addon cannot be built: ${missing.join(' and ')} not found.`)
  console.error('On Debian and Ubuntu: apt-get install g++ cmake make      then again: npm ci')
  process.exit(1)
}

// CMake refuses a cache that was made elsewhere (the checkout was moved or copied), and cmake-js would not notice.
const cache = join(root, 'build/CMakeCache.txt')
if (existsSync(cache) && !readFileSync(cache, 'utf8').includes(`CMAKE_CACHEFILE_DIR:INTERNAL=${join(root, 'build')}\n`)) {
  rmSync(join(root, 'build'), { recursive: true })
}

// cmake-js reads package.json beside CMakeLists.txt: "napi_versions" there means that no Node header is downloaded.
const cmakeJs = join(root, 'node_modules/cmake-js/bin/cmake-js')
const compile = (...options) =>
  spawnSync(process.execPath, [cmakeJs, 'compile', '-d', 'native', '-O', 'build', '-l', 'warn', ...options], {
    cwd: root,
    stdio: 'inherit',
  }).status === 0
const hasNvcc = () => existsSync(cache) && /^PIPE_NVCC:FILEPATH=(?!.*NOTFOUND)/m.test(readFileSync(cache, 'utf8'))

if (!compile()) {
  // A toolkit that does not work here, half installed or older than the compiler, must not take the CPU away. What CMake
  // found is forgotten before, since it would not look again, and after, so that the next build tries with CUDA.
  const wasTried = hasNvcc()
  rmSync(cache, { force: true })
  if (!wasTried || !compile('--CDPIPE_CUDA=OFF')) {
    console.error('pipe: the native addon did not build; the reason is above. Once more, with every command:')
    console.error('  npx cmake-js compile -d native -O build -l verbose')
    process.exit(1)
  }
  rmSync(cache, { force: true })
  console.error('pipe: cuda.node did not build, the reason is above; cpu.node did, and ops run on the CPU. Once nvcc works:')
  console.error('  npx cmake-js compile -d native -O build')
}
