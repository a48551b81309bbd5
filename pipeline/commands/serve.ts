/** pipe serve: OpenAI's endpoints for a checkpoint. Puts the model behind pipeline/serve, which knows none. */
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { basename, dirname, resolve } from 'node:path'
import { type AnswerOptions, TextModel } from '../../stages/model/text-model.js'
import { freeBytesOf } from '../device.js'
import { PipeError } from '../error.js'
import { draws } from '../random.js'
import type { Drawing, Model } from '../serve/model.js'
import { local, Server } from '../serve/server.js'
import { plural } from '../text.js'
import { bodySize, deviceOption, examples, type HoldingOptions, holdingOptions, modelOf, number, openDevice, type Register } from './wiring.js'

interface Options extends HoldingOptions {
  port: number
  host: string
  apiKey?: string
  slots: number
  queue: number
  maxBody: number
  context?: number
  template?: string
  device: string
}

/** Milliseconds that answers under way have when the server is closed. */
const grace = 5000
export const stopping = `Closing: answers under way have ${grace / 1000} seconds.`

export const register: Register = (program, wiring) => {
  holdingOptions(deviceOption(program.command('serve <dir>')))
    .description(
      'OpenAI-compatible endpoints for a checkpoint, original or quantized: /v1/models, /v1/completions, /v1/chat/completions, with streaming. ' +
        'On this machine alone unless --host says otherwise. Logs a line a request, and nothing of its text.',
    )
    .option('--port <n>', '0: any that is free', number(0, 65535, true), 8080)
    .option('--host <address>', '0.0.0.0: every network this machine is in', '127.0.0.1')
    .option('--api-key <key>', 'asked of every request (default: PIPE_API_KEY of the environment, where others do not see it)')
    .option('--slots <n>', 'answers at a time', number(1, 64, true), 8)
    .option('--queue <n>', 'requests that may wait for a slot; more are told to come again (429)', number(0, 10_000, true), 32)
    .option(
      '--context <n>',
      "positions of a slot, prompt and answer together (default: the model's own, at most 4096)",
      number(2, 2 ** 24, true),
    )
    .option('--template <file>', "a chat template in place of the model's own (Jinja)")
    .option('--max-body <size>', 'most bytes of a request', bodySize, 1e6)
    .addHelpText(
      'after',
      examples(
        ['For programs on this machine', 'pipe serve out/qtip-2bit/model'],
        ['For others, with a key', 'PIPE_API_KEY=$(cat key) pipe serve Llama-3.2-1B-Instruct --host 0.0.0.0 --port 8000'],
      ),
    )
    .action(async (given: string, o: Options) => {
      const dir = await modelOf(given)
      const apiKey = o.apiKey ?? process.env.PIPE_API_KEY
      if (apiKey === '') throw new PipeError('input', { where: '--api-key', message: 'expected a key and found an empty one.' })
      const log = (line: string) => wiring.stderr.write(`${line}\n`)
      const name = nameOf(dir)
      let text: TextModel | undefined
      // The port first: a large model takes minutes, and a port that is taken is to be known before.
      const server = await Server.listen(
        served(name, () => text),
        { host: o.host, port: o.port, apiKey, maxBody: o.maxBody, log },
      )
      try {
        const ops = await openDevice(wiring, o.device)
        text = await TextModel.open(ops, dir, { ...o, free: await freeBytesOf(ops.device) })
        if (!text.chats) log('The model has no chat template: /v1/chat/completions is refused without --template FILE.')
        if (apiKey === undefined && !local(o.host)) log('Anyone who reaches this address may use it: no API key is asked for.')
        log(`${name} on ${server.url}/v1: ${plural(o.slots, 'slot')} of ${text.positions} positions`)
        if (!wiring.signal.aborted) await once(wiring.signal, 'abort')
      } finally {
        await server.close(grace)
        await text?.[Symbol.asyncDispose]()
      }
    })
}

/** The folder's name; of out/qtip-2bit/model, where the folder's says nothing, the one above. */
function nameOf(dir: string): string {
  const path = resolve(dir)
  return basename(basename(path) === 'model' ? dirname(path) : path) || 'model'
}

/** The model as the server sees it, also while it is being opened. */
function served(name: string, opened: () => TextModel | undefined): Model {
  const model = (): TextModel => {
    const text = opened()
    if (text === undefined) throw new PipeError('busy', { message: 'the model is being opened.' })
    return text
  }
  const options = ({ seed, stop, maxTokens, ...sampling }: Drawing, signal: AbortSignal): AnswerOptions => {
    return { sampling, stop, maxTokens, signal, uniform: draws(seed ?? randomInt(2 ** 47), 'generate') }
  }
  return {
    name,
    get full() {
      return opened()?.load.full ?? false
    },
    complete: async (prompt, drawing, signal) => model().complete(prompt, options(drawing, signal)),
    chat: async (messages, drawing, signal) => model().chat(messages, options(drawing, signal)),
  }
}
