/**
 * text: files → windows of token ids, through the model's own tokenizer.json.
 *
 * A .jsonl file holds one {"text": …} a line, each a document; any other file is one text. Every document is tokenized
 * as the tokenizer's post-processor says (a begin-of-sequence token where the model wants one).
 *
 *   concatenated  documents one after the other, cut into windows of `length` tokens; what is left over is dropped.
 *                 The usual protocol for perplexity (GPTQ, QuIP#, QTIP).
 *   documents     each line a window of its own, cut off at `length` tokens.
 *   a protocol    documents joined into one text before it is tokenized, so that there is one begin-of-sequence token,
 *                 and which windows of it count: what published tables of perplexity were made with.
 */
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { Tokenizer } from 'tokenizers'
import { PipeError } from '../../pipeline/define.js'
import type { Checkpoint } from './checkpoint.js'
import type { ModelConfig } from './config.js'
import { checkedTokenizer } from './tokenizer-json.js'

export interface Windows {
  readonly windows: readonly Int32Array[]
  /** Tokens found; what was not needed is not counted. */
  readonly tokens: number
}

/** Which windows of a file. */
export interface Cut {
  readonly length: number
  /** All, if left out. */
  readonly count?: number
  readonly from?: 'start' | 'end'
  /** Documents are put together with this in between, and tokenized as one text. */
  readonly join?: string
  /** Only so many documents, the first; all, if left out. */
  readonly documents?: number
  /** Only what the first bytes of the file hold of them; all, if left out. */
  readonly bytes?: number
}

/**
 * What GPTQ (arXiv:2210.17323), QuIP#, QTIP and others measure perplexity on; of C4 and PTB the variants that GPTQ's
 * program calls c4-new and ptb-new. Rows of the data sets' test split (C4: of the first file of its validation split),
 * as .jsonl; or plain text, already joined.
 */
export const protocols = {
  wikitext2: { join: '\n\n' },
  c4: { join: ' ', documents: 1100, count: 256 },
  ptb: { join: ' ' },
} as const satisfies Readonly<Record<string, Omit<Cut, 'length' | 'from'>>>
export type Protocol = keyof typeof protocols
export const protocolNames = Object.keys(protocols) as readonly Protocol[]

/** The tokenizer of a model's folder. Raises PipeError when there is none, or the embedding has no row for one of its tokens. */
export async function openTokenizer(folder: string, vocab: number): Promise<Tokenizer> {
  const where = join(folder, 'tokenizer.json')
  const json = await readFile(where, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new PipeError('input', {
      where,
      message:
        error.code === 'ENOENT'
          ? "expected this file and found none: text can't be turned into tokens."
          : `could not be read (${error.code}).`,
      hint: 'Only tokenizer.json is read: copy that of the original model here, as for published QTIP checkpoints, which have none. A tokenizer.model must be converted.',
    })
  })
  let tokenizer: Tokenizer
  try {
    tokenizer = Tokenizer.fromString(checkedTokenizer(json))
  } catch (error) {
    throw new PipeError('input', { where, message: `is no tokenizer: ${(error as Error).message}.` })
  }
  tokenizer.disableTruncation()
  tokenizer.disablePadding()
  const size = tokenizer.getVocabSize(true)
  if (size > vocab) {
    throw new PipeError('input', {
      where,
      message: `the tokenizer has ${size} tokens but the model's embedding only ${vocab} rows.`,
      hint: 'tokenizer.json and config.json must be of the same model.',
    })
  }
  let known = 0
  for (let id = 0; id < vocab; id++) if (tokenizer.idToToken(id) !== null) known++
  // What it puts around every text need not be among its tokens.
  const strange = (await tokensOf(tokenizer, [''])).flat().filter(id => id >= vocab)
  if (known < size || strange.length > 0) {
    throw new PipeError('input', {
      where,
      message:
        known < size
          ? `only ${known} of its ${size} tokens have ids of their own among the ${vocab} rows of the model's embedding.`
          : `it puts token ${strange[0]} around every text, and the model's embedding has ${vocab} rows.`,
      hint: 'tokenizer.json and config.json must be of the same model.',
    })
  }
  return tokenizer
}

/** The tokens of each text. Raises PipeError when the tokenizer has none for a part of one. */
export async function tokensOf(tokenizer: Tokenizer, texts: string[], addSpecialTokens = true): Promise<number[][]> {
  const encodings = await tokenizer.encodeBatch(texts, { addSpecialTokens }).catch((error: Error) => {
    throw new PipeError('input', { where: 'tokenizer.json', message: `can't turn this text into tokens: ${error.message}.` })
  })
  return encodings.map(encoding => encoding.getIds())
}

