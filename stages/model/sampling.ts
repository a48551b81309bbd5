/**
 * sampling: how the next token is picked from logits. The definition and its places in the papers are those of the op
 * (native/ops/sample/sample.h), which picks on the device; equal logits and equal random numbers give equal tokens.
 */
import { overflown } from './finite.js'

export interface Sampling {
  /** From 0; 0: greedy. */
  readonly temperature: number
  /** A whole number from 0; 0: all. */
  readonly topK: number
  /** From 0 to 1; 1: all. */
  readonly topP: number
  /** From 0 to 1; 0: all. */
  readonly minP: number
  /** Above 0; 1: none. */
  readonly repetitionPenalty: number
}

const allowed: { readonly [K in keyof Sampling]: readonly [text: string, good: (value: number) => boolean] } = {
  temperature: ['a number from 0', value => value >= 0],
  topK: ['a whole number from 0', value => value >= 0 && Number.isInteger(value)],
  topP: ['a number from 0 to 1', value => value >= 0 && value <= 1],
  minP: ['a number from 0 to 1', value => value >= 0 && value <= 1],
  repetitionPenalty: ['a number above 0', value => value > 0],
}

/** Throws RangeError where one is no finite number, or out of its range: what is drawn so would look like the model's fault. */
export function checkSampling(sampling: Sampling): void {
  for (const [name, [text, good]] of Object.entries(allowed)) {
    const value = sampling[name as keyof Sampling]
    if (!Number.isFinite(value) || !good(value)) throw new RangeError(`sampling.${name} must be ${text}, got ${value}`)
  }
}

export const greedy: Sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 }

/** One draw: how, and a number in [0, 1). */
export interface Draw {
  readonly sampling: Sampling
  readonly u: number
}

/** The largest logit, of equal ones the lowest id. */
export const likeliest: Draw = { sampling: greedy, u: 0 }

/** The next draw of a text. `uniform` is not asked when greedy. */
export const drawOf = (sampling: Sampling, uniform: () => number): Draw => ({ sampling, u: sampling.temperature === 0 ? 0 : uniform() })

/** A row of what the op is told. */
export const numbersOf = ({ sampling: o, u }: Draw): readonly number[] => [o.repetitionPenalty, o.temperature, o.topK, o.topP, o.minP, u]

/** The token that the op picked. Raises PipeError where it could not, as a logit was NaN or the largest infinite. */
export function picked(id: number | undefined): number {
  if (id === undefined || id < 0) throw overflown()
  return id
}
