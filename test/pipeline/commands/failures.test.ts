/** What people get wrong, through the commands: one clear sentence, no stack, the right exit code, and nothing half made. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { writeSynthetic } from '../../../fixtures/make/synthetic.js'
import { root, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'

const size = { layers: 2, hidden: 64, intermediate: 128, heads: 4, kvHeads: 2, headDim: 16, vocab: 2048 } as const
const here = temporary(t)
const model = join(here, 'model')
writeSynthetic(model, { ...size, tied: false, dtype: 'f32', shard: 200_000, seed: 1 })
const lines = readFileSync(join(root, 'fixtures/tiny-llama/calibration.jsonl'), 'utf8').split('\n', 8)
writeFileSync(join(here, 'text.jsonl'), lines.join('\n'))
const stages: readonly Readonly<Record<string, unknown>>[] = [
  { use: 'model', path: './model' },
  { use: 'calibrate', text: './text.jsonl', sequences: 2, length: 32 },
  { use: 'hessian' },
  { use: 'rht' },
  { use: 'round', codebook: { use: 'scalar', K: 2 } },
  { use: 'pack' },
  { use: 'write' },
]
let made = 0

/** The graph with parameters of stages changed. */
function graphWith(changes: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {}): string {
  const path = join(here, `graph-${made++}.json`)
  writeFileSync(path, JSON.stringify({ name: 'g', seed: 0, stages: stages.map(stage => ({ ...stage, ...changes[stage.use as string] })) }))
  return path
}

/** A copy of the model with something wrong in it. */
function broken(spoil: (folder: string) => void): string {
  const folder = join(here, `model-${made++}`)
  cpSync(model, folder, { recursive: true })
  spoil(folder)
  return folder
}
const shard = (folder: string, i: number): string =>
  join(folder, readdirSync(folder).filter(name => name.endsWith('.safetensors'))[i] as string)

/** Rewrites the header of the second shard; its first tensor is handed over. */
const lying = (change: (tensor: Record<string, unknown>, other: Record<string, unknown>) => void) => (folder: string) => {
  const path = shard(folder, 1)
  const bytes = readFileSync(path)
  const end = 8 + Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.subarray(8, end).toString()) as Record<string, Record<string, unknown>>
  const [one, other] = Object.keys(header).filter(name => name !== '__metadata__')
  change(header[one as string] as Record<string, unknown>, header[other as string] as Record<string, unknown>)
  const text = JSON.stringify(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(path, Buffer.concat([length, Buffer.from(text), bytes.subarray(end)]))
}

async function fails(t: Test, args: readonly string[], code: number, said: RegExp): Promise<void> {
  const result = await pipe(args)
  t.equal(result.code, code, `exit code of ${said}`)
  t.match(result.stderr, said)
  t.notMatch(result.stderr, /\n\s+at |bug in pipe/, 'no stack')
  t.equal(result.stdout, '')
}

/** The run fails so, and leaves no checkpoint and no result. */
async function runFails(t: Test, graph: string, code: number, said: RegExp): Promise<void> {
  const out = join(here, `out-${made++}`)
  await fails(t, ['run', graph, '--out', out, '--device', 'cpu'], code, said)
  t.notOk(existsSync(join(out, 'model')) || existsSync(join(out, 'result.json')), 'nothing that looks finished')
}

