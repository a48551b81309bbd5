/** checkpoint, and the graphs that begin with it: what a run has measured of its model is measured again from the folders alone. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { root, temporary, testDevice } from '../helpers.js'
import { pipe } from '../pipeline/commands/in-process.js'
import { smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model, { untied: true })
const small = await smallRuns(ops, folder, model).run([{ use: 'rht' }, { use: 'round', codebook: { use: 'trellis/hyb', K: 2 } }])
const quantized = join(folder, 'shared/model')

/** Runs a graph that is shipped, on the device of the run before; gives result.json, what was printed, and the folder. */
const run = (graph: string, ...set: string[]) => runInto(join(temporary(t), 'out'), graph, ...set)
async function runInto(out: string, graph: string, ...set: string[]) {
  const settings = ['evaluate.sequences=16', 'evaluate.length=32'].filter(() => graph === 'evaluate')
  const { code, stdout, stderr } = await pipe([
    ...['run', join(root, 'graphs', `${graph}.json`), '--out', out, '--device', testDevice],
    ...[...settings, ...set].flatMap(setting => ['--set', setting]),
  ])
  const result = code === 0 ? (JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Record<string, unknown>) : {}
  return { code, stdout, stderr, result }
}

t.test('a quantized model beside its original: the figures of the run that made it', async t => {
  const { code, stdout, stderr, result } = await run('evaluate', `model=${quantized}`, `checkpoint.original=${model}`)
  t.equal(code, 0, stderr)
  for (const name of ['bitsPerWeight', 'bytes', 'perplexity', 'kl', 'klPercentiles', 'top1Agreement', 'predictions'])
    t.strictSame(result[name], small.results[name], name)
  t.notOk('proxyError' in result, 'it was not rounded here')
  const speed = result.tokensPerSecond as Record<string, number>
  t.ok((speed.original ?? 0) > 1 && (speed.quantized ?? 0) > 1, JSON.stringify(speed))
  t.match(stdout, /\n +original +quantized\nbits a weight +2\.\d+\n[\s\S]*\nKL divergence, nats +[\s\S]*\ntokens a second +\d+ +\d+\n/)
})

t.test('a model by itself, quantized or dense', async t => {
  const expected = small.results as { perplexity: Record<string, number>; bytes: Record<string, number>; bitsPerWeight: number }
  const packed = await run('evaluate', `model=${quantized}`)
  t.equal(packed.code, 0, packed.stderr)
  t.match(packed.result, {
    perplexity: expected.perplexity.quantized,
    bytes: expected.bytes.quantized,
    bitsPerWeight: expected.bitsPerWeight,
  })
  const dense = await run('evaluate', `model=${model}`)
  t.equal(dense.code, 0, dense.stderr)
  t.match(dense.result, { perplexity: expected.perplexity.original, bytes: expected.bytes.original, bitsPerWeight: 32 })
  t.match(dense.result, { tokensPerSecond: Number })
  writeFileSync(join(model, 'generation_config.json'), '{')
  const unsaid = await run('evaluate', `model=${model}`)
  t.match(unsaid.stderr, /tokens a second are not measured: is not valid JSON/)
  t.equal(unsaid.result.perplexity, dense.result.perplexity, 'what can be measured is')
  t.match(dense.stdout, /\n +value\nbits a weight +32\.000\nsize +\S+ MB\nperplexity +\d/)
})

