/**
 * text-mistakes: what is wrong with the text that a stage reads, or with the length of its sequences, said before anything
 * runs. The beginning of the text is enough, where it gives a window; only of a short one all is read.
 */
import { type KnownRow, type Mistake, PipeError } from '../../pipeline/define.js'
import { openCheckpoint } from './checkpoint.js'
import type { ModelConfig } from './config.js'
import { checkLength, concatenated, type Cut, openTokenizer } from './text.js'

/** Of a sequence in published figures. */
export const usualLength = 2048
/** More bytes than a token takes in a file, with what else a line of .jsonl may hold. */
const bytesOfToken = 64

/** Tokens of a sequence: as asked for, else as published, or what the model was made for. */
export const lengthFor = ({ positions = usualLength }: ModelConfig, asked: number | undefined): number =>
  asked ?? Math.min(usualLength, positions)

/** `rows`: what the sources give, of the model that the text is for. `where`: the stage in its graph. */
export async function textMistakes(
  rows: readonly KnownRow[],
  { text, length: asked, ...cut }: Pick<Cut, 'join' | 'documents'> & { readonly text: string; readonly length?: number },
  where: string,
): Promise<readonly Mistake[]> {
  const folder = rows[0]?.source ?? rows[0]?.path
  if (typeof folder !== 'string') return []
  try {
    const { config } = await openCheckpoint(folder)
    const length = lengthFor(config, asked)
    checkLength(folder, config, length)
    const tokenizer = await openTokenizer(folder, config.sizes.vocab)
    const first = { ...cut, length, count: 1 }
    await concatenated(tokenizer, text, { ...first, bytes: bytesOfToken * length }).catch(() => concatenated(tokenizer, text, first))
    return []
  } catch (error) {
    if (!(error instanceof PipeError)) throw error
    return error.mistakes.map(mistake => ({ ...mistake, where: `${where}  ${mistake.where}` }))
  }
}