t.test('checkpoints that are damaged, cut short, or lie', async t => {
  const cases: [(folder: string) => void, RegExp][] = [
    [folder => rmSync(join(folder, 'config.json')), /^model {2}\S+config\.json\n {2}expected this file and found none\./],
    [folder => writeFileSync(join(folder, 'config.json'), '{"a":'), /config\.json\n {2}is not valid JSON: /],
    [folder => rmSync(shard(folder, 1)), /the shard model-00002-of-00004\.safetensors \(\d+ tensors\) is missing/],
    [
      folder => truncateSync(shard(folder, 1), statSync(shard(folder, 1)).size - 1000),
      /of a file of \d+ bytes: the file is truncated, or its header lies\./,
    ],
    [folder => truncateSync(shard(folder, 0), 20), /its header claims \d+ bytes but the file has 20: it is truncated\./],
    [folder => truncateSync(shard(folder, 0), 0), /expected at least 8 bytes and found 0/],
    [lying(tensor => Object.assign(tensor, { dtype: 'F4' })), /has the element type "F4"; known are F64, /],
    [lying(tensor => Object.assign(tensor, { data_offsets: [-8, 0] })), /has the offsets \[-8,0\], not \[from, to\]/],
    [lying((tensor, other) => Object.assign(tensor, { data_offsets: other.data_offsets })), /bytes, but its offsets \[\d+, \d+\] say \d+/],
    [lying(tensor => Object.assign(tensor, { shape: [2 ** 40, 2 ** 40] })), /^model {2}\S+\.safetensors\n {2}tensor "/],
  ]
  for (const [spoil, said] of cases) await runFails(t, graphWith({ model: { path: broken(spoil) } }), 1, said)
  const none = graphWith({ model: { path: broken(folder => rmSync(join(folder, 'config.json'))) } })
  await fails(t, ['plan', none], 1, /config\.json\n {2}expected this file and found none\.\n {2}Give the folder [^\n]+\n$/)
  const cut = broken(folder => truncateSync(shard(folder, 2), 1000))
  await fails(t, ['eval', cut, '--text', join(here, 'text.jsonl'), '--device', 'cpu'], 1, /safetensors\n {2}.*truncated/)
  await fails(t, ['export', cut, '--to', 'dense', '--out', join(here, 'dense')], 1, /safetensors\n {2}.*truncated/)
  t.notOk(existsSync(join(here, 'dense')))
})

t.test(
  'weights that are no numbers, tokenizers and texts that are none: told of the stage, not of a batch that it had nothing to do with',
  async t => {
    const notANumber = broken(folder => {
      const bytes = readFileSync(shard(folder, 1))
      bytes.writeFloatLE(Number.NaN, bytes.length - 400)
      writeFileSync(shard(folder, 1), bytes)
    })
    await runFails(
      t,
      graphWith({ model: { path: notANumber } }),
      1,
      /\ncalibrate .*\n {2}"model\.layers\.\S+" has 1 elements that are NaN or infinite/,
    )
    const none = broken(folder => rmSync(join(folder, 'tokenizer.json')))
    await runFails(t, graphWith({ model: { path: none } }), 2, /stages\[1\] calibrate {2}\S+tokenizer\.json\n {2}expected this file and found none/)
    for (const [name, content, said] of [
      ['short.txt', 'Hello.', /stages\[1\] calibrate {2}\S+short\.txt\n {2}the text is too short: it gives \d tokens and one window takes 32\./],
      ['broken.jsonl', '{"text":"a"}\n{"text": \n', /stages\[1\] calibrate {2}\S+broken\.jsonl\n {2}line 2 is not valid JSON\./],
      ['other.jsonl', '{"content":"a"}\n', /line 1 has no "text"/],
      ['bytes.txt', Buffer.from([0xff, 0xfe, 0x41, 0x80]), /the file is not UTF-8 text/],
    ] as const) {
      writeFileSync(join(here, name), content)
      await runFails(t, graphWith({ calibrate: { text: `./${name}` } }), 2, said)
    }
  },
)

t.test('texts and lengths of all stages are looked at before any of them runs', async t => {
  const best = ['plan', 'graphs/best-2bit.json', '--out', join(here, 'planned')]
  for (const stage of ['calibrate', 'finetune', 'distill', 'evaluate'])
    await fails(
      t,
      [...best, '--set', `${stage}.length=1024`],
      2,
      new RegExp(`\\] ${stage} .*\n  sequences of 1024 tokens are longer than the 512 positions the model was made for`),
    )
  for (const [text, said] of [
    ['', 'the text is too short: it gives 1 tokens and one window takes 256'],
    ['one line', 'the text is too short: it gives \\d tokens and one window takes 256'],
    [Buffer.from([0xff, 0xfe, 0x41, 0x80]), 'the file is not UTF-8 text'],
  ] as const) {
    writeFileSync(join(here, 'test.txt'), text)
    await fails(t, [...best, '--set', `test=${join(here, 'test.txt')}`], 2, new RegExp(`\\] evaluate {2}\\S+test\\.txt\n  ${said}`))
  }
  writeFileSync(join(here, 'long.txt'), 'A town by the sea, été. '.repeat(4000))
  t.equal((await pipe([...best, '--set', `test=${join(here, 'long.txt')}`])).code, 0, 'of a long text the beginning is enough')
})

t.test('predictions that are no numbers are no results', async t => {
  const overflows = broken(folder => {
    const path = join(folder, 'config.json')
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
    config.rope_parameters = { rope_type: 'linear', rope_theta: 10000, factor: 1e-300 }
    writeFileSync(path, JSON.stringify(config))
  })
  const said = /predictions are no numbers: what flows through it overflows\./
  const data = join(here, 'tasks')
  mkdirSync(data)
  writeFileSync(join(data, 'piqa.jsonl'), '{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}')
  await fails(t, ['generate', overflows, '--prompt', 'Once upon', '--device', 'cpu'], 1, said)
  await fails(t, ['eval', overflows, '--text', join(here, 'text.jsonl'), '--length', '32', '--device', 'cpu'], 1, said)
  await fails(t, ['eval', overflows, '--tasks', 'piqa', '--data', data, '--device', 'cpu'], 1, said)
})

t.test('whatever is under way, a signal ends it with one word and code 130', async t => {
  for (const args of [
    ['eval', model, '--text', join(here, 'text.jsonl'), '--length', '32'],
    ['export', model, '--to', 'dense', '--out', join(here, 'stopped')],
    ['bench', model, '--prompt', '2', '--tokens', '2'],
  ]) {
    const { code, stdout, stderr } = await pipe([...args, '--device', 'cpu'], { signal: AbortSignal.abort() })
    t.same([code, stdout], [130, ''], `${args[0]}`)
    t.match(stderr, /\nStopped\.\n$/)
  }
  t.notOk(readdirSync(here).some(name => /^\.?stopped/.test(name)))
})

t.test('places that are taken, or are none, before any work is done', async t => {
  const file = join(here, 'taken-file')
  writeFileSync(file, 'mine')
  const to = (out: string) => ['export', model, '--to', 'dense', '--out', out, '--device', 'cpu']
  await fails(t, to(file), 1, /taken-file\n {2}expected a new or an empty folder and found a file\./)
  t.notOk(readdirSync(here).some(name => name.startsWith('.taken-file')))
  await fails(t, to(join(file, 'below')), 1, /Can't write the checkpoint: a file is where a folder has to be/)
  await fails(t, to(''), 2, /argument '' is invalid\. Give the name of a folder\./)
  const bench = (json: string) => ['bench', model, '--prompt', '2', '--tokens', '2', '--json', json, '--device', 'cpu']
  await fails(t, bench(join(here, 'none/at/all.json')), 1, /^--json\n {2}there is no folder for /)
  await fails(t, bench(here), 1, /is a folder, not the name of a file\./)
})

t.test('graphs that are none', async t => {
  for (const [content, said] of [
    ['', /\.json {2}line 1, column 1\n {2}This is no JSON: expected a value and found the end of the file\./],
    ['[]', /A graph is a JSON object with "name" and "stages"/],
    ['{"name":"g","stages":[]}', /"stages" is a list with at least one stage/],
    ['{"name":"g","stages":[{"use":"./mine.js"}]}', /"\.\/mine\.js" is not there: /],
  ] as const) {
    const path = join(here, `none-${made++}.json`)
    writeFileSync(path, content)
    await runFails(t, path, 2, said)
  }
  await runFails(t, graphWith({ model: { path: './nowhere' } }), 2, /stages\[0\] model {2}path\n {2}There is no such folder: /)
  const one = (what: string) => new RegExp(`^\\S+ {2}stages\\[\\d\\] \\w+\\n {2}${what} came\\.\\n$`)
  await runFails(t, graphWith({ calibrate: { precision: 'f8' } }), 2, one('precision: expected one of "auto", "f32", "bf16", and "f8"'))
  await runFails(t, graphWith({ round: { scale: -1 } }), 2, one('scale: must be > 0, and -1'))
  await runFails(t, graphWith({ calibrate: { sequences: '4' } }), 2, /sequences: must be integer, and "4" came\./)
})

t.test('an output folder that is a file, is below one, or has no name that a file system takes', async t => {
  const file = join(here, 'file')
  writeFileSync(file, 'mine')
  const to = (out: string, said: RegExp) => fails(t, ['run', graphWith(), '--out', out, '--device', 'cpu'], 1, said)
  await to(file, /file\/\.lock\n {2}Can't write the lock of the output folder: a file is where a folder has to be \(/)
  await to(join(file, 'below'), /: something on the way is a file, not a folder \(/)
  await to(join(here, 'x'.repeat(300)), /: its name is too long/)
  t.equal(readFileSync(file, 'utf8'), 'mine', 'what was there is there')
})

t.test('what the user has where a run writes: refused before any work, and left as it is', async t => {
  const out = join(here, 'taken')
  mkdirSync(out)
  const args = ['run', graphWith(), '--out', out, '--device', 'cpu', '--json']
  const refused = async (name: string, make: (path: string) => void, said: RegExp): Promise<void> => {
    const path = join(out, name)
    make(path)
    const before = statSync(path).mtimeMs
    for (const words of [args, ['plan', ...args.slice(1)]]) {
      const { code, stdout, stderr } = await pipe(words)
      t.equal(code, 1, name)
      t.match(stderr, said)
      t.notMatch(stdout, /"kind":"(plan|batch-started)"/)
    }
    t.equal(statSync(path).mtimeMs, before)
    rmSync(path, { recursive: true })
  }
  const file = (text: string) => (path: string) => writeFileSync(path, text)
  const mine = (expected: string, found: string) =>
    new RegExp(
      `\n? {2}expected ${expected} that a run has written, or nothing, and found ${found}\\.\n {2}Move it away, or write elsewhere with --out\\.\n`,
    )
  await refused('result.json', file('{"mine": 1}\n'), mine('results', 'another file'))
  await refused('result.json', file(''), mine('results', 'another file'))
  await refused('result.json', path => mkdirSync(path), mine('results', 'a folder'))
  await refused('events.jsonl', file('{"event": "mine"}\n'), mine('events', 'another file'))
  await refused('cache', file('mine'), mine('a cache', 'a file'))
  const folderWith = (name: string) => (path: string) => {
    mkdirSync(path)
    writeFileSync(join(path, name), 'mine')
  }
  await refused('cache', folderWith('notes.tmp'), mine('a cache', '"notes.tmp" in it'))
  await refused('model', folderWith('notes.txt'), mine('a checkpoint', '"notes.txt" in it'))
  writeFileSync(join(out, 'result.json.77-0.tmp'), 'half')
  writeFileSync(join(out, 'notes.tmp'), 'mine')
  writeFileSync(join(out, 'events.jsonl'), '\0'.repeat(5000))
  t.equal((await pipe(args)).code, 0, 'with all that out of the way it runs')
  t.strictSame(readdirSync(out).sort(), ['cache', 'events.jsonl', 'model', 'notes.tmp', 'result.json'], 'what a killed run left is gone')
  writeFileSync(join(out, 'events.jsonl'), '{"sec')
  for (const name of ['.model.old', '.model.partial']) folderWith('half')(join(out, name))
  t.equal((await pipe(args)).code, 0, 'and again over its own')
  t.strictSame(readdirSync(out).sort(), ['cache', 'events.jsonl', 'model', 'notes.tmp', 'result.json'], 'though nothing was to be written')
  renameSync(join(out, 'model'), join(out, '.model.old'))
  t.equal((await pipe([...args, '--to', 'hessian'])).code, 0)
  t.ok(existsSync(join(out, 'model/config.json')), 'what was to be replaced when a run was killed, and was not, is back')
  const inside = ['plan', graphWith({ model: { path: out } }), '--out', out, '--device', 'cpu']
  await fails(t, inside, 1, /taken\n {2}expected a folder for the outputs alone and found the one that model reads \(path\)\.\n {2}Write/)
})
