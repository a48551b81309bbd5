#!/usr/bin/env node
/** argv → command. The one place that opens a backend and knows the built-in stages, and the only one that ends the process. */
import { readFileSync } from 'node:fs'
import { stages } from '../stages/index.js'
import { commands } from './commands/index.js'
import type { Wiring } from './commands/wiring.js'
import { PipeError, sentence } from './error.js'
import { runCommand } from './program.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const stop = new AbortController()
/** What happens at the first signal; a command may have a sentence of its own. */
let stopping = 'Stopping: what is under way is dropped, what is finished is kept.'
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (stop.signal.aborted) process.exit(130)
    stop.abort() // what is drawn there is taken away
    process.stderr.write(`\n${stopping} Once more: stop at once.\n`)
  })
}
const words = process.argv.slice(2)
const [first = ''] = words
// `pipe run … | head -1`: the reader has gone, and the work goes on, but for a text that is made to be read. A disk that takes
// no more is another matter.
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') {
    if (first === 'generate' || first === 'chat') process.exit(0)
    return
  }
  process.stderr.write(`What is printed can't be written: ${sentence(error)}.\n`)
  process.exit(1)
})
// What is said meanwhile is not worth the work under way.
process.stderr.on('error', () => {})

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

if (Object.hasOwn(commands, first)) stopping = (await commands[first]?.())?.stopping ?? stopping
const code = await runCommand(words, commands, wiring)
// Behind what was printed: a write that failed is told by then.
await new Promise(resolve => process.stdout.write('', resolve))
// Not left to the event loop: a stopped run may have an op under way that nobody waits for.
process.exit(code)
