import { spawnSync } from 'node:child_process'
import fs, { access, mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import os, { hostname } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { PipeError } from '../../pipeline/error.js'
import { lockFolder } from '../../pipeline/lock.js'
import { sweepOutputs } from '../../pipeline/outputs.js'
import { failure, line, newOut, run } from './harness.js'
import { hooks } from './toys.js'

/** Of the machine, until the next test. */
function upFor(t: Test, seconds: number): void {
  const { uptime } = os
  os.uptime = () => seconds
  syncBuiltinESMExports()
  t.teardown(() => {
    os.uptime = uptime
    syncBuiltinESMExports()
  })
}

const minutes = (n: number): Date => new Date(Date.now() - n * 60_000)
/** The lock of a process that has ended, as it would be with these changes. */
async function leftIn(out: string, changes: object): Promise<string> {
  const path = join(out, '.lock')
  await using _ = await lockFolder(out)
  const { pid } = spawnSync('true')
  return JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), pid, token: 'another', ...changes })
}

t.test('a second run in the same folder is told who is there', async t => {
  const out = newOut()
  let second: Promise<PipeError> | undefined
  let left = ''
  hooks.onRow = async () => {
    second ??= failure(run(line, out))
    left ||= await readFile(join(out, '.lock'), 'utf8')
  }
  await run(line, out)
  const error = await (second as unknown as Promise<PipeError>)
  t.equal(error.code, 'locked')
  t.match(error.text, new RegExp(`Process ${process.pid}, since 20..-..-.. ..:..:.. UTC, is working in this folder`))
  await t.rejects(access(join(out, '.lock')), 'the lock is gone afterwards')
  const lock = JSON.parse(left) as Record<string, unknown>
  await writeFile(join(out, '.lock'), JSON.stringify({ ...lock, started: '1' }))
  await run(line, out)
  await writeFile(join(out, '.lock'), '999999')
  await run(line, out)
  t.pass('a lock left by a dead process is taken over, and one that is none')
})

t.test('of another host, another container, or a process that hides: the folder is theirs until they fall silent', async t => {
  upFor(t, 1e6)
  for (const [changes, on] of [
    [{ host: 'elsewhere' }, ' on elsewhere'],
    [{ place: 'boot pid:[1]' }, ` on ${hostname()}`],
    [{ pid: 1, started: 'alive', place: 'boot pid:[2]' }, ` on ${hostname()}`],
  ] as const) {
    const out = newOut()
    const path = join(out, '.lock')
    const left = await leftIn(out, changes)
    await writeFile(path, left)
    await utimes(path, minutes(4), minutes(4))
    const error = await failure(lockFolder(out))
    t.equal(error.code, 'locked')
    t.match(error.text, new RegExp(`Process \\d+${on}, since 20..-..-.. ..:..:.. UTC, is working in this folder\\.\n {2}Wait for it or stop it`))
    t.match(error.text, `\n  If it is gone: 5 minutes after its end the folder is free, or at once if you delete ${path}.`)
    t.equal(await readFile(path, 'utf8'), left, 'it is as it was')
    await utimes(path, minutes(6), minutes(6))
    await (await lockFolder(out))[Symbol.asyncDispose]()
    t.same(await readdir(out), [], 'nothing is left')
  }
})

t.test('of this host before it was started anew: free a minute later, of another when it is silent', async t => {
  upFor(t, 90)
  for (const [host, ago, isFree] of [
    [hostname(), 2, true],
    [hostname(), 1, false],
    ['elsewhere', 2, false],
  ] as const) {
    const out = newOut()
    await writeFile(join(out, '.lock'), await leftIn(out, { host, place: 'boot pid:[1]' }))
    await utimes(join(out, '.lock'), minutes(ago), minutes(ago))
    if (isFree) await (await lockFolder(out))[Symbol.asyncDispose]()
    else t.equal((await failure(lockFolder(out))).code, 'locked')
  }
})

t.test('of a process that has ended on this host: free at once', async t => {
  const out = newOut()
  for (const left of [await leftIn(out, {}), '', '{', '999999']) {
    await writeFile(join(out, '.lock'), left)
    await (await lockFolder(out))[Symbol.asyncDispose]()
  }
  t.same(await readdir(out), [])
})

t.test('who holds it writes it from time to time, and takes no other away', async t => {
  let touch = (): void => {}
  const { setInterval } = globalThis
  t.intercept(globalThis, 'setInterval', {
    value: (act: () => void) => {
      touch = act
      return setInterval(() => {}, 1e6)
    },
  })
  const out = newOut()
  const path = join(out, '.lock')
  const lock = await lockFolder(out)
  const text = await readFile(path, 'utf8')
  await utimes(path, minutes(10), minutes(10))
  touch()
  for (let i = 0; i < 200 && (await stat(path)).mtime < minutes(1); i++) await new Promise(done => setTimeout(done, 5))
  t.ok((await stat(path)).mtime > minutes(1))
  t.equal(await readFile(path, 'utf8'), text)
  const other = text.replace(/"token":"/, '$&another')
  await writeFile(path, other)
  await lock[Symbol.asyncDispose]()
  t.equal(await readFile(path, 'utf8'), other)
})

t.test('a file system without hard links', async t => {
  const { link } = fs
  fs.link = () => Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' }))
  syncBuiltinESMExports()
  t.teardown(() => {
    fs.link = link
    syncBuiltinESMExports()
  })
  const out = newOut()
  const lock = await lockFolder(out)
  t.equal((await failure(lockFolder(out))).code, 'locked')
  await lock[Symbol.asyncDispose]()
  t.same(await readdir(out), [])
})

t.test('a folder where the lock has to be stays, and is told; what a killed process left beside it goes', async t => {
  const out = newOut()
  await mkdir(join(out, '.lock/mine'), { recursive: true })
  const error = await failure(lockFolder(out))
  t.equal(error.text, `${join(out, '.lock')}\n  expected the lock of a run, or nothing, and found a folder.\n  Move it away, or write elsewhere with --out.`)
  t.same(await readdir(join(out, '.lock')), ['mine'])
  for (const name of ['.lock.12.tmp', '.lock.5b3c-f0.tmp', '.lock.5b3c-f0.stale.tmp']) await writeFile(join(out, name), '')
  await sweepOutputs(out)
  t.same(await readdir(out), ['.lock'])
})
