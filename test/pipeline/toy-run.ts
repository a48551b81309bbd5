/**
 * node toy-run.js GRAPH OUT [hang|leave STAGE]: a run of toy stages in a process of its own. Prints a line a batch, then the results.
 * hang: the stage waits at row 2 for what never comes. leave: the process ends there, while a file is being written.
 */
import { join } from 'node:path'
import { Subject } from 'rxjs'
import { writeWhole } from '../../pipeline/disk.js'
import { PipeError } from '../../pipeline/error.js'
import type { Event } from '../../pipeline/events.js'
import { loadGraph } from '../../pipeline/load-graph.js'
import { runGraph } from '../../pipeline/run.js'
import { fakeOps } from './fake.js'
import { hooks, stages } from './toys.js'

const [, , graph = '', out = '', how, at] = process.argv
hooks.onRow = (stage, { i }) => {
  if (stage !== at || i !== 2) return
  if (how === 'hang') return new Promise(() => {})
  return writeWhole(join(out, 'cache/half.parquet'), async file => {
    await file.write('half')
    process.exit(130)
  }).then(() => {})
}
const events = new Subject<Event>()
events.subscribe(event => {
  if (event.kind === 'batch-finished' && !event.cached) process.stdout.write(`ran ${event.stage} ${event.batch}\n`)
})
try {
  const { results } = await runGraph(await loadGraph(graph, { stages }), { out, ops: fakeOps(), events, memory: 1e9 })
  process.stdout.write(`${JSON.stringify(results)}\n`)
} catch (error) {
  if (!(error instanceof PipeError)) throw error
  process.stderr.write(`${error.text}\n`)
  process.exitCode = error.exitCode
}
