/** overlap: windows that are measured although stages above have read their text, where one file is too short for both. */
import type { Context } from '../../pipeline/define.js'
import type { Checkpoint } from '../model/checkpoint.js'
import { type Cut, concatenated, openTokenizer } from '../model/text.js'

/** What a stage that reads a text from its start has among its parameters; in the recipe a file is its hash. */
interface Reading {
  readonly text?: { readonly sha256?: string }
  readonly sequences: number
  readonly length: number
}

/** Tells how many of so many windows, the last of the text or all from its start, begin in what stages above have read of the same text. */
export async function noteOverlap(
  { path: folder, config }: Checkpoint,
  path: string,
  cut: Cut,
  windows: number,
  { recipe, note }: Context,
): Promise<void> {
  const { stages = [] } = recipe as { stages?: readonly { params: Reading }[] }
  const own = stages.at(-1)?.params.text?.sha256
  const readings = stages
    .slice(0, -1)
    .map(({ params }) => params)
    .filter(({ text, sequences, length }) => own !== undefined && text?.sha256 === own && sequences * length > 0)
  if (readings.length === 0) return
  const measured = windows * cut.length
  const most = measured + Math.max(...readings.map(reading => reading.sequences * reading.length))
  const tokenizer = await openTokenizer(folder, config.sizes.vocab)
  const { tokens } = await concatenated(tokenizer, path, { ...cut, count: Math.ceil(most / cut.length), from: 'end' })
  const read = Math.max(...readings.map(reading => Math.min(reading.sequences, Math.floor(tokens / reading.length)) * reading.length))
  const begin = cut.from === 'end' ? tokens - measured : 0
  const seen = Math.min(windows, Math.ceil((read - begin) / cut.length))
  if (seen > 0) note(`stages before have read the first ${read} tokens of ${path}: ${seen} of the ${windows} windows measured begin there.`)
}
