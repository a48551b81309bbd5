/** Text that appears token by token is the text of all tokens, its characters whole, and ends before a stop string. */
import { join } from 'node:path'
import t from 'tap'
import { StreamedText } from '../../../stages/model/streamed-text.js'
import { openTokenizer } from '../../../stages/model/text.js'
import { root } from '../../helpers.js'

const tokenizer = await openTokenizer(join(root, 'fixtures/tiny-llama'), 2048)
const encode = async (text: string): Promise<number[]> => (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds()

async function stream(
  prompt: string,
  ids: readonly number[],
  stops: string[] = [],
): Promise<{ parts: string[]; text: string; stopped: boolean }> {
  const streamed = new StreamedText(tokenizer, await encode(prompt), stops)
  const parts: string[] = []
  for (const id of ids) {
    parts.push(await streamed.push(id))
    if (streamed.stopped) break
  }
  parts.push(await streamed.end())
  return { parts, text: parts.join(''), stopped: streamed.stopped }
}

t.test('characters of several tokens appear whole', async t => {
  for (const text of [' two bricks', ' naïve café – 東京 😀👩‍👩‍👧 ok', '😀', '\n\ttab  spaces']) {
    const ids = await encode(text)
    const { parts, text: all } = await stream('The mason', ids)
    t.equal(all, text)
    t.ok(
      parts.every(part => !part.includes('\uFFFD')),
      JSON.stringify(parts),
    )
  }
  const ids = await encode('😀')
  t.ok(ids.length > 1, 'the character is of several tokens')
  t.strictSame((await stream('a', ids)).parts, [...new Array<string>(ids.length - 1).fill(''), '😀', ''])
})

t.test('a character that never ends is given as the decoder gives it', async t => {
  const ids = (await encode('😀')).slice(0, -1)
  t.match((await stream('a', ids)).text, /^\uFFFD+$/)
})

t.test('stop strings: nothing of them appears, wherever tokens are cut', async t => {
  const ids = await encode(' two bricks, three bricks and four')
  t.strictSame(await stream('The', ids, ['zzz']).then(({ text, stopped }) => ({ text, stopped })), {
    text: ' two bricks, three bricks and four',
    stopped: false,
  })
  for (const [stops, text] of [
    [['icks, th'], ' two br'],
    [['and', 'three'], ' two bricks, '],
    [[' two'], ''],
    [['four'], ' two bricks, three bricks and '],
    [['s and'], ' two bricks, three brick'],
  ] as const) {
    const { text: all, stopped, parts } = await stream('The', ids, [...stops])
    t.equal(all, text, stops.join())
    t.ok(stopped)
    t.equal(parts.join('').length, text.length)
  }
  t.equal((await stream('The', ids, ['four score'])).text, ' two bricks, three bricks and four', 'what was held back comes at the end')
})
