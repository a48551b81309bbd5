/**
 * text-mistakes: what is wrong with the text that a stage reads, or with the length of its sequences, said before anything
 * runs. The beginning of the text is enough, where it gives a window; only of a short one all is read.
 */
import type { Tokenizer } from 'tokenizers'
import { type KnownRow, type Mistake, PipeError } from '../../pipeline/define.js'
import { openCheckpoint } from './checkpoint.js'
import type { ModelConfig } from './config.js'
import { checkLength, concatenated, type Cut, openTokenizer } from './text.js'

/** Of a sequence in published figures. */
export const usualLength = 2048
/** More bytes than a token takes in a file, with what else a line of .jsonl may hold. */
const bytesOfToken = 64

/** By the model's first row, which all stages of a graph are shown: a tokenizer takes half a second to open. */
const opened = new WeakMap<KnownRow, Promise<Tokenizer>>()
const remember = (row: KnownRow, tokenizer: Promise<Tokenizer>): Promise<Tokenizer> => {
  opened.set(row, tokenizer)
  return tokenizer
}

/** Tokens of a sequence: as asked for, else as published, or what the model was made for. */
export const lengthFor = ({ positions = usualLength }: ModelConfig, asked: number | undefined): number =>
  asked ?? Math.min(usualLength, positions)

/** `rows`: what the sources give, of the model that the text is for. `where`: the stage in its graph. */
export async function textMistakes(
  rows: readonly KnownRow[],
  { text, length: asked, ...cut }: Pick<Cut, 'join' | 'documents'> & { readonly text: string; readonly length?: number },
  where: string,
): Promise<readonly Mistake[]> {
  const [first] = rows
  const folder = first?.source ?? first?.path
  if (first === undefined || typeof folder !== 'string') return []
  try {
    const { config } = await openCheckpoint(folder)
    const length = lengthFor(config, asked)
    checkLength(folder, config, length)
    const tokenizer = await (opened.get(first) ?? remember(first, openTokenizer(folder, config.sizes.vocab)))
    const window = { ...cut, length, count: 1 }
    await concatenated(tokenizer, text, { ...window, bytes: bytesOfToken * length }).catch(() => concatenated(tokenizer, text, window))
    return []
  } catch (error) {
    if (!(error instanceof PipeError)) throw error
    return error.mistakes.map(mistake => ({ ...mistake, where: `${where}  ${mistake.where}` }))
  }
}
