/** Several texts from one model: each is what it would be alone, whatever runs beside it, and whoever leaves frees the slot. */
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import { rng } from '../../../pipeline/random.js'
import type { Asked, Piece } from '../../../stages/model/batched-text.js'
import { Batcher, type Slots } from '../../../stages/model/batcher.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { Decoder } from '../../../stages/model/decoder.js'
import { Generator } from '../../../stages/model/generate.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { greedy } from '../../../stages/model/sampling.js'
import { openTokenizer } from '../../../stages/model/text.js'
import { root, testDevice } from '../../helpers.js'

const ops = await openBackend(testDevice)
const tiny = join(root, 'fixtures/tiny-llama')
const tokenizer = await openTokenizer(tiny, 2048)
const weights = await openWeights(ops, await openCheckpoint(tiny))
const decoder = await Decoder.open(ops, weights, { slots: 4, positions: 512 })
t.teardown(async () => {
  decoder[Symbol.dispose]()
  weights[Symbol.dispose]()
  await ops.finish()
})

const drawn = { temperature: 1, topK: 40, topP: 1, minP: 0, repetitionPenalty: 1.1 }
const encode = async (text: string) => (await tokenizer.encode(text)).getIds()
const uniform = (seed: number): (() => number) => {
  const random = rng(seed, 'generate')
  return () => random.uniform(1)[0] ?? 0
}
const ask = (prompt: readonly number[], o: Partial<Asked> = {}): Asked => ({
  prompt,
  sampling: greedy,
  uniform: uniform(0),
  maxTokens: 20,
  stop: [],
  ...o,
})
async function whole(pieces: AsyncIterable<Piece>): Promise<{ text: string; tokens: number; end?: string | undefined }> {
  let text = ''
  let last: Piece | undefined
  for await (const piece of pieces) {
    text += piece.text
    last = piece
  }
  return { text, tokens: last?.tokens ?? 0, end: last?.end }
}
/** No slot is in use, and none holds anything once the batcher is closed. */
async function free(batcher: Batcher): Promise<boolean> {
  const idle = batcher.active === 0 && batcher.waiting === 0
  await batcher[Symbol.asyncDispose]()
  return idle && [0, 1, 2, 3].every(slot => decoder.held(slot) === 0)
}

const prompts = await Promise.all(
  ['The mason had five bricks.', 'Once', 'A baker sold nine loaves and', 'In the harbour', 'Two and two', 'The clock', 'He said:'].map(
    encode,
  ),
)

t.test('texts side by side are the texts alone, greedy and drawn', async t => {
  const asked = prompts.map((prompt, i) => ({ prompt, maxTokens: 8 + 2 * i, sampling: i % 2 ? drawn : greedy, seed: i }))
  const alone: string[] = []
  {
    using generator = await Generator.open(ops, weights)
    for (const { prompt, maxTokens, sampling, seed } of asked) {
      const ids: number[] = []
      for await (const id of generator.tokens(prompt, { sampling, maxTokens, uniform: uniform(seed) })) ids.push(id)
      alone.push((await tokenizer.decode([...prompt, ...ids], true)).slice((await tokenizer.decode(prompt, true)).length))
    }
  }
  await using batcher = new Batcher(decoder, tokenizer, 10)
  const together = asked.map(({ seed, ...o }) => whole(batcher.text(ask(o.prompt, { ...o, uniform: uniform(seed) }))))
  t.equal(batcher.waiting, 7, 'none has begun')
  t.strictSame(
    (await Promise.all(together)).map(({ text }) => text),
    alone,
  )
  t.ok(new Set(alone).size === alone.length && alone.every(text => text.length > 5))
  t.ok(await free(batcher))
})

