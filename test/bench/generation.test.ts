/** Cases of decoding as the benchmark reads them, and the table made of its results. */
import t from 'tap'
import { caseOf, generationTable, shortTable } from '../../bench/generation.js'

t.test('a case is the words that differ from the usual', async t => {
  const usual = { model: 'llama-2-7b', code: 'hyb', bits: 2, batch: 1, prompt: 128, weights: 'packed', activations: 'f32' }
  t.strictSame(caseOf('llama-2-7b', 128), usual)
  t.strictSame(caseOf(' llama-2-7b mul1 4 x8 prompt 1024 layers 2 int8', 128), {
    ...usual,
    code: 'mul1',
    bits: 4,
    batch: 8,
    prompt: 1024,
    layers: 2,
    activations: 'int8',
  })
  t.strictSame(caseOf('llama-2-7b dense bf16', 4), { ...usual, prompt: 4, weights: 'dense', precision: 'bf16' })
  t.strictSame(caseOf('llama-2-7b x8 drawn', 128), { ...usual, batch: 8, picks: 'drawn' })
  t.throws(() => caseOf('llama-7', 128), { message: /^--cases: llama-7 is no shape; there are: llama-2-7b, / })
  t.throws(() => caseOf('llama-2-7b 5', 128), {
    message: '--cases: "5" of "llama-2-7b 5" is no code, bits, xTEXTS, prompt TOKENS, layers COUNT, int8, dense, bf16 or drawn',
  })
  t.throws(() => caseOf('llama-2-7b prompt', 128), { message: /^--cases: "prompt" of/ })
})

t.test('the table', async t => {
  const row = {
    model: 'a',
    batch: 8,
    prompt: 16,
    tokensPerSecond: 1234.5,
    step: 0.00648,
    share: 0.4,
    promptTokensPerSecond: 99.96,
    firstToken: 0.16,
  }
  t.equal(
    generationTable({
      rows: [
        { ...row, code: 'mul1', bits: 3, weights: 'packed', activations: 'int8', picks: 'drawn' },
        { ...row, layers: 3, batch: 1, tokensPerSecond: 3.456, weights: 'dense', precision: 'bf16' },
      ],
    }),
    [
      '| shape | code, bits | texts | tokens/s | ms a step | of the bound | prompt | its tokens/s | ms to its end |',
      '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
      '| a | mul1, 3, int8 | 8, drawn | 1235 | 6.48 | 40 % | 16 | 100.0 | 160.0 |',
      '| a, 3 layers | bf16 | 1 | 3.46 | 6.48 | 40 % | 16 | 100.0 | 160.0 |',
    ].join('\n'),
  )
})

t.test('the short table: whole models, the usual prompt, ranges of what ran more than once', async t => {
  const row = { model: 'a', code: 'hyb', bits: 2, batch: 1, prompt: 16, activations: 'f32' }
  const rows = [
    { ...row, tokensPerSecond: 200 },
    { ...row, tokensPerSecond: 100 },
    { ...row, tokensPerSecond: 150 },
    { ...row, prompt: 1024, tokensPerSecond: 50 },
    { ...row, layers: 2, tokensPerSecond: 900 },
    { ...row, batch: 8, tokensPerSecond: 800 },
    { ...row, batch: 8, picks: 'drawn', tokensPerSecond: 700 },
    { ...row, model: 'b', prompt: 4, tokensPerSecond: 3.456 },
  ]
  t.equal(
    shortTable({ rows }, 'title', { one: { bits: 2 }, 'three bits': { bits: 3 }, eight: { batch: 8 } }),
    ['| title | one | three bits | eight |', '| --- | --- | --- | --- |', '| a | 100–200 |  | 800 |', '| b | 3.46 |  |  |'].join('\n'),
  )
})
