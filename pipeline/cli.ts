#!/usr/bin/env node
/** argv → command. The one place that opens a backend and knows the built-in stages, and the only one that ends the process. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { codebooks } from '../native/codebooks/index.js'
import { openBackend } from '../native/index.js'
import { stages } from '../stages/index.js'
import { register as cache } from './commands/cache.js'
import { register as evaluate } from './commands/eval.js'
import { register as exportDense } from './commands/export.js'
import { register as graph } from './commands/graph.js'
import { register as plan } from './commands/plan.js'
import { register as run } from './commands/run.js'
import { register as listStages } from './commands/stages.js'
import { formatHelp } from './commands/help.js'
import type { Wiring } from './commands/wiring.js'
import { PipeError } from './error.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    if (stop.signal.aborted) process.exit(130)
    process.stderr.write('\nStopping: what is under way is dropped, what is finished is kept. Once more: stop at once.\n')
    stop.abort()
  })
}
// `pipe stages | head -1`: the reader has gone, and nobody is left to tell.
process.stdout.on('error', error => { if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0) })

const wiring: Wiring = {
  version,
  stages,
  openBackend: async device => {
    try {
      return await openBackend(device)
    } catch (error) {
      throw new PipeError('input', { where: `--device ${device}`, message: error instanceof Error ? error.message : String(error) })
    }
  },
  versions: use => codebooks[use]?.version,
  print: text => { process.stdout.write(text) },
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
for (const register of [run, plan, listStages, graph, cache, evaluate, exportDense]) register(program, wiring)
program.version(version)

/** 0 done, 1 failed, 2 the graph or the command is wrong (nothing ran), 130 stopped. */
async function main(): Promise<number> {
  if (process.argv.length <= 2) {
    program.outputHelp()
    return 0
  }
  try {
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
