/**
 * Linears that are rounded otherwise than the rest, by name: { "*.down_proj": { "K": 3 }, "*.o_proj": "leave" }.
 *
 * In a pattern * stands for any letters, dots too. Of those that match a linear the one with the most letters besides *
 * counts, and alone; the order in which they are written means nothing.
 */
import { type TUnsafe, Type } from '@sinclair/typebox'
import { codebookOf, codebookSchema, type Settings } from '../../native/codebooks/settings.js'
import { type Mistake, nearest } from '../../pipeline/define.js'

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

const matches = (pattern: string, linear: string): boolean =>
  new RegExp(`^${pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$`).test(linear)
const letters = (pattern: string): number => pattern.replaceAll('*', '').length

/** The patterns that count for a linear: none, one, or several that say it equally well. */
function winners(overrides: Overrides, linear: string): string[] {
  const matching = Object.keys(overrides).filter(pattern => matches(pattern, linear))
  const most = Math.max(...matching.map(letters))
  return matching.filter(pattern => letters(pattern) === most)
}

/** What to round the linear with: the code, with K as an earlier stage chose it, if one did; or as its override says. */
export function codeFor(linear: string, K: number | undefined, { codebook, overrides }: Choice): Settings | 'leave' {
  const [winner = ''] = winners(overrides, linear)
  const override = overrides[winner]
  if (override === 'leave') return 'leave'
  if (override !== undefined) return override.codebook ?? { ...codebook, K: override.K }
  return K === undefined ? codebook : { ...codebook, K }
}

export interface Choice {
  readonly codebook: Settings
  readonly overrides: Overrides
}

/** Patterns that match nothing, that contradict each other, or whose code has no such parameters. */
export function mistakesOf({ codebook, overrides }: Choice, linears: readonly string[], where: string): Mistake[] {
  const mistakes: Mistake[] = []
  const add = (pattern: string, message: string, hint?: string): void => {
    mistakes.push({ where: `${where}  overrides "${pattern}"`, message, ...(hint !== undefined && { hint }) })
  }
  for (const [pattern, override] of Object.entries(overrides)) {
    if (!linears.some(linear => matches(pattern, linear))) {
      const meant = nearestEnding(pattern, linears)
      add(
        pattern,
        `It matches none of the ${linears.length} linears.${meant === undefined ? '' : ` Did you mean "${meant}"?`}`,
        `A linear's whole name, or * for any part of it, such as "*.${linears[0]?.split('.').at(-1)}".`,
      )
    }
    if (override === 'leave') continue
    try {
      codebookOf(override.codebook ?? { ...codebook, K: override.K })
    } catch (error) {
      add(pattern, `${(error as Error).message}.`)
    }
  }
  const told = new Set<string>()
  for (const linear of linears) {
    const [first = '', ...others] = winners(overrides, linear)
    const other = others.find(pattern => JSON.stringify(overrides[pattern]) !== JSON.stringify(overrides[first]))
    if (other === undefined || told.has(`${first} ${other}`)) continue
    told.add(`${first} ${other}`)
    add(first, `"${other}" also matches ${linear}, has as many letters, and says something else.`, `Add "${linear}" by its whole name.`)
  }
  return mistakes
}

/** The pattern with its last name put right. */
function nearestEnding(pattern: string, linears: readonly string[]): string | undefined {
  const endings = [...new Set(linears.map(linear => linear.split('.').at(-1) ?? ''))]
  const at = pattern.lastIndexOf('.') + 1
  const ending = nearest(pattern.slice(at), endings)
  return ending === undefined || ending === pattern.slice(at) ? undefined : pattern.slice(0, at) + ending
}
