/**
 * sampling: how the next token is picked from logits. The definition and its places in the papers are those of the op
 * (native/ops/sample/sample.h), which picks on the device; equal logits and equal random numbers give equal tokens.
 */
import { overflown } from './finite.js'

export interface Sampling {
  /** 0: greedy. */
  readonly temperature: number
  /** 0: all. */
  readonly topK: number
  /** 1: all. */
  readonly topP: number
  /** 0: all. */
  readonly minP: number
  /** 1: none. */
  readonly repetitionPenalty: number
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
