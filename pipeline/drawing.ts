/** A pipeline as a picture: text for the terminal, Mermaid for Markdown, SVG for everything else. */
import { wrap } from './text.js'

export interface Box {
  readonly id: string
  /** Below the id: what it was made of, one short line each. */
  readonly lines: readonly string[]
}
export interface Arrow {
  readonly from: string
  readonly to: string
  readonly table: string
  /** Columns on the edge; `added` by the stage it comes from. */
  readonly columns: readonly { readonly name: string; readonly added: boolean }[]
  /** Carries tensors that are used at once and never stored. */
  readonly live: boolean
}
/** Boxes in running order: an arrow leads from an earlier to a later box. */
export interface Drawing {
  readonly title: string
  readonly boxes: readonly Box[]
  readonly arrows: readonly Arrow[]
}

const heading = ({ table, live }: Arrow) => (live ? `${table} (live)` : table)
const names = ({ columns }: Arrow) => columns.map(({ name, added }) => (added ? `+${name}` : name))

const clip = (text: string, width: number) => (text.length > width ? `${text.slice(0, width - 1)}…` : text)
/** A line broken between words; a word that is too long is cut. */
const broken = (line: string, width: number) => wrap(line.split(' '), width).map(part => clip(part, width))

/** Boxes one below the other. An arrow from the box above is drawn; others are named in the box they lead to. */
export function drawText({ title, boxes, arrows }: Drawing, width = 80): string {
  const inner = Math.min(width, 100) - 4
  const middle = 4
  const rule = (left: string, right: string, joint?: string) => {
    const line = '─'.repeat(inner + 2)
    return `${left}${joint === undefined ? line : `${line.slice(0, middle)}${joint}${line.slice(middle + 1)}`}${right}`
  }
  const out = [title, '']
  for (const [i, box] of boxes.entries()) {
    const into = arrows.filter(arrow => arrow.to === box.id)
    const above = into.find(arrow => arrow.from === boxes[i - 1]?.id)
    const others = into.filter(arrow => arrow !== above).map(arrow => `from ${arrow.from}: ${heading(arrow)}`)
    const onward = arrows.some(arrow => arrow.from === box.id && arrow.to === boxes[i + 1]?.id)
    if (i > 0 && above === undefined) out.push('')
    out.push(rule('┌', '┐', above === undefined ? undefined : '┴'))
    for (const line of [box.id, ...box.lines, ...others].flatMap(text => broken(text, inner))) out.push(`│ ${line.padEnd(inner)} │`)
    out.push(rule('└', '┘', onward ? '┬' : undefined))
    const below = arrows.find(arrow => arrow.from === box.id && arrow.to === boxes[i + 1]?.id)
    if (below !== undefined) for (const line of wrap([`${heading(below)}:`, ...names(below)], inner - 6)) out.push(`     │ ${line}`)
  }
  return `${out.join('\n')}\n`
}

/** Mermaid flowchart text, as Markdown viewers draw it. */
export function drawMermaid({ title, boxes, arrows }: Drawing): string {
  const ids = new Map(boxes.map(({ id }, i) => [id, `s${i}`]))
  const quote = (text: string) =>
    `"${text.replaceAll('&', '&amp;').replaceAll('"', '#quot;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')}"`
  return [
    '---',
    `title: ${JSON.stringify(title)}`,
    '---',
    'flowchart TD',
    ...boxes.map(
      ({ id, lines }) =>
        `  ${ids.get(id)}[${[id, ...lines]
          .map(line => quote(line).slice(1, -1))
          .join('<br>')
          .replace(/^.*$/, '"$&"')}]`,
    ),
    ...arrows.map(arrow => `  ${ids.get(arrow.from)} -->|${quote(`${heading(arrow)}: ${names(arrow).join(' ')}`)}| ${ids.get(arrow.to)}`),
  ]
    .join('\n')
    .concat('\n')
}

const escapeXml = (text: string) =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: XML 1.0 has no way to write these
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, '\ufffd')

/** How deep each box lies: the longest way to it. Boxes of one depth are drawn side by side. */
function depths({ boxes, arrows }: Drawing): Map<string, number> {
  const depth = new Map<string, number>()
  for (const { id } of boxes) {
    depth.set(id, Math.max(0, ...arrows.filter(arrow => arrow.to === id).map(arrow => (depth.get(arrow.from) ?? 0) + 1)))
  }
  return depth
}

