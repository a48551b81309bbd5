/**
 * architecture: the JSON files of schemas/architectures/, read, checked, and worked out for one model: which steps a
 * block has, which tensors they need, which linears share an input.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Value } from '@sinclair/typebox/value'
import { PipeError } from '../../pipeline/define.js'
import { type Architecture, architectureSchema } from '../../schemas/architectures.js'

/** Sizes of a model by the letters of the glossary. */
export type Sizes = Readonly<Record<keyof Architecture['sizes'], number>>

/** One step of a block, ready to run. */
export interface Step {
  readonly op: 'rmsnorm' | 'linear' | 'add linear' | 'attention' | 'silu·'
  /** The value it makes. */
  readonly out: string
  /** The values it reads; for 'add linear' the residual first. */
  readonly reads: readonly string[]
  /** Tensor below the block, without .weight; steps without weights: none. */
  readonly name?: string
  readonly shape?: readonly number[]
  readonly bias: boolean
  /** Linears: name of the input, unique in the block. Those with equal names share a Hessian. */
  readonly shares?: string
  /** Values that nothing reads after this step, with the name under which linears shared them. */
  readonly dies: readonly { readonly value: string; readonly shares?: string }[]
}

/** A tensor that a model of this architecture and size must have. */
export interface ExpectedTensor {
  readonly name: string
  readonly shape: readonly number[]
  readonly role: 'linear' | 'kept'
  /** Block it belongs to, or the place outside the blocks. */
  readonly layer: number | 'embed' | 'head'
  /** Linears: see Step.shares. */
  readonly shares: string
}

/** The package's folder. */
export const root = (() => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder)
  return folder
})()

/** Every architecture there is, by listing the folder. Throws an Error naming the file and the place when one is malformed: a bug, not a user's mistake. */
export function loadArchitectures(folder = join(root, 'schemas/architectures')): Architecture[] {
  const files = readdirSync(folder)
    .filter(name => name.endsWith('.json'))
    .sort()
  return files.map(file => {
    const value: unknown = JSON.parse(readFileSync(join(folder, file), 'utf8'))
    if (!Value.Check(architectureSchema, value)) {
      const first = Value.Errors(architectureSchema, value).First()
      throw new Error(`${join(folder, file)}: ${first?.path ?? '/'}: ${first?.message ?? 'malformed'}`)
    }
    if (`${value.name}.json` !== basename(file)) throw new Error(`${join(folder, file)}: its name says "${value.name}"`)
    return value
  })
}

/** The architecture that config.json asks for. */
export function findArchitecture(names: readonly string[], where: string): Architecture {
  const all = loadArchitectures()
  const found = all.find(a => a.huggingface.some(name => names.includes(name)))
  if (found) return found
  throw new PipeError('input', {
    where,
    message: `expected an architecture this program knows and found ${names.length > 0 ? `"${names.join('", "')}"` : 'none'}.`,
    hint: `Known: ${all.flatMap(a => a.huggingface).join(', ')}. A new model of a known kind is one JSON file in schemas/architectures.`,
  })
}

/**
 * The value of an expression of an architecture file: letters, keys of config.json, numbers, * and /; "a ?? b" takes b
 * where a key of a is absent or null. Undefined when every alternative lacks a key.
 */
export function evaluate(expression: string, known: (key: string) => number | undefined): number | undefined {
  for (const alternative of expression.split('??')) {
    const tokens = alternative
      .trim()
      .split(/([*/])/)
      .map(token => token.trim())
    let value: number | undefined = 1
    for (let i = 0; i < tokens.length && value !== undefined; i += 2) {
      const token = tokens[i] ?? ''
      const factor = /^\d+$/.test(token) ? Number(token) : known(token)
      value = factor === undefined ? undefined : tokens[i - 1] === '/' ? value / factor : value * factor
    }
    if (value !== undefined) return value
  }
  return undefined
}

