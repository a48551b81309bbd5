/** What cli.ts hands to the commands: the stages, the backend, where to print, when to stop; and what they have in common. */
import { basename, resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import type { Ops } from '../../native/ops.js'
import type { BuiltInStages } from '../graph.js'
import type { Screen } from '../progress.js'

export interface Wiring {
  readonly version: string
  readonly stages: BuiltInStages
  /** 'cpu', 'cuda:0'. */
  openBackend(device: string): Promise<Ops>
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
  const bytes = Number(figure) * (binary ? 1024 : 1000) ** (' kmgt'.indexOf(prefix.toLowerCase() || ' '))
  if (!Number.isFinite(bytes) || bytes < 1e6) throw new InvalidArgumentError('Give a size of at least 1 MB, such as 4GB or 512MiB.')
  return Math.floor(bytes)
}

/** The folder of a graph's outputs: --out, or out/<name of the graph file> in the working directory. */
export const outFolder = (graph: string, out: string | undefined): string =>
  resolve(out ?? `out/${basename(graph).replace(/\.json$/, '')}`)

/** Examples at the end of a command's help, a comment line each. */
export const examples = (...pairs: readonly (readonly [comment: string, command: string])[]): string =>
  `\nExamples:\n${pairs.map(([comment, command]) => `  # ${comment}\n  ${command}`).join('\n\n')}`
