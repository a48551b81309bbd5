import t from 'tap'
import { drawMermaid, drawSvg, drawText, type Drawing } from '../../pipeline/drawing.js'

const columns = (...names: string[]) => names.map(name => ({ name: name.replace('+', ''), added: name.startsWith('+') }))
const line: Drawing = {
  title: 'qtip: "2 bits" & <more>',
  boxes: [
    { id: 'model', lines: ['path a<b>&"c"'] },
    { id: 'hessian', lines: [] },
    { id: 'rht', lines: [] },
  ],
  arrows: [
    { from: 'model', to: 'hessian', table: 'linears', columns: columns('layer', 'weight'), live: true },
    { from: 'hessian', to: 'rht', table: 'linears', columns: columns('layer', '+hessian'), live: false },
  ],
}
const branched: Drawing = {
  title: 'two ways',
  boxes: ['a', 'b', 'c', 'd'].map(id => ({ id, lines: [] })),
  arrows: [
    ['a', 'b'],
    ['a', 'c'],
    ['b', 'd'],
    ['c', 'd'],
  ].map(([from = '', to = '']) => ({ from, to, table: 'x', columns: columns('y'), live: false })),
}

/** Checks nesting, attributes and entities; gives the text between the tags. An XML parser as small as what we write needs. */
function wellFormed(xml: string): string[] {
  const open: string[] = []
  const texts: string[] = []
  const rest = xml
    .replace(/^<\?xml [^>]*\?>\n/, '')
    .replace(
      /<(\/?)([a-z]+)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>|([^<]+)/gi,
      (_, close: string, name: string, __, single: string, text: string) => {
        if (text !== undefined) {
          if (/&(?!(amp|lt|gt|quot|#\d+);)/.test(text)) throw new Error(`bare & in ${text}`)
          texts.push(text)
        } else if (close === '/') {
          if (open.pop() !== name) throw new Error(`</${name}> closes nothing`)
        } else if (single !== '/') open.push(name)
        return ''
      },
    )
  if (rest !== '' || open.length > 0) throw new Error(`left over: ${rest.slice(0, 80)} open: ${open.join(' ')}`)
  return texts.filter(text => text.trim() !== '')
}

t.test('text: boxes one below the other, columns on the edges', async t => {
  t.equal(
    drawText(line, 50),
    [
      'qtip: "2 bits" & <more>',
      '',
      '┌────────────────────────────────────────────────┐',
      '│ model                                          │',
      '│ path a<b>&"c"                                  │',
      '└────┬───────────────────────────────────────────┘',
      '     │ linears (live): layer weight',
      '┌────┴───────────────────────────────────────────┐',
      '│ hessian                                        │',
      '└────┬───────────────────────────────────────────┘',
      '     │ linears: layer +hessian',
      '┌────┴───────────────────────────────────────────┐',
      '│ rht                                            │',
      '└────────────────────────────────────────────────┘',
      '',
    ].join('\n'),
  )
})

t.test('text: what does not come from the box above is named', async t => {
  const text = drawText(branched, 50)
  t.match(text, /│ c +│\n│ from a: x +│/)
  t.match(text, /┴─+┐\n│ d +│\n│ from b: x +│/)
})

t.test('SVG is well-formed XML and holds every box, table and column', async t => {
  for (const drawing of [line, branched]) {
    const texts = wellFormed(drawSvg(drawing))
    for (const { id } of drawing.boxes) t.ok(texts.includes(id), id)
    t.equal(drawSvg(drawing).match(/<path class="arrow/g)?.length, drawing.arrows.length)
  }
  const texts = wellFormed(drawSvg(line))
  t.ok(texts.includes('path a&lt;b&gt;&amp;&quot;c&quot;'))
  t.ok(texts.includes('linears (live)'))
  t.ok(texts.includes('+hessian'))
  t.doesNotThrow(() => wellFormed(drawSvg({ title: 'control \u0001', boxes: [], arrows: [] })))
  t.throws(() => wellFormed('<svg><g></svg>'), 'the check can fail')
})

t.test('SVG: boxes of one depth stand side by side', async t => {
  const at = [...drawSvg(branched).matchAll(/<rect x="([\d.]+)" y="([\d.]+)"/g)].map(([, x, y]) => [Number(x), Number(y)])
  t.equal(at[1]?.[1], at[2]?.[1])
  t.ok((at[2]?.[0] ?? 0) > (at[1]?.[0] ?? 0) + 300)
  t.ok((at[3]?.[1] ?? 0) > (at[1]?.[1] ?? 0))
})

t.test('Mermaid quotes what Mermaid would read', async t => {
  t.equal(
    drawMermaid(line),
    [
      '---',
      'title: "qtip: \\"2 bits\\" & <more>"',
      '---',
      'flowchart TD',
      '  s0["model<br>path a&lt;b&gt;&amp;#quot;c#quot;"]',
      '  s1["hessian"]',
      '  s2["rht"]',
      '  s0 -->|"linears (live): layer weight"| s1',
      '  s1 -->|"linears: layer +hessian"| s2',
      '',
    ].join('\n'),
  )
})
