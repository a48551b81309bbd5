/** A random Llama of two small blocks in a folder, with the bundled tokenizer, and runs of graphs on it: for tests that train. */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Subject } from 'rxjs'
import type { Ops } from '../../native/ops.js'
import type { Event, RunResult } from '../../pipeline/events.js'
import { loadGraph } from '../../pipeline/load-graph.js'
import { runGraph } from '../../pipeline/run.js'
import { stages } from '../../stages/index.js'
import { writeSafetensors } from '../../stages/model/safetensors.js'
import { root } from '../helpers.js'
import { normals } from './run-stage.js'
import { readAll } from './safetensors-reader.js'

const [d, h, g, f, vocab, layers] = [64, 4, 2, 96, 2048, 2]

/** Writes the model into `folder`, f32. With `untied`, it has a head of its own. */
export async function writeSmallModel(folder: string, { untied = false } = {}): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const config = {
    architectures: ['LlamaForCausalLM'],
    dtype: 'float32',
    hidden_size: d,
    intermediate_size: f,
    num_attention_heads: h,
    num_key_value_heads: g,
    num_hidden_layers: layers,
    vocab_size: vocab,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: !untied,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) cpSync(join(root, 'fixtures/tiny-llama', file), join(folder, file))
  const entry = (name: string, shape: readonly number[], rms: number, mean = 0) => ({
    name,
    shape,
    dtype: 'f32' as const,
    read: async () => {
      const values = normals(
        shape.reduce((a, b) => a * b, 1),
        name,
      ).map(x => mean + rms * x)
      return new Uint8Array(values.buffer)
    },
  })
  const matrix = (name: string, m: number, n: number) => entry(`${name}.weight`, [m, n], 0.7 / Math.sqrt(n))
  const blocks = Array.from({ length: layers }, (_, i) => {
    const at = `model.layers.${i}`
    const kv = (d / h) * g
    return [
      entry(`${at}.input_layernorm.weight`, [d], 0.1, 1),
      entry(`${at}.post_attention_layernorm.weight`, [d], 0.1, 1),
      matrix(`${at}.self_attn.q_proj`, d, d),
      matrix(`${at}.self_attn.k_proj`, kv, d),
      matrix(`${at}.self_attn.v_proj`, kv, d),
      matrix(`${at}.self_attn.o_proj`, d, d),
      matrix(`${at}.mlp.up_proj`, f, d),
      matrix(`${at}.mlp.gate_proj`, f, d),
      matrix(`${at}.mlp.down_proj`, d, f),
    ]
  })
  const entries = [
    entry('model.embed_tokens.weight', [vocab, d], 0.5),
    ...blocks.flat(),
    entry('model.norm.weight', [d], 0.1, 1),
    ...(untied ? [matrix('lm_head', vocab, d)] : []),
  ]
  await writeSafetensors(join(folder, 'model.safetensors'), entries, { format: 'pt' })
}

export const notes = (events: readonly Event[]): string[] => events.flatMap(event => (event.kind === 'note' ? [event.text] : []))

export interface SmallRun extends RunResult {
  readonly events: readonly Event[]
  /** Of the model it wrote, by name. */
  readonly tensors: ReadonlyMap<string, Buffer>
}

/** Names of tensors that are not in both, bit for bit. (The test runner takes seconds to compare megabytes.) */
export const differing = (a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): string[] =>
  [...new Set([...a.keys(), ...b.keys()])].filter(name => a.get(name)?.equals(b.get(name) ?? Buffer.of()) !== true)

/** Runs of the small model. They share what is stored, but for those that name a folder of their own. With `head`, it is rounded, too. */
export function smallRuns(ops: Ops, folder: string, model: string, { head = false } = {}) {
  const text = join(root, 'fixtures/tiny-llama/calibration.jsonl')
  const test = join(root, 'fixtures/tiny-llama/test.jsonl')
  /** These stages between hessian and pack. `stop`: end the run at this event. `guided`: parameters of hessian, with gradients. */
  const run = async (
    middle: readonly object[],
    { apart = 'shared', stop, guided }: { apart?: string; stop?: (event: Event) => boolean; guided?: object } = {},
  ): Promise<SmallRun> => {
    const list = [
      { use: 'model', path: model, ...(head && { head }) },
      { use: 'calibrate', text, sequences: 16, length: 32, ...(guided && { gradients: true }) },
      { use: 'hessian', ...(guided && { weight: 'gradient', ...guided }) },
      ...middle,
      { use: 'pack' },
      { use: 'write' },
      { use: 'evaluate', text: test, sequences: 16, length: 32 },
    ]
    const out = join(folder, apart)
    mkdirSync(out, { recursive: true })
    writeFileSync(join(folder, 'graph.json'), JSON.stringify({ name: 'small', stages: list }))
    const graph = await loadGraph(join(folder, 'graph.json'), { stages })
    const events = new Subject<Event>()
    const seen: Event[] = []
    const abort = new AbortController()
    events.subscribe(event => {
      seen.push(event)
      if (stop?.(event)) abort.abort(new Error('stop'))
    })
    const result = await runGraph(graph, { out, ops, events, memory: 1e9, signal: abort.signal })
    const { tensors } = readAll(join(out, 'model/model.safetensors'))
    return { ...result, events: seen, tensors: new Map([...tensors].map(([name, { bytes }]) => [name, Buffer.from(bytes)])) }
  }
  return { text, run }
}