/** Windows of exactly `length` tokens: the first `count` of the file, its last `count`, or all. Raises PipeError when there is not one. */
export async function concatenated(
  tokenizer: Tokenizer,
  path: string,
  { length, count, from = 'start', join, documents: most, bytes }: Cut,
): Promise<Windows> {
  const rows = (await readDocuments(path, 'whole', bytes)).slice(0, most)
  const documents = join === undefined ? rows : [rows.join(join)]
  if (from === 'end') documents.reverse()
  const needed = count === undefined ? Number.POSITIVE_INFINITY : count * length
  const found: number[][] = []
  let tokens = 0
  for (let i = 0; i < documents.length && tokens < needed; i += atOnce) {
    for (const ids of await tokensOf(tokenizer, documents.slice(i, i + atOnce))) {
      found.push(ids)
      tokens += ids.length
    }
  }
  if (from === 'end') found.reverse()
  if (tokens < length) throw tooShort(path, `it gives ${tokens} tokens and one window takes ${length}.`)
  const all = new Int32Array(tokens)
  let at = 0
  for (const ids of found) {
    all.set(ids, at)
    at += ids.length
  }
  const windows = Math.min(Math.floor(tokens / length), count ?? Number.POSITIVE_INFINITY)
  const begin = from === 'end' ? tokens - windows * length : 0
  return { tokens, windows: Array.from({ length: windows }, (_, i) => all.slice(begin + i * length, begin + (i + 1) * length)) }
}

/** One window for each of the last `lines` documents (all, if left out), cut off at `length` tokens. Those of one token predict nothing and are left out. */
export async function documentWindows(
  tokenizer: Tokenizer,
  path: string,
  { length, lines }: { length: number; lines?: number },
): Promise<Windows> {
  const documents = (await readDocuments(path, 'lines')).slice(lines === undefined ? 0 : -lines)
  const windows: Int32Array[] = []
  for (let i = 0; i < documents.length; i += atOnce) {
    for (const ids of await tokensOf(tokenizer, documents.slice(i, i + atOnce))) {
      if (ids.length > 1) windows.push(Int32Array.from(ids.slice(0, length)))
    }
  }
  if (windows.length === 0) throw tooShort(path, 'no line of it has two tokens, so there is nothing to predict.')
  return { windows, tokens: windows.reduce((sum, window) => sum + window.length, 0) }
}

/** Documents tokenized in one call: enough to keep the tokenizer's threads busy. */
const atOnce = 64
/** The longest text that fits into one string. */
const longest = 2 ** 29 - 24

const tooShort = (path: string, message: string): PipeError =>
  new PipeError('input', { where: path, message: `the text is too short: ${message}`, hint: 'Give a longer text, or a shorter length.' })

/** A file of text, or its first bytes, without the byte-order mark that some editors put before it. Raises PipeError when it is none, or not UTF-8. */
export async function readText(path: string, hint: string, bytes = Number.POSITIVE_INFINITY): Promise<string> {
  const fail = (message: string): never => {
    throw new PipeError('input', { where: path, message, hint })
  }
  const file = await stat(path).catch(() => undefined)
  if (!file?.isFile()) {
    const found = file === undefined ? 'nothing' : file.isDirectory() ? 'a folder' : 'something that is no file'
    return fail(`expected a text file and found ${found}.`)
  }
  if (Math.min(file.size, bytes) > longest) return fail(`the file has ${file.size} bytes; ${longest} is the most that is read. Give a part of it.`)
  try {
    const isCut = file.size > bytes
    const read = isCut ? await buffer(createReadStream(path, { end: bytes - 1 })) : await readFile(path)
    return new TextDecoder('utf-8', { fatal: true }).decode(read, { stream: isCut }) // a letter may be cut in two
  } catch (error) {
    return fail(
      error instanceof TypeError ? 'the file is not UTF-8 text.' : `could not be read (${(error as NodeJS.ErrnoException).code}).`,
    )
  }
}

async function readDocuments(path: string, one: 'whole' | 'lines', bytes?: number): Promise<string[]> {
  const hint = 'Texts are UTF-8: .jsonl with one {"text": …} a line, or plain text.'
  const text = await readText(path, hint, bytes)
  const fail = (message: string): never => {
    throw new PipeError('input', { where: path, message, hint })
  }
  if (!path.endsWith('.jsonl')) return one === 'whole' ? [text] : text.split(/\r?\n/).filter(line => line.trim() !== '')
  const lines = text.split('\n')
  if (bytes !== undefined) lines.pop() // it may be cut
  return lines.flatMap((line, i) => {
    if (line.trim() === '') return []
    try {
      const value: unknown = JSON.parse(line)
      const { text, sentence } = (value ?? {}) as { text?: unknown; sentence?: unknown }
      const found = text ?? sentence // PTB has sentences
      return typeof found === 'string' ? [found] : fail(`line ${i + 1} has no "text".`)
    } catch (error) {
      return error instanceof PipeError ? fail(error.message) : fail(`line ${i + 1} is not valid JSON.`)
    }
  })
}

/** The windows that a stage measures a model on. Raises PipeError when the model was not made for that length; notes when the text has fewer. */
export async function modelWindows(
  { path: folder, config }: Checkpoint,
  path: string,
  o: Cut,
  note: (text: string) => void,
): Promise<readonly Int32Array[]> {
  checkLength(folder, config, o.length)
  const { windows, tokens } = await concatenated(await openTokenizer(folder, config.sizes.vocab), path, o)
  if (o.count !== undefined && windows.length < o.count) {
    note(`${path} gives ${tokens} tokens, enough for ${windows.length} sequences of ${o.length} instead of ${o.count}.`)
  }
  return windows
}

export function checkLength(folder: string, { positions }: ModelConfig, length: number): void {
  if (positions === undefined || length <= positions) return
  throw new PipeError('input', {
    where: folder,
    message: `sequences of ${length} tokens are longer than the ${positions} positions the model was made for.`,
    hint: `Set "length" to ${positions} or less.`,
  })
}
