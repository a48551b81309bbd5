/** Generation with a cache gives what the forward pass over the whole text gives, token for token. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from '../../../native/index.js'
import type { Ops } from '../../../native/ops.js'
import type { Tensor } from '../../../native/tensor.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { embed, forwardBlock, Head, openBlock, Rotary } from '../../../stages/model/forward.js'
import { Generator, type GenerateOptions } from '../../../stages/model/generate.js'
import { openWeights, type Weights } from '../../../stages/model/quantized.js'
import { greedy } from '../../../stages/model/sampling.js'
import { openTokenizer } from '../../../stages/model/text.js'
import { pipe, root, temporary, testDevice } from '../../helpers.js'

const ops = await openBackend(testDevice)
const tiny = join(root, 'fixtures/tiny-llama')

/** The likeliest token after each of these, by the forward pass over all of them at once. */
async function likeliest(ops: Ops, weights: Weights, ids: readonly number[]): Promise<Int32Array> {
  const { config } = weights.checkpoint
  using rotary = new Rotary(ops, config)
  let [x] = (await embed(ops, weights, [Int32Array.from(ids)])) as [Tensor]
  for (let layer = 0; layer < config.sizes.layers; layer++) {
    using block = await openBlock(ops, weights, layer)
    x = forwardBlock(ops, config, layer, block, x, rotary.of(ids.length))
  }
  using stream = x
  using head = await Head.open(ops, weights)
  using logits = head.logits(stream)
  using best = ops.argmax(logits)
  return new Int32Array((await best.read()).slice().buffer)
}

async function generate(folder: string, prompt: readonly number[], o: Partial<GenerateOptions> = {}): Promise<number[]> {
  using weights = await openWeights(ops, await openCheckpoint(folder))
  using generator = await Generator.open(ops, weights)
  const made: number[] = []
  for await (const id of generator.tokens(prompt, { sampling: greedy, maxTokens: 60, uniform: () => 0, ...o })) made.push(id)
  return made
}

async function equalsForward(t: Test, folder: string, prompt: readonly number[], maxTokens: number): Promise<void> {
  const made = await generate(folder, prompt, { maxTokens })
  t.equal(made.length, maxTokens)
  t.ok(new Set(made).size > 4, 'not one token over and over')
  using weights = await openWeights(ops, await openCheckpoint(folder))
  const best = await likeliest(ops, weights, [...prompt, ...made])
  t.strictSame(made, [...best.slice(prompt.length - 1, -1)])
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
}

t.test('greedy: the argmax of the forward pass, 200 tokens of the bundled model', async t => {
  const tokenizer = await openTokenizer(tiny, 2048)
  await equalsForward(t, tiny, (await tokenizer.encode('The mason had five bricks.')).getIds(), 200)
})

for (const family of ['llama-gqa', 'llama3-rope', 'mistral-window', 'qwen2-bias', 'qwen3-qknorm']) {
  t.test(`greedy: ${family}`, async t => {
    const folder = join(temporary(t), 'model')
    cpSync(join(root, 'fixtures/hf-reference', family), folder, { recursive: true })
    // Random weights end a text anywhere: here none ends.
    writeFileSync(join(folder, 'generation_config.json'), '{"eos_token_id": []}')
    await equalsForward(t, folder, [5, 17, 3, 40, 9], 30)
  })
}

