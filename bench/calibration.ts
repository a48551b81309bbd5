/**
 * Calibration end to end, as `pipe run` does it: model → calibrate → hessian of a few blocks of Llama-2-7B's shapes, in bf16 on
 * a GPU. What is stored must be the same, byte by byte, however it came about:
 *
 *   whole    the stream stays on the device, and is too large to be saved between blocks; the next block is opened while one runs
 *   tight    the same with --memory for one block and one chunk: nothing is opened ahead
 *   saved    half of the text: every stream is saved, chunk by chunk, while the next ones are computed
 *   killed   the same, killed once block 0 is stored, and gone on with
 *
 *   --device cuda:0   default: the first GPU, else the CPU, there with tiny blocks
 *   --layers 3 --sequences 40 --length 512    of `whole`; its stream is to be above 256 MiB
 *   --out DIR         where the checkpoint (1.3 GB) and the results (2 GB a run) go while it runs; default: the system's folder for such
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { sevenB, type Size, writeSynthetic } from '../fixtures/make/synthetic.js'
import type { DeviceUsage } from '../pipeline/events.js'
import { equalFiles } from './equal-files.js'
import { cardOf, openDevice } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const tiny = { hidden: 64, intermediate: 172, heads: 4, kvHeads: 4, headDim: 16 }
const here = (path: string): string => fileURLToPath(import.meta.resolve(path))

interface Result {
  readonly seconds: number
  readonly devices: readonly DeviceUsage[]
}

export async function run(options: Options): Promise<Figures> {
  const { layers = '3', out } = options
  const ops = await openDevice(options)
  const onGpu = ops.device.kind === 'cuda'
  const size: Size = { ...sevenB, ...(onGpu ? {} : tiny), vocab: 2048, layers: Number(layers) }
  const { sequences = onGpu ? '40' : '8', length = onGpu ? '512' : '64' } = options
  const folder = mkdtempSync(join(out ?? tmpdir(), 'pipe-calibration-'))
  try {
    writeSynthetic(join(folder, 'model'), size)
    const text = readFileSync(here('../../fixtures/tiny-llama/calibration.jsonl'), 'utf8')
    writeFileSync(join(folder, 'text.jsonl'), text.repeat(Math.ceil((4 * Number(sequences) * Number(length)) / text.length)))
    const graph = (name: string, sequences: number): string => {
      const precision = onGpu ? 'bf16' : 'f32'
      const calibrate = { use: 'calibrate', text: './text.jsonl', sequences, length: Number(length), batch: 4, precision }
      const file = join(folder, `${name}.json`)
      writeFileSync(
        file,
        JSON.stringify({ name: 'calibration', seed: 0, stages: [{ use: 'model', path: './model' }, calibrate, { use: 'hessian' }] }),
      )
      return file
    }
    const large = graph('large', Number(sequences))
    const small = graph('small', Math.ceil(Number(sequences) / 2))
    const pipe = (file: string, target: string, more: readonly string[] = []) =>
      spawn(
        process.execPath,
        [here('../pipeline/cli.js'), 'run', file, '--device', ops.device.name, '--out', join(folder, target), ...more],
        {
          stdio: ['ignore', 'ignore', 'inherit'],
        },
      )
    const finished = async (file: string, target: string, more?: readonly string[]): Promise<Result> => {
      const code = await ended(pipe(file, target, more))
      if (code !== 0) throw new Error(`pipe run ${target} ended with ${code}`)
      return JSON.parse(readFileSync(join(folder, target, 'result.json'), 'utf8')) as Result
    }

    const whole = await finished(large, 'whole')
    const block = 4 * (4 * size.hidden ** 2 + 3 * size.hidden * size.intermediate) // f32, the most that one takes while it is opened
    const chunk = 4 * Number(length) * 4 * (8 * size.hidden + 4 * size.intermediate)
    const hessians = 8 * 2 * (3 * size.hidden ** 2 + size.intermediate ** 2) // in f64, and as they are stored
    const tight = await finished(large, 'tight', ['--memory', `${Math.ceil((block + chunk + hessians) / 1e6)}MB`])
    const saved = await finished(small, 'saved')
    const child = pipe(small, 'killed')
    const isKilled = await killedAfter(child, join(folder, 'killed', 'events.jsonl'))
    const killed = await finished(small, 'killed')

    const row = (name: string, { seconds, devices }: Result, like?: string): Row => ({
      run: name,
      'all s': seconds,
      'ops s': Math.max(...devices.map(({ opSeconds }) => opSeconds)),
      'peak GB': Math.max(...devices.map(({ peakBytes }) => peakBytes)) / 1e9,
      ...(like === undefined
        ? {}
        : { 'equal files': equalFiles(join(folder, like, 'cache'), join(folder, name, 'cache'), `when ${name}`) }),
    })
    const rows = [row('whole', whole), row('tight', tight, 'whole'), row('saved', saved), row('killed', killed, 'saved')]
    return { ...cardOf(ops), layers: size.layers, tokens: Number(sequences) * Number(length), killed: isKilled, rows }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const ended = (child: ReturnType<typeof spawn>): Promise<number | null> => new Promise(resolve => child.on('close', resolve))

/** Kills it when a Hessian of block 0 is stored; false when it was done before that was seen. */
async function killedAfter(child: ReturnType<typeof spawn>, events: string): Promise<boolean> {
  const end = ended(child)
  const isStored = (): boolean => {
    try {
      return /"kind":"batch-finished","stage":"hessian","batch":"0\//.test(readFileSync(events, 'utf8'))
    } catch {
      return false // not begun
    }
  }
  while (child.exitCode === null && !isStored()) await setTimeout(5)
  child.kill('SIGKILL')
  return (await end) === null
}
