/** What the server asks of whatever makes the text. It knows no tokenizer, no sampling, no model. */

export interface Message {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

/** How a text is to be drawn and where it ends. */
export interface Drawing {
  readonly temperature: number
  readonly topP: number
  readonly topK: number
  readonly minP: number
  readonly repetitionPenalty: number
  /** Absent: another text each time. */
  readonly seed?: number
  readonly stop: readonly string[]
  /** Absent: as long as there is room. */
  readonly maxTokens?: number
}

export interface Piece {
  readonly text: string
  /** Made so far. */
  readonly tokens: number
  /** Of the last piece: the text is over, or cut off. */
  readonly end?: 'stop' | 'length'
}

export interface Answer {
  readonly promptTokens: number
  readonly pieces: AsyncIterable<Piece>
}

export interface Model {
  /** As clients call it. */
  readonly name: string
  /** Whether one more request would be refused. */
  readonly full: boolean
  /** Both raise PipeError: 'input' for what the client can mend, 'busy' when it should come again later. Aborting ends the pieces. */
  complete(prompt: string, drawing: Drawing, signal: AbortSignal): Promise<Answer>
  chat(messages: readonly Message[], drawing: Drawing, signal: AbortSignal): Promise<Answer>
}
