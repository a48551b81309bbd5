/** What cli.ts hands to the commands: the stages, the backend, where to print, when to stop; and what they have in common. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Machine } from '../../native/device.js'
import type { Ops } from '../../native/ops.js'
import { deviceText } from '../device.js'
import { PipeError } from '../error.js'
import type { BuiltInStages } from '../graph.js'
import type { Screen } from '../progress.js'
import { draws } from '../random.js'

export interface Wiring {
  readonly version: string
  readonly stages: BuiltInStages
  /** 'auto', 'cpu', 'cuda:0'. */
  openBackend(device: string): Promise<Ops>
  /** The addons and what they find, without opening a device. */
  surveyMachine(): Promise<Machine>
  /** Versions of codebooks, which parameters name by { use }: part of cache keys. */
  versions(): Promise<(use: string) => number | undefined>
  /** Results. */
  print(text: string): void
  /** Everything that is said meanwhile. */
  readonly stderr: Screen
  readonly color: boolean
  /** Aborted by the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal
}

/** Adds a command to the program. Every file in this folder exports one. */
export type Register = (program: Command, wiring: Wiring) => void

/** A model's folder, or the one inside a folder that a run wrote. */
export async function modelOf(dir: string): Promise<string> {
  const has = async (path: string): Promise<boolean> => (await stat(join(path, 'config.json')).catch(() => undefined)) !== undefined
  return !(await has(dir)) && (await has(join(dir, 'model'))) ? join(dir, 'model') : dir
}

/** For options that may be given several times. */
export const collect = (value: string, before: string[]): string[] => [...before, value]

/** '4GB', '512 MiB', '1.5g', '800000000' → bytes; NaN when it is no size. */
function bytesOf(text: string): number {
  const [, figure, prefix = '', binary] = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$/i.exec(text) ?? []
  return Math.floor(Number(figure) * (binary ? 1024 : 1000) ** ' kmgt'.indexOf(prefix.toLowerCase() || ' '))
}

export function memorySize(text: string): number {
  const bytes = bytesOf(text)
  if (!Number.isFinite(bytes) || bytes < 1e6) throw new InvalidArgumentError('Give a size of at least 1 MB, such as 4GB or 512MiB.')
  return bytes
}

/** Of what others send: from 1 kB to 1 GB. */
export function bodySize(text: string): number {
  const bytes = bytesOf(text)
  if (!(bytes >= 1e3 && bytes <= 1e9)) throw new InvalidArgumentError('Give a size from 1 kB to 1 GB, such as 1MB or 64kB.')
  return bytes
}

/** Parser of a path: "" would mean the folder one is in. */
export function path(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('Give the name of a folder.')
  return text
}

/** Parser of a number within bounds. */
export const number =
  (least: number, most: number, whole = false) =>
  (text: string): number => {
    const value = text.trim() === '' ? Number.NaN : Number(text)
    if (value >= least && value <= most && (!whole || Number.isInteger(value))) return value
    throw new InvalidArgumentError(`Give a ${whole ? 'whole ' : ''}number from ${least} to ${most}.`)
  }

/** --device, the same wherever ops run. */
export const deviceOption = (
  command: Command,
  about = 'where ops run: cpu, cuda:0, …; auto: the first GPU that can be used, else cpu',
): Command => command.option('--device <name>', about, 'auto')

/** Opens it, and says on stderr which it is: for commands without a plan that does. */
export async function openDevice(wiring: Wiring, name: string): Promise<Ops> {
  if (name.includes(','))
    throw new PipeError('input', { where: `--device ${name}`, message: 'This command works on one device.', hint: 'Name one of them.' })
  const ops = await wiring.openBackend(name)
  wiring.stderr.write(`on ${deviceText(ops.device)}\n`)
  return ops
}

/** The options that run and plan have in common: the plan is of the run that they describe. */
export const runOptions = (command: Command): Command =>
  deviceOption(
    command,
    'where ops run: cpu, cuda:0; of several, cuda:0,cuda:1 say, each works on batches of its own; auto: the first GPU that can be used, else cpu',
  )
    .option(
      '--set <name=value>',
      'an input of the graph (model=DIR) or a parameter of a stage (round.codebook.K=3); repeat for more',
      collect,
      [],
    )
    .option('--out <dir>', 'where results and cache go (default: out/<name of the graph>)', path)
    .option(
      '--memory <size>',
      'most bytes of tensors at a time on each device, 4GB say (default: 60 % of the memory that is free, 80 % on a GPU)',
      memorySize,
    )
    .option('--from <id>', 'begin with this stage: what comes before has to be stored')
    .option('--to <id>', 'end with this stage')
    .option('--only <id>', 'this stage alone')
    .option('--force <id>', 'compute this stage again, whatever is stored; repeat for more', collect, [])

/** Examples at the end of a command's help, a comment line each. */
export const examples = (...pairs: readonly (readonly [comment: string, command: string])[]): string =>
  `\nExamples:\n${pairs.map(([comment, command]) => `  # ${comment}\n  ${command}`).join('\n\n')}`

export interface SamplingOptions {
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
}

/** How tokens are drawn, the same wherever text is made. */
export const samplingOptions = (command: Command): Command =>
  command
    .option('--temperature <t>', '0: the likeliest token always; 1: drawn as the model says', number(0, 100), 0)
    .option('--top-k <k>', 'draw from the k likeliest; 0: all', number(0, 2 ** 31, true), 0)
    .option('--top-p <p>', 'draw from the fewest likeliest that have this probability together', number(0, 1), 1)
    .option('--min-p <p>', 'draw from those with this share of the probability of the likeliest', number(0, 1), 0)
    .option('--repetition-penalty <r>', 'makes what was said before less likely; 1: not', number(0.01, 100), 1)

export interface HoldingOptions {
  weights: 'packed' | 'dense'
  activations: 'f32' | 'int8'
  cache: 'f32' | 'bf16'
}

export const activationsOption = (): Option =>
  new Option('--activations <dtype>', 'what packed linears multiply by: int8 is up to twice as fast on a CPU, and less exact')
    .choices(['f32', 'int8'])
    .default('f32')

/** What a model that makes text holds on the device, and how. */
export const holdingOptions = (command: Command): Command =>
  command
    .addOption(
      new Option(
        '--weights <form>',
        'how quantized linears are held: packed, as they are stored, where there is a kernel for it; or decoded',
      )
        .choices(['packed', 'dense'])
        .default('packed'),
    )
    .addOption(activationsOption())
    .addOption(new Option('--cache <dtype>', 'what keys and values are kept in: bf16 takes half').choices(['f32', 'bf16']).default('f32'))

/** Of commands that make text. */
export interface WritingOptions extends SamplingOptions, HoldingOptions {
  maxTokens: number
  seed: number
  stop: string[]
  device: string
}

/** How text is made as these options say; what a seed draws depends on the command's name too. Raises PipeError when a text to end at is empty. */
export const writing = ({ stop, maxTokens, seed, ...sampling }: WritingOptions, command: string) => {
  if (stop.includes('')) throw new PipeError('input', { where: '--stop', message: 'expected a text and found an empty one.' })
  return { sampling, stop, maxTokens, uniform: draws(seed, command) }
}
