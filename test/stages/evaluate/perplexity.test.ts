/** Negative log-likelihood and KL divergence against their definitions on logits of Hugging Face transformers. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import { argmaxReference } from '../../../native/ops/argmax/reference.js'
import { crossEntropyReference } from '../../../native/ops/cross-entropy/reference.js'
import { klDivergenceReference } from '../../../native/ops/kl-divergence/reference.js'
import { fileTensor } from '../../../pipeline/define.js'
import { score, spread } from '../../../stages/evaluate/perplexity.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { readSafetensors } from '../../../stages/model/safetensors.js'
import { concatenated, openTokenizer, protocols } from '../../../stages/model/text.js'
import { root, temporary, testDevice } from '../../helpers.js'
import { pipe } from '../../pipeline/commands/in-process.js'
import { floats } from '../run-stage.js'
import { writeSmallModel } from '../small-model.js'

const ops = await openBackend(testDevice)
const family = (name: string): string => join(root, 'fixtures/hf-reference', name)

const reference = async (name: string) => {
  const { entries } = await readSafetensors(join(family(name), 'reference.safetensors'))
  const read = (tensor: string) => {
    const { path, offset, dtype, shape } = entries.get(tensor)!
    return fileTensor(path, offset, dtype, shape)
  }
  const ids = new Int32Array((await read('input_ids').read()).slice().buffer)
  const [sequences, length] = read('input_ids').shape as [number, number]
  const windows = Array.from({ length: sequences }, (_, i) => ids.slice(i * length, (i + 1) * length))
  return { windows, logits: await floats(read('logits')), targets: windows.flatMap(window => [...window.subarray(1), -1]) }
}
const sum = (values: ArrayLike<number>, keep: (i: number) => boolean = () => true): number =>
  Array.from(values).reduce((total, value, i) => (keep(i) ? total + value : total), 0)

t.test('sums over the predictions, of one model and of two', async t => {
  const [p, q] = [await reference('llama-gqa'), await reference('llama3-rope')]
  using first = await openWeights(ops, await openCheckpoint(family('llama-gqa')))
  using second = await openWeights(ops, await openCheckpoint(family('llama3-rope')))
  const one = await score(ops, [first], p.windows)
  const expected = sum(crossEntropyReference(p.logits, p.targets))
  t.equal(one.predictions, p.targets.filter(target => target >= 0).length)
  t.ok(Math.abs(one.nll[0]! / expected - 1) < 1e-5, `${one.nll[0]} for ${expected}`)
  t.equal(one.against, undefined)

  const same = p.windows.every((window, i) => String(window) === String(q.windows[i]))
  t.ok(same, 'both references are of the same tokens')
  const two = await score(ops, [first, second], p.windows)
  const kl = [...klDivergenceReference(p.logits, q.logits, 256)].filter((_, i) => p.targets[i]! >= 0)
  const [a, b] = [argmaxReference(p.logits, 256), argmaxReference(q.logits, 256)]
  const agreed = p.targets.filter((target, i) => target >= 0 && a[i] === b[i]).length
  t.equal(two.nll[0], one.nll[0])
  t.ok(Math.abs(two.nll[1]! / sum(crossEntropyReference(q.logits, q.targets)) - 1) < 1e-5)
  const found = two.against!
  const close = (value: number, wanted: number, label: string) =>
    t.ok(Math.abs(value / wanted - 1) < 1e-4, `${label} ${value} for ${wanted}`)
  close(found.kl.mean, sum(kl) / kl.length, 'mean KL')
  const sorted = kl.sort((x, y) => x - y)
  for (const [name, share] of [
    ['median', 0.5],
    ['p90', 0.9],
    ['p99', 0.99],
  ] as const) {
    const below = Math.floor(share * (kl.length - 1))
    const rest = share * (kl.length - 1) - below
    close(found.kl[name], (1 - rest) * sorted[below]! + rest * sorted[below + 1]!, `${name} of KL`)
  }
  t.equal(found.agreement, agreed / kl.length)
  const own = await score(ops, [first, first], p.windows)
  t.strictSame(own.against, { kl: { mean: 0, median: 0, p90: 0, p99: 0 }, agreement: 1 }, 'a model against itself')
})

t.test('windows of different lengths, and how they are stacked, change nothing', async t => {
  const { windows } = await reference('qwen3-qknorm')
  using weights = await openWeights(ops, await openCheckpoint(family('qwen3-qknorm')))
  const cut = [windows[0]!.slice(0, 17), windows[0]!, windows[1]!, windows[1]!.slice(0, 2), windows[0]!.slice(0, 17)]
  const together = await score(ops, [weights], cut)
  let [alone, predictions] = [0, 0]
  for (const window of cut) {
    const result = await score(ops, [weights], [window])
    alone += result.nll[0]!
    predictions += result.predictions
  }
  t.equal(together.predictions, predictions)
  t.ok(Math.abs(together.nll[0]! / alone - 1) < 1e-6, `${together.nll[0]} together, ${alone} alone`)
  await ops.finish()
  t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
})

t.test('percentiles', t => {
  const hundred = Float64Array.from({ length: 101 }, (_, i) => (i * 37) % 101)
  t.strictSame(spread(hundred), { mean: 50, median: 50, p90: 90, p99: 99 })
  t.strictSame(spread(Float64Array.of(3)), { mean: 3, median: 3, p90: 3, p99: 3 })
  t.strictSame(spread(Float64Array.of(4, 2)), { mean: 3, median: 3, p90: 3.8, p99: 3.98 })
  t.end()
})

t.test('stopping', async t => {
  const { windows } = await reference('llama-gqa')
  using weights = await openWeights(ops, await openCheckpoint(family('llama-gqa')))
  await t.rejects(score(ops, [weights], windows, { signal: AbortSignal.abort() }), { name: 'AbortError' })
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})

t.test('a text too short for calibration and for this: how many windows calibration has read is noted', async t => {
  const folder = temporary(t)
  await writeSmallModel(join(folder, 'model'))
  const stories = readFileSync(join(root, 'fixtures/tiny-llama/test.jsonl'), 'utf8').split('\n').slice(0, 8)
  writeFileSync(join(folder, 'text.jsonl'), stories.join('\n'))
  writeFileSync(join(folder, 'other.jsonl'), stories.slice(1).join('\n'))
  const tokenizer = await openTokenizer(join(folder, 'model'), 2048)
  const windowsOf = async (cut: object) =>
    (await concatenated(tokenizer, join(folder, 'text.jsonl'), { length: 32, ...cut })).windows.length
  const noted = async (sequences: number, ...set: string[]) => {
    const { code, stdout, stderr } = await pipe([
      ...['run', join(root, 'graphs/qtip-2bit-fast.json'), '--out', join(folder, 'out')],
      ...[`model=${join(folder, 'model')}`, `text=${join(folder, 'text.jsonl')}`, 'calibrate.length=32', 'evaluate.length=32']
        .concat(`calibrate.sequences=${sequences}`, set)
        .flatMap(setting => ['--set', setting]),
    ])
    t.equal(code, 0, stderr)
    return /evaluate: (stages before .*)\n/.exec(stdout + stderr)?.[1]
  }
  const enough = (await windowsOf({})) - 4
  const said = (read: number, seen: number, of: number) =>
    `stages before have read the first ${32 * read} tokens of ${join(folder, 'text.jsonl')}: ${seen} of the ${of} windows measured begin there.`
  t.equal(await noted(enough, 'evaluate.sequences=4'), undefined, 'they do not meet')
  t.equal(await noted(enough, 'evaluate.sequences=6'), said(enough, 2, 6))
  t.equal(await noted(10_000, 'evaluate.sequences=6'), said(enough + 4, 6, 6), 'more than there is')
  t.equal(await noted(3, 'evaluate.protocol=wikitext2'), said(3, 3, await windowsOf(protocols.wikitext2)), 'all of it measured')
  t.equal(await noted(10_000, 'evaluate.sequences=6', `test=${join(folder, 'other.jsonl')}`), undefined, 'another text')
})

t.test('pipe eval: the bundled model has the perplexity that PyTorch measured when it was trained', async t => {
  const folder = join(root, 'fixtures/tiny-llama')
  const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as { predictions: number; nll: number; window: number }
  const { code, stdout } = await pipe(['eval', folder, '--text', join(folder, 'test.jsonl'), '--length', String(expected.window), '--json'])
  t.equal(code, 0)
  const { nll, predictions } = JSON.parse(stdout) as { nll: number; predictions: number }
  t.equal(predictions, expected.predictions)
  t.ok(Math.abs(nll - expected.nll) < 1e-3, `${nll} for ${expected.nll}`)
})

t.test('pipe eval --protocol: rows joined by two newlines are one text', async t => {
  const folder = join(root, 'fixtures/tiny-llama')
  const rows = readFileSync(join(folder, 'test.jsonl'), 'utf8').trim().split('\n').slice(0, 12)
  const here = temporary(t)
  writeFileSync(join(here, 'rows.jsonl'), rows.join('\n'))
  writeFileSync(join(here, 'joined.txt'), rows.map(row => (JSON.parse(row) as { text: string }).text).join('\n\n'))
  const results = []
  for (const file of ['rows.jsonl', 'joined.txt']) {
    const { code, stdout, stderr } = await pipe([
      'eval',
      folder,
      '--text',
      join(here, file),
      '--length',
      '64',
      '--protocol',
      'wikitext2',
      '--json',
    ])
    t.equal(code, 0, stderr)
    const { perplexity, windows } = JSON.parse(stdout) as { perplexity: number; windows: number }
    results.push({ perplexity, windows })
  }
  t.ok(results[0]!.windows > 1)
  t.strictSame(results[0], results[1])
  const both = await pipe(['eval', folder, '--text', join(here, 'joined.txt'), '--protocol', 'c4', '--sequences', '2'])
  t.equal(both.code, 2)
  t.match(both.stderr, /--protocol <name>' cannot be used with option '--sequences/)
})

t.test('pipe eval: mistakes', async t => {
  const folder = join(root, 'fixtures/tiny-llama')
  const missing = await pipe(['eval', '/none', '--text', join(folder, 'test.jsonl')])
  t.equal(missing.code, 1)
  t.match(missing.stderr, /^\/none\n {2}expected a folder with config\.json and \*\.safetensors and found nothing\.\n/)
  const length = await pipe(['eval', folder, '--text', join(folder, 'test.jsonl'), '--length', '1'])
  t.equal(length.code, 2)
  t.match(length.stderr, /Give a whole number, at least 2\./)
  const text = ['--text', join(folder, 'test.jsonl')]
  const tasks = ['--tasks', 'piqa', '--data', folder]
  for (const args of [
    [...text, '--lines', '2', '--sequences', '2'],
    [...text, '--limit', '2'],
    [...text, '--data', folder],
    ...[['--length', '8'], ['--sequences', '2'], ['--lines', '2'], ['--protocol', 'c4'], text].map(own => [...tasks, ...own]),
  ]) {
    const { code, stderr } = await pipe(['eval', '/none', ...args])
    t.equal(code, 2, args.join(' '))
    t.match(stderr, /^Option '--\w+ <\w+>' cannot be used with option '--\w+ <\w+>'/)
  }
})
