/** pipe plan: what would run, what is cached, and why. */
import { planGraph } from '../planning.js'
import { planText } from '../report.js'
import { type OpenOptions, openGraph } from './open.js'
import { examples, type Register, runOptions } from './wiring.js'

export const register: Register = (program, wiring) => {
  runOptions(program.command('plan <graph.json>'))
    .description(
      'What would run, what is cached, and why: which input of which stage changed, old → new. With estimated time, memory and disk. Runs nothing.',
    )
    .option('--json', 'the plan as JSON')
    .addHelpText(
      'after',
      examples(
        ['Before the first run', 'pipe plan graphs/qtip-2bit.json'],
        ['What another code would change', 'pipe plan graphs/qtip-2bit.json --set round.codebook.K=3'],
      ),
    )
    .action(async (file: string, o: OpenOptions & { json?: true }) => {
      const { graph, options } = await openGraph(wiring, file, o)
      const plan = await planGraph(graph, options)
      wiring.print(o.json ? `${JSON.stringify(plan)}\n` : planText(plan, { edges: true }))
    })
}
