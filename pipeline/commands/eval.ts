/** pipe eval: perplexity or zero-shot accuracy of a checkpoint, dense or quantized. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { score } from '../../stages/evaluate/perplexity.js'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import type { Activations } from '../../stages/model/linear.js'
import { type Precision, precisionOf } from '../../stages/model/precision.js'
import { openWeights } from '../../stages/model/quantized.js'
import type { Form } from '../../stages/model/streams.js'
import {
  checkLength,
  documentWindows,
  modelWindows,
  openTokenizer,
  type Protocol,
  protocolNames,
  protocols,
} from '../../stages/model/text.js'
import { readItems, type TaskName, taskNames } from '../../stages/tasks/formulation.js'
import { ask, type Measured, mark, written } from '../../stages/tasks/score.js'
import { didYouMean, PipeError } from '../error.js'
import { plural } from '../text.js'
import { activationsOption, deviceOption, examples, modelOf, openDevice, type Register, type Wiring } from './wiring.js'

interface Options {
  text?: string
  tasks?: readonly TaskName[]
  data?: string
  limit?: number
  length?: number
  sequences?: number
  lines?: number
  protocol?: Protocol
  device: string
  precision: 'auto' | Precision
  weights: Form
  activations: Activations
  json: boolean
}

/** Parser of an option that counts something. */
const count =
  (least: number) =>
  (text: string): number => {
    const value = Number(text)
    if (!Number.isInteger(value) || value < least) throw new InvalidArgumentError(`Give a whole number, at least ${least}.`)
    return value
  }

/** Parser of a list of tasks. */
const taskList = (text: string): readonly TaskName[] =>
  text.split(',').map(word => {
    const name = taskNames.find(one => one === word.trim())
    if (name === undefined)
      throw new InvalidArgumentError(`There is no task "${word}".${didYouMean(word, taskNames)} Known: ${taskNames.join(', ')}.`)
    return name
  })

