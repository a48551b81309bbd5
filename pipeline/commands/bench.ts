/** pipe bench: how fast a checkpoint, or a model of a known shape with random weights, makes text here. */
import { stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { type BenchResult, measure } from '../../stages/model/bench.js'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { openWeights } from '../../stages/model/quantized.js'
import { randomWeights, shapeNames, shapeOf } from '../../stages/model/shapes.js'
import { freeBytesOf } from '../device.js'
import { writeJson, writing } from '../disk.js'
import { PipeError } from '../error.js'
import { bytes, duration, rate } from '../text.js'
import { deviceOption, examples, type HoldingOptions, holdingOptions, modelOf, number, openDevice, type Register } from './wiring.js'

interface Options extends HoldingOptions {
  shape?: string
  code: string
  bits: number
  batch: number
  prompt: number
  tokens: number
  precision: 'auto' | 'f32' | 'bf16'
  device: string
  json?: string
}

export const register: Register = (program, wiring) => {
  holdingOptions(deviceOption(program.command('bench [dir]')))
    .description(
      'How fast a checkpoint makes text here, and how much of the bound that memory bandwidth sets; or a model of a known shape.',
    )
    .option('--shape <name>', `instead of a checkpoint, random weights: ${shapeNames().join(', ')}`)
    .addOption(new Option('--code <name>', 'of the random weights').choices(['hyb', '1mad', '3inst', 'mul1', 'mcg']).default('hyb'))
    .option('--bits <k>', 'of the random weights', number(1, 4, true), 2)
    .option('--batch <n>', 'texts side by side', number(1, 64, true), 1)
    .option('--prompt <n>', 'tokens of the prompt', number(1, 2 ** 17, true), 128)
    .option('--tokens <n>', 'tokens to make', number(1, 2 ** 17, true), 128)
    .addOption(new Option('--precision <name>', 'of dense matrices').choices(['auto', 'f32', 'bf16']).default('auto'))
    .option('--json <file>', 'writes the result there')
    .addHelpText(
      'after',
      examples(
        ['A checkpoint', 'pipe bench out/qtip-2bit/model'],
        ['What a card makes of Llama-2-7B at 2 bits, eight texts at a time', 'pipe bench --shape llama-2-7b --bits 2 --batch 8'],
      ),
    )
    .action(async (given: string | undefined, o: Options, command: Command) => {
      const dir = given === undefined ? undefined : await modelOf(given)
      if ((dir === undefined) === (o.shape === undefined))
        throw new PipeError('input', {
          where: 'pipe bench',
          message:
            dir === undefined ? 'expected a folder or a --shape and found neither.' : 'expected a folder or a --shape and found both.',
          hint: `Shapes: ${shapeNames().join(', ')}.`,
        })
      const idle = ['code', 'bits'].find(name => command.getOptionValueSource(name) === 'cli')
      if (dir !== undefined && idle !== undefined)
        throw new PipeError('input', {
          where: `--${idle}`,
          message: 'is of the random weights of a --shape; a checkpoint has a code of its own.',
          hint: `Leave --${idle} out.`,
        })
      const config = o.shape === undefined ? undefined : shapeOf(o.shape)
      const checkpoint = dir === undefined ? undefined : await openCheckpoint(dir)
      const { positions = Number.POSITIVE_INFINITY } = config ?? checkpoint?.config ?? {}
      if (o.prompt + o.tokens + 5 > positions)
        throw new PipeError('input', {
          where: `--prompt ${o.prompt} --tokens ${o.tokens}`,
          message: `the model was made for ${positions} positions, and five are needed besides.`,
          hint: 'Give fewer.',
        })
      if (o.json !== undefined) await expectPlace(o.json)
      const ops = await openDevice(wiring, o.device)
      const code = { use: `trellis/${o.code}`, K: o.bits }
      using weights = config
        ? randomWeights(ops, config, o.shape ?? '', o.weights === 'packed' ? code : undefined)
        : await openWeights(ops, checkpoint ?? (await openCheckpoint(dir ?? '')))
      const { precision, ...rest } = o
      const { signal } = wiring
      const free = await freeBytesOf(ops.device)
      const result = await measure(ops, weights, { ...rest, signal, free, ...(precision !== 'auto' && { precision }) })
      const named = { model: o.shape ?? dir, ...(o.shape !== undefined && o.weights === 'packed' && { code: o.code, bits: o.bits }) }
      const { batch, prompt, tokens, cache, activations, json } = o
      wiring.print(said(result, o)) // first: it has been measured, whatever the disk says
      if (json !== undefined) {
        const info = ops.device.info()
        const device = {
          name: ops.device.name,
          ...(info.card && { card: info.card, driver: info.driver, runtime: info.runtime }),
          isa: info.isa,
        }
        const whole = { ...named, weights: o.weights, batch, prompt, tokens, cache, activations, device, ...result }
        await writing('the result', json, () => writeJson(resolve(json), whole, 2), 'It is printed above.', '--json')
      }
    })
}

/** A file can be made there: told before minutes of measuring. */
async function expectPlace(path: string): Promise<void> {
  const [folder, there] = await Promise.all([dirname(resolve(path)), path].map(name => stat(name).catch(() => undefined)))
  if (folder?.isDirectory() && !there?.isDirectory()) return
  throw new PipeError('input', {
    where: '--json',
    message: there?.isDirectory() ? `"${path}" is a folder, not the name of a file.` : `there is no folder for "${path}".`,
    hint: 'Give a file in a folder that is there.',
  })
}

const said = (r: BenchResult, o: Options): string =>
  `${[
    ['prompt', `${rate(r.promptTokensPerSecond)} tokens/s, first token after ${duration(r.firstToken)} (${o.prompt} tokens)`],
    ['decoding', `${rate(r.tokensPerSecond)} tokens/s, ${(r.step * 1000).toFixed(2)} ms a step${o.batch > 1 ? ` of ${o.batch}` : ''}`],
    ['reads', `${bytes(r.bytesPerStep)} a step; a copy here moves ${bytes(r.copyBandwidth)} a second`],
    ['bound', `${rate(r.bound)} tokens/s by that, of which ${(r.share * 100).toFixed(0)} % are reached`],
    ['holds', `${bytes(r.bytesHeld)}, keys and values included; steps run as ${r.form}`],
  ]
    .map(([name, text]) => `${name?.padEnd(10)}${text}`)
    .join('\n')}\n`
