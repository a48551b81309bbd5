/** What cli.ts hands to the commands: the stages, the backend, where to print, when to stop; and what they have in common. */
import { type Command, InvalidArgumentError } from 'commander'
import type { Machine } from '../../native/device.js'
import type { Ops } from '../../native/ops.js'
import { deviceText } from '../device.js'
import { PipeError } from '../error.js'
import type { BuiltInStages } from '../graph.js'
import type { Screen } from '../progress.js'

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

/** For options that may be given several times. */
export const collect = (value: string, before: string[]): string[] => [...before, value]

/** '4GB', '512 MiB', '1.5g', '800000000' → bytes. */
export function memorySize(text: string): number {
  const [, figure, prefix = '', binary] = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$/i.exec(text) ?? []
  const bytes = Number(figure) * (binary ? 1024 : 1000) ** ' kmgt'.indexOf(prefix.toLowerCase() || ' ')
  if (!Number.isFinite(bytes) || bytes < 1e6) throw new InvalidArgumentError('Give a size of at least 1 MB, such as 4GB or 512MiB.')
  return Math.floor(bytes)
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
    .option('--out <dir>', 'where results and cache go (default: out/<name of the graph>)')
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
