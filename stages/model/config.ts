/**
 * config: what config.json of a Hugging Face folder says, in one form, whichever version of transformers wrote it
 * (rope_theta and rope_scaling, or rope_parameters). What is not supported is refused by name, never guessed.
 */
import { isDeepStrictEqual } from 'node:util'
import { PipeError } from '../../pipeline/define.js'
import type { Architecture } from '../../schemas/architectures.js'
import { evaluate, findArchitecture, resolveSteps, type Sizes, type Step } from './architecture.js'

/** Frequencies of the rotary embedding: θ_i = theta^(−2i/e), then changed as `scaling` says. */
export interface Rope {
  readonly theta: number
  readonly scaling?:
    | { readonly type: 'linear'; readonly factor: number }
    | { readonly type: 'llama3'; readonly factor: number; readonly low: number; readonly high: number; readonly original: number }
}

export interface ModelConfig {
  readonly architecture: Architecture
  readonly sizes: Sizes
  readonly steps: readonly Step[]
  /** Added to the mean square in rmsnorm. */
  readonly eps: number
  readonly tied: boolean
  readonly rope: Rope
  /** Per layer: keys at a distance below this only; undefined = all. */
  readonly windows: readonly (number | undefined)[]
  /** Longest sequence the model was made for, in tokens, if it says. */
  readonly positions?: number
  /** config.json as it is, to be written again. */
  readonly raw: Readonly<Record<string, unknown>>
}

export const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Reads and checks a parsed config.json. `where` begins the sentence of every error. */
export function readConfig(raw: unknown, where: string): ModelConfig {
  const fail = (message: string, hint?: string): never => {
    throw new PipeError('input', { where, message, hint })
  }
  if (!isObject(raw)) return fail("expected a JSON object with the model's sizes.")
  const number = (key: string): number | undefined => {
    const value = raw[key]
    if (value === undefined || value === null) return undefined
    if (typeof value !== 'number' || !Number.isFinite(value))
      fail(`expected a number under "${key}" and found ${typeof value === 'number' ? value : JSON.stringify(value)}.`)
    return value as number
  }
  const flag = (key: string): boolean => {
    const value = raw[key] ?? false
    if (typeof value !== 'boolean') fail(`expected true or false under "${key}" and found ${JSON.stringify(value)}.`)
    return value as boolean
  }

  const names = Array.isArray(raw.architectures) ? raw.architectures.filter(name => typeof name === 'string') : []
  const architecture = findArchitecture(names, where)
  const sizes = readSizes(architecture, raw, number, fail)

  const activation = raw.hidden_act ?? 'silu'
  if (activation !== 'silu')
    fail(`expected the activation "silu" and found ${JSON.stringify(activation)}.`, 'Other activations are not supported yet.')
  const rotated = number('partial_rotary_factor') ?? 1
  if (rotated !== 1) fail(`expected all of a head to be rotated and found partial_rotary_factor ${rotated}.`)
  const eps = number('rms_norm_eps') ?? 1e-6
  if (!(eps > 0 && eps < 1)) fail(`expected rms_norm_eps above 0 and below 1 and found ${eps}.`)
  const positions = number('max_position_embeddings')
  if (positions !== undefined && !(Number.isSafeInteger(positions) && positions > 0))
    fail(`expected a whole number above 0 under "max_position_embeddings" and found ${positions}.`)

  return {
    architecture,
    sizes,
    steps: resolveSteps(architecture, sizes, flag),
    eps,
    tied: flag('tie_word_embeddings'),
    rope: readRope(raw, number, fail),
    windows: readWindows(architecture, raw, sizes.layers, number, flag, fail),
    positions,
    raw,
  }
}

type Fail = (message: string, hint?: string) => never
type Get<T> = (key: string) => T

function readSizes(architecture: Architecture, raw: Readonly<Record<string, unknown>>, number: Get<number | undefined>, fail: Fail): Sizes {
  const sizes: Record<string, number> = {}
  // To transformers null is as many as of queries, whichever the family; the family's default is for a key that is absent.
  const known: Get<number | undefined> = key => sizes[key] ?? (key === 'num_key_value_heads' && raw[key] === null ? sizes.h : number(key))
  for (const [letter, expression] of Object.entries(architecture.sizes)) {
    const value = evaluate(expression, known)
    if (value === undefined) fail(`expected "${expression.split('??')[0]?.trim()}" and found none.`)
    // 2²⁴ is far above any real size and keeps every product of two exact.
    else if (!Number.isInteger(value) || value < 1 || value > 2 ** 24)
      fail(`expected a whole number from 1 to 2^24 for "${expression.split('??')[0]?.trim()}" and found ${value}.`)
    else sizes[letter] = value
  }
  const result = sizes as Sizes
  const { h, g, e, layers } = result
  if (h % g !== 0) fail(`expected num_attention_heads to be a multiple of num_key_value_heads and found ${h} and ${g}.`)
  if (e % 2 !== 0) fail(`expected an even size of a head, for the rotary embedding, and found ${e}.`)
  if (layers > 4096) fail(`expected at most 4096 blocks and found num_hidden_layers ${layers}.`)
  return result
}

