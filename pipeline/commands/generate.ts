/** pipe generate: text that goes on from a prompt, by a checkpoint, dense or quantized. */
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { Generator } from '../../stages/model/generate.js'
import { openWeights } from '../../stages/model/quantized.js'
import { StreamedText } from '../../stages/model/streamed-text.js'
import { openTokenizer, tokensOf } from '../../stages/model/text.js'
import { freeBytesOf } from '../device.js'
import { PipeError } from '../error.js'
import {
  collect,
  deviceOption,
  examples,
  holdingOptions,
  modelOf,
  number,
  openDevice,
  type Register,
  samplingOptions,
  type WritingOptions,
  writing,
} from './wiring.js'

interface Options extends WritingOptions {
  prompt: string
}

export const register: Register = (program, wiring) => {
  holdingOptions(samplingOptions(deviceOption(program.command('generate <dir>'))))
    .description('Go on from a prompt with a checkpoint, original or quantized; the text appears as it is made.')
    .requiredOption('--prompt <text>', 'what to go on from')
    .option('--max-tokens <n>', 'most tokens to make', number(1, 2 ** 20, true), 256)
    .option('--seed <n>', 'the same seed draws the same text', number(0, Number.MAX_SAFE_INTEGER, true), 0)
    .option('--stop <text>', 'end before this text; repeat for more', collect, [])
    .addHelpText(
      'after',
      examples(
        ['The likeliest text', 'pipe generate out/qtip-2bit/model --prompt "Once upon a time"'],
        ['Another for each seed', 'pipe generate Llama-3.2-1B --prompt "Once upon a time" --temperature 0.8 --min-p 0.05 --seed 7'],
      ),
    )
    .action(async (given: string, o: Options) => {
      const dir = await modelOf(given)
      const options = writing(o, 'generate')
      if (o.prompt === '') throw new PipeError('input', { where: '--prompt', message: 'expected a text and found an empty one.' })
      const checkpoint = await openCheckpoint(dir)
      const tokenizer = await openTokenizer(dir, checkpoint.config.sizes.vocab)
      const prompt = (await tokensOf(tokenizer, [o.prompt])).flat()
      const ops = await openDevice(wiring, o.device)
      using weights = await openWeights(ops, checkpoint)
      using generator = await Generator.open(ops, weights, { weights: o.weights, activations: o.activations })
      const text = new StreamedText(tokenizer, prompt, o.stop)
      const started = performance.now()
      let tokens = 0
      for await (const id of generator.tokens(prompt, { ...options, cache: o.cache, free: await freeBytesOf(ops.device) })) {
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
