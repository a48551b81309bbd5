/** finetune: without epochs the flat list; with them a lower loss; the same bits again, in one run or two. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Subject } from 'rxjs'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Event, RunResult } from '../../pipeline/events.js'
import { loadGraph } from '../../pipeline/graph.js'
import { runGraph } from '../../pipeline/run.js'
import { stages } from '../../stages/index.js'
import { root, temporary, testDevice } from '../helpers.js'
import { readAll } from './safetensors-reader.js'
import { writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model)
const text = join(root, 'fixtures/tiny-llama/calibration.jsonl')
const test = join(root, 'fixtures/tiny-llama/test.jsonl')
const codebook = { use: 'trellis/hyb', L: 12, K: 2, Q: 9 }
const tuning = { text, sequences: 56, length: 32, validation: 8, epochs: 2, batch: 4, rate: 1e-3, vectorRate: 1e-3 }
const inner = [{ use: 'rht' }, { use: 'round', codebook }]

interface Options {
  readonly set?: string[]
  readonly stop?: (event: Event) => boolean
}

/** Runs the graph with these stages between hessian and pack, in a folder shared by those of one name. */
async function run(name: string, middle: readonly object[], { set = [], stop }: Options = {}): Promise<RunResult & { events: Event[] }> {
  const list = [
    { use: 'model', path: model },
    { use: 'calibrate', text, sequences: 16, length: 32 },
    { use: 'hessian' },
    ...middle,
    { use: 'pack' },
    { use: 'write' },
    { use: 'evaluate', text: test, sequences: 16, length: 32 },
  ]
  const file = join(folder, `${name}.json`)
  writeFileSync(file, JSON.stringify({ name: 'small', stages: list }))
  const graph = await loadGraph(file, { stages, set })
  const events = new Subject<Event>()
  const seen: Event[] = []
  const abort = new AbortController()
  events.subscribe(event => {
    seen.push(event)
    if (stop?.(event)) abort.abort(new Error('stop'))
  })
  const out = join(folder, name)
  mkdirSync(out, { recursive: true })
  return { ...(await runGraph(graph, { out, ops, events, memory: 1e9, signal: abort.signal })), events: seen }
}
const bytesOf = (name: string): Map<string, Buffer> =>
  new Map([...readAll(join(folder, name, 'model/model.safetensors')).tensors].map(([key, { bytes }]) => [key, bytes]))
const notes = (events: readonly Event[]): string[] => events.flatMap(event => (event.kind === 'note' ? [event.text] : []))
/** The validation loss of each block when its last linear was done. */
const losses = ({ events }: { events: readonly Event[] }): number[] =>
  notes(events).flatMap(note => Number(/^finetune layer .* (\S+) at the end$/.exec(note)?.[1] ?? Number.NaN) || [])
const kl = (result: RunResult): number => Number(result.results.kl)

let flat: RunResult
let tuned: RunResult & { events: Event[] }

t.test('without epochs it gives, bit for bit, what the flat list gives', async t => {
  flat = await run('flat', inner)
  await run('none', [{ use: 'finetune', ...tuning, perLinear: inner, epochs: 0 }])
  t.strictSame(bytesOf('none'), bytesOf('flat'))
})

t.test('training brings each block nearer to the original', async t => {
  const still = losses(await run('still', [{ use: 'finetune', ...tuning, perLinear: inner, rate: 0, vectorRate: 0 }]))
  tuned = await run('tuned', [{ use: 'finetune', ...tuning, perLinear: inner }])
  t.equal(still.length, 2, 'a sentence a block')
  for (const [layer, loss] of losses(tuned).entries())
    t.ok(loss < 0.9 * (still[layer] ?? 0), `layer ${layer}: validation loss ${loss}, without training ${still[layer]}`)
  const [before, after] = [bytesOf('flat'), bytesOf('tuned')]
  for (const name of ['model.layers.0.input_layernorm.weight', 'model.layers.1.mlp.down_proj.SV', 'model.layers.0.self_attn.v_proj.SU'])
    t.notSame(after.get(name), before.get(name), `${name} was trained`)
  t.strictSame(after.get('model.embed_tokens.weight'), before.get('model.embed_tokens.weight'), 'the embedding was not')
})

t.test('the same bits again, and when a run is stopped between blocks and goes on', async t => {
  const stop = (event: Event): boolean => event.kind === 'batch-finished' && event.stage === 'finetune' && event.batch === 'block/0'
  await t.rejects(run('resumed', [{ use: 'finetune', ...tuning, perLinear: inner }], { stop }), { code: 'stopped' })
  t.ok(existsSync(join(folder, 'resumed/cache/checkpoints')), 'what entered the block was kept')
  const { stages: done } = await run('resumed', [{ use: 'finetune', ...tuning, perLinear: inner }])
  t.match(done.find(({ id }) => id === 'finetune')?.batches, { run: 2 })
  t.strictSame(bytesOf('resumed'), bytesOf('tuned'))
})

t.test('a rate that diverges: the best state is kept, and said so', async t => {
  const result = await run('diverged', [{ use: 'finetune', ...tuning, perLinear: inner, rate: 1e30, vectorRate: 1e30 }])
  t.match(
    notes(result.events).find(note => note.includes('no finite number')),
    /finetune model\.layers\.0\.self_attn\.v_proj: the loss was no finite number in epoch 1; the best state before is kept\. Lower the learning rates \(rate 1e\+30/,
  )
  t.ok(Number.isFinite(kl(result)) && kl(result) < 1.3 * kl(flat), `KL ${kl(result)}, without training ${kl(flat)}`)
})

t.test('a validation split larger than the text is refused in a sentence', async t => {
  await t.rejects(run('short', [{ use: 'finetune', ...tuning, perLinear: inner, validation: 56 }]), {
    code: 'input',
    message: /The text gives 56 sequences of 32 tokens, and 56 are for validation: none is left to train on\./,
  })
})
