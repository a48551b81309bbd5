/** What tests share: the backends to loop over, closeness, counting ops, running the command line, temporary folders. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openBackend } from '../native/index.js'
import type { Ops } from '../native/ops.js'

/** The package's folder. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

export interface Finished {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}
export interface Running {
  readonly pid: number
  kill(signal: NodeJS.Signals): void
  /** Resolves, with all there is, once the text has appeared on either stream; rejects when the process ends without it. */
  saw(text: string | RegExp): Promise<string>
  readonly finished: Promise<Finished>
}

/** Starts `pipe` with these arguments, off a terminal; `input` is what is piped in. */
export function startPipe(args: readonly string[], o: { cwd?: string; env?: NodeJS.ProcessEnv; input?: string } = {}): Running {
  const child = spawn(process.execPath, [join(root, 'dist/pipeline/cli.js'), ...args], {
    cwd: o.cwd ?? root,
    // Tests compare with what the CPU gives: a GPU is not shown to commands that don't ask for one.
    env: { ...process.env, NO_COLOR: '1', ...(args.includes('--device') ? {} : { CUDA_VISIBLE_DEVICES: '' }), ...o.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdin.on('error', () => {}) // it may end before it has read all
  child.stdin.end(o.input ?? '')
  let stdout = ''
  let stderr = ''
  const watchers = new Set<() => void>()
  const tell = () => {
    for (const watcher of watchers) watcher()
  }
  child.stdout.setEncoding('utf8').on('data', text => {
    stdout += text
    tell()
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
    tell()
  })
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
  return {
    pid: child.pid ?? 0,
    kill: signal => {
      child.kill(signal)
    },
    saw: text =>
      new Promise((resolve, reject) => {
        const look = () => {
          const all = `${stdout}\n${stderr}`
          if (!(typeof text === 'string' ? all.includes(text) : text.test(all))) return
          watchers.delete(look)
          resolve(all)
        }
        watchers.add(look)
        void finished.then(() => {
          look()
          reject(new Error(`ended without ${text}:\n${stdout}\n${stderr}`))
        }, reject)
        look()
      }),
    finished,
  }
}

/** Runs `pipe` with these arguments and waits for its end. */
export const pipe = (args: readonly string[], o: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Finished> =>
  startPipe(args, o).finished

/** A new folder that is removed when the test is over. */
export function temporary(t: { teardown(f: () => void): void }): string {
  const path = mkdtempSync(join(tmpdir(), 'pipe-test-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Mean squared error over mean square of what is expected. NaN anywhere gives NaN, which is below no bound. */
export function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`)
  let error = 0
  let power = 0
  for (let i = 0; i < expected.length; i++) {
    const e = expected[i] as number
    error += ((actual[i] as number) - e) ** 2
    power += e ** 2
  }
  return error === 0 ? 0 : error / power
}

/** Asserts that the normalized mean squared error is at most `bound`. */
export function close(
  t: { ok(value: unknown, message: string): boolean },
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: number,
  message = 'close',
): boolean {
  const error = nmse(actual, expected)
  return t.ok(error <= bound, `${message}: NMSE ${error.toExponential(2)}, allowed ${bound}`)
}

/** The same verbs on the same device; `calls` counts how often each was called. */
export function countingOps(ops: Ops): { ops: Ops; calls: Record<string, number> } {
  const calls: Record<string, number> = {}
  const counting = new Proxy(ops, {
    get(target, key) {
      const verb: unknown = Reflect.get(target, key, target)
      if (typeof verb !== 'function') return verb
      return (...args: unknown[]) => {
        calls[String(key)] = (calls[String(key)] ?? 0) + 1
        return Reflect.apply(verb, target, args)
      }
    },
  })
  return { ops: counting, calls }
}

/** Where tests of ops, codebooks and stages run: PIPE_TEST_DEVICE, as npm run test:gpu sets it, or the CPU. */
export const testDevice = process.env.PIPE_TEST_DEVICE ?? 'cpu'

export interface Backend {
  readonly name: string
  /** For a test's options: why it is not run here, or false. So that tests of a missing device are skipped by name, and counted. */
  readonly skip: string | false
  open(): Promise<Ops>
}

const lacks = await openBackend('cuda:0').then(
  () => false as const,
  error => `no CUDA device: ${error.message.split('\n')[0]}`,
)

/** The backends to loop over: `for (const { name, skip, open } of backends) t.test(`${name}: …`, { skip }, async t => …)`. */
export const backends: readonly Backend[] = [
  { name: 'cpu', skip: false, open: () => openBackend('cpu') },
  { name: 'cuda', skip: lacks, open: () => openBackend('cuda:0') },
]
