/** The bits that are there to be given: those of all linears, without what linears take whose bits the graph says. */
import { type TUnsafe, Type } from '@sinclair/typebox'
import type { Mistake } from '../../pipeline/define.js'
import { saidOf } from '../model/patterns.js'

/** Linears by name, * for any letters, and their bits a weight. */
export type Pinned = Readonly<Record<string, { readonly K: number }>>

export const pinnedSchema = Type.Optional(
  Type.Unsafe<Pinned>(
    Type.Record(Type.String(), Type.Object({ K: Type.Integer({ minimum: 1, maximum: 8 }) }, { additionalProperties: false }), {
      description: 'Linears whose bits are given, by name, * for any letters: { "K": bits a weight }; the others make up for them',
    }),
  ) as TUnsafe<Pinned>,
)

interface Target {
  readonly bits: number
  readonly K: readonly number[]
  readonly overrides?: Pinned
}
interface Sized {
  readonly linear: string
  readonly weights: number
}

/** Bits of the linears that the graph says; bits a weight that the others may have on the average, NaN where there are none. */
export function budgetOf(
  linears: readonly Sized[],
  { bits, overrides = {} }: Target,
): { readonly pinned: ReadonlyMap<string, number>; readonly bits: number } {
  const pinned = new Map<string, number>()
  let [left, weights] = [0, 0]
  for (const one of linears) {
    const said = saidOf(overrides, one.linear)
    if (said === undefined) weights += one.weights
    else pinned.set(one.linear, said.K)
    left += (bits - (said?.K ?? 0)) * one.weights
  }
  return { pinned, bits: pinned.size === 0 ? bits : left / weights }
}

/** A target that can't be met. */
export function mistakesOfBudget(linears: readonly Sized[], target: Target, where: string): Mistake[] {
  const { bits, K } = target
  const [low, high] = [Math.min(...K), Math.max(...K)]
  const { pinned, bits: others } = budgetOf(linears, target)
  if (others >= low && others <= high) return []
  const hint = `A target from ${low} to ${high}, or other "K".`
  if (pinned.size === 0) return [{ where, message: `bits: ${bits} bits a weight can't be made of ${K.join(', ')}.`, hint }]
  const rest = linears.length - pinned.size
  return [
    {
      where,
      message:
        rest === 0
          ? `overrides: they say the bits of all ${linears.length} linears, and leave none to choose.`
          : `bits: with ${bits} bits a weight "overrides" leave ${others.toFixed(2)} for the other ${rest} linears, which can't be made of ${K.join(', ')}.`,
      hint: 'Another target, other "K", or fewer "overrides".',
    },
  ]
}
