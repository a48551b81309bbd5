/** Zero-shot tasks: wording, log-likelihoods against logits of Hugging Face transformers, marks, resuming, and the command. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { argmaxReference } from '../../native/ops/argmax/reference.js'
import { crossEntropyReference } from '../../native/ops/cross-entropy/reference.js'
import { type Checkpoint, fileTensor } from '../../pipeline/define.js'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { openWeights } from '../../stages/model/quantized.js'
import { readSafetensors } from '../../stages/model/safetensors.js'
import { openTokenizer } from '../../stages/model/text.js'
import { readItems, type taskNames } from '../../stages/tasks/formulation.js'
import { answer, type Request, toRequests } from '../../stages/tasks/likelihood.js'
import { mark, measured, written } from '../../stages/tasks/score.js'
import tasksStage from '../../stages/tasks/tasks.js'
import { pipe as startedPipe, root, temporary, testDevice } from '../helpers.js'
import { pipe } from '../pipeline/commands/in-process.js'
import { uniform } from '../native/devices.js'
import { contextOf, floats, runStage, type Told } from './run-stage.js'

const ops = await openBackend(testDevice)
const model = join(root, 'fixtures/tiny-llama')
const lines = (items: readonly object[]): string => items.map(item => JSON.stringify(item)).join('\n')

/** Made-up items in the shape of the data sets. */
const data = temporary(t)
const arc = { id: 'x', question: 'Who bakes?', choices: { text: ['The baker', 'A river', 'Öl'], label: ['A', 'B', 'C'] }, answerKey: 'A' }
const made = {
  arc_easy: [arc, { ...arc, question: 'Which one is it?', answerKey: 'B', choices: { ...arc.choices, label: ['1', 'B', '3'] } }],
  arc_challenge: [arc],
  piqa: [{ goal: 'count loaves', sol1: 'one by one', sol2: 'never', label: 1 }],
  winogrande: [{ sentence: 'Ann paid Bea since _ sold  bread. ', option1: 'Ann', option2: 'Bea', answer: '2' }],
  boolq: [{ question: 'is it a town', passage: 'Roswick is a town.', answer: true }],
  hellaswag: [
    {
      activity_label: 'Baking',
      ctx_a: 'A man [header] bakes.',
      ctx_b: 'he TAKES [title] a',
      endings: [' loaf [step] .', 'town'],
      label: '0',
    },
    { query: 'Baking: it', choices: ['a', 'b'], gold: 1 },
  ],
  lambada: [{ text: 'He counted his money: fifteen pence' }, { text: 'Roswick is a town on the river Stisk' }],
}
for (const [task, items] of Object.entries(made)) writeFileSync(join(data, `hf_${task}_test.jsonl`), `${lines(items)}\n\n`)

t.test('items are worded as the harness does', async t => {
  const [first, second] = await readItems(data, 'arc_easy')
  t.strictSame(first, {
    questions: ['The baker', 'A river', 'Öl'].map(c => ({ context: 'Question: Who bakes?\nAnswer:', continuation: ` ${c}` })),
    gold: 0,
    lengths: [9, 7, 2],
  })
  t.equal(second?.gold, 1, 'labels are looked up')
  t.equal((await readItems(data, 'arc_easy', 1)).length, 1, 'limit')
  const one = async (task: (typeof taskNames)[number]) => (await readItems(data, task))[0]
  t.strictSame((await one('piqa'))?.questions[1], { context: 'Question: count loaves\nAnswer:', continuation: ' never' })
  t.equal((await one('piqa'))?.gold, 1)
  t.strictSame(await one('winogrande'), {
    questions: ['Ann', 'Bea'].map(name => ({ context: `Ann paid Bea since ${name}`, continuation: ' sold  bread.' })),
    gold: 1,
    lengths: [22, 22],
  })
  t.strictSame(await one('boolq'), {
    questions: ['no', 'yes'].map(c => ({ context: 'Roswick is a town.\nQuestion: is it a town?\nAnswer:', continuation: ` ${c}` })),
    gold: 1,
    lengths: [2, 3],
  })
  const hella = await readItems(data, 'hellaswag')
  t.strictSame(hella[0]?.questions[0], { context: 'Baking: A man bakes. He takes. a', continuation: ' loaf .' })
  t.strictSame(hella[1]?.questions[1], { context: 'Baking: it', continuation: ' b' })
  t.strictSame((await one('lambada'))?.questions, [{ context: 'He counted his money: fifteen', continuation: ' pence' }])
})

