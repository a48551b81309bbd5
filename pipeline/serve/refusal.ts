/** What a client is told instead of an answer, in the form that OpenAI's libraries read. */
import { PipeError } from '../error.js'

/** Seconds after which to come again: slots get free one by one, all the time. */
const again = 1

export class Refusal extends Error {
  override readonly name = 'Refusal'

  constructor(
    readonly status: number,
    message: string,
    readonly o: { readonly param?: string; readonly code?: string; readonly headers?: Readonly<Record<string, string>> } = {},
  ) {
    super(message)
  }

  /** { error: { message, type, param, code } } */
  get body(): object {
    const { param = null, code = null } = this.o
    return { error: { message: this.message, type: kind(this.status), param, code } }
  }
}

const kind = (status: number): string =>
  status === 401 ? 'authentication_error' : status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error'

export const busy = (message: string): Refusal => new Refusal(429, message, { code: 'busy', headers: { 'retry-after': `${again}` } })

/** What to tell of an error. What is not the client's to mend is named without detail: it is for the server's log. */
export function refusalOf(error: unknown): Refusal {
  if (error instanceof Refusal) return error
  const sentence = error instanceof PipeError ? `${error.message[0]?.toUpperCase()}${error.message.slice(1)}` : ''
  if (error instanceof PipeError && error.code === 'busy') return busy(sentence)
  if (error instanceof PipeError && error.code === 'input') return new Refusal(400, [sentence, error.hint].filter(Boolean).join(' '))
  return new Refusal(500, 'The model failed; the server goes on.', { code: 'failed' })
}
