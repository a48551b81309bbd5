/**
 * The one class of errors that people are meant to read: where it happened, what was expected and what came,
 * how to fix it, how to go on. Everything else that is thrown is a bug and keeps its stack.
 */

/** For programs; people read sentences. 'graph': the graph is wrong and nothing ran. 'stopped': asked to stop, resumable. 'busy': nothing is wrong, come again. */
export type ErrorCode = 'graph' | 'input' | 'failed' | 'damaged' | 'memory' | 'locked' | 'disk' | 'stopped' | 'busy'

/** One paragraph: what is wrong, and where. */
export interface Mistake {
  /** 'graphs/my.json  stages[5] round', 'hessian  0/attn'. */
  readonly where?: string
  /** What was expected and what came, in sentences. */
  readonly message: string
  /** How to fix it. */
  readonly hint?: string
  /** How to go on. */
  readonly goOn?: string
}

export class PipeError extends Error {
  override readonly name = 'PipeError'
  readonly where: string | undefined
  readonly hint: string | undefined
  readonly goOn: string | undefined
  /** More than one when a graph has several. */
  readonly mistakes: readonly Mistake[]

  constructor(
    readonly code: ErrorCode,
    mistake: Mistake | readonly Mistake[],
    options?: { cause?: unknown },
  ) {
    const mistakes = Array.isArray(mistake) ? (mistake as readonly Mistake[]) : [mistake as Mistake]
    const [first] = mistakes
    super(mistakes.map(m => m.message).join('\n'), options)
    this.mistakes = mistakes
    this.where = first?.where
    this.hint = first?.hint
    this.goOn = first?.goOn
  }

  /** What people see: a paragraph a mistake, up to four lines each. */
  get text(): string {
    return this.mistakes.map(paragraph).join('\n\n')
  }

  /** Of the process: 2 when nothing ran because the graph is wrong, 130 stopped, else 1. */
  get exitCode(): number {
    return this.code === 'graph' ? 2 : this.code === 'stopped' ? 130 : 1
  }
}

const paragraph = ({ where, message, hint, goOn }: Mistake): string => {
  const lines = [message, hint, goOn].filter(text => text !== undefined).flatMap(text => text.split('\n'))
  return (where === undefined ? lines : [where, ...lines.map(line => `  ${line}`)]).map(printable).join('\n')
}

/** Names out of files may hold what a terminal obeys, or turns the text around, and may be a megabyte long. */
const printable = (line: string): string =>
  line
    .slice(0, longestLine)
    .replaceAll(
      /[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu,
      c => `\\u${(c.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`,
    ) + (line.length > longestLine ? ' …' : '')
const longestLine = 2000

/** An error's sentence, whatever was thrown. */
export const sentence = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** The nearest of `known` by edit distance, if near enough to be a slip of the pen. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const limit = Math.max(1, Math.floor(word.length / 3))
  const ranked = known
    .filter(name => Math.abs(name.length - word.length) <= limit) // further apart than that; and words may be a megabyte long
    .map(name => ({ name, distance: editDistance(word, name) }))
    .sort((a, b) => a.distance - b.distance)
  return ranked[0] !== undefined && ranked[0].distance <= limit ? ranked[0].name : undefined
}

/** ` Did you mean "x"?`, or nothing. */
export const didYouMean = (word: string, known: readonly string[]): string => {
  const name = nearest(word, known)
  return name === undefined ? '' : ` Did you mean "${name}"?`
}

/** Insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replace = at(above, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1)
      let best = Math.min(at(above, j) + 1, at(row, j - 1) + 1, replace)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, at(before, j - 2) + 1)
      row.push(best)
    }
    before = above
    above = row
  }
  return at(above, b.length)
}
const at = (row: readonly number[], i: number): number => row[i] ?? Number.POSITIVE_INFINITY
