/** A model rounded on one, two and three CPU devices of one thread each, with little memory, killed on three and resumed on two: the same bytes. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { twoGigabytes, writeSynthetic } from '../../fixtures/make/synthetic.js'
import { codebooks } from '../../native/codebooks/index.js'
import { loadGraph } from '../../pipeline/load-graph.js'
import { runGraph } from '../../pipeline/run.js'
import { stages } from '../../stages/index.js'
import { root, startPipe, temporary } from '../helpers.js'
import { openWith } from '../native/devices.js'

const threads = { PIPE_THREADS: '1' }
const files = (out: string): string[] =>
  readdirSync(join(out, 'cache'), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.parquet'))
    .sort()

t.test('one, two, three devices; killed on three, resumed on two', async t => {
  const folder = temporary(t)
  writeSynthetic(join(folder, 'model'), { ...twoGigabytes, layers: 2, hidden: 64, intermediate: 160, heads: 4, kvHeads: 2, headDim: 16 })
  const file = join(folder, 'graph.json')
  const text = join(root, 'fixtures/tiny-llama/calibration.jsonl')
  const steps = [
    { use: 'model', path: './model' },
    { use: 'calibrate', text, sequences: 2, length: 64 },
    { use: 'hessian' },
    { use: 'rht' },
    { use: 'round', codebook: { use: 'scalar', K: 2 } },
    { use: 'pack' },
  ]
  writeFileSync(file, JSON.stringify({ name: 'devices', seed: 0, stages: steps }))
  const graph = await loadGraph(file, { stages })
  const run = async (count: number, out: string, to = 'pack', memory = 1e9) => {
    const [ops, ...others] = await Promise.all(Array.from({ length: count }, () => openWith(threads)))
    return runGraph(graph, { out, ops: ops as NonNullable<typeof ops>, others, memory, part: { to }, versions: use => codebooks[use]?.version })
  }
  const before = join(folder, 'before')
  await run(1, before, 'hessian')
  const little = join(folder, 'little')
  await run(1, little, 'hessian', 1e5)
  t.strictSame(files(little), files(before), 'memory for less than what is kept')
  for (const name of files(before))
    t.ok(readFileSync(join(little, 'cache', name)).equals(readFileSync(join(before, 'cache', name))), `little memory: ${name}`)
  const begun = (): string => {
    const out = mkdtempSync(join(folder, 'out-'))
    cpSync(before, out, { recursive: true })
    return out
  }

  const [one, killed] = [begun(), begun()]
  await run(1, one)
  const expected = files(one)
  const hessians = files(before).length
  t.ok(expected.length >= 2 * hessians && expected.length % hessians === 0, 'H, and what round and pack store of every batch')
  const same = (out: string, message: string): void => {
    t.strictSame(files(out), expected)
    for (const name of expected)
      t.ok(readFileSync(join(out, 'cache', name)).equals(readFileSync(join(one, 'cache', name))), `${message}: ${name}`)
  }
  for (const count of [2, 3]) {
    const out = begun()
    const { devices } = await run(count, out)
    same(out, `${count} devices`)
    t.equal(devices.length, count)
    for (const { batches, opSeconds } of devices) t.ok(batches > 0 && opSeconds > 0, 'every device had work')
  }

  const running = startPipe(['run', file, '--out', killed, '--device', 'cpu,cpu,cpu', '--json'], { env: threads })
  await running.saw(/(?:"batch-finished"[^\n]*"cached":false,"bytes":[1-9][^\n]*\n[\s\S]*?){3}/)
  running.kill('SIGKILL')
  await running.finished
  const kept = files(killed).length - hessians
  t.ok(kept >= 3, `${kept} batches were stored when it was killed`)
  const { devices } = await run(2, killed)
  const finished = devices.reduce((sum, { batches }) => sum + batches, 0)
  t.equal(finished, expected.length - hessians - kept, 'nothing that was stored is done again')
  same(killed, 'killed on three devices, resumed on two')
})