/** Expected are the requests that the harness's templates and functions make of these items (version 0.4.3, bench/original/wording.py). */
t.test('spaces, quotes, brackets and letters beyond ASCII, as in the harness', async t => {
  const here = temporary(t)
  const read = async (task: (typeof taskNames)[number], rows: readonly object[]) => {
    writeFileSync(join(here, `${task}.jsonl`), lines(rows))
    return (await readItems(here, task)).map(({ questions: [first, second], lengths }) => [
      first?.context,
      first?.continuation,
      second?.continuation,
      ...(task === 'hellaswag' || task === 'piqa' ? lengths : []),
    ])
  }
  t.strictSame(await read('piqa', [{ goal: 'bake: "it"\n', sol1: "it's \\ done", sol2: ' 🥖 bread', label: 1 }]), [
    ['Question: bake: "it"\n\nAnswer:', " it's \\ done", '  🥖 bread', 11, 8],
  ])
  const blank = (end: string) => ({ sentence: `Ann paid since _ sold_it  . ${end}`, option1: 'Ann', option2: 'Bea', answer: '2' })
  const sold = (end: string) => ['Ann paid since Ann', ` sold_it  .${end}`, ` sold_it  .${end}`]
  t.strictSame(await read('winogrande', ['\u0085', '\x1c', '\ufeff', '\u3000\t\n', '\u200b'].map(blank)), [
    sold(''),
    sold(''),
    sold(' \ufeff'),
    sold(''),
    sold(' \u200b'),
  ])
  const hella = (ctx_a: string, ctx_b: string, ending: string) => ({
    ...{ activity_label: 'Baking', ctx_a, ctx_b, endings: [ending, 'town'], label: '0' },
  })
  t.strictSame(
    await read('hellaswag', [
      hella('x', 'éA b', '  a   b    c'),
      hella('x', 'ΑΣ ΑΣ', 'a [x\ry] b [p\u2028q] c'),
      hella('x', '', '\u0085z\ufeff'),
      hella('x', 'İSTANBUL', 'a [ [b] c] d [x\ny]'),
      hella('x [title]', ' [title] y', ' [title] [title]  . '),
    ]),
    [
      ['Baking: x Éa b', ' a  b  c', ' town', 7, 4],
      ['Baking: x Ας ας', ' a b c', ' town', 5, 4],
      ['Baking: x', ' z\ufeff', ' town', 2, 4],
      ['Baking: x İstanbul', ' a c] d [x\ny]', ' town', 12, 4],
      ['Baking: x. . y', ' .  .', ' town', 4, 4],
    ],
  )
  t.strictSame(await read('lambada', [{ text: 'He counted  his money: fifteen\npence' }, { text: 'a\u00a0b 5' }]), [
    ['He counted  his money:', ' fifteen\npence', undefined],
    ['a\u00a0b', ' 5', undefined],
  ])
})

