/** --set name=value: inputs of the graph, and parameters by a dotted path: model=DIR, round.codebook.K=3. */
import { didYouMean, type Mistake } from './error.js'

export interface Setting {
  /** As it was given. */
  readonly argument: string
  readonly path: readonly string[]
  readonly text: string
}

export function parseSettings(set: readonly string[], mistakes: Mistake[]): Setting[] {
  return set.flatMap(argument => {
    const [, name, text] = /^([^=]+)=(.*)$/s.exec(argument) ?? []
    const path = name?.trim().split('.')
    if (path === undefined || text === undefined || path.includes('') || path.includes('__proto__')) {
      mistakes.push({
        where: `--set ${argument}`,
        message: 'Expected name=value: an input (model=DIR) or a parameter (round.codebook.K=3).',
      })
      return []
    }
    return [{ argument, path, text }]
  })
}

interface Target {
  readonly id: string
  readonly name: string
  readonly given: Record<string, unknown>
  /** By parameter: the stages inside it. */
  readonly inner: ReadonlyMap<string, readonly unknown[]>
}

/** Puts settings of parameters into `stages`; returns, a stage, which of its parameters paths in them are relative to `directory`. */
export function applySettings<T extends Target>(
  settings: readonly Setting[],
  stages: readonly T[],
  inputs: readonly { readonly name: string }[],
  directory: string,
  mistakes: Mistake[],
): Map<T, { path: string; directory: string }[]> {
  const bases = new Map<T, { path: string; directory: string }[]>()
  for (const { argument, path, text } of settings) {
    const [first = '', ...rest] = path
    if (rest.length === 0) {
      if (inputs.some(input => input.name === first)) continue
      const known = [...inputs.map(input => input.name), ...stages.map(stage => stage.id)]
      const isStage = stages.some(stage => stage.id === first)
      mistakes.push({
        where: `--set ${argument}`,
        message: isStage
          ? `"${first}" is a stage; say which parameter: ${first}.name=value.`
          : `"${first}" is no input of this graph.${didYouMean(first, known)}`,
        hint: `Inputs: ${inputs.map(input => input.name).join(', ') || 'none'}`,
      })
      continue
    }
    const byId = stages.filter(stage => stage.id === first)
    const targets = byId.length > 0 ? byId : stages.filter(stage => stage.name === first)
    if (targets.length === 0) {
      const ids = stages.map(stage => stage.id)
      mistakes.push({
        where: `--set ${argument}`,
        message: `No stage is called "${first}".${didYouMean(first, ids)}`,
        hint: `Stages: ${ids.join(', ')}`,
      })
    }
    for (const target of targets) {
      const list = target.inner.get(rest[0] ?? '')
      if (list !== undefined && (rest.length < 3 || !Object.hasOwn(list, rest[1] ?? ''))) {
        mistakes.push({
          where: `--set ${argument}`,
          message: `The stages inside ${target.id} are those that the graph says; their parameters can be set.`,
          hint: 'By the name of the inner stage, such as --set round.codebook.K=3.',
        })
        continue
      }
      const beside = besideList(target.given, rest)
      if (beside !== undefined) {
        const { length, at } = beside
        mistakes.push({
          where: `--set ${argument}`,
          message: `${[target.id, ...rest.slice(0, at)].join('.')} is a list of ${length}: expected a number from 0 to ${length}, and "${rest[at]}" came.`,
          hint: `Numbers count from 0; ${length} adds one at the end.`,
        })
        continue
      }
      put(target.given, rest, parsed(text))
      bases.set(target, [...(bases.get(target) ?? []), { path: rest.join('.'), directory }])
    }
  }
  return bases
}

/** JSON where it is JSON, else the text itself. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** The list in which the path names no entry, and where on the path: a name would be lost there, a far number fill it up to there. */
function besideList(into: unknown, path: readonly string[], at = 0): { length: number; at: number } | undefined {
  const key = path[at]
  if (key === undefined || typeof into !== 'object' || into === null) return undefined
  if (Array.isArray(into) && !(/^(0|[1-9]\d*)$/.test(key) && Number(key) <= into.length)) return { length: into.length, at }
  return besideList((into as Readonly<Record<string, unknown>>)[key], path, at + 1)
}

function put(into: Record<string, unknown>, [key = '', ...rest]: readonly string[], value: unknown): void {
  if (rest.length === 0) {
    into[key] = value
    return
  }
  const inner = into[key]
  const holder = typeof inner === 'object' && inner !== null ? (inner as Record<string, unknown>) : {}
  into[key] = holder
  put(holder, rest, value)
}
