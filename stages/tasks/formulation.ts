/**
 * formulation: items of zero-shot tasks as questions for a language model, worded as the lm-evaluation-harness does
 * (version 0.4.3, tasks of version 1.0; boolq 2.0): log P(continuation | context) of each choice.
 *
 *   arc_easy, arc_challenge   Question: {question}\nAnswer:                    ␣{choice}
 *   piqa                      Question: {goal}\nAnswer:                        ␣{sol1}, ␣{sol2}
 *   boolq                     {passage}\nQuestion: {question}?\nAnswer:        ␣no, ␣yes
 *   hellaswag                 {activity_label}: {ctx_a} {ctx_b capitalized}    ␣{ending}      brackets of WikiHow removed
 *   winogrande                sentence up to _, with each option in its place  ␣{what follows _}: scored in part
 *   lambada                   text up to its last word                         ␣{last word}
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { PipeError } from '../../pipeline/define.js'
import { readText } from '../model/text.js'

export interface Question {
  readonly context: string
  readonly continuation: string
}

/** One item: as many questions as it has choices; LAMBADA has one. */
export interface Item {
  readonly questions: readonly Question[]
  /** Which choice is right. */
  readonly gold: number
  /** Characters of each choice, which acc_norm divides by. */
  readonly lengths: readonly number[]
}

export const taskNames = ['arc_easy', 'arc_challenge', 'piqa', 'winogrande', 'boolq', 'hellaswag', 'lambada'] as const
export type TaskName = (typeof taskNames)[number]

/** The items of a task, the first `limit`. Raises PipeError: no file for it in the folder, or several; a line that is no item, with its number and field. */
export async function readItems(folder: string, task: TaskName, limit?: number): Promise<Item[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    throw new PipeError('input', {
      where: folder,
      message: error.code === 'ENOENT' ? 'expected a folder of tasks and found nothing.' : `could not be read (${error.code}).`,
      hint: `Put the items there as .jsonl with Hugging Face's field names, ${task}.jsonl for this task.`,
    })
  })
  const found = names.filter(name => name.endsWith('.jsonl') && name.includes(task)).sort()
  const [name] = found.includes(`${task}.jsonl`) ? [`${task}.jsonl`] : found
  if (name === undefined || (found.length > 1 && name !== `${task}.jsonl`)) {
    throw new PipeError('input', {
      where: folder,
      message: `expected one .jsonl file with "${task}" in its name and found ${found.length === 0 ? 'none' : found.join(', ')}.`,
      hint: `Put the items of the task there as ${task}.jsonl, with Hugging Face's field names.`,
    })
  }
  const path = join(folder, name)
  const items: Item[] = []
  const text = await readText(path, "Items are UTF-8: an object a line, with Hugging Face's field names.")
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    if (items.length === limit) break
    items.push(readers[task](new Fields(`${path}  line ${i + 1}`, line)))
  }
  if (items.length === 0) throw new PipeError('input', { where: path, message: 'there are no items in it.' })
  return items
}

/** The fields of a line, each checked when it is asked for. */
class Fields {
  readonly #values: Readonly<Record<string, unknown>>

  constructor(
    readonly where: string,
    line: string,
  ) {
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      throw new PipeError('input', { where, message: 'the line is not valid JSON.' })
    }
    if (typeof value !== 'object' || value === null) throw new PipeError('input', { where, message: 'the line is no JSON object.' })
    this.#values = value as Readonly<Record<string, unknown>>
  }

  has(name: string): boolean {
    return this.#values[name] !== undefined
  }

  text(name: string): string {
    const value = this.#values[name]
    return typeof value === 'string' ? value : this.fail(name, 'a text')
  }

  texts(name: string, of?: string): string[] {
    const outer = this.#values[name]
    const value: unknown = of === undefined ? outer : (outer as Record<string, unknown> | null | undefined)?.[of]
    const isList = Array.isArray(value) && value.length > 0 && value.every(one => typeof one === 'string')
    return isList ? (value as string[]) : this.fail(of === undefined ? name : `${name}.${of}`, 'a list of texts', value)
  }

  /** Which of `choices`, as a number or its digits, counted from `first`. */
  index(name: string, choices: number, first = 0): number {
    const value = this.#values[name]
    const index = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : typeof value === 'boolean' ? Number(value) : value
    if (typeof index !== 'number' || !Number.isInteger(index) || index < first || index >= first + choices)
      return this.fail(name, `a number from ${first} to ${first + choices - 1}`)
    return index - first
  }

  fail(name: string, wanted: string, value: unknown = this.#values[name]): never {
    const text = JSON.stringify(value)
    const found = text === undefined ? 'it is missing' : `it is ${text.length > 60 ? `${text.slice(0, 60)}…` : text}`
    throw new PipeError('input', { where: this.where, message: `"${name}" must be ${wanted}, and ${found}.` })
  }
}

