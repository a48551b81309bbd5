/** Graph file → Graph: JSON read, inputs and --set filled in, stages resolved, parameters validated, edges in order. */
import { dirname, isAbsolute, relative, resolve } from 'node:path'
import { checkEdges } from './edges.js'
import { didYouMean, type Mistake, PipeError } from './error.js'
import type { BuiltInStages, Graph, GraphStage } from './graph.js'
import { type GraphInput, isObject, readGraph, readInputs } from './graph-file.js'
import { checkInner } from './inner.js'
import { checkParams, pathParams, placeOf, type Schema } from './params.js'
import { type Resolved, resolveStage } from './resolve.js'
import { applySettings, parseSettings } from './settings.js'

export interface LoadOptions {
  readonly stages: BuiltInStages
  /** 'model=DIR', 'round.codebook.K=3', as they stand behind --set. */
  readonly set?: readonly string[]
  /** What paths in `set` are relative to. Default: the working directory. */
  readonly directory?: string
}

/** A stage of the file on its way to a GraphStage. */
interface Draft {
  readonly where: string
  readonly use: string
  readonly name: string
  from: readonly string[] | undefined
  readonly given: Record<string, unknown>
  /** None where what is wrong was told already: its edges say nothing more. */
  resolved: Resolved | undefined
  /** By parameter: the stages inside it. */
  readonly inner: ReadonlyMap<string, readonly Draft[]>
  id: string
}

/** Reads, completes and checks a graph. Throws one PipeError of code 'graph' with every mistake found. */
export async function loadGraph(path: string, options: LoadOptions): Promise<Graph> {
  const directory = options.directory ?? process.cwd()
  const file = resolve(directory, path)
  const shown = isAbsolute(path) && !relative(directory, file).startsWith('..') ? relative(directory, file) : path
  const mistakes: Mistake[] = []
  const json = await readGraph(file, shown, mistakes)
  const settings = parseSettings(options.set ?? [], mistakes)
  const inputs = readInputs(json.inputs, file, shown, settings, directory, mistakes)
  const drafts = await readStages(json.stages, file, shown, options.stages, mistakes)
  nameStages(drafts, mistakes)
  const bases = applySettings(settings, drafts.flatMap(withInner), inputs, directory, mistakes)
  const { name, about, seed = 0 } = json
  if (!Number.isSafeInteger(seed)) mistakes.push({ where: shown, message: `"seed" is a whole number, and ${JSON.stringify(seed)} came.` })

  const ordered = connect(drafts, mistakes)
  const stages: GraphStage[] = []
  for (const draft of ordered) {
    const stage = finished(draft, inputs, bases, dirname(file), mistakes)
    if (stage !== undefined) stages.push(stage)
  }
  for (const stage of stages) mistakes.push(...(await checkInner(stage, options.stages)))
  mistakes.push(...(await checkEdges(stages, new Set(drafts.map(draft => draft.id)), options.stages)))
  if (mistakes.length > 0) throw new PipeError('graph', mistakes)
  return { file, name: String(name ?? ''), about: String(about ?? ''), seed: seed as number, inputs, stages }
}

async function readStages(json: unknown, file: string, shown: string, builtIn: BuiltInStages, mistakes: Mistake[]): Promise<Draft[]> {
  const drafts: Draft[] = []
  for (const [i, entry] of (Array.isArray(json) ? json : []).entries()) {
    const where = `${shown}  stages[${i}]`
    const draft = await readStage(entry, where, file, builtIn, mistakes)
    // What could not be read keeps its place: the stages around it are not each other's neighbours.
    drafts.push(draft ?? { where, use: '', name: `stages[${i}]`, resolved: undefined, id: '', from: undefined, given: {}, inner: new Map() })
  }
  return drafts
}

