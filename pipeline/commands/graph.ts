/** pipe graph: draw a pipeline. */
import { writeFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { Static } from '@sinclair/typebox'
import { Option } from 'commander'
import type { Table } from '../define.js'
import { makeFolder, writing } from '../disk.js'
import { type Arrow, drawMermaid, drawSvg, drawText, type Drawing } from '../drawing.js'
import type { Graph } from '../graph.js'
import { loadGraph } from '../load-graph.js'
import { collect, examples, type Register } from './wiring.js'

export const register: Register = (program, { stages, print }) => {
  program
    .command('graph <graph.json>')
    .description('Draw the pipeline: stages, and on the edges the tables with their columns.')
    .option('--set <name=value>', 'an input or a parameter, as for pipe run', collect, [])
    .option('--svg <file>', 'write a picture')
    .addOption(new Option('--mermaid', 'print a Mermaid flowchart, for Markdown').conflicts('svg'))
    .addHelpText(
      'after',
      examples(
        ['In the terminal', 'pipe graph graphs/qtip-2bit.json'],
        ['As a picture', 'pipe graph graphs/qtip-2bit.json --svg qtip.svg'],
      ),
    )
    .action(async (file: string, o: { set: string[]; svg?: string; mermaid?: true }) => {
      const drawing = draw(await loadGraph(file, { stages, set: o.set }))
      if (o.svg !== undefined) {
        const svg = resolve(o.svg)
        const write = async (): Promise<void> => {
          await makeFolder(dirname(svg))
          await writeFile(svg, drawSvg(drawing))
        }
        await writing('the picture', svg, write, 'Without --svg it is printed.', '--svg')
        print(`${o.svg}\n`)
      } else print(o.mermaid ? drawMermaid(drawing) : drawText(drawing, process.stdout.columns))
    })
}

function draw({ name, about, stages }: Graph): Drawing {
  const output = (id: string): Table | undefined => stages.find(stage => stage.id === id)?.stage.output
  const arrows = stages.flatMap(stage =>
    stage.from.map((from): Arrow => {
      const table = output(from)
      const known = new Set(stages.find(({ id }) => id === from)?.from.flatMap(above => Object.keys(output(above)?.columns ?? {})))
      return {
        from,
        to: stage.id,
        table: table?.name ?? '',
        live: table?.live ?? false,
        columns: Object.keys(table?.columns ?? {}).map(column => ({ name: column, added: known.size > 0 && !known.has(column) })),
      }
    }),
  )
  const boxes = stages.map(({ id, use, params, stage }) => ({
    id: id === use ? id : `${id} (${use})`,
    lines: [stage.about, ...Object.entries(params as Static<typeof stage.params>).map(([key, value]) => `${key} ${show(value)}`)],
  }))
  const named = new Map(stages.map(({ id }, i) => [id, boxes[i]?.id ?? id]))
  return {
    title: `${name}: ${about}`,
    boxes,
    arrows: arrows.map(arrow => ({ ...arrow, from: named.get(arrow.from) ?? '', to: named.get(arrow.to) ?? '' })),
  }
}

/** A parameter in one line: `{ use: "trellis/hyb", K: 2 }` as trellis/hyb K=2. */
function show(value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return typeof value === 'string' ? value : JSON.stringify(value)
  const { use, ...rest } = value as Readonly<Record<string, unknown>>
  return [...(use === undefined ? [] : [`${use}`]), ...Object.entries(rest).map(([key, inner]) => `${key}=${show(inner)}`)].join(' ')
}
