/** A model that says its prompt again, word by word, as fast as its test lets it. */
import { PipeError } from '../../../pipeline/error.js'
import type { Answer, Drawing, Message, Model, Piece } from '../../../pipeline/serve/model.js'

export class ToyModel implements Model {
  name = 'toy'
  readonly slots = 2
  /** Answers under way. */
  active = 0
  /** Answers that were begun and left before their end. */
  left = 0
  /** What the last request asked for. */
  last: { readonly drawing: Drawing; readonly messages?: readonly Message[] } | undefined
  /** Words go one by one past this. */
  gate: () => Promise<void> = async () => {}

  get full(): boolean {
    return this.active >= this.slots
  }

  complete(prompt: string, drawing: Drawing, signal: AbortSignal): Promise<Answer> {
    this.last = { drawing }
    return this.#answer(prompt, drawing, signal)
  }

  chat(messages: readonly Message[], drawing: Drawing, signal: AbortSignal): Promise<Answer> {
    this.last = { drawing, messages }
    return this.#answer(messages.at(-1)?.content ?? '', drawing, signal)
  }

  async #answer(text: string, { maxTokens = Number.POSITIVE_INFINITY }: Drawing, signal: AbortSignal): Promise<Answer> {
    if (this.full) throw new PipeError('busy', { message: 'all slots are in use.' })
    const words = text.match(/\S+\s*/g) ?? []
    if (words.length === 0) throw new PipeError('input', { where: '/secret/path', message: 'the prompt is empty.', hint: 'Give one.' })
    if (words[0]?.startsWith('fail')) throw new Error('a secret of the inside')
    this.active++
    return { promptTokens: words.length, pieces: this.#say(words, maxTokens, signal) }
  }

  async *#say(words: readonly string[], most: number, signal: AbortSignal): AsyncGenerator<Piece> {
    let tokens = 0
    let ended = false
    try {
      for (const text of words) {
        await this.gate()
        if (signal.aborted) return
        if (text.startsWith('break')) throw new Error('a secret of the inside')
        tokens++
        const end = tokens === words.length ? 'stop' : tokens >= most ? 'length' : undefined
        ended = end !== undefined
        yield { text, tokens, ...(end === undefined ? {} : { end }) }
        if (ended) return
      }
    } finally {
      this.active--
      if (!ended) this.left++
    }
  }
}
