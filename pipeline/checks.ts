/** What stages have to say of their parameters once it is known which model they are for. */
import type { AnyRow } from './arrow.js'
import type { StageAbove } from './define.js'
import { type Mistake, PipeError } from './error.js'
import type { Node, SourceRows } from './survey.js'

/** Asks every stage, those inside others too, about the rows of the sources above it. Throws all their mistakes. */
export async function checkParameters(nodes: readonly Node[], rowsOf: (source: Node) => Promise<SourceRows>): Promise<void> {
  const mistakes: Mistake[] = []
  for (const node of nodes) {
    const asked = [node.stage, ...Object.values(node.stage.inner ?? {}).flat()].filter(({ stage }) => stage.check !== undefined)
    if (asked.length === 0) continue
    const rows: AnyRow[] = []
    for (const source of sourcesOf(node)) for (const batch of (await rowsOf(source)).values()) rows.push(...batch)
    for (const one of asked) mistakes.push(...((await one.stage.check?.(rows, one.params, one.where, stagesAbove(node))) ?? []))
  }
  if (mistakes.length > 0) throw new PipeError('graph', mistakes)
}

function sourcesOf(node: Node): Set<Node> {
  return node.kind === 'source' ? new Set([node]) : new Set(node.from.flatMap(above => [...sourcesOf(above)]))
}

function stagesAbove(node: Node): StageAbove[] {
  const above = new Set(node.from)
  for (const one of above) for (const from of one.from) above.add(from)
  return [...above].map(({ stage }) => ({ name: stage.stage.name, params: stage.params }))
}
