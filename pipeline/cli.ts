#!/usr/bin/env node
/** argv → command. The one place that opens a backend and knows the built-in stages, and the only one that ends the process. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { stages } from '../stages/index.js'
import { formatHelp } from './commands/help.js'
import type { Register, Wiring } from './commands/wiring.js'
import { PipeError, sentence } from './error.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const stop = new AbortController()
/** What happens at the first signal; a command may have a sentence of its own. */
let stopping = 'Stopping: what is under way is dropped, what is finished is kept.'
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (stop.signal.aborted) process.exit(130)
    process.stderr.write(`\n${stopping} Once more: stop at once.\n`)
    stop.abort()
  })
}
// `pipe stages | head -1`: the reader has gone, and nobody is left to tell.
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0)
})

/** In the order of the help. Loaded when asked for: all together take half a second. */
const commands: Readonly<Record<string, () => Promise<{ register: Register; stopping?: string }>>> = {
  run: () => import('./commands/run.js'),
  plan: () => import('./commands/plan.js'),
  stages: () => import('./commands/stages.js'),
  graph: () => import('./commands/graph.js'),
  cache: () => import('./commands/cache.js'),
  eval: () => import('./commands/eval.js'),
  export: () => import('./commands/export.js'),
  generate: () => import('./commands/generate.js'),
  chat: () => import('./commands/chat.js'),
  serve: () => import('./commands/serve.js'),
  doctor: () => import('./commands/doctor.js'),
}

const wiring: Wiring = {
  version,
  stages,
  openBackend: async device => {
    try {
      const { openBackend } = await import('../native/index.js')
      return await openBackend(device)
    } catch (error) {
      throw new PipeError('input', { where: `--device ${device}`, message: sentence(error).replaceAll('\n  ', '\n') })
    }
  },
  surveyMachine: async () => (await import('../native/machine.js')).surveyMachine(),
  versions: async () => {
    const { codebooks } = await import('../native/codebooks/index.js')
    return use => codebooks[use]?.version
  },
  print: text => {
    process.stdout.write(text)
  },
  stderr: process.stderr,
  color: process.stderr.isTTY === true && (process.env.NO_COLOR ?? '') === '' && process.env.TERM !== 'dumb',
  signal: stop.signal,
}

const program = new Command('pipe')
  .description('Quantize the weights of Hugging Face language models to 1-4 bits.')
  .configureHelp({ formatHelp })
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: (.)/, (_, first: string) => first.toUpperCase())) })
  .showSuggestionAfterError()
  .enablePositionalOptions()
  .exitOverride()
  .version(version)

/** Adds the command that is asked for; all of them where the first word is none, so that a guess can be made. */
async function addCommands(first: string): Promise<void> {
  const asked = Object.hasOwn(commands, first) ? [first] : first.startsWith('-') ? [] : Object.keys(commands)
  for (const name of asked) {
    const command = await commands[name]?.()
    command?.register(program, wiring)
    if (asked.length === 1) stopping = command?.stopping ?? stopping
  }
}

/** 0 done, 1 failed, 2 the graph or the command is wrong (nothing ran), 130 stopped. */
async function main(): Promise<number> {
  const first = process.argv[2]
  if (first === undefined) {
    program.outputHelp()
    return 0
  }
  try {
    await addCommands(first)
    await program.parseAsync()
    return 0
  } catch (error) {
    // Commander has said what was wrong with the command line, or printed the help that was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    const verbose = process.argv.includes('--verbose')
    if (error instanceof PipeError && !verbose) process.stderr.write(`${error.text}\n`)
    else process.stderr.write(`${error instanceof PipeError ? `${error.text}\n` : 'This is a bug in pipe:\n'}${stackOf(error)}\n`)
    return error instanceof PipeError ? error.exitCode : 1
  }
}

const stackOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? `${error.stack}` : `${error.stack}\ncaused by: ${stackOf(error.cause)}`
}

// Not left to the event loop: a stopped run may have an op under way that nobody waits for.
process.exit(await main())
