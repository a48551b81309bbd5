/**
 * streamed-text: token ids, one at a time → text, as much as can be said for certain. A character whose bytes are in
 * several tokens waits for the last of them; what may be the beginning of a stop string waits until it is one or is none.
 */
import type { Tokenizer } from 'tokenizers'

/** What decoders put in place of bytes that are no character yet. */
const broken = '\uFFFD'
/** Tokens before the new ones that are decoded with them: decoders drop the space before the very first word. */
const before = 6

export class StreamedText {
  readonly #ids: number[]
  /** Decoding begins at token `from`; text of tokens before `told` has been given. */
  #from: number
  #told: number
  /** Given by the decoder, held back for a stop string. */
  #held = ''
  #stopped = false

  constructor(
    private readonly tokenizer: Tokenizer,
    prompt: readonly number[],
    private readonly stops: readonly string[] = [],
  ) {
    this.#ids = [...prompt]
    this.#told = prompt.length
    this.#from = Math.max(0, prompt.length - before)
  }

  /** A stop string came; nothing follows. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** The text that this token makes certain, often none. */
  async push(id: number): Promise<string> {
    this.#ids.push(id)
    const text = await this.#fresh()
    if (text === '' || text.endsWith(broken)) return ''
    this.#advance()
    return this.#release(text)
  }

  /** What was held back, at the end. */
  async end(): Promise<string> {
    const text = this.#release(await this.#fresh())
    this.#advance()
    const rest = this.#stopped ? '' : this.#held
    this.#held = ''
    return text + rest
  }

  async #fresh(): Promise<string> {
    let known = await this.#decode(this.#from, this.#told)
    if (known.includes(broken) && this.#from > 0) {
      // It begins within a character; and decoders that know bytes as tokens spoil all bytes that stand in a row with such.
      this.#from = 0
      known = await this.#decode(0, this.#told)
    }
    const all = await this.#decode(this.#from)
    return all.startsWith(known) ? all.slice(known.length) : this.#decode(this.#told)
  }

  #decode(from: number, to?: number): Promise<string> {
    return this.tokenizer.decode(this.#ids.slice(from, to), true)
  }

  #advance(): void {
    this.#from = this.#told
    this.#told = this.#ids.length
  }

  #release(text: string): string {
    if (this.#stopped) return ''
    const all = this.#held + text
    const found = this.stops.map(stop => all.indexOf(stop)).filter(at => at >= 0)
    if (found.length > 0) {
      this.#stopped = true
      this.#held = ''
      return all.slice(0, Math.min(...found))
    }
    const kept = Math.max(0, ...this.stops.map(stop => overlap(all, stop)))
    this.#held = all.slice(all.length - kept)
    return all.slice(0, all.length - kept)
  }
}

/** Characters at the end of `text` that may be the beginning of `stop`. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) if (text.endsWith(stop.slice(0, n))) return n
  return 0
}