/** What Python strips from the ends of a text; JavaScript's trim takes U+FEFF too, and leaves U+0085 and the separators U+001C to U+001F. */
const space = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
const [atStart, atEnd] = [new RegExp(`^${space}+`), new RegExp(`(?<!${space})${space}+$`)]
export const withoutEnd = (text: string): string => text.replace(atEnd, '')
const stripped = (text: string): string => withoutEnd(text.replace(atStart, ''))

/** Characters, not UTF-16 units. */
const count = (text: string): number => [...text].length
const choose = (context: string, choices: readonly string[], gold: number): Item => ({
  questions: choices.map(choice => ({ context, continuation: ` ${choice}` })),
  gold,
  lengths: choices.map(count),
})

const arc = (fields: Fields): Item => {
  const choices = fields.texts('choices', 'text')
  const labels = fields.texts('choices', 'label')
  if (labels.length !== choices.length) fields.fail('choices', 'as many labels as texts')
  const gold = labels.indexOf(fields.text('answerKey'))
  if (gold < 0) fields.fail('answerKey', 'one of choices.label')
  return choose(`Question: ${fields.text('question')}\nAnswer:`, choices, gold)
}

/** WikiHow's part of HellaSwag is full of [title], [step] and the like. */
const plain = (text: string): string =>
  stripped(text)
    .replaceAll(' [title]', '. ')
    .replace(/\[[^\n]*?\]/g, '')
    .replaceAll('  ', ' ')
const capitalized = (text: string): string => {
  const [first = ''] = text
  return first.toUpperCase() + text.toLowerCase().slice(first.toLowerCase().length)
}

const readers: Readonly<Record<TaskName, (fields: Fields) => Item>> = {
  arc_easy: arc,
  arc_challenge: arc,
  piqa: fields => choose(`Question: ${fields.text('goal')}\nAnswer:`, [fields.text('sol1'), fields.text('sol2')], fields.index('label', 2)),
  boolq: fields =>
    choose(
      `${fields.text('passage')}\nQuestion: ${fields.text('question')}?\nAnswer:`,
      ['no', 'yes'],
      fields.index(fields.has('answer') ? 'answer' : 'label', 2),
    ),
  hellaswag(fields) {
    if (fields.has('query')) {
      // As the harness has prepared it.
      const choices = fields.texts('choices')
      return choose(fields.text('query'), choices, fields.index(fields.has('gold') ? 'gold' : 'label', choices.length))
    }
    const endings = fields.texts('endings').map(plain)
    const context = `${fields.text('activity_label')}: ${fields.text('ctx_a')} ${capitalized(fields.text('ctx_b'))}`
    return choose(plain(context), endings, fields.index('label', endings.length))
  },
  winogrande(fields) {
    const sentence = fields.text('sentence')
    const at = sentence.indexOf('_')
    if (at < 0) fields.fail('sentence', 'a text with _ where an option goes')
    const continuation = ` ${stripped(sentence.slice(at + 1))}`
    const contexts = [fields.text('option1'), fields.text('option2')].map(option => sentence.slice(0, at) + option)
    const gold = fields.index('answer', 2, 1)
    return { questions: contexts.map(context => ({ context, continuation })), gold, lengths: contexts.map(count) }
  },
  lambada(fields) {
    const text = fields.text('text')
    const at = text.lastIndexOf(' ')
    if (at < 1) fields.fail('text', 'a text of several words')
    return { questions: [{ context: text.slice(0, at), continuation: text.slice(at) }], gold: 0, lengths: [count(text.slice(at + 1))] }
  },
}
