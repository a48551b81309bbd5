/** Stages inside a stage: the lists that some parameters are, checked as the graph's own is, and run on rows of the stage's choice. */
import { from, lastValueFrom, type OperatorFunction, toArray } from 'rxjs'
import type { AnyRow } from './arrow.js'
import type { AnyStage, Context, InnerStages, Table } from './define.js'
import { nothing } from './define.js'
import { checkEdges } from './edges.js'
import type { Mistake } from './error.js'
import type { BuiltInStages, GraphStage } from './graph.js'
import { HeldTensors } from './lazy.js'
import { holdRows, inputRow, isRef, onHost } from './passing.js'

/** What keeps a stage from being run inside another; undefined: nothing. */
export function whyNotInner(stage: AnyStage): string | undefined {
  if (Object.keys(stage.input.columns).length === 0) return 'reads no rows'
  if (stage.scope === 'stream') return 'needs to see all rows of the model'
  if (stage.inner !== undefined) return 'runs stages itself'
  return undefined
}

/** Every column that an inner stage reads is given by the one before, or by the stage around it; and what that needs comes out. */
export async function checkInner(outer: GraphStage, builtIn: BuiltInStages): Promise<Mistake[]> {
  const mistakes: Mistake[] = []
  for (const { parameter, input, output } of (outer.stage.inner ?? []) as readonly InnerStages<Table, Table>[]) {
    const list = outer.inner?.[parameter] ?? []
    if (list.length === 0) continue // told when parameters were checked
    for (const { where, stage } of list) {
      const why = whyNotInner(stage)
      if (why !== undefined) mistakes.push({ where, message: `${stage.name} can't be run inside ${outer.stage.name}: it ${why}.` })
    }
    if (mistakes.length > 0) continue
    const around = (id: string, stage: Partial<AnyStage>, ...from: string[]): GraphStage => ({
      ...outer,
      id,
      from,
      stage: { ...outer.stage, ...stage },
    })
    const ids = ['rows', ...list.map((_, i) => `${i}`)]
    const chain = list.map((stage, i) => ({ ...stage, id: `${i}`, from: [ids[i] as string] }))
    const given = around('rows', { input: nothing, output: input })
    const needed = around('result', { input: output }, ids.at(-1) as string)
    mistakes.push(...(await checkEdges([given, ...chain, needed], new Set(), builtIn)))
  }
  return mistakes
}

/** Runs the stages on these rows: see Context.inner. */
export async function runInner(stages: readonly GraphStage[], input: Table, rows: readonly AnyRow[], context: Context): Promise<AnyRow[]> {
  const inside: Context = { ...context, progress: () => {}, wanted: () => true }
  using held = new HeldTensors()
  let at = holdRows(input, rows, held)
  for (const [i, { stage, params }] of stages.entries()) {
    const operator = stage.operator(params, inside) as OperatorFunction<AnyRow, AnyRow>
    const made = await lastValueFrom(from(at.map(row => inputRow(stage, row, undefined))).pipe(operator, toArray()))
    context.signal.throwIfAborted()
    at = i < stages.length - 1 ? holdRows(stage.output, made, held) : await Promise.all(onHost(stage.output, made))
  }
  const settled = await held.settle(at.flatMap(row => Object.values(row).filter(isRef)))
  return at.map(row => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, isRef(value) ? settled.get(value) : value])))
}