t.test('log-likelihoods and greedy picks are those of the logits that transformers computed', async t => {
  const folder = join(root, 'fixtures/hf-reference/llama-gqa')
  const { entries } = await readSafetensors(join(folder, 'reference.safetensors'))
  const read = (name: string) => {
    const { path, offset, dtype, shape } = entries.get(name)!
    return fileTensor(path, offset, dtype, shape)
  }
  const [count, length] = read('input_ids').shape as [number, number]
  const ids = new Int32Array((await read('input_ids').read()).slice().buffer)
  const logits = await floats(read('logits'))
  const v = logits.length / ids.length
  const next = uniform(3)
  const likely = argmaxReference(logits, v)
  const requests: Request[] = []
  const expected: { logLikelihood: number; greedy: boolean }[] = []
  for (let i = 0; i < 40; i++) {
    const s = Math.floor(next() * count)
    const size = 2 + Math.floor(next() * (length - 1))
    const asked = 1 + Math.floor(next() * Math.min(size - 1, 6))
    const tokens = ids.slice(s * length, s * length + size)
    // Of every second the last token is the likely one, so that some are greedy.
    if (i % 2 === 0) tokens[size - 1] = likely[s * length + size - 2]!
    const rows = Array.from({ length: asked }, (_, t) => s * length + size - 1 - asked + t)
    const targets = tokens.slice(size - asked)
    const loss = rows.map((row, t) => crossEntropyReference(logits.slice(row * v, (row + 1) * v), [targets[t]!])[0]!)
    requests.push({ tokens, asked, lost: 0 })
    expected.push({ logLikelihood: -loss.reduce((a, b) => a + b, 0), greedy: rows.every((row, t) => likely[row] === targets[t]) })
  }
  using weights = await openWeights(ops, await openCheckpoint(folder))
  const found = await answer(ops, weights, requests)
  for (const [i, { logLikelihood, greedy }] of expected.entries()) {
    const error = Math.abs(found[i]!.logLikelihood - logLikelihood)
    if (!(error < 1e-3)) t.fail(`request ${i}: ${found[i]!.logLikelihood} for ${logLikelihood}`)
    if (found[i]!.greedy !== greedy) t.fail(`request ${i}: greedy ${found[i]!.greedy}`)
  }
  t.ok(expected.some(({ greedy }) => greedy) && expected.some(({ greedy }) => !greedy), 'both kinds are among them')
  await ops.finish()
  t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
})