export const register: Register = (program: Command, wiring) => {
  deviceOption(program.command('eval <dir>'))
    .description('Perplexity of a checkpoint, original or quantized, on a text; or its zero-shot accuracy on tasks.')
    .option('--text <file>', 'UTF-8: .jsonl with one {"text": …} a line, or plain text')
    .option('--length <tokens>', 'tokens of a window (default: 2048, or what the model was made for)', count(2))
    .option('--sequences <n>', 'only the last n windows', count(1))
    .addOption(
      new Option('--lines <n>', 'the last n lines, each a window of its own, cut off at the length')
        .argParser(count(1))
        .conflicts('sequences'),
    )
    .addOption(
      new Option('--tasks <names>', `instead: ${taskNames.join(', ')}; commas between`)
        .argParser(taskList)
        .conflicts(['text', 'length', 'sequences', 'lines', 'protocol']),
    )
    .addOption(new Option('--data <folder>', 'of the tasks: one .jsonl each, the name of the task in its own').conflicts('text'))
    .addOption(new Option('--limit <n>', 'only the first n items of each task').argParser(count(1)).conflicts('text'))
    .addOption(
      new Option('--protocol <name>', "rows joined to one text as for published tables; Hugging Face's rows as .jsonl, or the joined text")
        .choices(protocolNames)
        .conflicts(['sequences', 'lines']),
    )
    .addOption(
      new Option('--precision <name>', 'f32, or bf16 with sums in f32; auto: bf16 on a GPU for a large model stored in 16 bits')
        .choices(['auto', 'f32', 'bf16'])
        .default('auto'),
    )
    .addOption(
      new Option(
        '--weights <form>',
        'of quantized linears. dense: each is decoded once for all of the text, a block at a time, which is less work for long texts; packed: they are multiplied from their bits, as generate and serve do. Equal but for rounding',
      )
        .choices(['packed', 'dense'])
        .default('dense'),
    )
    .addOption(activationsOption())
    .option('--json', 'the result as JSON', false)
    .addHelpText(
      'after',
      examples(
        [
          'Documents concatenated, cut into windows of 2048 tokens, every token but the first of each predicted',
          'pipe eval Llama-3.2-1B --text wiki.test.raw',
        ],
        [
          'Each of the last 200 stories by itself, cut off at 256 tokens',
          'pipe eval stories260K --text stories.jsonl --lines 200 --length 256',
        ],
        [
          'As in published tables: rows joined by two newlines, windows of 4096 tokens',
          'pipe eval Llama-2-7b --text wikitext2-test.jsonl --protocol wikitext2 --length 4096',
        ],
        ['Zero-shot accuracy on the first 100 items of two tasks', 'pipe eval Llama-3.2-1B --tasks arc_easy,piqa --data tasks --limit 100'],
        ['What a run has written', 'pipe eval out/qtip-2bit/model --text test.txt'],
        ['The same by the kernels that make text', 'pipe eval out/qtip-2bit/model --text test.txt --weights packed'],
      ),
    )
    .action(async (given: string, o: Options) => {
      const dir = await modelOf(given)
      if (o.tasks !== undefined) return await evalTasks(dir, o.tasks, o, wiring)
      const { text } = o
      if (text === undefined) throw missing('--text FILE or --tasks NAMES')
      const started = performance.now()
      const checkpoint = await openCheckpoint(dir)
      const { positions, sizes } = checkpoint.config
      const length = o.length ?? Math.min(2048, positions ?? 2048)
      checkLength(dir, checkpoint.config, length)
      const note = (line: string): void => {
        wiring.stderr.write(`${line}\n`)
      }
      const windows =
        o.lines === undefined
          ? await modelWindows(
              checkpoint,
              text,
              o.protocol === undefined
                ? { length, count: o.sequences, from: o.sequences === undefined ? 'start' : 'end' }
                : { length, ...protocols[o.protocol] },
              note,
            )
          : (await documentWindows(await openTokenizer(dir, sizes.vocab), text, { length, lines: o.lines })).windows
      const ops = await openDevice(wiring, o.device)
      using weights = await openWeights(ops, checkpoint)
      const { nll, predictions } = await score(ops, [weights], windows, {
        precision: precisionOf(o.precision, ops, checkpoint),
        form: o.weights,
        activations: o.activations,
        signal: wiring.signal,
      })
      const mean = (nll[0] ?? Number.NaN) / predictions
      const seconds = (performance.now() - started) / 1000
      if (o.json)
        return wiring.print(
          `${JSON.stringify({ perplexity: Math.exp(mean), nll: mean, predictions, windows: windows.length, length, seconds })}\n`,
        )
      wiring.print(
        [
          `perplexity   ${Math.exp(mean).toFixed(4)}`,
          `NLL          ${mean.toFixed(4)} nats a token`,
          `predictions  ${predictions}, in ${plural(windows.length, 'window')} of ${o.lines === undefined ? '' : 'at most '}${length} tokens`,
          `seconds      ${seconds.toFixed(1)}`,
          '',
        ].join('\n'),
      )
    })
}

const missing = (what: string): PipeError =>
  new PipeError('graph', { where: 'pipe eval', message: `expected ${what}.`, hint: 'pipe eval --help has examples.' })

async function evalTasks(dir: string, tasks: readonly TaskName[], o: Options, wiring: Wiring): Promise<void> {
  const { data } = o
  if (data === undefined) throw missing('--data FOLDER with the items of the tasks')
  const checkpoint = await openCheckpoint(dir)
  const found = []
  for (const task of tasks) found.push({ task, items: await readItems(data, task, o.limit) })
  const ops = await openDevice(wiring, o.device)
  using weights = await openWeights(ops, checkpoint)
  const results: Record<string, unknown> = {}
  for (const { task, items } of found) {
    const answers = await ask(ops, weights, task, items, {
      precision: precisionOf(o.precision, ops, checkpoint),
      form: o.weights,
      activations: o.activations,
      signal: wiring.signal,
      note: line => {
        wiring.stderr.write(`${line}\n`)
      },
    })
    const score = mark(task, items, answers)
    results[task] = {
      ...score,
      logLikelihoods: answers.map(item => item.map(({ logLikelihood }) => logLikelihood)),
      greedy: answers.map(item => item.map(({ greedy }) => greedy)),
    }
    if (o.json) continue
    const { items: count, ...measured } = score
    for (const [metric, value] of Object.entries(measured) as [string, Measured][])
      wiring.print(`${task.padEnd(14)} ${metric.padEnd(10)} ${written(value)}   ${count} items\n`)
  }
  if (o.json) wiring.print(`${JSON.stringify(results)}\n`)
}
