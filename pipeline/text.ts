/** Figures and tables as people read them. */

/** 1.5 GB: decimal units, three digits. */
export function bytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let value = n
  let unit = 0
  // 999.5 rounds to four digits: the next unit.
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${digits(value)} ${units[unit]}`
}

/** The same, rounded up: what to ask for. */
export function bytesAtLeast(n: number): string {
  const step = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 2)
  return bytes(Math.ceil(n / step) * step)
}

/** 850 ms, 3.2 s, 1:05, 2:10:00. */
export function duration(seconds: number): string {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  const pad = (n: number) => `${n}`.padStart(2, '0')
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`
}

/** 12.3k, 4.56M: a count or a rate in three digits. */
export function count(n: number): string {
  for (const [size, letter] of [
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const) {
    if (n >= size * 0.9995) return `${digits(n / size)}${letter}`
  }
  return digits(n)
}

/** 1.23, 12.3, 123: tokens a second. */
export const rate = (n: number): string => (n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : n.toFixed(0))

const digits = (value: number): string =>
  Number.isInteger(value) || value >= 99.95 ? `${Math.round(value)}` : value >= 9.995 ? value.toFixed(1) : value.toFixed(2)

export const plural = (n: number, word: string, words = `${word}s`): string => `${n} ${n === 1 ? word : words}`

/** How many character cells a terminal gives to this text, colour codes apart. Wide and combining characters are not met here. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: ESC begins a colour code
const cells = (text: string): number => [...text.replace(/\u001b\[[\d;]*m/g, '')].length

/** Aligned columns, two spaces apart; a column of figures goes to the right. Trailing blanks are cut. An empty head has no line. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const figure = /^[~–?]?$|^~?-?[\d.,:]+(e[+-]?\d+)?( ?[%\w]{1,3})?$/
  const columns = Array.from({ length: Math.max(head.length, ...rows.map(row => row.length)) }, (_, i) => ({
    width: Math.max(...[head, ...rows].map(row => cells(row[i] ?? ''))),
    right: rows.length > 0 && rows.every(row => figure.test(row[i] ?? '')),
  }))
  return [...(head.length > 0 ? [head] : []), ...rows].map(row =>
    columns
      .map(({ width, right }, i) => {
        const cell = row[i] ?? ''
        const blank = ' '.repeat(width - cells(cell))
        return right ? blank + cell : cell + blank
      })
      .join('  ')
      .trimEnd(),
  )
}

/** Words joined to lines of at most `width` characters; a longer word has a line of its own. */
export function wrap(words: readonly string[], width: number): string[] {
  const lines: string[] = []
  for (const word of words) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}
