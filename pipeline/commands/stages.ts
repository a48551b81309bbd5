/** pipe stages: list the stages, or describe one. */
import type { AnyStage, Table } from '../define.js'
import { didYouMean, PipeError } from '../error.js'
import type { BuiltInStages } from '../graph.js'
import { columnText, type Parameter, parameters } from '../schema.js'
import { table } from '../text.js'
import { examples, type Register } from './wiring.js'

export const register: Register = (program, { stages, print }) => {
  program
    .command('stages [name]')
    .description('List the stages, or describe one: its parameters, the columns it reads and adds.')
    .addHelpText('after', examples(['All, in the order of the pipeline', 'pipe stages'], ['The parameters of one', 'pipe stages round']))
    .action(async (name: string | undefined) => {
      if (name !== undefined) return print(describe(await find(stages, name)))
      const loaded = await Promise.all(Object.values(stages).map(async load => (await load()).default))
      const lines = table(
        [],
        loaded.map(stage => [stage.name, stage.about]),
      )
      print(`${lines.join('\n')}\n\nOne of them in full: pipe stages <name>\n`)
    })
}

async function find(stages: BuiltInStages, name: string): Promise<AnyStage> {
  const load = stages[name]
  if (load !== undefined) return (await load()).default
  const known = Object.keys(stages)
  throw new PipeError('input', {
    message: `There is no stage "${name}".${didYouMean(name, known)}`,
    hint: `Known: ${known.join(', ')}`,
  })
}

/** A stage's page, for the terminal. */
export function describe(stage: AnyStage): string {
  const { input, output } = stage as { input: Table; output: Table }
  const rows = parameters(stage.params)
  const added = Object.entries(output.columns).filter(([name]) => !(name in input.columns))
  const dropped = Object.keys(input.columns).filter(name => !(name in output.columns))
  const columns = (of: [string, Table['columns'][string]][]) =>
    table(
      [],
      of.map(([name, column]) => [name, columnText(column), column.doc]),
    )
  const sections: [string, string[]][] = [
    ['Parameters', rows.length === 0 ? ['none'] : table([], rows.map(cells))],
    [`Reads (${input.name})`, Object.keys(input.columns).length === 0 ? ['nothing'] : columns(Object.entries(input.columns))],
    [
      `${added.length === Object.keys(output.columns).length ? 'Gives' : 'Adds'} (${output.name})`,
      added.length === 0 ? ['nothing'] : columns(added),
    ],
    ...(dropped.length === 0 ? [] : [['Drops', [dropped.join(', ')]] satisfies [string, string[]]]),
    [
      'Scope',
      [
        stage.scope === 'stream'
          ? 'stream: what comes out may depend on every row'
          : 'batch: batches run side by side and resume one by one',
        stage.cache === false || output.live
          ? 'not stored: runs together with the stage that reads it'
          : 'stored: one Parquet file a batch',
      ],
    ],
    ['In a graph', [example(stage.name, rows)]],
  ]
  const text = sections.map(([title, lines]) => [title, ...lines.map(line => `  ${line}`.trimEnd()), ''].join('\n'))
  return `${stage.name}, version ${stage.version}\n${stage.about}\n\n${text.join('\n')}`
}

const cells = ({ name, type, default: value, about }: Parameter): string[] => {
  // A long list would push the columns after it out of sight in every row.
  const [, uses] = /^\{ use: (.{30,}) \}$/.exec(type) ?? []
  return [
    name,
    uses === undefined ? type : '{ use: … }',
    value === '' ? 'must be given' : value === 'none' ? '' : `default ${value}`,
    uses === undefined ? about : `${about}: ${uses}`,
  ]
}

/** One line of JSON with the parameters that must be given, or else with the first that has a default. */
function example(use: string, rows: readonly Parameter[]): string {
  const top = rows.filter(({ name }) => !name.includes('.'))
  const required = top.filter(row => row.default === '')
  const shown = required.length > 0 ? required : top.filter(row => row.default !== 'none').slice(0, 1)
  const value = ({ name, type, default: fallback }: Parameter): string => {
    if (fallback !== '') return fallback
    const [, use] = /^\{ use: (\S+)/.exec(type) ?? []
    if (use !== undefined) return `{ "use": "${use}" }`
    return /^(file|directory|string)$/.test(type) ? `"$${name}"` : '…'
  }
  const params = shown.map(row => `, "${row.name}": ${value(row)}`)
  return `{ "use": "${use}"${params.join('')} }`
}
