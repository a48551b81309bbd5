/** The main job, without fine-tuning, on a small random model of each family: every linear rounded, biases, norms and heads carried, evaluated from the written folder. */
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { root, temporary } from '../helpers.js'
import { pipe } from '../pipeline/commands/in-process.js'
import { readAll } from '../stages/safetensors-reader.js'

/** A tokenizer of single bytes, whose 256 entries fit the smallest vocabulary: the bundled one without merges and specials. */
function byteTokenizer(): string {
  const tokenizer = JSON.parse(readFileSync(join(root, 'fixtures/tiny-llama/tokenizer.json'), 'utf8')) as {
    model: { vocab: Record<string, number>; merges: unknown[] }
    added_tokens: unknown[]
    post_processor: unknown
  }
  const bytes = Object.entries(tokenizer.model.vocab)
    .filter(([token]) => [...token].length === 1)
    .sort((a, b) => a[1] - b[1])
  tokenizer.model.vocab = Object.fromEntries(bytes.map(([token], i) => [token, i]))
  tokenizer.model.merges = []
  tokenizer.added_tokens = []
  tokenizer.post_processor = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: true }
  return JSON.stringify(tokenizer)
}

t.setTimeout(600_000)
for (const family of readdirSync(join(root, 'fixtures/hf-reference'))) {
  t.test(family, { timeout: 300_000 }, async t => {
    const folder = temporary(t)
    const model = join(folder, 'model')
    mkdirSync(model)
    for (const file of ['config.json', 'model.safetensors']) cpSync(join(root, 'fixtures/hf-reference', family, file), join(model, file))
    writeFileSync(join(model, 'tokenizer.json'), byteTokenizer())
    const set = [
      `model=${model}`,
      'text=fixtures/tiny-llama/calibration.jsonl',
      'calibrate.sequences=16',
      'calibrate.length=64',
      'evaluate.sequences=4',
      'evaluate.length=64',
      'round.codebook.K=4',
    ]
    const out = join(folder, 'out')
    const { code, stderr } = await pipe(['run', 'graphs/qtip-2bit-fast.json', '--out', out, ...set.flatMap(setting => ['--set', setting])])
    t.equal(code, 0, stderr)
    const result = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as {
      kl: number
      proxyError: { max: number }
      perplexity: { original: number; quantized: number }
    }
    t.ok(result.proxyError.max < 0.02, `worst proxy error ${result.proxyError.max}`)
    t.ok(
      result.kl > 0 && Math.abs(Math.log(result.perplexity.quantized / result.perplexity.original)) < 0.5,
      `KL ${result.kl}, perplexity ${result.perplexity.original} → ${result.perplexity.quantized}`,
    )
    const before = readAll(join(model, 'model.safetensors')).tensors
    const after = readAll(join(out, 'model/model.safetensors')).tensors
    for (const [name, { bytes }] of before) {
      if (/proj\.weight$/.test(name)) t.ok(after.has(name.replace(/\.weight$/, '.trellis')), `${name} is rounded`)
      else t.ok(after.get(name)?.bytes.equals(bytes), `${name} is carried`)
    }
  })
}