t.test('a long prompt goes in by pieces, between the steps of others', async t => {
  const calls: string[] = []
  const watched: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: (slot, ids, draw) => {
      calls.push(`prefill ${ids.length}`)
      return decoder.pickAfter(slot, ids, draw)
    },
    pick: rows => {
      calls.push(`step ${rows.length}`)
      return decoder.pick(rows)
    },
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  await using batcher = new Batcher(watched, tokenizer, 0)
  const long = new Array(6).fill(prompts).flat(2).concat(new Array(200).fill(7)).slice(0, 300) as number[]
  const both = [whole(batcher.text(ask(prompts[0]!, { maxTokens: 5 }))), whole(batcher.text(ask(long, { maxTokens: 3 })))]
  const [first, second] = await Promise.all(both)
  t.match(calls.join(), /^prefill \d+,prefill 256,step 1,prefill 44,step 1,step 2,step 2/)
  t.match(
    [first, second],
    [
      { tokens: 5, end: 'length' },
      { tokens: 3, end: 'length' },
    ],
  )
  using generator = await Generator.open(ops, weights)
  const ids: number[] = []
  for await (const id of generator.tokens(long, { sampling: greedy, maxTokens: 3, uniform: () => 0 })) ids.push(id)
  t.equal(
    second?.text,
    (await tokenizer.decode([...long.slice(-5), ...ids], true)).slice((await tokenizer.decode(long.slice(-5), true)).length),
  )
})

