/** OpenAI's objects: the whole answer, and the events of a streamed one. */
import { randomBytes } from 'node:crypto'

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
}

export const usage = (prompt: number, completion: number): Usage => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion,
})

type End = 'stop' | 'length' | null

/** How one kind of answer is put: text_completion or chat.completion. */
export interface Form {
  whole(text: string, end: End, usage: Usage): object
  /** Before any text, if the kind has such an event. */
  readonly first: object | undefined
  piece(text: string, end: End): object
  /** The last event, where asked for. */
  counts(usage: Usage): object
}

export function completionForm(model: string): Form {
  const head = { id: `cmpl-${randomBytes(12).toString('hex')}`, object: 'text_completion', created: seconds(), model }
  const choice = (text: string, end: End) => [{ index: 0, text, logprobs: null, finish_reason: end }]
  return {
    whole: (text, end, usage) => ({ ...head, choices: choice(text, end), usage }),
    first: undefined,
    piece: (text, end) => ({ ...head, choices: choice(text, end) }),
    counts: usage => ({ ...head, choices: [], usage }),
  }
}

export function chatForm(model: string): Form {
  const id = `chatcmpl-${randomBytes(12).toString('hex')}`
  const head = { id, object: 'chat.completion', created: seconds(), model }
  const part = { ...head, object: 'chat.completion.chunk' }
  const choice = (delta: object, end: End) => [{ index: 0, delta, logprobs: null, finish_reason: end }]
  return {
    whole: (content, end, usage) => ({
      ...head,
      choices: [{ index: 0, message: { role: 'assistant', content, refusal: null }, logprobs: null, finish_reason: end }],
      usage,
    }),
    first: { ...part, choices: choice({ role: 'assistant', content: '' }, null) },
    piece: (content, end) => ({ ...part, choices: choice(content === '' ? {} : { content }, end) }),
    counts: usage => ({ ...part, choices: [], usage }),
  }
}

const seconds = (): number => Math.floor(Date.now() / 1000)
