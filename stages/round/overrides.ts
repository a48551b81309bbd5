/**
 * Linears that are rounded otherwise than the rest, by name: { "*.down_proj": { "K": 3 }, "*.o_proj": "leave" }.
 */
import { type TUnsafe, Type } from '@sinclair/typebox'
import { codebookOf, codebookSchema, type Settings } from '../../native/codebooks/settings.js'
import type { Mistake, StageAbove } from '../../pipeline/define.js'
import { mistakesOfPatterns, saidOf } from '../model/patterns.js'

/** Left as it is, or with another K of the same code, or with another code. */
export type Override = 'leave' | { readonly K?: number; readonly codebook?: Settings }
export type Overrides = Readonly<Record<string, Override>>

export const overridesSchema: TUnsafe<Overrides> = Type.Unsafe<Overrides>(
  Type.Record(
    Type.String(),
    Type.Union([
      Type.Literal('leave', { description: 'Keep the linear as it is' }),
      Type.Object(
        { K: Type.Optional(Type.Integer({ minimum: 1, maximum: 8 })), codebook: Type.Optional(codebookSchema) },
        { additionalProperties: false, minProperties: 1, maxProperties: 1, description: 'Other bits a weight, or another code' },
      ),
    ]),
    {
      default: {},
      description:
        'Linears by name, * for any letters: "leave", { "K": bits a weight } or { "codebook": … }; the pattern with the most letters counts',
    },
  ),
)

/** What to round the linear with: the code, with K as an earlier stage chose it, if one did; or as its override says. */
export function codeFor(linear: string, K: number | undefined, { codebook, overrides }: Choice): Settings | 'leave' {
  const override = saidOf(overrides, linear)
  if (override === 'leave') return 'leave'
  if (override !== undefined) return override.codebook ?? { ...codebook, K: override.K }
  return K === undefined ? codebook : { ...codebook, K }
}

export interface Choice {
  readonly codebook: Settings
  readonly overrides: Overrides
}

/** A code, or one of a pattern, that there is not; patterns that match nothing, or contradict each other. */
export function mistakesOf({ codebook, overrides }: Choice, linears: readonly string[], where: string): Mistake[] {
  const place = `${where}  overrides`
  const mistakes = mistakesOfPatterns(overrides, linears, place)
  const add = (at: string, settings: Settings): void => {
    const wrong = contradictionOf(settings)
    if (wrong !== undefined) mistakes.push({ where: at, message: `${wrong}.` })
  }
  add(`${where}  codebook`, codebook)
  for (const [pattern, override] of Object.entries(overrides)) {
    if (override !== 'leave') add(`${place} "${pattern}"`, override.codebook ?? { ...codebook, K: override.K })
  }
  return mistakes
}

/** Bits that "allocate" may give a linear, and that its code does not have. */
export function mistakesOfGiven(choice: Choice, linears: readonly string[], above: readonly StageAbove[], where: string): Mistake[] {
  const open = linears.filter(linear => saidOf(choice.overrides, linear) === undefined)
  const given = above
    .filter(({ name }) => name === 'allocate')
    .flatMap(({ params }) => {
      const { K, overrides = {} } = params as { K: readonly number[]; overrides?: Readonly<Record<string, { readonly K: number }>> }
      return open.flatMap(linear => saidOf(overrides, linear)?.K ?? K)
    })
  return [...new Set(given)].flatMap(K => {
    const wrong = contradictionOf({ ...choice.codebook, K })
    if (wrong === undefined) return []
    const hint = 'Give "allocate" other "K", or "round" another code.'
    return [{ where: `${where}  codebook`, message: `"allocate" above may give K = ${K}: ${wrong}.`, hint }]
  })
}

/** Parameters that the codebook does not have, or that do not go together. */
function contradictionOf(settings: Settings): string | undefined {
  try {
    const { codebook, params } = codebookOf(settings)
    codebook.operations(params)
  } catch (error) {
    return (error as Error).message
  }
}
