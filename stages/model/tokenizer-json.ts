/**
 * tokenizer-json: what must hold in a tokenizer.json before the library gets it, which ends the whole process where it does
 * not; and what is taken out, because a text is to have the same tokens every time.
 */
import { isUtf8 } from 'node:buffer'
import { isObject } from './config.js'

type Json = Readonly<Record<string, unknown>>

const listOf = (value: unknown): readonly Json[] => (Array.isArray(value) ? value.filter(isObject) : [])

/** The text of a tokenizer.json, as the library is to read it. Throws an Error that says what is wrong; what the library finds itself is left to it. */
export function checkedTokenizer(text: string): string {
  const json: unknown = JSON.parse(text)
  if (!isObject(json)) return text
  for (const part of partsOf(json.normalizer, 'normalizers')) if (part.type === 'Precompiled') expectCharsmap(part.precompiled_charsmap)
  for (const part of partsOf(json.post_processor, 'processors')) expectTemplate(part)
  const { model } = json
  return isObject(model) && model.dropout ? JSON.stringify({ ...json, model: { ...model, dropout: null } }) : text
}

/** A part of a tokenizer; of a Sequence those in it, at any depth. */
function partsOf(part: unknown, key: string): readonly Json[] {
  if (!isObject(part)) return []
  return Array.isArray(part[key]) ? part[key].flatMap((one: unknown) => partsOf(one, key)) : [part]
}

/** The pieces of TemplateProcessing: texts A and B, B in "pair" only, and special tokens, each with its ids. */
function expectTemplate({ single, pair, special_tokens: known }: Json): void {
  for (const { SpecialToken: special } of [...listOf(single), ...listOf(pair)])
    if (isObject(special) && !(isObject(known) && Object.hasOwn(known, String(special.id))))
      throw new Error(`its "post_processor" puts in ${JSON.stringify(special.id)}, which its "special_tokens" lack`)
  if (listOf(single).some(({ Sequence: text }) => isObject(text) && text.id === 'B'))
    throw new Error('its "post_processor" wants a second text where there is one')
}

/** base64 of the trie's bytes as u32, little-endian; the trie; UTF-8. */
function expectCharsmap(value: unknown): void {
  const bytes = Buffer.from(typeof value === 'string' ? value : '', 'base64')
  const base64 = bytes.toString('base64')
  const isWhole = bytes.length >= 4 && (value === base64 || value === base64.replace(/=+$/, ''))
  const trie = isWhole ? bytes.readUInt32LE() : 0
  if (trie < 4 || 4 + trie > bytes.length || !isUtf8(bytes.subarray(4 + trie - (trie % 4))))
    throw new Error('its "precompiled_charsmap" is damaged')
}
