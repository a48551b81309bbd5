/** One measured case: what was measured, then figures with the unit in the column's name. */
export type Row = Readonly<Record<string, string | number>>

/** What was given as --name value. */
export type Options = Readonly<Record<string, string>>

/** Rows, and what else belongs into the file of results: the card, bounds, anchors. */
export interface Figures {
  readonly rows: readonly Row[]
  readonly [more: string]: unknown
}

/** Columns aligned, numbers to the right with four significant digits; a column that a row lacks is left empty. */
export function printTable(rows: readonly Row[]): void {
  const columns = [...new Set(rows.flatMap(row => Object.keys(row)))]
  const show = (value: string | number | undefined) =>
    typeof value === 'number' ? (Number.isInteger(value) ? `${value}` : `${Number(value.toPrecision(4))}`) : (value ?? '')
  const cells = rows.map(row => columns.map(column => show(row[column])))
  const numeric = columns.map(column => rows.every(row => typeof row[column] !== 'string'))
  const widths = columns.map((column, i) => Math.max(column.length, ...cells.map(line => (line[i] ?? '').length)))
  for (const line of [columns, ...cells]) {
    console.log(
      line
        .map((cell, i) => (numeric[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
  }
}

/** The text with a table between two marks, in place of what is there. Throws where the text lacks them. */
export function withTable(text: string, [begin, end]: readonly [string, string], table: string): string {
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from === -1 || to < from) throw new Error(`the text has no ${begin} … ${end}`)
  return `${text.slice(0, from + begin.length)}\n${table}\n${text.slice(to)}`
}