// Sizes in SVG units (pixels at 100 %). A letter of a 13 px monospaced font is at most 8 wide.
const boxWidth = 380
const lineHeight = 18
const pad = 10
const gapX = 40
const letters = 45

/** A stand-alone SVG document. */
export function drawSvg(drawing: Drawing): string {
  const { title, arrows } = drawing
  const boxes = drawing.boxes.map(({ id, lines }) => ({ id, lines: lines.flatMap(line => broken(line, letters)) }))
  const depth = depths(drawing)
  const rows = [...new Set(depth.values())].sort((a, b) => a - b).map(level => boxes.filter(({ id }) => depth.get(id) === level))
  const width = Math.max(...rows.map(row => row.length)) * (boxWidth + gapX) + gapX
  const at = new Map<string, { x: number; y: number; height: number }>()
  const labels = new Map(arrows.map(arrow => [arrow, wrap(names(arrow), letters)]))

  let y = 60
  for (const row of rows) {
    const left = (width - row.length * (boxWidth + gapX) + gapX) / 2
    const heights = row.map(({ lines }) => (lines.length + 1) * lineHeight + 2 * pad)
    row.forEach(({ id }, i) => {
      at.set(id, { x: left + i * (boxWidth + gapX), y, height: heights[i] ?? 0 })
    })
    // Below a row: room for the longest list of labels that leaves one of its boxes.
    const leaving = row.map(({ id }) =>
      arrows.filter(arrow => arrow.from === id).reduce((sum, arrow) => sum + (labels.get(arrow)?.length ?? 0) + 1, 0),
    )
    y += Math.max(...heights) + Math.max(...leaving) * lineHeight + 30
  }

  const text = (x: number, top: number, content: string, kind = '') =>
    `<text x="${x}" y="${top}"${kind === '' ? '' : ` class="${kind}"`}>${content}</text>`
  const parts: string[] = [text(gapX, 34, escapeXml(title), 'title')]
  const used = new Map<string, number>()
  for (const arrow of arrows) {
    const from = at.get(arrow.from)
    const to = at.get(arrow.to)
    if (from === undefined || to === undefined) continue
    const [x0, y0, x1, y1] = [from.x + 24, from.y + from.height, to.x + 24, to.y - 5]
    const bend = (y1 - y0) / 2
    parts.push(`<path class="${arrow.live ? 'arrow live' : 'arrow'}" d="M${x0} ${y0} C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}"/>`)
    let line = used.get(arrow.from) ?? 0
    const place = () => y0 + ++line * lineHeight
    parts.push(text(x0 + 14, place(), escapeXml(heading(arrow)), 'table'))
    for (const words of labels.get(arrow) ?? []) {
      const spans = words
        .split(' ')
        .map(word => (word.startsWith('+') ? `<tspan class="added">${escapeXml(word)}</tspan>` : escapeXml(word)))
      parts.push(text(x0 + 14, place(), spans.join(' '), 'column'))
    }
    used.set(arrow.from, line)
  }
  for (const { id, lines } of boxes) {
    const { x, y: top, height } = at.get(id) ?? { x: 0, y: 0, height: 0 }
    parts.push(`<rect x="${x}" y="${top}" width="${boxWidth}" height="${height}" rx="6"/>`)
    parts.push(text(x + pad, top + pad + 13, escapeXml(id), 'id'))
    lines.forEach((line, i) => {
      parts.push(text(x + pad, top + pad + 13 + (i + 1) * lineHeight, escapeXml(line)))
    })
  }
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" viewBox="0 0 ${width} ${y}">
<style>
  svg { background: #fff }
  text { font: 13px ui-monospace, monospace; fill: #333 }
  .title { font-weight: bold; font-size: 17px }
  .id { font-weight: bold }
  .table { font-style: italic; fill: #666 }
  .column { fill: #666 }
  .added { font-weight: bold; fill: #06c }
  rect { fill: #f4f7fb; stroke: #7a8ca5 }
  .arrow { fill: none; stroke: #7a8ca5; stroke-width: 1.5; marker-end: url(#head) }
  .live { stroke-dasharray: 5 3 }
</style>
<defs><marker id="head" markerWidth="8" markerHeight="8" refX="4" refY="4" orient="auto"><path d="M0 0L8 4L0 8z" fill="#7a8ca5"/></marker></defs>
${parts.join('\n')}
</svg>
`
}
