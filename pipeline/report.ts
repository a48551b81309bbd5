/** A plan before the run and the results after it, as tables. */
import { relative } from 'node:path'
import type { OpStats } from '../native/device.js'
import type { ReportTable, RunResult } from './events.js'
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
  const meanwhile = plan.stages.some(({ scratchBytes }) => scratchBytes !== undefined)
  const rows = plan.stages.map(stage => [
    stage.id,
    what(stage, plan),
    batches(stage),
    stage.segment < 0 ? '' : stage.seconds === undefined ? '?' : `${stage.isGuess ? '~' : ''}${duration(stage.seconds)}`,
    stage.memoryBytes === undefined || stage.action === 'cached' ? '' : bytes(stage.memoryBytes),
    stage.diskBytes === undefined || stage.diskBytes === 0 ? '' : bytes(stage.diskBytes),
    ...(meanwhile ? [stage.scratchBytes === undefined ? '' : bytes(stage.scratchBytes)] : []),
    stage.why.join('; ').replaceAll(`${process.cwd()}/`, ''),
  ])
  const lines = [
    `${plan.graph}  →  ${shortPath(plan.out)}`,
    `on ${plan.devices.map(({ text }) => text).join(', ')}`,
    '',
    ...table(['stage', 'will', 'batches', 'time', 'memory', 'disk', ...(meanwhile ? ['on the way'] : []), 'why'], rows),
    '',
  ]
  if (runs.length === 0) lines.push('Nothing will run: everything is stored.')
  else {
    const parts = plan.stages.filter(({ segment }) => segment >= 0)
    const known = parts.reduce((sum, { seconds = 0 }) => sum + seconds, 0)
    const unknown = parts.filter(({ seconds }) => seconds === undefined).map(({ id }) => id)
    const facts = [
      known === 0
        ? 'time unknown until they have run once'
        : `about ${duration(known)}${unknown.length > 0 ? ` and what ${unknown.join(', ')} will take` : ''}`,
      ...(plan.memoryBytes === undefined ? [] : [`${bytes(plan.memoryBytes)} of tensors at a time`]),
      ...diskFacts(plan),
    ]
    lines.push(`${plural(runs.length, 'stage')} of ${plan.stages.length} will run: ${facts.join(', ')}.`)
    for (const { name, freeBytes, totalBytes, limitBytes } of plan.devices) {
      if (totalBytes === undefined) continue
      lines.push(`${name} has ${bytes(freeBytes)} of its ${bytes(totalBytes)} free; tensors may take ${bytes(limitBytes)} (--memory).`)
    }
    lines.push(...plan.warnings.map(warning => `Warning: ${warning}`))
    if (parts.some(({ isGuess }) => isGuess))
      lines.push('~ Estimated from sizes, within a factor of 3 or so; measured once the stage has run here.')
  }
  if (o.edges) lines.push('', 'Columns on the edges', ...edges(plan))
  return `${lines.join('\n')}\n`
}

/** What is needed on disk, and what stays where that is less. */
function diskFacts({ diskBytes, peakDiskBytes = diskBytes }: Plan): string[] {
  if (diskBytes === undefined || peakDiskBytes === undefined) return []
  return [
    peakDiskBytes > diskBytes
      ? `${bytes(peakDiskBytes)} of disk on the way, of which ${bytes(diskBytes)} stay`
      : `${bytes(diskBytes)} of disk`,
  ]
}

/** What flows out of each stage, and to whom; + marks the columns that its own input had not. */
function edges({ stages }: Plan): string[] {
  return stages.flatMap(stage => {
    const readers = stages.filter(({ from }) => from.includes(stage.id)).map(({ id }) => id)
    const name = (column: string) => column.split(' ')[0]
    const known = new Set(stages.filter(({ id }) => stage.from.includes(id)).flatMap(({ gives }) => gives.map(name)))
    const columns = stage.gives.map(column => (known.size > 0 && !known.has(name(column)) ? `+${column}` : column))
    const words = columns.map((column, i) => (i < columns.length - 1 ? `${column},` : column))
    return [`  ${stage.id} → ${readers.join(', ') || 'the end'}: ${stage.table}`, ...wrap(words, 96).map(line => `    ${line}`)]
  })
}

function what(stage: StagePlan, plan: Plan): string {
  switch (stage.action) {
    case 'run':
      return 'run'
    case 'partly':
      return 'run, in part'
    case 'cached':
      return 'be taken from the cache'
    case 'source':
      return 'be read'
    case 'skipped':
      return 'not be needed'
    case 'inline': {
      if (stage.segment < 0) return 'not be needed'
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

const perCall = (seconds: number): string => (seconds < 1e-3 ? `${count(seconds * 1e6)} µs` : duration(seconds))

/** Native ops of all devices by the time they took. */
export function opsText(devices: readonly Readonly<Record<string, OpStats>>[]): string {
  const sums = new Map<string, OpStats>()
  for (const [name, { calls, seconds }] of devices.flatMap(stats => Object.entries(stats))) {
    const sum = sums.get(name) ?? { calls: 0, seconds: 0 }
    sums.set(name, { calls: sum.calls + calls, seconds: sum.seconds + seconds })
  }
  const rows = [...sums]
    .sort(([, a], [, b]) => b.seconds - a.seconds)
    .map(([name, { calls, seconds }]) => [name, `${calls}`, duration(seconds), perCall(seconds / calls)])
  return rows.length === 0 ? '' : `\n${table(['op', 'calls', 'time', 'a call'], rows).join('\n')}\n`
}

/** The tables of stages that no other reporting stage comes after: those repeat what was reported before them. */
function last(tables: readonly ReportTable[], stages: Plan['stages']): readonly ReportTable[] {
  const above = (id: string): string[] => (stages.find(stage => stage.id === id)?.from ?? []).flatMap(from => [from, ...above(from)])
  const repeated = new Set(tables.flatMap(({ stage }) => above(stage)))
  return tables.filter(({ stage }) => !repeated.has(stage))
}

/** What the stages of the plan reported, then what they took, then where everything is. */
export function resultText(result: RunResult, stages: Plan['stages'], paths: readonly (readonly [name: string, path: string])[]): string {
  const lines: string[] = []
  for (const { columns, rows } of last(result.tables, stages)) lines.push('', ...table(columns, rows))
  const rows = result.stages.map(({ id, seconds, peakRssBytes, batches: { run, cached } }) => [
    id,
    seconds > 0 ? duration(seconds) : '–',
    peakRssBytes > 0 ? bytes(peakRssBytes) : '–',
    ...(run + cached > 0 ? [`${run}`, `${cached}`] : ['', '']),
  ])
  lines.push(
    '',
    ...table(
      ['stage', 'time', 'peak memory', 'run', 'cached'],
      [...rows, ['all', duration(result.seconds), bytes(result.peakRssBytes), '', '']],
    ),
  )
  if (result.devices.length > 1) {
    const share = (part: number) => (result.seconds > 0 ? `${Math.round((100 * part) / result.seconds)} %` : '–')
    const of = result.devices.map(({ device, seconds, opSeconds, batches, peakBytes, isLost }) => [
      isLost ? `${device}, lost` : device,
      duration(seconds),
      share(seconds),
      share(opSeconds),
      `${batches}`,
      bytes(peakBytes),
    ])
    lines.push('', ...table(['device', 'had work', 'of all', 'in ops', 'batches', 'peak tensors'], of))
  }
  lines.push(
    '',
    ...table(
      [],
      paths.map(([name, path]) => [name, shortPath(path)]),
    ),
  )
  return `${lines.join('\n')}\n`
}