t.test('it ends at a token that ends texts, at the last position, and where the reader leaves', async t => {
  const prompt = [5, 17, 3]
  const folder = join(temporary(t), 'model')
  cpSync(join(root, 'fixtures/hf-reference/llama-gqa'), folder, { recursive: true })
  const ends = (ids: unknown) => writeFileSync(join(folder, 'generation_config.json'), JSON.stringify({ eos_token_id: ids }))
  ends([])
  const free = await generate(folder, prompt)
  const at = free.findIndex((id, i) => i > 2 && !free.slice(0, i).includes(id))
  ends([free[at], 9999])
  t.strictSame(await generate(folder, prompt), free.slice(0, at))
  ends('</s>')
  const refused = (file: string) =>
    t.rejects(generate(folder, prompt), {
      name: 'PipeError',
      where: join(folder, file),
      message: /expected "eos_token_id": a whole number or a list/,
    })
  await refused('generation_config.json')

  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>
  ends(null)
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, eos_token_id: '</s>' }))
  await refused('config.json')

  ends([])
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, max_position_embeddings: 8 }))
  t.strictSame(await generate(folder, prompt), free.slice(0, 5), '8 positions')
  await t.rejects(generate(folder, [1, 2, 3, 4, 5, 6, 7, 8]), {
    name: 'PipeError',
    message: 'the prompt has 8 tokens and the model was made for 8 positions: none is left to generate in.',
  })
  await t.rejects(generate(folder, []), { name: 'PipeError', message: 'the prompt is empty: there is nothing to go on from.' })

  using weights = await openWeights(ops, await openCheckpoint(folder))
  {
    using generator = await Generator.open(ops, weights)
    for await (const _ of generator.tokens(prompt, { sampling: greedy, maxTokens: 5, uniform: () => 0 })) break
    await t.rejects(generator.tokens(prompt, { sampling: greedy, maxTokens: 5, uniform: () => 0, free: 1000 }).next(), {
      name: 'PipeError',
      code: 'memory',
      message: '1 × 8 positions of keys and values take 0.0 GB; 0.0 GB are free.',
    })
  }
  weights[Symbol.dispose]()
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})

t.test('pipe generate: the text, the same for a seed, up to a stop string', async t => {
  const run = (...args: string[]) => pipe(['generate', tiny, '--prompt', 'The mason had five bricks.', '--max-tokens', '30', ...args])
  const drawn = ['--temperature', '1', '--top-k', '40', '--seed']
  const [text, one, again, other] = await Promise.all([run(), run(...drawn, '1'), run(...drawn, '1'), run(...drawn, '2')])
  t.equal(text.code, 0, text.stderr)
  t.match(text.stderr, /tokens of prompt, 30 generated in .* s\n$/)
  const tokenizer = await openTokenizer(tiny, 2048)
  const prompt = (await tokenizer.encode('The mason had five bricks.')).getIds()
  const whole = await tokenizer.decode([...prompt, ...(await generate(tiny, prompt, { maxTokens: 30 }))], true)
  t.equal(`The mason had five bricks.${text.stdout}`, `${whole}\n`)
  t.equal(one.stdout, again.stdout)
  t.not(one.stdout, other.stdout)
  const word = text.stdout.trim().split(' ')[5] ?? ''
  t.equal((await run('--stop', ` ${word}`)).stdout, `${text.stdout.slice(0, text.stdout.indexOf(` ${word}`))}\n`)
})

t.test('pipe generate: mistakes', async t => {
  const folder = join(temporary(t), 'model')
  cpSync(tiny, folder, { recursive: true })
  const config = JSON.parse(readFileSync(join(tiny, 'config.json'), 'utf8')) as Record<string, unknown>
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, quantization_config: { quant_method: 'gptq' } }))
  for (const [args, code, text] of [
    [[tiny, '--prompt', ''], 1, /^--prompt\n {2}expected a text and found an empty one\.\n$/],
    [[tiny, '--prompt', 'five bricks '.repeat(300)], 1, /the prompt has \d+ tokens and the model was made for 512 positions: none is left/],
    [[folder, '--prompt', 'a'], 1, /the model is quantized by "gptq" already\./],
    [[tiny, '--prompt', 'a', '--top-p', '2'], 2, /Give a number from 0 to 1\./],
  ] as const) {
    const { code: exit, stdout, stderr } = await pipe(['generate', ...args])
    t.equal(exit, code, stderr)
    t.match(stderr, text)
    t.equal(stdout, '')
    t.notMatch(stderr, /\n\s+at /)
  }
})

t.test('commands take the folder that a run wrote for the model in it', async t => {
  const out = temporary(t)
  cpSync(tiny, join(out, 'model'), { recursive: true })
  const text = join(tiny, 'test.jsonl')
  for (const [command, ...args] of [
    ['generate', '--prompt', 'The mason', '--max-tokens', '3'],
    ['eval', '--text', text, '--lines', '2', '--length', '16'],
    ['bench', '--prompt', '2', '--tokens', '2'],
  ] as const) {
    const { code, stderr } = await pipe([command, out, ...args, '--device', 'cpu'])
    t.equal(code, 0, stderr)
  }
  const { stderr } = await pipe(['generate', temporary(t), '--prompt', 'The mason'])
  t.match(stderr, /expected this file and found none/)
})
