/** Help texts: usage, what it does, options, examples. */
import type { Command, Help } from 'commander'
import { table, wrap } from '../text.js'

const top = `Usage:
  pipe run <graph.json>               quantize; the same command resumes where it stopped
  pipe plan <graph.json>              what would run, what is cached, and why; run nothing
  pipe stages [name]                  list the stages, or describe one: params, columns read and added
  pipe graph <graph.json>             draw it (text, SVG or Mermaid)
  pipe cache ls|verify|gc <graph.json>  what is stored, whether it is intact, and what no plan uses
  pipe eval <dir> --text <file>       perplexity of a checkpoint, original or quantized
  pipe export <dir> --to dense        a plain checkpoint that any Hugging Face program loads
  pipe generate <dir> --prompt <text> go on from a prompt with a checkpoint, original or quantized
  pipe chat <dir>                     talk with a checkpoint in the terminal
  pipe serve <dir>                    OpenAI-compatible endpoints for a checkpoint, on this machine
  pipe doctor                         what this machine has, and what each missing piece would bring

Options:
  --set name=value                    the graph's own inputs and any parameter: model=DIR, round.codebook.K=3
  --out DIR                           where results and cache go (default: out/<name of the graph>)
  --device auto|cpu|cuda:0,cuda:1     where ops run: one or several (auto: the first GPU, else cpu)
  --memory 4GB                        most bytes of tensors at a time on each (default: 60 % of what is free)
  --from/--to/--only/--force ID       run a part, or run it again
  --json                              events as JSON lines on stdout
  --verbose                           each op with its time; stacks of errors
  --version, --help                   <command> --help says more

Examples:
  # The bundled model at 2 bits a weight with QTIP
  pipe run graphs/qtip-2bit.json

  # Your model, your text
  pipe run graphs/qtip-2bit.json --set model=Llama-3.2-1B --set text=c4.txt

  # What would change with another code, before running it
  pipe plan graphs/qtip-2bit.json --set round.codebook.K=3
`

/** What commander calls for each command. */
export function formatHelp(command: Command, helper: Help): string {
  if (command.parent === null) return top
  const rows = (title: string, lines: [string, string][]) =>
    lines.length === 0
      ? []
      : [
          title,
          ...table(
            [],
            lines.map(([term, text]) => [`  ${term}`, text]),
          ),
          '',
        ]
  return [
    'Usage:',
    `  ${helper.commandUsage(command)}`,
    '',
    ...wrap(helper.commandDescription(command).split(' '), 100),
    '',
    ...rows(
      'Commands:',
      helper
        .visibleCommands(command)
        .filter(inner => inner.name() !== 'help')
        .map(inner => [helper.subcommandTerm(inner), helper.subcommandDescription(inner)]),
    ),
    ...rows(
      'Options:',
      // That a list is empty until something is given needs no words.
      helper
        .visibleOptions(command)
        .map(option => [
          helper.optionTerm(option),
          Array.isArray(option.defaultValue) ? option.description : helper.optionDescription(option),
        ]),
    ),
  ].join('\n')
}
