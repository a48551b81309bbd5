/** pipe run: the plan, live progress, and the results. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Subject } from 'rxjs'
import { PipeError } from '../error.js'
import type { Event } from '../events.js'
import type { Plan } from '../plan.js'
import { Progress } from '../progress.js'
import { opsText, planText, resultText } from '../report.js'
import { runGraph } from '../run.js'
import { type OpenOptions, openGraph } from './open.js'
import { examples, type Register, runOptions, type Wiring } from './wiring.js'

interface Options extends OpenOptions {
  json?: true
  verbose?: true
}

export const register: Register = (program, wiring) => {
  runOptions(program.command('run <graph.json>'))
    .description('Run the graph. What is stored already is not computed again: the same command goes on where it stopped.')
    .option('--json', 'events as JSON lines on stdout, and nothing else there')
    .option('--verbose', 'each native op with its time; stacks of errors')
    .addHelpText(
      'after',
      examples(
        ['The bundled model at 2 bits a weight with QTIP', 'pipe run graphs/qtip-2bit.json'],
        ['Your model, your text', 'pipe run graphs/qtip-2bit.json --set model=Llama-3.2-1B --set text=c4.txt'],
        ['Another code, and where to put it', 'pipe run graphs/qtip-2bit.json --set round.codebook.K=3 --out out/three'],
        ['On two GPUs', 'pipe run graphs/qtip-2bit.json --device cuda:0,cuda:1'],
        ['Round again, whatever is stored', 'pipe run graphs/qtip-2bit-fast.json --force round'],
      ),
    )
    .action((file: string, o: Options) => run(wiring, file, o))
}

async function run(wiring: Wiring, file: string, o: Options): Promise<void> {
  const events = new Subject<Event>()
  const line = (event: Event) => {
    if (o.json) wiring.print(`${JSON.stringify(event)}\n`)
  }
  const progress = new Progress(wiring.stderr, { color: wiring.color })
  events.subscribe(event => {
    line(event)
    if (event.kind === 'plan') wiring.stderr.write(`${planText(event.plan, { edges: false })}\n`)
    progress.next(event)
  })
  wiring.signal.addEventListener('abort', () => progress.clear(), { once: true })
  let failed = false
  let stages: Plan['stages'] = []
  events.subscribe(event => {
    if (event.kind === 'failed') failed = true
    if (event.kind === 'plan') stages = event.plan.stages
  })
  try {
    const { graph, options } = await openGraph(wiring, file, o)
    const result = await runGraph(graph, { ...options, events })
    progress.close()
    if (o.json) return
    const paths = (
      [
        ['checkpoint', 'model'],
        ['results', 'result.json'],
        ['events', 'events.jsonl'],
        ['cache', 'cache'],
      ] as const
    )
      .map(([name, path]) => [name, join(options.out, path)] as const)
      .filter(([, path]) => existsSync(path))
    wiring.print(resultText(result, stages, paths))
    if (o.verbose) wiring.print(opsText([options.ops, ...(options.others ?? [])].map(ops => ops.device.stats())))
  } catch (error) {
    progress.close()
    // What goes wrong before the engine runs is an event too, for those who read events only.
    const { code, text } = error instanceof PipeError ? error : { code: 'failed', text: String(error) }
    if (!failed) line({ seconds: 0, kind: 'failed', code, text })
    throw error
  }
}