t.test('what a slot still holds of a prompt is not computed again, and changes nothing', async t => {
  const fed: number[] = []
  const watched: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: (slot, ids, draw) => {
      fed.push(ids.length)
      return decoder.pickAfter(slot, ids, draw)
    },
    pick: rows => decoder.pick(rows),
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  const [one, other] = [prompts[2]!, prompts[3]!]
  await using batcher = new Batcher(watched, tokenizer, 0)
  const ids = async (text: string) => (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds()
  const first = await whole(batcher.text(ask(one, { maxTokens: 6 })))
  const said = await ids(first.text)
  const second = await whole(batcher.text(ask([...one, ...said, ...other], { maxTokens: 6 })))
  const again = await whole(batcher.text(ask([...one, ...said, ...other, 5], { maxTokens: 6 })))
  await whole(batcher.text(ask(other.slice(1), { maxTokens: 6 })))
  await whole(batcher.text(ask(one, { maxTokens: 6 })))
  t.strictSame(fed, [one.length, other.length + 1, 1, other.length - 1, 1], 'the last token alone, where all is held')
  await batcher[Symbol.asyncDispose]()
  await using fresh = new Batcher(watched, tokenizer, 0)
  t.equal((await whole(fresh.text(ask([...one, ...said, ...other, 5], { maxTokens: 6 })))).text, again.text)
  await fresh[Symbol.asyncDispose]()
  await using another = new Batcher(watched, tokenizer, 0)
  t.equal((await whole(another.text(ask([...one, ...said, ...other], { maxTokens: 6 })))).text, second.text)
})

t.test('ends: the model, a stop string, a token, the last position', async t => {
  await using batcher = new Batcher(decoder, tokenizer, 10)
  const prompt = prompts[0]!
  const { text } = await whole(batcher.text(ask(prompt)))
  const word = text.split(' ')[4]!
  t.strictSame(await whole(batcher.text(ask(prompt, { stop: [word] }))).then(({ text, end }) => [text, end]), [
    text.slice(0, text.indexOf(word)),
    'stop',
  ])
  const [first] = (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds()
  t.match(await whole(batcher.text(ask(prompt, { ends: new Set([first!]) }))), { text: '', tokens: 0, end: 'stop' })
  const nearlyFull = new Array(509).fill(prompt).flat().slice(0, 509) as number[]
  t.match(await whole(batcher.text(ask(nearlyFull))), { tokens: 3, end: 'length' })
  t.ok(await free(batcher))
})

t.test('who leaves frees the slot: a loop left, a signal, an answer never read, one that waits', async t => {
  await using batcher = new Batcher(decoder, tokenizer, 2)
  const forever = (signal?: AbortSignal) => batcher.text(ask(prompts[1]!, { maxTokens: 400, sampling: drawn, signal }))
  const abort = new AbortController()
  const [read, aborted, unread] = [forever(), forever(abort.signal), forever()]
  const stays = batcher.text(ask(prompts[0]!))
  const waits = forever(abort.signal)
  let pieces = 0
  for await (const _ of read) if (++pieces === 2) break
  t.equal(batcher.active, 4)
  await unread.return?.()
  const said = whole(aborted)
  abort.abort()
  t.equal((await said).end, undefined)
  t.equal((await whole(waits)).tokens, 0)
  t.equal((await whole(forever(abort.signal))).tokens, 0, 'aborted before it began')
  t.equal((await whole(stays)).end, 'length')
  while (batcher.active > 0) await wait(5)
  t.ok(await free(batcher))
})

t.test('the slot of who has left counts as free at once, also while the model is at work for it', async t => {
  let go = () => {}
  const gate = new Promise<void>(resolve => {
    go = resolve
  })
  const slow: Slots = {
    slots: 1,
    positions: 512,
    ends: decoder.ends,
    pickAfter: async (slot, ids, draw) => {
      await gate
      return decoder.pickAfter(slot, ids, draw)
    },
    pick: rows => decoder.pick(rows),
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  await using batcher = new Batcher(slow, tokenizer, 0)
  const abort = new AbortController()
  const left = whole(batcher.text(ask(prompts[0]!, { signal: abort.signal })))
  await wait(5)
  t.ok(batcher.full)
  abort.abort()
  t.equal((await left).tokens, 0)
  t.equal(batcher.full, false)
  const next = whole(batcher.text(ask(prompts[2]!, { maxTokens: 3 })))
  t.throws(() => batcher.text(ask(prompts[0]!)), { code: 'busy' })
  go()
  t.match(await next, { tokens: 3, end: 'length' })
  t.ok(await free(batcher))
})

t.test('full: told at once, and what is running goes on', async t => {
  await using batcher = new Batcher(decoder, tokenizer, 1)
  const five = Array.from({ length: 5 }, () => batcher.text(ask(prompts[0]!, { maxTokens: 3 })))
  t.ok(batcher.full)
  t.throws(() => batcher.text(ask(prompts[0]!)), { name: 'PipeError', code: 'busy' })
  t.equal(new Set((await Promise.all(five.map(whole))).map(({ text }) => text)).size, 1, 'equal requests, equal texts')
  t.throws(() => batcher.text(ask([])), { code: 'input', message: 'the prompt is empty: there is nothing to go on from.' })
  t.throws(() => batcher.text(ask(new Array(512).fill(1))), {
    code: 'input',
    message: /^the prompt has 512 tokens and there is room for 512/,
  })
  t.throws(() => batcher.text(ask(new Array(1e6).fill(1))), { code: 'input', message: /^the prompt has 1000000 tokens/ })
  t.ok(await free(batcher))
})

t.test('what fails, fails for those whose turn it was; the next are served', async t => {
  let fail: 'prefill' | 'step' | undefined = 'prefill'
  const failing: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: async (slot, ids, draw) => {
      if (fail === 'prefill') throw new Error('no memory')
      return decoder.pickAfter(slot, ids, draw)
    },
    pick: async rows => {
      if (fail === 'step') throw new Error('the device is lost')
      return decoder.pick(rows)
    },
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  await using batcher = new Batcher(failing, tokenizer, 2)
  await t.rejects(whole(batcher.text(ask(prompts[0]!))), { message: 'no memory' })
  fail = 'step'
  const both = [0, 1].map(() => whole(batcher.text(ask(prompts[0]!))))
  for (const one of both) await t.rejects(one, { message: 'the device is lost' })
  fail = undefined
  t.equal((await whole(batcher.text(ask(prompts[0]!)))).end, 'length')
  t.ok(await free(batcher))
})

t.test('a text that finds no memory as it joins fails alone', async t => {
  let broken = true
  const failing: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: (slot, ids, draw) => decoder.pickAfter(slot, ids, draw),
    pick: rows => decoder.pick(rows),
    remember: (slot, ids) => {
      if (broken) throw new Error('no memory')
      decoder.remember(slot, ids)
    },
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  await using batcher = new Batcher(failing, tokenizer, 2)
  const beside = whole(batcher.text(ask(prompts[0]!)))
  await t.rejects(whole(batcher.text(ask(prompts[1]!, { sampling: drawn }))), { message: 'no memory' })
  t.equal((await beside).end, 'length')
  broken = false
  t.equal((await whole(batcher.text(ask(prompts[1]!, { sampling: drawn })))).tokens, 20)
  t.ok(await free(batcher))
})

t.test('what was kept when an op failed is made anew; where that fails, each who asks is told, until it does not', async t => {
  let broken = false
  let renewed = 0
  const failing: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: async (slot, ids, draw) => {
      if (broken) throw new Error('no memory')
      return decoder.pickAfter(slot, ids, draw)
    },
    pick: rows => decoder.pick(rows),
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: async () => {
      renewed++
      if (broken) throw new Error('still no memory')
      await decoder.renew()
    },
  }
  await using batcher = new Batcher(failing, tokenizer, 4)
  const before = await whole(batcher.text(ask(prompts[2]!)))
  const beside = batcher.text(ask(prompts[1]!, { maxTokens: 400, sampling: drawn }))
  await beside.next()
  broken = true
  const waiting = [2, 3, 4].map(i => whole(batcher.text(ask(prompts[i]!))))
  await t.rejects(whole(beside), { message: 'no memory' }, 'its keys and values lie beside')
  await t.rejects(waiting[0]!, { message: 'no memory' })
  for (const text of waiting.slice(1)) await t.rejects(text, { message: 'still no memory' })
  await t.rejects(whole(batcher.text(ask(prompts[2]!))), { message: 'still no memory' })
  t.equal(renewed, 2)
  broken = false
  t.strictSame(await whole(batcher.text(ask(prompts[2]!))), before)
  t.equal(renewed, 3)
  t.ok(await free(batcher))
})

t.test('a step begins before the last is read, and what it makes of a text that is over is dropped', async t => {
  const log: string[] = []
  const watched: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: (slot, ids, draw) => decoder.pickAfter(slot, ids, draw),
    pick: async rows => {
      const made = decoder.pick(rows)
      log.push('begin')
      const ids = await made
      log.push('end')
      return ids
    },
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  await using batcher = new Batcher(watched, tokenizer, 0)
  const [prompt, other] = [prompts[0]!, prompts[2]!]
  const { text } = await whole(batcher.text(ask(prompt, { maxTokens: 12 })))
  t.equal(log.length, 2 * 11, 'a text that ends by its length has no step too many')
  t.strictSame(log.slice(0, 2), ['begin', 'begin'])
  log.length = 0
  const words = text.split(' ')
  const asked = { maxTokens: 30, sampling: { ...drawn, repetitionPenalty: 1.3 } }
  const [stopped, beside] = await Promise.all([
    whole(batcher.text(ask(prompt, { maxTokens: 12, stop: [words[4]!] }))),
    whole(batcher.text(ask(other, { ...asked, uniform: uniform(5) }))),
  ])
  t.equal(stopped.text, text.slice(0, text.indexOf(words[4]!)))
  // The slot that had a step too many goes on from what it holds, and one text's history is none of the next one's.
  const ids = (await tokenizer.encode(stopped.text, null, { addSpecialTokens: false })).getIds()
  const again = await whole(batcher.text(ask([...prompt, ...ids], { maxTokens: 8 })))
  const alone = await whole(batcher.text(ask(other, { ...asked, uniform: uniform(5) })))
  t.equal(alone.text, beside.text)
  await batcher[Symbol.asyncDispose]()
  await using fresh = new Batcher(decoder, tokenizer, 0)
  t.equal((await whole(fresh.text(ask([...prompt, ...ids], { maxTokens: 8 })))).text, again.text)
  t.ok(await free(fresh))
})

t.test('predictions that are no numbers end the text that has them, alone', async t => {
  let steps = 0
  const damaged: Slots = {
    slots: 2,
    positions: 512,
    ends: decoder.ends,
    pickAfter: (slot, ids, draw) => decoder.pickAfter(slot, ids, draw),
    pick: async rows => (await decoder.pick(rows)).map((id, i) => (rows[i]!.slot === 0 && ++steps === 3 ? -1 : id)),
    remember: (slot, ids) => decoder.remember(slot, ids),
    free: (slot, from) => decoder.free(slot, from),
    renew: () => decoder.renew(),
  }
  await using batcher = new Batcher(damaged, tokenizer, 0)
  const [bad, good] = [whole(batcher.text(ask(prompts[0]!))), whole(batcher.text(ask(prompts[2]!)))]
  await t.rejects(bad, { name: 'PipeError', message: /predictions are no numbers/ })
  t.equal((await good).tokens, 20)
  t.ok(await free(batcher))
})

t.test('closing ends what is under way', async t => {
  const batcher = new Batcher(decoder, tokenizer, 2)
  const texts = [1, 2, 3, 4, 5, 6].map(() => whole(batcher.text(ask(prompts[1]!, { maxTokens: 400 }))))
  await wait(30)
  await batcher[Symbol.asyncDispose]()
  t.ok((await Promise.all(texts)).every(({ end }) => end === undefined))
  t.throws(() => batcher.text(ask(prompts[0]!)), { code: 'busy' })
  t.ok(await free(batcher))
})
