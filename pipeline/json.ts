/** JSON that people write: where it is none, the first place that can't be is told, which Node does not always know. */

export interface JsonMistake {
  readonly line: number
  readonly column: number
  /** 'expected a value and found "]"'. */
  readonly message: string
}

const token =
  /[ \t\n\r]*(?:([{}[\],:])|("(?:[^"\\\p{Cc}]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.]))/uy

/** What may come next, and how it is called. */
const wanted = {
  value: 'a value',
  first: 'a value or "]"',
  key: 'a name in double quotes',
  firstKey: 'a name in double quotes or "}"',
  colon: '":"',
  more: '"," or what closes the list or object',
  nothing: 'the end',
} as const

/** The first mistake in a text that JSON.parse refuses. */
export function jsonMistake(text: string): JsonMistake {
  const open: string[] = []
  let next: keyof typeof wanted = 'value'
  let [at, afterComma] = [0, false]
  const after = (): keyof typeof wanted => (open.length === 0 ? 'nothing' : 'more')
  for (;;) {
    token.lastIndex = at
    const [all = '', mark, name, plain] = token.exec(text) ?? []
    const isValue = next === 'value' || next === 'first'
    const closes = mark === (open.at(-1) === '{' ? '}' : ']') && (next === 'more' || next === 'first' || next === 'firstKey')
    if (closes) {
      open.pop()
      next = after()
    } else if (isValue && (mark === '{' || mark === '[')) {
      open.push(mark)
      next = mark === '{' ? 'firstKey' : 'first'
    } else if (isValue && (name !== undefined || plain !== undefined)) next = after()
    else if ((next === 'key' || next === 'firstKey') && name !== undefined) next = 'colon'
    else if (next === 'colon' && mark === ':') next = 'value'
    else if (next === 'more' && mark === ',') next = open.at(-1) === '{' ? 'key' : 'value'
    else break
    afterComma = mark === ','
    at += all.length
  }
  at += /^[ \t\n\r]*/.exec(text.slice(at))?.[0].length ?? 0
  const found = /^(?:"[^"\n]{0,20}"?|[\w.+-]{1,20}|.)/s.exec(text.slice(at))?.[0]
  const before = text.slice(0, at).split('\n')
  const comma = afterComma && (found === '}' || found === ']') ? `: the comma before "${found}" is one too many` : ''
  return {
    line: before.length,
    column: (before.at(-1)?.length ?? 0) + 1,
    message: `expected ${wanted[next]} and found ${found === undefined ? 'the end of the file' : found.startsWith('"') ? found : `"${found}"`}${comma}`,
  }
}
