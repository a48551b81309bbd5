/** Text to windows of tokens, through the bundled model's own tokenizer. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Tokenizer } from 'tokenizers'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { concatenated, documentWindows, modelWindows, openTokenizer, protocols, tokensOf } from '../../../stages/model/text.js'
import { root, temporary } from '../../helpers.js'

const model = join(root, 'fixtures/tiny-llama')
const vocab = 2048
const tokenizer = await openTokenizer(model, vocab)
const encode = async (text: string): Promise<number[]> => (await Tokenizer.fromFile(join(model, 'tokenizer.json')).encode(text)).getIds()
const stories = [
  'Roswick is a town on the river Stisk.',
  'The baker counted nine loaves.',
  'It is 34 miles south-west of Farnmoor.',
  'He counted his money: fifteen pence.',
]
const write = (t: Test, name: string, text: string | Uint8Array): string => {
  const path = join(temporary(t), name)
  writeFileSync(path, text)
  return path
}
const lines = (texts: readonly string[]): string => texts.map(text => JSON.stringify({ text })).join('\n')

t.test('documents are concatenated and cut into windows', async t => {
  const all = (await Promise.all(stories.map(encode))).flat()
  const path = write(t, 'a.jsonl', `${lines(stories)}\n\n`)
  const length = 7
  const whole = Math.floor(all.length / length)
  const { windows, tokens } = await concatenated(tokenizer, path, { length })
  t.equal(tokens, all.length)
  t.strictSame(
    windows.map(window => [...window]),
    Array.from({ length: whole }, (_, i) => all.slice(i * length, (i + 1) * length)),
    'all of them',
  )
  t.strictSame((await concatenated(tokenizer, path, { length, count: 2 })).windows, windows.slice(0, 2), 'the first')
  const end = (await concatenated(tokenizer, path, { length, count: 2, from: 'end' })).windows
  t.strictSame(
    end.flatMap(window => [...window]),
    all.slice(-2 * length),
    'the last, up to the last token',
  )
  t.equal((await concatenated(tokenizer, path, { length, count: 1000 })).windows.length, whole, 'fewer than asked for')
})

t.test('protocols join rows before they are tokenized', async t => {
  const rows = [...stories, '', stories[0]!]
  const sentences = rows.map(sentence => JSON.stringify({ sentence })).join('\n')
  for (const [name, path, joined] of [
    ['wikitext2', write(t, 'a.jsonl', lines(rows)), rows.join('\n\n')],
    ['ptb', write(t, 'b.jsonl', sentences), rows.join(' ')],
    ['wikitext2', write(t, 'joined.txt', rows.join('\n\n')), rows.join('\n\n')],
  ] as const) {
    const ids = await encode(joined)
    const { windows, tokens } = await concatenated(tokenizer, path, { length: 5, ...protocols[name] })
    t.equal(tokens, ids.length, name)
    t.strictSame(
      windows.flatMap(window => [...window]),
      ids.slice(0, 5 * Math.floor(ids.length / 5)),
    )
  }
  const many = Array.from({ length: 1200 }, (_, i) => `${i}`)
  const { windows, tokens } = await concatenated(tokenizer, write(t, 'c.jsonl', lines(many)), { length: 4, ...protocols.c4 })
  t.equal(tokens, (await encode(many.slice(0, 1100).join(' '))).length, 'c4: 1100 documents')
  t.equal(windows.length, 256)
})

t.test('first and last windows do not meet in a text long enough for both', async t => {
  const path = write(t, 'a.jsonl', lines(Array.from({ length: 200 }, (_, i) => `${i}. ${stories[i % 4]}`)))
  const { windows } = await concatenated(tokenizer, path, { length: 16 })
  const first = await concatenated(tokenizer, path, { length: 16, count: 10 })
  const last = await concatenated(tokenizer, path, { length: 16, count: 10, from: 'end' })
  t.ok(first.tokens < windows.length * 16 && last.tokens < windows.length * 16, 'only what is needed is tokenized')
  t.strictSame(first.windows, windows.slice(0, 10))
  t.notSame(last.windows[0], windows[0])
})

t.test('a plain file is one text; its lines are documents where each is a window', async t => {
  const text = stories.join('\n')
  const path = write(t, 'a.txt', text)
  const ids = await encode(text)
  t.strictSame((await concatenated(tokenizer, path, { length: ids.length })).windows, [Int32Array.from(ids)])
  const { windows } = await documentWindows(tokenizer, path, { length: 5, lines: 2 })
  t.strictSame(
    windows,
    (await Promise.all(stories.slice(-2).map(encode))).map(ids => Int32Array.from(ids.slice(0, 5))),
  )
  const [lf, crlf] = await Promise.all(
    ['\n', '\r\n'].map(end => documentWindows(tokenizer, write(t, 'lines.txt', stories.join(end)), { length: 1000 })),
  )
  t.strictSame(crlf, lf, 'a carriage return is no part of a line')
  t.strictSame(
    (await documentWindows(tokenizer, write(t, 'b.jsonl', lines(stories)), { length: 1000 })).windows,
    (await Promise.all(stories.map(encode))).map(ids => Int32Array.from(ids)),
  )
})

t.test("texts that can't be used", async t => {
  const folder = temporary(t)
  const cases: [label: string, path: string, message: string][] = [
    ['missing', join(folder, 'none.txt'), 'expected a text file and found nothing.'],
    ['a folder', folder, 'expected a text file and found a folder.'],
    ['not UTF-8', write(t, 'a.txt', Uint8Array.of(0x66, 0xff, 0x66)), 'the file is not UTF-8 text.'],
    ['not JSON', write(t, 'a.jsonl', '{"text": "a"}\n{"text": '), 'line 2 is not valid JSON.'],
    ['no text', write(t, 'a.jsonl', '{"text": "a"}\n\n{"txt": "b"}'), 'line 3 has no "text".'],
    ['null', write(t, 'a.jsonl', 'null'), 'line 1 has no "text".'],
  ]
  for (const [label, path, message] of cases)
    await t.rejects(concatenated(tokenizer, path, { length: 8 }), { name: 'PipeError', where: path, message }, label)
  const short = write(t, 'short.txt', stories[0] as string)
  const { length } = await encode(stories[0] as string)
  await t.rejects(concatenated(tokenizer, short, { length: 256 }), {
    message: `the text is too short: it gives ${length} tokens and one window takes 256.`,
  })
  await t.rejects(documentWindows(tokenizer, write(t, 'empty.txt', '\n\n'), { length: 8 }), {
    message: 'the text is too short: no line of it has two tokens, so there is nothing to predict.',
  })
})

t.test("tokenizers that can't be used", async t => {
  const folder = temporary(t)
  const where = join(folder, 'tokenizer.json')
  await t.rejects(openTokenizer(folder, vocab), {
    name: 'PipeError',
    where,
    message: "expected this file and found none: text can't be turned into tokens.",
  })
  writeFileSync(where, '{"version": "1.0"')
  await t.rejects(openTokenizer(folder, vocab), { name: 'PipeError', where, message: /^is no tokenizer: / })
  const { length } = Object.keys(tokenizer.getVocab(true))
  await t.rejects(openTokenizer(model, length - 1), {
    name: 'PipeError',
    message: `the tokenizer has ${length} tokens but the model's embedding only ${length - 1} rows.`,
  })
  const json = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'))
  const vocabulary = json.model.vocab as Record<string, number>
  const far = {
    ...json,
    model: { ...json.model, vocab: Object.fromEntries(Object.entries(vocabulary).map(([word, id]) => [word, id + 9000])) },
  }
  writeFileSync(where, JSON.stringify(far))
  await t.rejects(openTokenizer(folder, vocab), {
    name: 'PipeError',
    where,
    message: /^only \d+ of its \d+ tokens have ids of their own among/,
  })
  const around = structuredClone(json)
  for (const special of Object.values(around.post_processor.special_tokens as Record<string, { ids: number[] }>)) special.ids = [99_999]
  writeFileSync(where, JSON.stringify(around))
  await t.rejects(openTokenizer(folder, vocab), { name: 'PipeError', where, message: /^it puts token 99999 around every text/ })
})

t.test('tokenizers that would end the process', async t => {
  const folder = temporary(t)
  const where = join(folder, 'tokenizer.json')
  const json = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'))
  const template = json.post_processor
  const inSequence = (kind: string, list: string, part: unknown) => ({
    [kind]: { type: 'Sequence', [list]: [{ type: 'Sequence', [list]: [part] }] },
  })
  const charsmap = (bytes: number[]) => ({ type: 'Precompiled', precompiled_charsmap: Buffer.from(bytes).toString('base64') })
  const absent = { ...template, special_tokens: {} }
  const lacks = 'is no tokenizer: its "post_processor" puts in "<s>", which its "special_tokens" lack.'
  const damaged = 'is no tokenizer: its "precompiled_charsmap" is damaged.'
  for (const [label, change, message] of [
    ['a special token that is absent', { post_processor: absent }, lacks],
    ['of pairs', { post_processor: { ...absent, single: [] } }, lacks],
    ['in a sequence', inSequence('post_processor', 'processors', absent), lacks],
    [
      'a second text',
      { post_processor: { ...template, single: [{ Sequence: { id: 'B', type_id: 0 } }] } },
      'is no tokenizer: its "post_processor" wants a second text where there is one.',
    ],
    ['shorter than its size', { normalizer: charsmap([0, 0, 0]) }, damaged],
    ['a size beyond the end', { normalizer: charsmap([255, 255, 255, 255, 255, 255]) }, damaged],
    ['no trie', { normalizer: charsmap([0, 0, 0, 0, 65, 0]) }, damaged],
    ['no UTF-8 behind it', { normalizer: charsmap([4, 0, 0, 0, 0, 0, 0, 0, 255]) }, damaged],
    ['no base64', { normalizer: { type: 'Precompiled', precompiled_charsmap: 'AA-_' } }, damaged],
    ['none', { normalizer: { type: 'Precompiled' } }, damaged],
    ['in a sequence', inSequence('normalizer', 'normalizers', charsmap([9])), damaged],
  ] as const) {
    writeFileSync(where, JSON.stringify({ ...json, ...change }))
    await t.rejects(openTokenizer(folder, vocab), { name: 'PipeError', where, message }, label)
  }
  // Every byte of a text finds a unit of the trie: 256 of them, none of which is for it.
  const whole = charsmap([0, 4, 0, 0, ...new Array<number>(1024).fill(0), 0])
  writeFileSync(where, JSON.stringify({ ...json, normalizer: whole }))
  t.strictSame(await tokensOf(await openTokenizer(folder, vocab), [stories[0]!]), [await encode(stories[0]!)], 'one that is whole')
})

t.test('a text that a tokenizer has no tokens for', async t => {
  const folder = temporary(t)
  const json = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'))
  json.model = { type: 'WordLevel', vocab: { '<s>': 0, The: 1 }, unk_token: 'zz' }
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json))
  await t.rejects(concatenated(await openTokenizer(folder, vocab), write(t, 'a.txt', stories[0]!), { length: 2 }), {
    name: 'PipeError',
    message: "can't turn this text into tokens: WordLevel error: Missing [UNK] token from the vocabulary.",
  })
})

t.test("a tokenizer's own dropout is not applied: the same text is the same tokens", async t => {
  const folder = temporary(t)
  const json = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'))
  json.model.dropout = 0.5
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json))
  t.strictSame(await tokensOf(await openTokenizer(folder, vocab), stories), await Promise.all(stories.map(encode)))
})

t.test("a tokenizer's own truncation is not applied", async t => {
  const folder = temporary(t)
  const json = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8')) as Record<string, unknown>
  json.truncation = { direction: 'Right', max_length: 4, strategy: 'LongestFirst', stride: 0 }
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json))
  const ids = await encode(stories[0] as string)
  const { windows } = await concatenated(await openTokenizer(folder, vocab), write(t, 'a.txt', stories[0] as string), {
    length: ids.length,
  })
  t.strictSame(windows, [Int32Array.from(ids)])
})

t.test('what a stage asks for: notes when the text has less, refuses what the model was not made for', async t => {
  const checkpoint = await openCheckpoint(model)
  const path = write(t, 'a.jsonl', lines(stories))
  const notes: string[] = []
  const windows = await modelWindows(checkpoint, path, { length: 8, count: 100 }, note => notes.push(note))
  t.equal(notes.length, 1)
  t.match(notes[0], new RegExp(`gives \\d+ tokens, enough for ${windows.length} sequences of 8 instead of 100\\.$`))
  await t.rejects(
    modelWindows(checkpoint, path, { length: 513 }, () => undefined),
    { message: 'sequences of 513 tokens are longer than the 512 positions the model was made for.' },
  )
  const small = join(temporary(t), 'model')
  cpSync(join(root, 'fixtures/hf-reference/llama-gqa'), small, { recursive: true })
  cpSync(join(model, 'tokenizer.json'), join(small, 'tokenizer.json'))
  await t.rejects(
    modelWindows(await openCheckpoint(small), path, { length: 8 }, () => undefined),
    { message: "the tokenizer has 2048 tokens but the model's embedding only 256 rows." },
  )
})
