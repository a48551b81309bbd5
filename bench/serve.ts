/**
 * What `pipe serve` gives several clients at once: tokens a second of all together and of each, time to the first text and
 * between pieces, over HTTP with streaming, as their programs see it. Every client sends one request after the other, each
 * with a prompt of its own.
 *
 *   --model DIR        default: the bundled model, and it quantized at 2 bits (graphs/qtip-2bit-fast.json)
 *   --clients 1,8 --requests 4 --tokens 128 --characters 300 --device cpu
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { root } from './commit.js'
import type { Figures, Options, Row } from './table.js'

const cli = join(root, 'dist/pipeline/cli.js')
const bundled = join(root, 'fixtures/tiny-llama')

/** One answer as its client saw it: milliseconds to the first text, between its pieces, and the counts that the server sent. */
interface Seen {
  readonly first: number
  readonly gaps: readonly number[]
  readonly tokens: number
  readonly promptTokens: number
}

async function ask(url: string, body: object): Promise<Seen> {
  const started = performance.now()
  const response = await fetch(`${url}/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  })
  if (!response.ok || response.body === null) throw new Error(`${response.status}: ${await response.text()}`)
  const times: number[] = []
  let usage: { prompt_tokens: number; completion_tokens: number } | undefined
  let rest = ''
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    const events = (rest + bytes).split('\n\n')
    rest = events.pop() ?? ''
    for (const event of events) {
      const data = event.replace(/^data: /, '')
      if (data === '[DONE]') continue
      const { choices, usage: counts } = JSON.parse(data) as { choices: { text: string }[]; usage?: typeof usage }
      if (choices[0]?.text) times.push(performance.now())
      usage = counts ?? usage
    }
  }
  const [first] = times
  if (usage === undefined || first === undefined) throw new Error('an answer came without text or counts')
  const gaps = times.slice(1).map((time, i) => time - (times[i] ?? 0))
  return { first: first - started, gaps, tokens: usage.completion_tokens, promptTokens: usage.prompt_tokens }
}

async function started(model: string, device: string): Promise<{ url: string; server: ChildProcess }> {
  const server = spawn(process.execPath, [cli, 'serve', model, '--port', '0', '--device', device], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  // Read to its end: a server whose stderr nobody takes would stop.
  const url = new Promise<string>((found, failed) => {
    server.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text
      const [, address] = /on (http:\S+): \d+ slots of \d+ positions\n/.exec(said) ?? []
      if (address !== undefined) found(address)
    })
    server.on('exit', () => failed(new Error(`pipe serve ended: ${said}`)))
  })
  return { url: await url, server }
}

const percentile = (values: readonly number[], p: number): number =>
  [...values].sort((a, b) => a - b)[Math.round(p * (values.length - 1))] ?? Number.NaN
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length

async function measured(url: string, clients: number, o: { requests: number; tokens: number; prompts: readonly string[] }): Promise<Row> {
  const model = ((await (await fetch(`${url}/models`)).json()) as { data: { id: string }[] }).data[0]?.id
  const sent = async (i: number): Promise<Seen> =>
    ask(url, { model, prompt: o.prompts[i % o.prompts.length], max_tokens: o.tokens, temperature: 0.8, seed: i })
  await sent(-1 + o.prompts.length) // steps of one row are recorded
  const begun = performance.now()
  const seen = (
    await Promise.all(
      Array.from({ length: clients }, async (_, client) => {
        const mine: Seen[] = []
        for (let r = 0; r < o.requests; r++) mine.push(await sent(client * o.requests + r))
        return mine
      }),
    )
  ).flat()
  const seconds = (performance.now() - begun) / 1000
  const tokens = seen.reduce((sum, one) => sum + one.tokens, 0)
  const [firsts, gaps] = [seen.map(({ first }) => first), seen.flatMap(({ gaps }) => gaps)]
  return {
    clients,
    requests: seen.length,
    'prompt tokens': mean(seen.map(one => one.promptTokens)),
    'tokens made': tokens,
    'tokens/s, all': tokens / seconds,
    'tokens/s, each': tokens / seconds / clients,
    'first text ms, 50 %': percentile(firsts, 0.5),
    'first text ms, most': percentile(firsts, 1),
    'between pieces ms, 50 %': percentile(gaps, 0.5),
    'between pieces ms, 99 %': percentile(gaps, 0.99),
  }
}

export async function run(o: Options): Promise<Figures> {
  const { device = 'cpu' } = o
  const prompts = readFileSync(join(bundled, 'test.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map(line => (JSON.parse(line) as { text: string }).text.slice(0, Number(o.characters ?? 300)))
  const folder = mkdtempSync(join(tmpdir(), 'pipe-serve-'))
  try {
    const models = [o.model ?? bundled]
    if (o.model === undefined) {
      const args = [
        'run',
        join(root, 'graphs/qtip-2bit-fast.json'),
        '--to',
        'write',
        '--out',
        join(folder, 'tiny-llama-2bit'),
        '--device',
        device,
      ]
      if (spawnSync(process.execPath, [cli, ...args], { stdio: ['ignore', 'ignore', 'inherit'] }).status !== 0)
        throw new Error('pipe run failed')
      models.push(join(folder, 'tiny-llama-2bit/model'))
    }
    const rows: Row[] = []
    for (const model of models) {
      const { url, server } = await started(model, device)
      try {
        const name = basename(model) === 'model' ? basename(join(model, '..')) : basename(model)
        for (const clients of (o.clients ?? '1,8').split(',').map(Number))
          rows.push({
            model: name,
            ...(await measured(url, clients, { requests: Number(o.requests ?? 4), tokens: Number(o.tokens ?? 128), prompts })),
          })
      } finally {
        server.kill('SIGTERM')
        await once(server, 'exit')
      }
    }
    return { device, rows }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