t.test('tokens: cut where the context ends, spaces go to the continuation, the left is lost', async t => {
  const tokenizer = await openTokenizer(model, 2048)
  const encode = async (text: string) => (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds()
  const [question] = [{ context: 'The baker counted  ', continuation: 'nine loaves' }]
  const [request] = await toRequests(tokenizer, [question], 100)
  const whole = await encode('The baker counted  nine loaves')
  t.strictSame([...request!.tokens], whole, 'no token is added')
  t.equal(request!.asked, whole.length - (await encode('The baker counted')).length)
  const [short] = await toRequests(tokenizer, [question], request!.asked)
  t.strictSame([...short!.tokens], whole.slice(-request!.asked - 1))
  t.equal(short!.lost, whole.length - request!.asked - 1)
  await t.rejects(toRequests(tokenizer, [question], request!.asked - 1), { message: /the continuation of an item has \d+ tokens/ })
  await t.rejects(toRequests(tokenizer, [{ context: ' ', continuation: 'x' }], 9), { message: /the context of an item is empty/ })
})

t.test('marks and standard errors', t => {
  t.equal(written([0.5, 0.25]), '0.5000 ± 0.2500')
  t.equal(written([1, Number.NaN]), '1.0000', 'of one item')
  t.equal(written([1, null]), '1.0000', 'and as JSON keeps it')
  t.equal(written([0.25, 0.0433]), '0.2500 ± 0.0433')
  t.equal(written([2272218, 1e6]), '2.272e+6 ± 1.000e+6')
  t.strictSame(measured([1, 0, 0, 1]), [0.5, Math.sqrt(1 / 3 / 4)])
  const say = (...values: number[]) => values.map(logLikelihood => ({ logLikelihood, greedy: logLikelihood > -1 }))
  const item = (gold: number, ...lengths: number[]) => ({ questions: [], gold, lengths })
  const items = [item(0, 1, 10), item(1, 2, 2)]
  const answers = [say(-3, -4), say(-1, -2)]
  const marks = mark('piqa', items, answers)
  t.strictSame(marks.acc, [0.5, 0.5])
  t.strictSame(marks.accNorm, [0, 0], 'the longer choice wins where length counts')
  t.equal(mark('boolq', items, answers).accNorm, undefined)
  const lambada = mark('lambada', [item(0, 1), item(0, 1)], [say(-0.5), say(-1.5)])
  t.strictSame(lambada.acc, [0.5, 0.5])
  t.strictSame(lambada.perplexity, [Math.E, Math.E * 0.5])
  t.end()
})

/** A row of a model in the folder of results itself. */
const quantized = {
  ...{ path: '.', weights: 1, bitsPerWeight: 2, bytesOriginal: 1, bytesQuantized: 1 },
  ...{ proxyErrorMean: 0, proxyErrorMax: 0, proxyErrorByLinear: '{}' },
}
type Saved = Map<string, Readonly<Record<string, unknown>>>
const checkpointIn = (saved: Saved): Checkpoint => ({
  save: async (name, value) => void saved.set(name, JSON.parse(JSON.stringify(value)) as Record<string, unknown>),
  load: async name => (saved.has(name) ? { value: saved.get(name)!, tensors: {} } : undefined),
  list: async () => [...saved.keys()],
  drop: async name => void saved.delete(name),
})

t.test('the stage: both models, and a stopped run asks only what was not answered', async t => {
  const row = { source: model, ...quantized }
  const saved: Saved = new Map()
  const context = contextOf(ops, { notes: [] }, { out: model, checkpoint: checkpointIn(saved) })
  const run = async () => {
    const [out] = await runStage(tasksStage, { data, tasks: ['arc_easy', 'lambada'] }, [row], context)
    return JSON.parse(out!.tasks) as Record<string, Record<string, { items: number; acc: [number, number]; perplexity?: [number, number] }>>
  }
  const first = await run()
  t.strictSame([...saved.keys()].sort(), ['original-arc_easy-0', 'original-lambada-0', 'quantized-arc_easy-0', 'quantized-lambada-0'])
  t.strictSame(first.arc_easy?.original, first.arc_easy?.quantized, 'one folder as both')
  t.equal(first.lambada?.original?.items, 2)
  t.ok(first.lambada!.original!.perplexity![0] > 1)
  saved.set('original-lambada-0', { answers: [[{ logLikelihood: 0, greedy: true }], [{ logLikelihood: 0, greedy: true }]] })
  saved.delete('quantized-lambada-0')
  const second = await run()
  t.strictSame(second.lambada?.original?.acc, [1, 0], 'what was stored is taken')
  t.strictSame(second.lambada?.quantized, first.lambada?.quantized, 'what was not is asked again')
  const { table } = tasksStage.report!({ ...row, tasks: JSON.stringify(first) })
  t.strictSame(
    table.rows.map(([label]) => label),
    ['arc_easy acc', 'arc_easy accNorm', 'lambada acc', 'lambada perplexity'],
  )
})

t.test('a resumed run notes the cut questions of what was stored, too', async t => {
  const long = temporary(t)
  writeFileSync(join(long, 'boolq.jsonl'), lines([{ ...made.boolq[0], passage: 'Roswick is a town. '.repeat(200) }, made.boolq[0]!]))
  const saved: Saved = new Map()
  const run = async (): Promise<string[]> => {
    const told: Told = { notes: [] }
    const context = contextOf(ops, told, { out: model, checkpoint: checkpointIn(saved) })
    await runStage(tasksStage, { data: long, tasks: ['boolq'] }, [quantized], context)
    return told.notes
  }
  const first = await run()
  t.strictSame(first, ["quantized: boolq: 2 questions are longer than the model's 512 positions and lose tokens on the left."])
  t.strictSame([...saved.keys()], ['quantized-boolq-0'])
  t.strictSame(await run(), first)
  saved.set('quantized-boolq-0', { answers: saved.get('quantized-boolq-0')?.answers })
  t.strictSame(await run(), [], 'of a checkpoint that does not say, nothing is known')
})

t.test('pipe eval --tasks', async t => {
  const { code, stdout, stderr } = await startedPipe(['eval', model, '--tasks', 'lambada,boolq', '--data', data, '--json'])
  t.equal(code, 0, stderr)
  const results = JSON.parse(stdout) as Record<string, { items: number; logLikelihoods: number[][]; perplexity?: [number, number] }>
  t.equal(results.boolq?.logLikelihoods[0]?.length, 2)
  const mean = results.lambada!.logLikelihoods.reduce((sum, [x]) => sum + x!, 0) / 2
  t.ok(Math.abs(results.lambada!.perplexity![0] - Math.exp(-mean)) < 1e-9)
  const text = await pipe(['eval', model, '--tasks', 'arc_easy', '--data', data, '--limit', '2'])
  t.match(text.stdout, /^arc_easy {7}acc {8}[01]\.\d{4} ± [01]\.\d{4} {3}2 items\narc_easy {7}accNorm/)
})

t.test('mistakes are named', async t => {
  const bad = temporary(t)
  writeFileSync(join(bad, 'piqa.jsonl'), lines([made.piqa[0]!, { goal: 'x', sol1: 'y', label: 0 }]))
  writeFileSync(join(bad, 'boolq.jsonl'), '{"passage": ')
  writeFileSync(join(bad, 'winogrande.jsonl'), lines([{ ...made.winogrande[0], answer: '3' }]))
  writeFileSync(join(bad, 'arc_easy.jsonl'), lines([{ ...arc, answerKey: 'D' }]))
  writeFileSync(join(bad, 'a_lambada.jsonl'), '')
  writeFileSync(join(bad, 'b_lambada.jsonl'), '')
  for (const [task, where, message] of [
    ['piqa', /piqa\.jsonl {2}line 2$/, /"sol2" must be a text, and it is missing\./],
    ['boolq', /line 1$/, /not valid JSON/],
    ['winogrande', /line 1$/, /"answer" must be a number from 1 to 2, and it is "3"\./],
    ['arc_easy', /line 1$/, /"answerKey" must be one of choices\.label, and it is "D"\./],
    ['hellaswag', /./, /expected one \.jsonl file with "hellaswag" in its name and found none\./],
    ['lambada', /./, /found a_lambada\.jsonl, b_lambada\.jsonl\./],
  ] as const)
    await t.rejects(readItems(bad, task), { where, message }, task)
  writeFileSync(join(bad, 'hellaswag.jsonl'), Buffer.from('{"query": "\xe9"}', 'latin1'))
  await t.rejects(readItems(bad, 'hellaswag'), { where: /hellaswag\.jsonl$/, message: 'the file is not UTF-8 text.' })
  mkdirSync(join(bad, 'arc_challenge.jsonl'))
  await t.rejects(readItems(bad, 'arc_challenge'), { name: 'PipeError', message: 'expected a text file and found a folder.' })
  for (const [label, shown] of [[null, 'null'], ['', '""'], ['-1', '"-1"'], [0.5, '0.5'], [[], '\\[\\]'], [2, '2']] as const) {
    writeFileSync(join(bad, 'piqa.jsonl'), lines([{ ...made.piqa[0], label }]))
    const message = new RegExp(`"label" must be a number from 0 to 1, and it is ${shown}\\.`)
    await t.rejects(readItems(bad, 'piqa'), { message }, `label ${shown}`)
  }
  for (const [choices, message] of [
    [{ ...arc.choices, label: [1, 2, 3] }, '"choices.label" must be a list of texts, and it is [1,2,3].'],
    [{ ...arc.choices, text: [] }, '"choices.text" must be a list of texts, and it is [].'],
    [{ text: arc.choices.text }, '"choices.label" must be a list of texts, and it is missing.'],
  ] as const) {
    writeFileSync(join(bad, 'arc_easy.jsonl'), lines([{ ...arc, choices }]))
    await t.rejects(readItems(bad, 'arc_easy'), { message })
  }
  writeFileSync(join(bad, 'piqa.jsonl'), `\uFEFF${lines([made.piqa[0]!])}`)
  t.equal((await readItems(bad, 'piqa')).length, 1, 'a byte-order mark is no part of the first line')
  await t.rejects(readItems(join(bad, 'none'), 'piqa'), { message: /expected a folder of tasks and found nothing\./ })
  const unknown = await pipe(['eval', model, '--tasks', 'arc_eazy', '--data', bad])
  t.equal(unknown.code, 2)
  t.match(unknown.stderr, /There is no task "arc_eazy"\. Did you mean "arc_easy"\?/)
  const nothing = await pipe(['eval', model])
  t.equal(nothing.code, 2)
  t.match(nothing.stderr, /expected --text FILE or --tasks NAMES\./)
})
