import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import t from 'tap'
import { type AnyStage, hashOfFile } from '../../pipeline/define.js'
import { temporary } from '../helpers.js'
import { actions, newOut, plan, run } from './harness.js'
import { numbered, withStages } from './toys.js'

const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex')

t.test('a file: the hash of its pieces, of 16 MiB, in order', async t => {
  const path = join(temporary(t), 'file')
  const bytes = new Uint8Array(2 * 2 ** 24 + 5).fill(1)
  bytes[2 ** 24] = 2
  const pieces = [0, 1, 2].map(i => sha256(bytes.subarray(i * 2 ** 24, (i + 1) * 2 ** 24)))
  writeFileSync(path, bytes)
  const whole = await hashOfFile(path)
  t.equal(whole, sha256(pieces.join()))
  bytes[bytes.length - 1] = 7
  writeFileSync(path, bytes)
  t.not(await hashOfFile(path), whole, 'its last byte counts')
  writeFileSync(path, 'short')
  t.equal(await hashOfFile(path), sha256(sha256('short')))
  writeFileSync(path, '')
  t.equal(await hashOfFile(path), sha256(''))
  await t.rejects(hashOfFile(`${path}-not`), { code: 'ENOENT' })
})

t.test('parameters that differ have keys that differ, whatever their names', async t => {
  const free = { ...numbered('free', {}), params: Type.Object({ of: Type.Record(Type.String(), Type.Unknown()) }) } as unknown as AnyStage
  const o = { stages: withStages(free) }
  const list = (more: object) => [{ use: 'numbers', count: 1 }, { use: 'free', of: more }]
  for (const [one, other] of [
    [{ 'a.b': 1 }, { a: { b: 1 } }],
    [{ a: [] }, { a: '[]' }],
    [{ a: {} }, { a: '{}' }],
    [{ a: ['x'] }, { a: { 0: 'x' } }],
  ] as const) {
    const out = newOut()
    await run(list(one), out, o)
    t.equal(actions(await plan(list(one), out, o)).free, 'cached')
    t.equal(actions(await plan(list(other), out, o)).free, 'run', JSON.stringify([one, other]))
  }
})
