/** pipe chat through pipes, with the bundled model; and on a terminal, with an answer that its test controls. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { talk } from '../../../pipeline/commands/talk.js'
import { PipeError } from '../../../pipeline/error.js'
import type { Message } from '../../../stages/model/chat-template.js'
import { root, startPipe, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'

const tiny = join(root, 'fixtures/tiny-llama')
const template = '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:'

t.test('through pipes: a message a line, and the answers; what was said before matters', async t => {
  const file = join(temporary(t), 'template.jinja')
  writeFileSync(file, template)
  const input = ['How many bricks?', '', 'And then?', '/reset', 'And then?', '/exit', 'never'].join('\n')
  const { code, stdout, stderr } = await startPipe(['chat', tiny, '--template', file, '--max-tokens', '8', '--stop', '\n'], { input })
    .finished
  t.equal(code, 0, stderr)
  const [first, second, third, ...rest] = stdout.split('\n').slice(0, -1)
  t.strictSame(rest, [])
  t.ok(first && second && third && first.length > 5)
  t.not(second, third, 'after another question, and after none')
})

t.test('a model without a chat template, and a conversation that no memory can hold', async t => {
  const folder = temporary(t)
  cpSync(tiny, folder, { recursive: true })
  const config = readFileSync(join(tiny, 'config.json'), 'utf8')
  writeFileSync(join(folder, 'config.json'), config.replace('"max_position_embeddings": 512', '"max_position_embeddings": 1e12'))
  writeFileSync(join(folder, 'chat_template.jinja'), template)
  for (const [args, text] of [
    [[tiny], /the model has no chat template: .*\n {2}Give one with --template FILE/],
    [
      [folder, '--context', '16000000'],
      /1 × 16000000 positions of keys and values take 65\.5 GB; .* GB are free\.\n {2}Give a smaller --context/,
    ],
  ] as const) {
    const { code, stderr } = await pipe(['chat', ...args])
    t.equal(code, 1)
    t.match(stderr, text)
    t.notMatch(stderr, /\n\s+at /)
  }
})

t.test('a signal while the model is being opened ends it before anything is asked', async t => {
  const signal = AbortSignal.abort()
  let shown = ''
  const output = new PassThrough({ encoding: 'utf8' }).on('data', text => {
    shown += text
  })
  const input = new PassThrough()
  const unasked = async () => {
    throw new Error('asked')
  }
  const ended = talk({ input, output, terminal: true, signal, answer: unasked }).then(() => 'ended')
  t.equal(await Promise.race([ended, wait(5000, 'waits for a line', { ref: false })]), 'ended')
  t.equal(shown, '')
  input.end()
  const file = join(temporary(t), 'template.jinja')
  writeFileSync(file, template)
  const { code, stderr } = await pipe(['chat', tiny, '--template', file], { signal })
  t.equal(code, 130)
  t.match(stderr, /Stopped\.\n$/)
})

t.test('on a terminal: ctrl-C ends the answer, not the conversation; /reset forgets; ctrl-D leaves', async t => {
  const input = new PassThrough()
  const output = new PassThrough({ encoding: 'utf8' })
  let seen = ''
  let looking: (() => void) | undefined
  output.on('data', (text: string) => {
    seen += text
    looking?.()
  })
  /** Waits until the terminal shows this, and forgets what it showed before. */
  const saw = (text: string) =>
    new Promise<void>(resolve => {
      looking = () => {
        if (!seen.includes(text)) return
        seen = seen.slice(seen.indexOf(text) + text.length)
        looking = undefined
        resolve()
      }
      looking()
    })
  const asked: string[][] = []
  let refuse = false
  const over = talk({
    input,
    output,
    terminal: true,
    system: 'be brief',
    signal: new AbortController().signal,
    answer: async (messages: readonly Message[], signal) => {
      asked.push(messages.map(({ role, content }) => `${role[0]} ${content}`))
      if (refuse) throw new PipeError('input', { message: 'the prompt is too long.' })
      return (async function* () {
        yield { text: 'one ' }
        if (messages.at(-1)?.content !== 'wait') yield { text: 'two', end: 'stop' as const }
        else if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }))
      })()
    },
  })
  await saw('> ')
  input.write('hello\r')
  await saw('one two\n')
  input.write('wait\r')
  await saw('one ')
  input.write('\x03')
  await saw('(stopped)')
  input.write('/what\r')
  await saw('/what is no command')
  input.write('again\r')
  await saw('one two\n')
  refuse = true
  input.write('too long\r')
  await saw('the prompt is too long.')
  refuse = false
  input.write('/reset\r')
  await saw('a new conversation')
  input.write('hi\r')
  await saw('one two\n')
  await saw('> ')
  input.write('\x03')
  await saw('once more to leave')
  input.write('\x04')
  await over
  t.strictSame(asked, [
    ['s be brief', 'u hello'],
    ['s be brief', 'u hello', 'a one two', 'u wait'],
    ['s be brief', 'u hello', 'a one two', 'u wait', 'a one ', 'u again'],
    ['s be brief', 'u hello', 'a one two', 'u wait', 'a one ', 'u again', 'a one two', 'u too long'],
    ['s be brief', 'u hi'],
  ])
})

t.test('on a terminal: ctrl-D during an answer lets it end and leaves, without another prompt', async t => {
  const input = new PassThrough()
  const output = new PassThrough({ encoding: 'utf8' })
  let seen = ''
  output.on('data', (text: string) => {
    seen += text
  })
  const over = talk({
    input,
    output,
    terminal: true,
    signal: new AbortController().signal,
    answer: async () =>
      (async function* () {
        yield { text: 'one ' }
        input.write('\x04')
        await wait(50)
        yield { text: 'two', end: 'stop' as const }
      })(),
  })
  input.write('hello\r')
  await over
  t.match(seen, /one two\n$/)
})