t.test('from packed weights: what decoded ones give, but for rounding; and what the plan says of memory', async t => {
  const expected = small.results as { perplexity: Record<string, number>; kl: number; top1Agreement: number; predictions: number }
  const near = (value: unknown, wanted: number | undefined, label: string) =>
    t.ok(Math.abs(Number(value) / Number(wanted) - 1) < 1e-5, `${label}: ${value} for ${wanted}`)
  const { code, stderr, result } = await run('evaluate', `model=${quantized}`, `checkpoint.original=${model}`, 'evaluate.weights=packed')
  t.equal(code, 0, stderr)
  const perplexity = result.perplexity as Record<string, number>
  t.equal(perplexity.original, expected.perplexity.original, 'a dense model has no other form')
  near(perplexity.quantized, expected.perplexity.quantized, 'perplexity')
  near(result.kl, expected.kl, 'KL')
  t.not(result.kl, expected.kl, 'not decoded ones again')
  t.ok(Math.abs(Number(result.top1Agreement) - expected.top1Agreement) < 3 / expected.predictions)

  // Short windows go through the kernel that decodes as it multiplies, long ones are decoded for.
  const text = join(root, 'fixtures/tiny-llama/test.jsonl')
  const data = temporary(t)
  writeFileSync(
    join(data, 'arc_easy.jsonl'),
    JSON.stringify({ question: 'Who?', choices: { text: ['a', 'the man', 'it was', 'no'], label: ['1', '2', '3', '4'] }, answerKey: '1' }),
  )
  const both = async (...args: string[]) =>
    Promise.all(
      ['packed', 'dense'].map(async weights => {
        const { stdout, stderr } = await pipe(['eval', quantized, ...args, '--device', testDevice, '--json', '--weights', weights])
        return JSON.parse(stdout === '' ? stderr : stdout) as Record<string, unknown>
      }),
    )
  for (const length of [8, 600]) {
    const [packed, dense] = await both('--text', text, '--sequences', '1', '--length', String(length))
    near(packed?.nll, Number(dense?.nll), `windows of ${length}`)
  }
  const [packed, dense] = (await both('--tasks', 'arc_easy', '--data', data)) as { arc_easy: { logLikelihoods: number[][] } }[]
  const [found = [], wanted = []] = [packed, dense].map(one => one?.arc_easy.logLikelihoods[0])
  for (const [i, likelihood] of found.entries()) near(likelihood, wanted[i], 'log-likelihood')
  t.strictNotSame(found, wanted, 'not decoded ones again')

  const planned = async (weights: string): Promise<number> => {
    const { stdout } = await pipe(
      ['plan', join(root, 'graphs/evaluate.json'), '--json', '--out', join(data, 'none')].concat(
        [`model=${quantized}`, `evaluate.weights=${weights}`].flatMap(set => ['--set', set]),
      ),
    )
    const [, evaluate] = (JSON.parse(stdout) as { stages: { memoryBytes: number }[] }).stages
    return Number(evaluate?.memoryBytes)
  }
  t.ok((await planned('packed')) < (await planned('dense')))
})

t.test('tasks of one model, and of two', async t => {
  const data = temporary(t)
  writeFileSync(join(data, 'lambada.jsonl'), '{"text": "Once upon a time there was a dog"}\n{"text": "The dog ran to the house"}\n')
  const settings = [`data=${data}`, `model=${quantized}`, 'tasks.tasks=["lambada"]']
  const one = await run('tasks', ...settings)
  const two = await run('tasks', ...settings, `checkpoint.original=${model}`, 'tasks.weights=packed')
  t.equal(one.code, 0, one.stderr)
  const [alone, beside] = [one.result.tasks, two.result.tasks] as [Record<string, object>, Record<string, Record<string, object>>]
  t.match(alone.lambada, { items: 2 })
  const [[decoded], [packed]] = [alone.lambada, beside.lambada?.quantized].map(
    score => (score as { perplexity: [number, number] }).perplexity,
  ) as [[number, number], [number, number]]
  t.ok(
    packed !== decoded && Math.abs(Math.log(packed / decoded)) < 1e-5 * Math.log(decoded),
    `perplexity ${packed} from bits, ${decoded} decoded`,
  )
  t.notSame(beside.lambada?.original, beside.lambada?.quantized)
})

t.test('other items are other data', async t => {
  const [data, out] = [temporary(t), join(temporary(t), 'out')]
  for (const texts of [['The dog ran home', 'The cat sat down'], ['The dog ran to the house']]) {
    writeFileSync(join(data, 'lambada.jsonl'), texts.map(text => `${JSON.stringify({ text })}\n`).join(''))
    const { result } = await runInto(out, 'tasks', `data=${data}`, `model=${quantized}`, 'tasks.tasks=["lambada"]')
    t.match(result.tasks, { lambada: { items: texts.length } })
  }
})

t.test('what it will take, before it has run; models that have not the same tokens', async t => {
  const plan = await pipe(['plan', join(root, 'graphs/evaluate.json'), '--set', `model=${quantized}`, '--out', folder, '--json'])
  const [, evaluate] = (JSON.parse(plan.stdout) as { stages: { seconds: number; memoryBytes: number }[] }).stages
  t.ok((evaluate?.seconds ?? 0) > 0 && (evaluate?.memoryBytes ?? 0) > 1e6 && (evaluate?.memoryBytes ?? 0) < 2e9, JSON.stringify(evaluate))
  const { code, stderr } = await run(
    'evaluate',
    `model=${quantized}`,
    `checkpoint.original=${join(root, 'fixtures/hf-reference/llama-gqa')}`,
  )
  t.equal(code, 1)
  t.match(stderr, /expected a model with \d+ tokens, as .* has, and found one with 2048\./)
})
