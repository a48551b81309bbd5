/** A command line → what it prints and its exit code. It neither opens devices nor ends the process: cli.ts hands in what does. */
import { Command, CommanderError } from 'commander'
import { formatHelp } from './commands/help.js'
import type { Register, Wiring } from './commands/wiring.js'
import { PipeError, sentence } from './error.js'
import { deviceFailure } from './failure.js'

/** By name; loaded when asked for. `stopping`: what is said at the first signal. */
export type Commands = Readonly<Record<string, () => Promise<{ register: Register; stopping?: string }>>>

/** The words after `pipe` → 0 done, 1 failed, 2 the graph or the command is wrong (nothing ran), 130 stopped. */
export async function runCommand(words: readonly string[], commands: Commands, wiring: Wiring): Promise<number> {
  const write = (text: string): void => {
    wiring.stderr.write(text)
  }
  const program = new Command('pipe')
    .description('Quantize the weights of Hugging Face language models to 1-4 bits.')
    .configureHelp({ formatHelp })
    .configureOutput({
      writeOut: text => wiring.print(text),
      writeErr: write,
      outputError: text => write(text.replace(/^error: (.)/, (_, first: string) => first.toUpperCase())),
    })
    .showSuggestionAfterError()
    .enablePositionalOptions()
    .exitOverride()
    .version(wiring.version)
  const [first] = words
  if (first === undefined) {
    program.outputHelp()
    return 0
  }
  // The command that is asked for; all of them where the first word is none, so that a guess can be made.
  const asked = Object.hasOwn(commands, first) ? [first] : first.startsWith('-') ? [] : Object.keys(commands)
  try {
    for (const name of asked) (await commands[name]?.())?.register(program, wiring)
    await program.parseAsync(words, { from: 'user' })
    return 0
  } catch (error) {
    // Commander has said what was wrong with the command line, or printed the help that was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    if (wiring.signal.aborted && !(error instanceof PipeError)) {
      // Whatever an aborted operation throws; --verbose shows it.
      write(words.includes('--verbose') ? `Stopped.\n${stackOf(error)}\n` : 'Stopped.\n')
      return 130
    }
    const told = error instanceof PipeError ? error.text : deviceFailure(error) !== undefined ? sentence(error) : undefined
    const text = `${told ?? 'This is a bug in pipe:'}\n`
    write(told !== undefined && !words.includes('--verbose') ? text : `${text}${stackOf(error)}\n`)
    return error instanceof PipeError ? error.exitCode : 1
  }
}

const stackOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? `${error.stack}` : `${error.stack}\ncaused by: ${stackOf(error.cause)}`
}
