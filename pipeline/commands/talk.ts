/** talk: lines in, answers out, until the lines end. On a terminal with a prompt and history; through pipes with nothing but answers. */
import { createInterface } from 'node:readline'
import type { Message } from '../../stages/model/chat-template.js'
import { PipeError } from '../error.js'

export interface Talk {
  readonly input: NodeJS.ReadableStream
  readonly output: NodeJS.WritableStream
  readonly terminal: boolean
  /** What the model is told first. */
  readonly system?: string | undefined
  /** Ends all. */
  readonly signal: AbortSignal
  /** The model's answer, by pieces; aborting ends it. */
  answer(
    messages: readonly Message[],
    signal: AbortSignal,
  ): Promise<AsyncIterable<{ readonly text: string; readonly end?: 'stop' | 'length' }>>
}

const commands = '/reset begins anew, /exit or ctrl-D ends, ctrl-C stops an answer.'

/** Raises what `answer` raises, but on a terminal, where people are told what they can mend and go on. */
export async function talk(o: Talk): Promise<void> {
  // An 'abort' that was before is not heard of again: the model took its time to open.
  if (o.signal.aborted) return
  const { output, terminal } = o
  const begin = (): Message[] => (o.system === undefined ? [] : [{ role: 'system', content: o.system }])
  const say = (text: string) => output.write(text)
  const note = (text: string) => (terminal ? say(`(${text})\n`) : undefined)
  const lines = createInterface({ input: o.input, output, terminal, prompt: '> ' })
  // By ctrl-D also while an answer is said, and from Node 24.2 on a prompt raises then.
  let closed = false
  lines.once('close', () => {
    closed = true
  })
  const prompt = () => {
    if (terminal && !closed) lines.prompt()
  }
  let messages = begin()
  /** Of the answer under way. */
  let stop: AbortController | undefined
  let asked = false
  lines.on('SIGINT', () => {
    if (stop !== undefined) stop.abort()
    else if (asked) lines.close()
    else {
      asked = true
      say('\n')
      note('once more to leave, or /exit')
      prompt()
    }
  })
  const end = () => {
    stop?.abort()
    lines.close()
  }
  o.signal.addEventListener('abort', end, { once: true })
  note(commands)
  prompt()
  try {
    for await (const line of lines) {
      asked = false
      const text = line.trim()
      if (o.signal.aborted || text === '/exit') break
      if (text === '/reset') {
        messages = begin()
        note('a new conversation')
      } else if (terminal && /^\/\w+$/.test(text)) say(`${text} is no command: ${commands}\n`)
      else if (text !== '') {
        stop = new AbortController()
        messages = await turn(o, messages, line, stop, say)
        stop = undefined
      }
      prompt()
    }
  } finally {
    o.signal.removeEventListener('abort', end)
    lines.close()
  }
}

/** Puts a message, says the answer; returns the conversation with both, or as it was when it came to nothing. */
async function turn(
  o: Talk,
  before: readonly Message[],
  content: string,
  stop: AbortController,
  say: (text: string) => void,
): Promise<Message[]> {
  const messages: Message[] = [...before, { role: 'user', content }]
  let said = ''
  let end: 'stop' | 'length' | undefined
  try {
    for await (const piece of await o.answer(messages, stop.signal)) {
      said += piece.text
      end = piece.end
      say(piece.text)
    }
  } catch (error) {
    if (!o.terminal || !(error instanceof PipeError)) throw error
    say(`${error.text}\n`)
    return [...before]
  }
  say('\n')
  if (o.terminal && end !== 'stop') say(end === 'length' ? '(cut off: no more tokens)\n' : '(stopped)\n')
  return said === '' ? [...before] : [...messages, { role: 'assistant', content: said }]
}
