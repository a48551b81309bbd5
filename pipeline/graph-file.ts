/** The graph file as JSON, and its inputs: what stands in it is told by name, line and place. */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { didYouMean, type Mistake, PipeError } from './error.js'
import { jsonMistake } from './json.js'
import type { Setting } from './settings.js'

export interface GraphInput {
  readonly name: string
  readonly about: string
  /** What it stands for in this run; undefined: not given. */
  readonly value?: string
  /** What a relative path in `value` is relative to. */
  readonly directory: string
}

/** What the file says, as it says it. */
export interface GraphJson {
  name?: unknown
  about?: unknown
  seed?: unknown
  inputs?: unknown
  stages?: unknown
}
const keys = ['$schema', 'name', 'about', 'inputs', 'seed', 'stages']

export async function readGraph(file: string, shown: string, mistakes: Mistake[]): Promise<GraphJson> {
  let text: string
  try {
    text = (await readFile(file, 'utf8')).replace(/^\uFEFF/, '') // which some editors put there
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EISDIR') {
      const outputs = await readdir(join(file, 'cache')).catch(() => undefined)
      throw new PipeError('graph', {
        where: shown,
        message: 'expected the .json file of a graph and found a folder.',
        hint:
          outputs === undefined
            ? 'Name the file, such as graphs/qtip-2bit.json.'
            : `It holds what a run has made. Name the file, and say --out ${shown}; pipe cache ls and verify need --out alone.`,
      })
    }
    throw new PipeError('graph', {
      where: shown,
      message: code === 'ENOENT' ? `There is no such file: ${file}` : `The file can't be read (${code}): ${file}`,
    })
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    const { line, column, message } = jsonMistake(text)
    throw new PipeError('graph', { where: `${shown}  line ${line}, column ${column}`, message: `This is no JSON: ${message}.` })
  }
  if (isTooDeep(json))
    throw new PipeError('graph', { where: shown, message: `It is nested deeper than ${mostDeep} levels, which no graph is.` })
  if (!isObject(json)) throw new PipeError('graph', { where: shown, message: 'A graph is a JSON object with "name" and "stages".' })
  for (const key of Object.keys(json)) {
    if (!keys.includes(key))
      mistakes.push({
        where: shown,
        message: `"${key}" is nothing a graph has.${didYouMean(key, keys)}`,
        hint: `Known: ${keys.join(', ')}`,
      })
  }
  if (typeof json.name !== 'string' || !/^[\w.-]+$/.test(json.name) || json.name.startsWith('.')) {
    mistakes.push({
      where: shown,
      message: `"name" is a word of letters, digits, dots and dashes (the output folder is called so), and ${JSON.stringify(json.name) ?? 'none'} came.`,
    })
  }
  if (!Array.isArray(json.stages) || json.stages.length === 0)
    mistakes.push({ where: shown, message: '"stages" is a list with at least one stage.' })
  else if (json.stages.length > mostStages)
    throw new PipeError('graph', { where: shown, message: `"stages" has ${json.stages.length} entries; ${mostStages} is the most.` })
  return json
}

/** Far above what any graph needs, and within what its readers' recursion bears. */
const mostDeep = 64
const mostStages = 200

function isTooDeep(json: unknown): boolean {
  let level: unknown[] = [json]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > mostDeep) return true
    level = level.flatMap(value => (typeof value === 'object' && value !== null ? Object.values(value) : []))
  }
  return false
}

/** "name": "text", or "name": { about, default?, follows? }. A default is relative to the graph; follows: takes that input's value when it alone is set. */
export function readInputs(
  json: unknown,
  file: string,
  shown: string,
  settings: readonly Setting[],
  directory: string,
  mistakes: Mistake[],
): GraphInput[] {
  if (json === undefined) return []
  if (!isObject(json)) {
    mistakes.push({ where: `${shown}  inputs`, message: 'Inputs are an object: { "model": "what it is" }.' })
    return []
  }
  const names = Object.keys(json)
  const set = (name: string): Setting | undefined => settings.findLast(setting => setting.path.length === 1 && setting.path[0] === name)
  return names.map(name => {
    const where = `${shown}  inputs.${name}`
    const value = json[name]
    const declared = typeof value === 'string' ? { about: value } : value
    if (!isObject(declared) || typeof declared.about !== 'string') {
      mistakes.push({
        where,
        message: `An input is a text that says what it is, or { "about", "default", "follows" }, and ${JSON.stringify(value)} came.`,
      })
      return { name, about: '', directory }
    }
    for (const key of Object.keys(declared)) {
      if (!inputKeys.includes(key))
        mistakes.push({
          where,
          message: `"${key}" is nothing an input has.${didYouMean(key, inputKeys)}`,
          hint: `Known: ${inputKeys.join(', ')}`,
        })
    }
    const { about, default: fallback, follows } = declared
    const others = names.filter(other => other !== name)
    if (follows !== undefined && (typeof follows !== 'string' || !others.includes(follows))) {
      const message = `"follows" names another input, and ${JSON.stringify(follows)} came.`
      mistakes.push({ where, message, hint: others.length > 0 ? `Known: ${others.join(', ')}` : 'There is no other.' })
    }
    if (fallback !== undefined && typeof fallback !== 'string')
      mistakes.push({ where, message: `"default" is a text, and ${JSON.stringify(fallback)} came.` })
    const setting = set(name) ?? (typeof follows === 'string' ? set(follows) : undefined)
    if (setting !== undefined) return { name, about, value: setting.text, directory }
    return { name, about, ...(typeof fallback === 'string' ? { value: fallback } : {}), directory: dirname(file) }
  })
}
const inputKeys = ['about', 'default', 'follows']

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