async function readStage(
  entry: unknown,
  at: string,
  file: string,
  builtIn: BuiltInStages,
  mistakes: Mistake[],
): Promise<Draft | undefined> {
  if (!isObject(entry) || typeof entry.use !== 'string') {
    mistakes.push({ where: at, message: 'A stage is an object that says which: { "use": "round", … }.' })
    return undefined
  }
  const { use, id, from, ...rest } = entry
  const given = structuredClone(rest)
  const found = await resolveStage(use as string, file, builtIn)
  const resolved = 'stage' in found ? found : undefined
  const name = resolved?.stage.name ?? (use as string)
  const where = `${at} ${typeof id === 'string' ? id : name}`
  if (!('stage' in found)) mistakes.push({ ...found, where: at })
  if (id !== undefined && (typeof id !== 'string' || !/^[a-zA-Z\d][\w-]*$/.test(id)))
    mistakes.push({ where, message: `"id" is a word of letters, digits and dashes, and ${JSON.stringify(id)} came.` })
  const list = typeof from === 'string' ? [from] : from
  const isList = list === undefined || (Array.isArray(list) && list.every(item => typeof item === 'string'))
  if (!isList) mistakes.push({ where, message: `"from" is the id of a stage or a list of ids, and ${JSON.stringify(from)} came.` })
  const inner = new Map<string, readonly Draft[]>()
  for (const { parameter } of resolved?.stage.inner ?? []) {
    const entries = given[parameter]
    if (!Array.isArray(entries)) continue // told when parameters are checked
    const drafts: Draft[] = []
    for (const [i, one] of entries.entries()) {
      const draft = await readStage(one, `${where}  ${parameter}[${i}]`, file, builtIn, mistakes)
      if (draft === undefined) continue
      drafts.push({ ...draft, id: draft.name })
      entries[i] = draft.given // so that --set finds it by either path
    }
    inner.set(parameter, drafts)
  }
  return {
    where,
    use: use as string,
    name,
    resolved: isList ? resolved : undefined,
    id: typeof id === 'string' ? id : '',
    from: isList ? (list as readonly string[] | undefined) : undefined,
    given,
    inner,
  }
}

/** For --set, which finds a stage by its name also inside another. */
const withInner = (draft: Draft): Draft[] => [draft, ...[...draft.inner.values()].flat().flatMap(withInner)]

/** The stage with its parameters, and the stages inside it with theirs. */
function finished(
  draft: Draft,
  inputs: readonly GraphInput[],
  bases: ReadonlyMap<Draft, readonly { path: string; directory: string }[]>,
  graphFolder: string,
  mistakes: Mistake[],
): GraphStage | undefined {
  const { where, id, use, from = [], resolved } = draft
  const inner: Record<string, readonly GraphStage[]> = {}
  for (const [parameter, drafts] of draft.inner) {
    const stages = drafts.map(one => finished(one, inputs, bases, graphFolder, mistakes))
    inner[parameter] = stages.filter(stage => stage !== undefined)
    draft.given[parameter] = inner[parameter].map(stage => ({ use: stage.use, ...stage.params }))
  }
  if (resolved === undefined) return undefined
  const params = fill(draft, inputs, bases.get(draft) ?? [], graphFolder, mistakes)
  const { stage, moduleHash } = resolved
  return {
    id,
    use,
    where,
    from,
    params,
    stage,
    ...(moduleHash === undefined ? {} : { moduleHash }),
    ...(draft.inner.size === 0 ? {} : { inner }),
  }
}

/** A stage without an id is called by its name: round, round-2, … */
function nameStages(drafts: Draft[], mistakes: Mistake[]): void {
  const taken = new Set<string>()
  for (const draft of drafts) {
    if (draft.id !== '' && taken.has(draft.id)) {
      mistakes.push({ where: draft.where, message: `The id "${draft.id}" is given twice.` })
      draft.id = ''
    }
    taken.add(draft.id)
  }
  for (const draft of drafts) {
    if (draft.id !== '') continue
    let id = draft.name
    for (let n = 2; taken.has(id); n++) id = `${draft.name}-${n}`
    draft.id = id
    taken.add(id)
  }
}

