/** Edges are checked before anything runs: every column a stage reads is given by the stages it reads from. */
import type { AnyStage, Column, Columns } from './define.js'
import { didYouMean, type Mistake } from './error.js'
import type { BuiltInStages, GraphStage } from './graph.js'

/** 'f32 [n, n]', 'u32', as people read it. */
export const describeColumn = ({ kind, dtype, shape }: Column<unknown>): string =>
  kind === 'tensor' ? `${dtype} [${(shape ?? '').split(/\s+/).join(', ')}]` : kind

export async function checkEdges(
  stages: readonly GraphStage[],
  ids: ReadonlySet<string>,
  builtIn: BuiltInStages,
): Promise<Mistake[]> {
  const mistakes: Mistake[] = []
  for (const reader of stages) {
    const reads = reader.stage.input.columns as Columns
    if (Object.keys(reads).length > 0 && reader.from.length === 0) {
      mistakes.push({
        where: reader.where,
        message: `${reader.stage.name} reads rows, and no stage above gives any.`,
        hint: 'Begin with a stage that reads none (see: pipe stages).',
      })
    }
    for (const from of reader.from) {
      const giver = stages.find(stage => stage.id === from)
      if (giver === undefined) continue // told where it was named, or it could not be resolved
      for (const [name, column] of Object.entries(reads)) {
        const fault = faultOf(name, column, giver)
        if (fault === undefined) continue
        const before = await whoGives(name, giver, reader, builtIn)
        const dropped = aboveOf(giver, stages).some(stage => name in stage.stage.output.columns)
        mistakes.push({
          where: `${giver.where} → ${reader.where.split('  ').at(-1)}`,
          message: `${reader.stage.name} reads column "${name}" (${describeColumn(column)}) but ${fault}`,
          hint: dropped
            ? `Put "${reader.stage.name}" before "${giver.stage.name}", which drops it.`
            : before === undefined
              ? `What each stage reads and gives: pipe stages ${reader.stage.name}`
              : `Put "${before}" before "${reader.stage.name}".`,
        })
      }
    }
  }
  for (const { id, where, stage } of stages) {
    if (stage.output.live && ids.has(id) && !stages.some(reader => reader.from.includes(id))) {
      mistakes.push({
        where,
        message: `${stage.name} gives live tensors, which are never stored, and no stage reads them.`,
        hint: 'Put the stage that reads them after it.',
      })
    }
  }
  return mistakes
}

/** All stages whose rows come to this one, by way of others too. */
function aboveOf({ from }: GraphStage, stages: readonly GraphStage[]): GraphStage[] {
  return stages.filter(({ id }) => from.includes(id)).flatMap(stage => [stage, ...aboveOf(stage, stages)])
}

function faultOf(name: string, wanted: Column<unknown>, { stage }: GraphStage): string | undefined {
  const columns = stage.output.columns as Columns
  const given = columns[name]
  if (given === undefined) return `${stage.name} does not provide it.${name.length > 1 ? didYouMean(name, Object.keys(columns)) : ''}`
  const floats = ['float', 'f64', 'f32', 'f16', 'bf16']
  const fits =
    given.kind === wanted.kind && (given.dtype === wanted.dtype || (wanted.dtype === 'float' && floats.includes(given.dtype ?? '')))
  if (!fits) return `${stage.name} gives it as ${describeColumn(given)}.`
  return given.optional && !wanted.optional ? `in the rows of ${stage.name} it may be absent.` : undefined
}

/** A built-in stage that adds the column and could read what the giver gives; else any that adds it. */
async function whoGives(name: string, giver: GraphStage, reader: GraphStage, builtIn: BuiltInStages): Promise<string | undefined> {
  const adding: AnyStage[] = []
  for (const load of Object.values(builtIn)) {
    const { default: stage } = await load()
    if (
      name in stage.output.columns &&
      !(name in stage.input.columns) &&
      stage.name !== reader.stage.name &&
      stage.name !== giver.stage.name
    )
      adding.push(stage)
  }
  const fitting = adding.filter(stage => Object.keys(stage.input.columns).every(column => column in giver.stage.output.columns))
  return (fitting[0] ?? adding[0])?.name
}
