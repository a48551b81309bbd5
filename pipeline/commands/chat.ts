/** pipe chat: a conversation with a checkpoint, in the terminal or through pipes. */
import { TextModel } from '../../stages/model/text-model.js'
import { freeBytesOf } from '../device.js'
import { PipeError } from '../error.js'
import { talk } from './talk.js'
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
  system?: string
  template?: string
  context?: number
}

export const register: Register = (program, wiring) => {
  holdingOptions(samplingOptions(deviceOption(program.command('chat <dir>'))))
    .description(
      'Talk with a checkpoint, original or quantized. /reset begins anew, /exit ends; ctrl-C stops an answer. ' +
        'What is piped in is a message a line, and the answers are all that is printed.',
    )
    .option('--system <text>', 'what the model is told before the conversation')
    .option('--template <file>', "a chat template in place of the model's own (Jinja)")
    .option('--context <n>', "positions for the whole conversation (default: the model's own, at most 4096)", number(2, 2 ** 24, true))
    .option('--max-tokens <n>', 'most tokens of an answer', number(1, 2 ** 20, true), 1024)
    .option('--seed <n>', 'the same seed draws the same answers', number(0, Number.MAX_SAFE_INTEGER, true), 0)
    .option('--stop <text>', 'end an answer before this text; repeat for more', collect, [])
    .addHelpText(
      'after',
      examples(
        ['Answers that are drawn', 'pipe chat Llama-3.2-1B-Instruct --temperature 0.7 --min-p 0.05'],
        ['One question', 'echo "Why is the sky blue?" | pipe chat out/qtip-2bit/model'],
      ),
    )
    .action(async (given: string, o: Options) => {
      const dir = await modelOf(given)
      const options = writing(o, 'chat')
      const ops = await openDevice(wiring, o.device)
      await using model = await TextModel.open(ops, dir, { ...o, slots: 1, queue: 0, mustChat: true, free: await freeBytesOf(ops.device) })
      await talk({
        input: process.stdin,
        output: process.stdout,
        terminal: process.stdin.isTTY === true && process.stdout.isTTY === true,
        system: o.system,
        signal: wiring.signal,
        answer: async (messages, signal) => (await model.chat(messages, { ...options, signal })).pieces,
      })
      if (wiring.signal.aborted) throw new PipeError('stopped', { message: 'Stopped.' })
    })
}
