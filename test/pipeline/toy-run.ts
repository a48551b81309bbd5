/** node toy-run.js GRAPH OUT: a run of toy stages in a process of its own. Prints a line a batch, then the results. */
import { Subject } from 'rxjs'
import type { Event } from '../../pipeline/events.js'
import { loadGraph } from '../../pipeline/load-graph.js'
import { runGraph } from '../../pipeline/run.js'
import { fakeOps } from './fake.js'
import { stages } from './toys.js'

const [, , graph = '', out = ''] = process.argv
const events = new Subject<Event>()
events.subscribe(event => {
  if (event.kind === 'batch-finished' && !event.cached) process.stdout.write(`ran ${event.stage} ${event.batch}\n`)
})
const { results } = await runGraph(await loadGraph(graph, { stages }), { out, ops: fakeOps(), events, memory: 1e9 })
process.stdout.write(`${JSON.stringify(results)}\n`)
