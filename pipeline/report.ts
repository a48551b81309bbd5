/** A plan before the run and the results after it, as tables. */
import { relative } from 'node:path'
import type { OpStats } from '../native/device.js'
import type { RunResult } from './events.js'
import type { Plan, StagePlan } from './plan.js'
import { bytes, count, duration, plural, table, wrap } from './text.js'

/** A path as short as it can be written from here. */
export const shortPath = (path: string): string => {
  const near = relative(process.cwd(), path)
  return near === '' ? '.' : near.startsWith('../..') ? path : near
}

/** Stage by stage: what will happen and why, how long, how much; with `edges`, the columns that flow out of each. */
export function planText(plan: Plan, o: { edges: boolean }): string {
  const runs = plan.stages.filter(({ action }) => action === 'run' || action === 'partly')
  const rows = plan.stages.map(stage => [
    stage.id, what(stage, plan), batches(stage),
    stage.action === 'run' || stage.action === 'partly' ? estimate(stage.seconds, duration) : '',
    stage.memoryBytes === undefined || stage.action === 'cached' ? '' : bytes(stage.memoryBytes),
    stage.diskBytes === undefined || stage.diskBytes === 0 ? '' : bytes(stage.diskBytes),
    stage.why.join('; '),
  ])
  const lines = [
    `${plan.graph}  →  ${shortPath(plan.out)}  on ${plan.backend}`, '',
    ...table(['stage', 'will', 'batches', 'time', 'memory', 'disk', 'why'], rows), '',
  ]
  if (runs.length === 0) lines.push('Nothing will run: everything is stored.')
  else {
    const known = runs.reduce((sum, { seconds = 0 }) => sum + seconds, 0)
    const unknown = runs.filter(({ seconds }) => seconds === undefined).map(({ id }) => id)
    const facts = [
      known === 0 ? 'time unknown until they have run once' : `about ${duration(known)}${unknown.length > 0 ? ` and what ${unknown.join(', ')} will take` : ''}`,
      ...(plan.memoryBytes === undefined ? [] : [`${bytes(plan.memoryBytes)} of tensors at a time`]),
      ...(plan.diskBytes === undefined ? [] : [`${bytes(plan.diskBytes)} of disk`]),
    ]
    lines.push(`${plural(runs.length, 'stage')} of ${plan.stages.length} will run: ${facts.join(', ')}.`)
  }
  if (o.edges) {
    lines.push('', 'Columns on the edges')
    for (const stage of plan.stages) {
      lines.push(`  ${stage.id} gives ${stage.table}${stage.from.length > 0 ? ` (reads ${stage.reads.join(', ') || 'no column'})` : ''}`)
      for (const line of wrap(stage.gives.map((column, i) => i < stage.gives.length - 1 ? `${column},` : column), 96)) lines.push(`    ${line}`)
    }
  }
  return `${lines.join('\n')}\n`
}

const estimate = (value: number | undefined, show: (value: number) => string): string => value === undefined ? '?' : show(value)

function what(stage: StagePlan, plan: Plan): string {
  switch (stage.action) {
    case 'run': return 'run'
    case 'partly': return 'run, in part'
    case 'cached': return 'be taken from the cache'
    case 'source': return 'be read'
    case 'skipped': return 'not be needed'
    case 'inline': {
      const last = plan.stages.filter(({ segment }) => segment === stage.segment).at(-1)
      return `run inside ${last?.id ?? 'the next'}`
    }
  }
}

function batches({ batches: known, action }: StagePlan): string {
  if (known === undefined) return action === 'run' || action === 'partly' ? '?' : ''
  if (known.cached === 0 || known.missing === 0) return `${known.cached + known.missing}`
  return `${known.missing} of ${known.cached + known.missing}`
}

/** Native ops by the time they took. */
export function opsText(stats: Readonly<Record<string, OpStats>>): string {
  const rows = Object.entries(stats).sort(([, a], [, b]) => b.seconds - a.seconds)
    .map(([name, { calls, seconds }]) => [name, `${calls}`, duration(seconds), calls > 0 ? `${count((seconds / calls) * 1e6)} µs` : ''])
  return rows.length === 0 ? '' : `\n${table(['op', 'calls', 'time', 'a call'], rows).join('\n')}\n`
}

/** What the stages reported, then what they took, then where everything is. */
export function resultText(result: RunResult, paths: readonly (readonly [name: string, path: string])[]): string {
  const lines: string[] = []
  for (const { columns, rows } of result.tables) lines.push('', ...table(columns, rows))
  const rows = result.stages.map(({ id, seconds, peakRssBytes, batches: { run, cached } }) => [
    id, run > 0 ? duration(seconds) : '–', peakRssBytes > 0 ? bytes(peakRssBytes) : '–', `${run}`, `${cached}`,
  ])
  lines.push('', ...table(['stage', 'time', 'peak memory', 'run', 'cached'],
    [...rows, ['all', duration(result.seconds), bytes(result.peakRssBytes), '', '']]))
  lines.push('', ...table([], paths.map(([name, path]) => [name, shortPath(path)])))
  return `${lines.join('\n')}\n`
}
