/** 'rht' | './mine.js' | 'pipe-stage-x' → Stage, checked field by field. A stage of one's own imports 'pipe' from anywhere. */
import { createHash } from 'node:crypto'
import { statSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { register } from 'node:module'
import { dirname, extname, relative, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { AnyStage } from './define.js'
import { didYouMean, type Mistake, sentence } from './error.js'
import type { BuiltInStages } from './graph.js'

export interface Resolved {
  readonly stage: AnyStage
  /** SHA-256 of the stage's file and of those that it imports, when it is not built in. */
  readonly moduleHash?: string
}

/** Returns the mistake rather than throwing it: a graph tells all its mistakes at once. */
export async function resolveStage(use: string, graphFile: string, builtIn: BuiltInStages): Promise<Resolved | Omit<Mistake, 'where'>> {
  const load = Object.hasOwn(builtIn, use) ? builtIn[use] : undefined
  if (load !== undefined) return { stage: (await load()).default }
  const isPath = /^(\.{0,2}\/|\.{1,2}$)/.test(use)
  let module: { default?: unknown }
  let moduleHash: string
  try {
    const file = isPath ? resolve(dirname(graphFile), use) : undefined
    const url = file === undefined ? await locatePackage(use, graphFile) : pathToFileURL(file).href
    moduleHash = await hashOfModule(url)
    module = await importModule(url)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const missing = code === 'ERR_MODULE_NOT_FOUND' || code === 'ENOENT' || code === 'ERR_INVALID_MODULE_SPECIFIER'
    if (!isPath && missing) {
      const known = Object.keys(builtIn)
      return {
        message: `unknown stage "${use}".${didYouMean(use, known)}`,
        hint: `Known: ${known.join(', ')}\nA stage of your own is "./file.js" (relative to the graph) or a package that is installed beside it.`,
      }
    }
    if (code === 'ENOENT')
      return { message: `"${use}" is not there: ${resolve(dirname(graphFile), use)}`, hint: 'The path is relative to the graph file.' }
    return {
      message: `"${use}" can't be loaded: ${sentence(error)}`,
      hint: 'It has to be a module whose default export is a stage (defineStage).',
    }
  }
  const faults = faultsOf(module.default)
  if (faults.length === 0) return { stage: module.default as AnyStage, moduleHash }
  return {
    message: `"${use}" is no stage:\n${faults.map(fault => `  ${fault}`).join('\n')}`,
    hint: 'Its default export has to be made by defineStage.',
  }
}

/** An import by a relative path; what is named in a text or a comment alone does no harm. */
const imported = /\b(?:from|import|import\s*\(|require\s*\(|new\s+URL\s*\()\s*(['"`])(\.{1,2}\/[^'"`]+)\1/g

/** SHA-256 of a file and of all that it imports by relative paths, and those in turn. */
async function hashOfModule(url: string): Promise<string> {
  const hash = createHash('sha256')
  const files = new Set([fileURLToPath(url)])
  for (const file of files) {
    if (!(await stat(file)).isFile()) throw new Error('it is no file') // a device may have no end
    const bytes = await readFile(file)
    hash.update(file === fileURLToPath(url) ? '' : `\0${relative(dirname(fileURLToPath(url)), file)}\0`).update(bytes)
    for (const [, , path = ''] of bytes.toString().matchAll(imported)) {
      const named = resolve(dirname(file), path)
      const asWritten = [named, named.replace(/js$/, 'ts'), `${named}.ts`, `${named}.js`] // TypeScript names what it will be, or leaves the ending out
      const found = asWritten.find(one => statSync(one, { throwIfNoEntry: false })?.isFile())
      if (found !== undefined) files.add(found) // a Set is walked to its growing end
    }
  }
  return hash.digest('hex')
}

/** What keeps a value from being a stage, a sentence each. */
function faultsOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [`the default export is ${value === undefined ? 'missing' : typeof value}`]
  const stage = value as Record<string, unknown>
  const faults: string[] = []
  const expect = (field: string, ok: boolean, what: string): void => {
    if (!ok) faults.push(`${field}: expected ${what}, ${stage[field] === undefined ? 'nothing' : shown(stage[field])} came`)
  }
  const optional = (field: string, type: string): void =>
    expect(field, stage[field] === undefined || typeof stage[field] === type, `a ${type}`)
  const isTable = (field: string): boolean => {
    const table = stage[field] as { name?: unknown; version?: unknown; columns?: unknown } | undefined
    return typeof table?.name === 'string' && Number.isInteger(table.version) && typeof table.columns === 'object'
  }
  expect('name', typeof stage.name === 'string' && /^[a-z][a-z0-9-]*$/.test(stage.name), 'a name in small letters, digits and dashes')
  expect('version', Number.isInteger(stage.version) && (stage.version as number) >= 1, 'a whole number from 1')
  expect('about', typeof stage.about === 'string', 'a sentence')
  expect('params', (stage.params as { type?: unknown } | undefined)?.type === 'object', 'Type.Object({ … })')
  expect('input', isTable('input'), 'a table')
  expect('output', isTable('output'), 'a table')
  expect('operator', typeof stage.operator === 'function', 'a function')
  expect('scope', [undefined, 'batch', 'stream'].includes(stage.scope as undefined), '"batch" or "stream"')
  optional('cache', 'boolean')
  optional('condenses', 'boolean')
  for (const field of ['batch', 'memory', 'estimate', 'check', 'intact', 'mayWrite', 'report']) optional(field, 'function')
  for (const field of Object.keys(stage)) {
    if (!fields.includes(field)) faults.push(`${field}: a stage has no such field.${didYouMean(field, fields)}`)
  }
  return faults
}
/** Complete, or it does not compile. */
const known: Record<keyof AnyStage, true> = {
  name: true,
  version: true,
  about: true,
  params: true,
  input: true,
  output: true,
  scope: true,
  cache: true,
  condenses: true,
  batch: true,
  memory: true,
  inner: true,
  estimate: true,
  check: true,
  intact: true,
  mayWrite: true,
  report: true,
  operator: true,
}
const fields = Object.keys(known)
const shown = (value: unknown): string =>
  typeof value === 'object' || typeof value === 'function' ? `a ${typeof value}` : JSON.stringify(value)

async function importModule(url: string): Promise<{ default?: unknown }> {
  await registerHook()
  const isTypeScript = ['.ts', '.mts'].includes(extname(fileURLToPath(url)))
  if (!isTypeScript || stripsTypes()) return import(url)
  const { tsImport } = await import('tsx/esm/api')
  return tsImport(url, import.meta.url)
}

const stripsTypes = (): boolean => Boolean((process.features as { typescript?: unknown }).typescript)

async function locatePackage(name: string, graphFile: string): Promise<string> {
  await registerHook()
  const { url } = (await import(`pipe-locate:${encodeURIComponent(pathToFileURL(graphFile).href)}:${name}`)) as { url: string }
  return url
}

let hook: Promise<void> | undefined

/**
 * 'pipe' and 'pipe/…' mean this package for every module, wherever its file lies; 'rxjs' and '@sinclair/typebox' do where
 * the file's own folder has none. 'pipe-locate:PARENT:NAME' answers where NAME is, seen from PARENT. TypeScript is a
 * module even where no package.json says so; asModule: on a Node that has to be told.
 */
function registerHook(): Promise<void> {
  hook ??= (async () => {
    const root = new URL('../../', import.meta.url) // dist/pipeline/ → the package
    const { exports } = JSON.parse(await readFile(new URL('package.json', root), 'utf8')) as {
      exports: Record<string, { default?: string }>
    }
    const own = Object.entries(exports).flatMap(([path, { default: file }]) =>
      file === undefined ? [] : [[`pipe${path.slice(1)}`, new URL(file, root).href]],
    )
    const source = `
      let own, root, asModule
      export const initialize = data => { own = data.own; root = data.root; asModule = data.asModule }
      export const resolve = async (specifier, context, next) => {
        if (Object.hasOwn(own, specifier)) return { url: own[specifier], shortCircuit: true }
        if (specifier.startsWith('pipe-locate:')) {
          const [, parent, name] = specifier.match(/^pipe-locate:([^:]*):(.*)$/)
          const { url } = await next(name, { ...context, parentURL: decodeURIComponent(parent) })
          return { url: 'data:text/javascript,export const url = ' + encodeURIComponent(JSON.stringify(url)), shortCircuit: true }
        }
        if (asModule && /\\.m?ts(\\?|$)/.test(specifier)) return { ...(await next(specifier, context)), format: 'module' }
        if (!/^(rxjs|@sinclair\\/typebox)(\\/|$)/.test(specifier)) return next(specifier, context)
        return next(specifier, context).catch(() => next(specifier, { ...context, parentURL: root }))
      }`
    register(`data:text/javascript,${encodeURIComponent(source)}`, import.meta.url, {
      data: { own: Object.fromEntries(own), root: root.href, asModule: !stripsTypes() },
    })
  })()
  return hook
}