/** Fills in `from`, and puts every stage behind those it reads from, else in the order of the file. */
function connect(drafts: readonly Draft[], mistakes: Mistake[]): Draft[] {
  const ids = drafts.map(draft => draft.id)
  for (const [i, draft] of drafts.entries()) {
    const isSource = draft.resolved !== undefined && Object.keys(draft.resolved.stage.input.columns).length === 0
    const from = draft.from ?? (isSource || i === 0 ? [] : [ids[i - 1] as string])
    for (const id of from) {
      if (ids.includes(id)) continue
      mistakes.push({
        where: draft.where,
        message: `"from" names "${id}", which no stage is called.${didYouMean(id, ids)}`,
        hint: `Known: ${ids.join(', ')}`,
      })
      draft.resolved = undefined
    }
    const twice = from.find((id, i) => from.indexOf(id) !== i)
    if (twice !== undefined) mistakes.push({ where: draft.where, message: `"from" names "${twice}" twice.`, hint: 'Its rows come once.' })
    if (isSource && from.length > 0)
      mistakes.push({ where: draft.where, message: `${draft.name} reads no rows, so it can't come "from" ${from.join(', ')}.` })
    draft.from = from.filter(id => ids.includes(id))
  }
  const ordered: Draft[] = []
  let left = [...drafts]
  while (left.length > 0) {
    const ready = left.find(draft => draft.from?.every(id => ordered.some(done => done.id === id)))
    if (ready === undefined) {
      const around = left.map(draft => `${draft.id} (from ${draft.from?.join(', ')})`).join(' → ')
      mistakes.push({
        where: left[0]?.where,
        message: `These stages wait for each other in a circle: ${around}.`,
        hint: 'Rows flow one way: let one of them read from a stage above.',
      })
      return ordered
    }
    ordered.push(ready)
    left = left.filter(draft => draft !== ready)
  }
  return ordered
}

/** Inputs put in for "$name", defaults, checks, and paths made absolute. */
function fill(
  draft: Draft,
  inputs: readonly GraphInput[],
  bases: readonly { path: string; directory: string }[],
  graphFolder: string,
  mistakes: Mistake[],
): Record<string, unknown> {
  const { where, resolved, name } = draft
  const directories = new Map(bases.map(({ path, directory }) => [path, directory]))
  const substitute = (value: unknown, path: string): unknown => {
    if (typeof value === 'string' && /^\$[\w-]+$/.test(value)) {
      const input = inputs.find(({ name }) => name === value.slice(1))
      if (input === undefined) {
        mistakes.push({
          where,
          message: `${path}: "${value}" is no input of this graph.${didYouMean(
            value.slice(1),
            inputs.map(i => i.name),
          )}`,
          hint: `Inputs: ${inputs.map(i => i.name).join(', ') || 'none'}`,
        })
        return undefined
      }
      if (input.value === undefined) {
        mistakes.push({
          where,
          message: `${path}: the input "${input.name}" is not given (${input.about}).`,
          hint: `Give it: --set ${input.name}=…`,
        })
        return undefined
      }
      directories.set(path, input.directory)
      return input.value
    }
    if (Array.isArray(value)) return value.map((item, i) => substitute(item, `${path}.${i}`))
    if (isObject(value))
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, substitute(item, path === '' ? key : `${path}.${key}`)]))
    return value
  }
  const before = mistakes.length
  const params = substitute(draft.given, '') as Record<string, unknown>
  const notGiven = mistakes.length > before
  const schema = resolved?.stage.params as Schema
  for (const message of checkParams(name, schema, params)) {
    if (notGiven && / missing[ .]/.test(message)) continue // told above
    const [first = '', ...rest] = message.split('\n')
    mistakes.push({ where, message: first, ...(rest.length > 0 ? { hint: rest.join('\n') } : {}) })
  }
  for (const { path } of pathParams(schema, params)) {
    const { holder, key } = placeOf(params, path)
    const base = path.map((_, i) => directories.get(path.slice(0, path.length - i).join('.'))).find(directory => directory !== undefined)
    holder[key] = resolve(base ?? graphFolder, holder[key] as string)
  }
  return params
}
