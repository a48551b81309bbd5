/**
 * Linears by name: in a pattern * stands for any letters, dots too. Of those that match a linear the one with the most
 * letters besides * counts, and alone; the order in which they are written means nothing.
 */
import { type Mistake, nearest } from '../../pipeline/define.js'

type Patterns = Readonly<Record<string, unknown>>

const matches = (pattern: string, linear: string): boolean =>
  new RegExp(`^${pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$`).test(linear)
const letters = (pattern: string): number => pattern.replaceAll('*', '').length

/** The patterns that count for a linear: none, one, or several that say it equally well. */
function winners(patterns: Patterns, linear: string): string[] {
  const matching = Object.keys(patterns).filter(pattern => matches(pattern, linear))
  const most = Math.max(...matching.map(letters))
  return matching.filter(pattern => letters(pattern) === most)
}

/** What is said of a linear; undefined: nothing. */
export function saidOf<T>(patterns: Readonly<Record<string, T>>, linear: string): T | undefined {
  const [winner = ''] = winners(patterns, linear)
  return patterns[winner]
}

/** Patterns that match none of the linears, or say different things equally well. `where`: the stage in its graph, and the parameter. */
export function mistakesOfPatterns(patterns: Patterns, linears: readonly string[], where: string): Mistake[] {
  const mistakes: Mistake[] = []
  for (const pattern of Object.keys(patterns).filter(pattern => !linears.some(linear => matches(pattern, linear)))) {
    const meant = nearestEnding(pattern, linears)
    mistakes.push({
      where: `${where} "${pattern}"`,
      message: `It matches none of the ${linears.length} linears.${meant === undefined ? '' : ` Did you mean "${meant}"?`}`,
      hint: `A linear's whole name, or * for any part of it, such as "*.${linears[0]?.split('.').at(-1)}".`,
    })
  }
  const told = new Set<string>()
  for (const linear of linears) {
    const [first = '', ...others] = winners(patterns, linear)
    const other = others.find(pattern => JSON.stringify(patterns[pattern]) !== JSON.stringify(patterns[first]))
    if (other === undefined || told.has(`${first} ${other}`)) continue
    told.add(`${first} ${other}`)
    mistakes.push({
      where: `${where} "${first}"`,
      message: `"${other}" also matches ${linear}, has as many letters, and says something else.`,
      hint: `Add "${linear}" by its whole name.`,
    })
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
