/** pipe generate: text that goes on from a prompt, by a checkpoint, dense or quantized. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { Generator } from '../../stages/model/generate.js'
import { openWeights } from '../../stages/model/quantized.js'
import { StreamedText } from '../../stages/model/streamed-text.js'
import { openTokenizer } from '../../stages/model/text.js'
import { PipeError } from '../error.js'
import { rng } from '../random.js'
import { collect, deviceOption, examples, openDevice, type Register } from './wiring.js'

interface Options {
  prompt: string
  maxTokens: number
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  seed: number
  stop: string[]
  device: string
  weights: 'packed' | 'dense'
}

/** Parser of a number within bounds. */
const number =
  (least: number, most: number, whole = false) =>
  (text: string): number => {
    const value = text.trim() === '' ? Number.NaN : Number(text)
    if (value >= least && value <= most && (!whole || Number.isInteger(value))) return value
    throw new InvalidArgumentError(`Give a ${whole ? 'whole ' : ''}number from ${least} to ${most}.`)
  }

export const register: Register = (program: Command, wiring) => {
  deviceOption(program.command('generate <dir>'))
    .description('Go on from a prompt with a checkpoint, original or quantized; the text appears as it is made.')
    .requiredOption('--prompt <text>', 'what to go on from')
    .option('--max-tokens <n>', 'most tokens to make', number(1, 2 ** 20, true), 256)
    .option('--temperature <t>', '0: the likeliest token always; 1: drawn as the model says', number(0, 100), 0)
    .option('--top-k <k>', 'draw from the k likeliest; 0: all', number(0, 2 ** 31, true), 0)
    .option('--top-p <p>', 'draw from the fewest likeliest that have this probability together', number(0, 1), 1)
    .option('--min-p <p>', 'draw from those with this share of the probability of the likeliest', number(0, 1), 0)
    .option('--repetition-penalty <r>', 'makes what was said before less likely; 1: not', number(0.01, 100), 1)
    .option('--seed <n>', 'the same seed draws the same text', number(0, Number.MAX_SAFE_INTEGER, true), 0)
    .option('--stop <text>', 'end before this text; repeat for more', collect, [])
    .addOption(
      new Option(
        '--weights <form>',
        'how quantized linears are held: packed, as they are stored, where there is a kernel for it; or decoded',
      )
        .choices(['packed', 'dense'])
        .default('packed'),
    )
    .addHelpText(
      'after',
      examples(
        ['The likeliest text', 'pipe generate out/qtip-2bit/model --prompt "Once upon a time"'],
        ['Another for each seed', 'pipe generate Llama-3.2-1B --prompt "Once upon a time" --temperature 0.8 --min-p 0.05 --seed 7'],
      ),
    )
    .action(async (dir: string, o: Options) => {
      if (o.stop.includes('')) throw new PipeError('input', { where: '--stop', message: 'expected a text and found an empty one.' })
      if (o.prompt === '') throw new PipeError('input', { where: '--prompt', message: 'expected a text and found an empty one.' })
      const checkpoint = await openCheckpoint(dir)
      const tokenizer = await openTokenizer(dir, checkpoint.config.sizes.vocab)
      const prompt = (await tokenizer.encode(o.prompt)).getIds()
      const ops = await openDevice(wiring, o.device)
      using weights = await openWeights(ops, checkpoint)
      using generator = await Generator.open(ops, weights, { weights: o.weights })
      const random = rng(o.seed, 'generate')
      const text = new StreamedText(tokenizer, prompt, o.stop)
      const started = performance.now()
      let tokens = 0
      for await (const id of generator.tokens(prompt, { sampling: o, maxTokens: o.maxTokens, uniform: () => random.uniform(1)[0] ?? 0 })) {
        tokens++
        wiring.print(await text.push(id))
        if (text.stopped || wiring.signal.aborted) break
      }
      wiring.print(`${await text.end()}\n`)
      if (wiring.signal.aborted) throw new PipeError('stopped', { message: `Stopped after ${tokens} tokens.` })
      const seconds = (performance.now() - started) / 1000
      wiring.stderr.write(`${prompt.length} tokens of prompt, ${tokens} generated in ${seconds.toFixed(1)} s\n`)
    })
}