/** transformers goes by "rope_scaling" where both keys say something, older programs by the key they know: they must agree. */
function readRope(raw: Readonly<Record<string, unknown>>, number: Get<number | undefined>, fail: Fail): Rope {
  const said = ['rope_parameters', 'rope_scaling'].flatMap(key => {
    const value = raw[key] ?? {}
    if (!isObject(value)) return fail(`expected an object under "${key}" and found ${JSON.stringify(value)}.`)
    return Object.keys(value).length > 0 ? [value] : []
  })
  const [rope, other] = said.map(parameters => ropeOf(parameters, number, fail))
  if (other !== undefined && !isDeepStrictEqual(rope, other))
    fail(
      `expected "rope_parameters" and "rope_scaling" to say the same and found ${said.map(value => JSON.stringify(value)).join(' and ')}.`,
      'Take out the one that the model was not trained with.',
    )
  return rope ?? ropeOf({}, number, fail)
}

function ropeOf(parameters: Readonly<Record<string, unknown>>, number: Get<number | undefined>, fail: Fail): Rope {
  if (Object.values(parameters).some(isObject))
    fail('found rope_parameters per kind of layer.', 'One rotary embedding for all layers is supported.')
  const of = (key: string): number => {
    const value = parameters[key]
    if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) {
      fail(`expected a number above 0 under "${key}" of the rope parameters and found ${JSON.stringify(value)}.`)
    }
    return value as number
  }
  const rotated = parameters.partial_rotary_factor ?? 1
  if (rotated !== 1) fail(`expected all of a head to be rotated and found partial_rotary_factor ${JSON.stringify(rotated)}.`)
  const theta = parameters.rope_theta === undefined ? (number('rope_theta') ?? 10000) : of('rope_theta')
  if (!(theta > 0)) fail(`expected rope_theta above 0 and found ${theta}.`)
  const type = parameters.rope_type ?? parameters.type ?? 'default'
  if (type === 'default') return { theta }
  if (type === 'linear') return { theta, scaling: { type, factor: of('factor') } }
  if (type === 'llama3') {
    const low = of('low_freq_factor')
    const high = of('high_freq_factor')
    if (high <= low) fail(`expected high_freq_factor above low_freq_factor and found ${high} and ${low}.`)
    return { theta, scaling: { type, factor: of('factor'), low, high, original: of('original_max_position_embeddings') } }
  }
  return fail(
    `expected rope scaling "default", "linear" or "llama3" and found ${JSON.stringify(type)}.`,
    'Other kinds of rope scaling are not supported yet.',
  )
}

function readWindows(
  architecture: Architecture,
  raw: Readonly<Record<string, unknown>>,
  layers: number,
  number: Get<number | undefined>,
  flag: Get<boolean>,
  fail: Fail,
): (number | undefined)[] {
  const window = architecture.steps.flatMap(step => (step[1] === 'attention' ? [step[3].window] : []))[0]
  const none = Array.from({ length: layers }, () => undefined)
  if (window === undefined || (window.when !== undefined && !flag(window.when))) return none
  const size = raw[window.size] === null ? undefined : (number(window.size) ?? window.default)
  if (size === undefined) return none
  if (!Number.isSafeInteger(size) || size < 1) return fail(`expected a whole number above 0 under "${window.size}" and found ${size}.`)

  const kinds = raw.layer_types
  if (kinds !== undefined && kinds !== null) {
    if (!Array.isArray(kinds) || kinds.length !== layers) return fail(`expected "layer_types" to name ${layers} layers.`)
    return kinds.map((kind: unknown) => {
      if (kind === 'sliding_attention') return size
      if (kind === 'full_attention') return undefined
      return fail(`expected "full_attention" or "sliding_attention" in "layer_types" and found ${JSON.stringify(kind)}.`)
    })
  }
  const from = window.from === undefined ? 0 : (evaluate(window.from, number) ?? 0)
  return none.map((_, layer) => (layer >= from ? size : undefined))
}