/** The steps of a block for these sizes; `flag` tells what config.json says under a key (attention_bias …). */
export function resolveSteps(architecture: Architecture, sizes: Sizes, flag: (key: string) => boolean): Step[] {
  // A value may be made several times (x, and q by its norm): definitions are numbered, and each dies at its last use.
  const made = new Map<string, number>([['x', 0]])
  const current = new Map<string, string>([['x', 'x']])
  const variable = new Map<string, string>([['x', 'x']])
  const lastUse = new Map<string, number>()
  const feeds = new Set<string>()
  const steps = architecture.steps.map((step, index): Step => {
    const [out, op, inputs] = step
    const reads = inputs.split(' ')
    const definitions = reads.map(value => {
      const definition = current.get(value)
      if (definition === undefined) throw new Error(`architecture ${architecture.name}: step ${index} reads "${value}" before it is made`)
      return definition
    })
    for (const definition of definitions) lastUse.set(definition, index)
    const linear = op === 'linear' || op === 'add linear'
    const shares = linear ? definitions[definitions.length - 1] : undefined
    if (shares !== undefined) feeds.add(shares)

    const count = (made.get(out) ?? -1) + 1
    made.set(out, count)
    const definition = count === 0 ? out : `${out}.${count + 1}`
    current.set(out, definition)
    variable.set(definition, out)

    if (op === 'attention' || op === 'silu·') return { op, out, reads, bias: false, dies: [] }
    const option = step.length === 6 ? step[5].bias : false
    return {
      op,
      out,
      reads,
      shares,
      dies: [],
      name: step[3],
      shape: step[4].split(' ').map(dimension => evaluate(dimension, letter => sizes[letter as keyof Sizes]) ?? Number.NaN),
      bias: typeof option === 'string' ? flag(option) : option,
    }
  })
  const final = current.get('x')
  return steps.map((step, index) => ({
    ...step,
    dies: [...lastUse]
      .filter(([definition, last]) => last === index && definition !== final)
      .map(([definition]) => ({ value: variable.get(definition) ?? definition, shares: feeds.has(definition) ? definition : undefined })),
  }))
}

/** Every tensor of the model, in the order in which it is used: embedding; each block's kept tensors, then its linears; norm and head. */
export function expectedTensors(architecture: Architecture, sizes: Sizes, steps: readonly Step[], tied: boolean): ExpectedTensor[] {
  const { d, vocab, layers } = sizes
  const kept = (name: string, shape: number[], layer: ExpectedTensor['layer']): ExpectedTensor => ({
    name,
    shape,
    role: 'kept',
    layer,
    shares: '',
  })
  const blocks = Array.from({ length: layers }, (_, layer) => {
    const inBlock = (step: Step, ending: string) => `${blockName(architecture, layer)}.${step.name}.${ending}`
    const weighted = steps.filter(step => step.name !== undefined)
    const linears = weighted.filter(step => step.shares !== undefined)
    return [
      ...weighted.filter(step => step.shares === undefined).map(step => kept(inBlock(step, 'weight'), [...(step.shape ?? [])], layer)),
      ...linears.filter(step => step.bias).map(step => kept(inBlock(step, 'bias'), [step.shape?.[0] ?? 0], layer)),
      ...linears.map(
        (step): ExpectedTensor => ({
          name: inBlock(step, 'weight'),
          shape: [...(step.shape ?? [])],
          role: 'linear',
          layer,
          shares: step.shares ?? '',
        }),
      ),
    ]
  })
  return [
    kept(`${architecture.embed}.weight`, [vocab, d], 'embed'),
    ...blocks.flat(),
    kept(`${architecture.norm}.weight`, [d], 'head'),
    ...(tied ? [] : [kept(`${headName(architecture, false)}.weight`, [vocab, d], 'head')]),
  ]
}

export const blockName = (architecture: Architecture, layer: number): string => architecture.block.replace('{layer}', String(layer))

/** Name of the head's tensor, without .weight: the embedding's own where they are tied. */
export function headName(architecture: Architecture, tied: boolean): string {
  const names = architecture.head.split('??').map(name => name.trim())
  return (tied ? names[names.length - 1] : names[0]) ?? architecture.embed
}
