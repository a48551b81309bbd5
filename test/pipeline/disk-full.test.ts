/** A disk that fills up: one sentence, what is finished is kept, nothing half-written is seen, and the same command goes on. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdir, open, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import t, { type Test } from 'tap'
import { defineStage, each, type PipeError } from '../../pipeline/define.js'
import { listCache, verifyEntry } from '../../pipeline/inventory.js'
import { writeCheckpoint } from '../../stages/write/folder.js'
import { root } from '../helpers.js'
import { calls, stages as toys, withStages } from './toys.js'
import { expected, failure, folder, newOut, parquets, run } from './harness.js'

// 1.3 MB of numbers fit into 2 MB; as much again, scaled, does not.
const line = [{ use: 'numbers', count: 8, size: 40_000 }, { use: 'scale' }, { use: 'sum' }, { use: 'total' }]
const total = expected(8, 2, 0, 40_000)

/** Bytes that file handles may still write, all together; then they fail as a full disk does, part of the last write done. */
const disk = { room: Number.POSITIVE_INFINITY }
const handle = await open('/dev/null')
const methods = Object.getPrototypeOf(handle) as Record<'write' | 'writev' | 'writeFile', (...args: unknown[]) => Promise<unknown>>
await handle.close()
const original = { write: methods.write, writev: methods.writev, writeFile: methods.writeFile }
const full = (): Error =>
  Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', errno: -28, syscall: 'write' })
for (const name of ['write', 'writev', 'writeFile'] as const) {
  methods[name] = async function (this: unknown, data: unknown, ...rest: unknown[]) {
    const parts = (Array.isArray(data) ? data : [typeof data === 'string' ? Buffer.from(data) : data]) as Uint8Array[]
    const bytes = Buffer.concat(parts)
    if (bytes.length > disk.room) {
      await original.write.call(this, bytes.subarray(0, disk.room))
      disk.room = 0
      throw full()
    }
    disk.room -= bytes.length
    return original[name].call(this, data, ...rest)
  }
}
t.afterEach(() => {
  disk.room = Number.POSITIVE_INFINITY
})

/** Runs into the full disk, checks what is left, makes room, and goes on. */
async function fills(t: Test, out: string, makeRoom: () => void): Promise<void> {
  const error = await failure(run(line, out))
  told(t, error, /^(scale|numbers) {2}b\d {2}\S+\n {2}Can't write batch b\d of \w+: the disk is full \(.* free\)\.\n/)
  t.match(error.text, /\n {2}The \d+ finished batches are kept; the same command goes on from here\.$/)
  const entries = await listCache(out)
  t.ok(entries.length >= 4 && entries.length < 9, `${entries.length} batches are stored`)
  for (const entry of entries) t.equal(await verifyEntry(entry), undefined, 'whole')
  t.notOk(
    (await readdir(out, { recursive: true })).some(name => name.endsWith('.tmp')),
    'nothing half-written',
  )
  t.notOk(existsSync(join(out, 'result.json')))
  makeRoom()
  const { results, stages } = await run(line, out)
  t.ok(Math.abs((results.total as number) - total) < 1e-2, `${results.total} is ${total}`)
  t.equal(
    stages.reduce((sum, { batches }) => sum + batches.run, 0),
    4 + 4 + 4 + 1 - entries.length,
    'only the rest was computed',
  )
  t.equal(calls.numbers, 8)
  t.equal((await parquets(out)).length, 13)
}
function told(t: Test, error: PipeError, says: RegExp): void {
  t.match(error.text, says)
  t.match(error.text, /\n {2}Free space there, or write elsewhere with --out\.\n/)
  t.same([error.code, error.exitCode], ['disk', 1])
}

t.test('writes fail after 2 MB', async t => {
  disk.room = 2e6
  await fills(t, newOut(), () => {
    disk.room = Number.POSITIVE_INFINITY
  })
})

const mounted = join(folder, 'small')
await mkdir(mounted)
const mount = (options: string): boolean => spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', mounted]).status === 0
t.test('a file system of 2 MB', { skip: mount('size=2m') ? false : 'mounting a tmpfs is not permitted here' }, async t => {
  t.teardown(() => {
    spawnSync('umount', [mounted])
  })
  await fills(t, join(mounted, 'out'), () => {
    t.ok(mount('remount,size=32m'))
  })
})

t.test("an output folder that can't be written", async t => {
  const refuses = async (out: string, says: RegExp): Promise<void> => {
    const error = await failure(run(line, out))
    t.match(error.text, says)
    t.match(error.text, /\n {2}Make the folder writable, or write elsewhere with --out\.\n/)
    t.same([error.code, error.exitCode], ['disk', 1])
  }
  await writeFile(join(folder, 'occupied'), '')
  await refuses(join(folder, 'occupied/out'), /Can't write the lock of the output folder: something on the way is a file, not a folder/)
  if (!mount('size=2m,ro')) return
  t.teardown(() => {
    spawnSync('umount', [mounted])
  })
  await refuses(join(mounted, 'out'), /Can't write the lock of the output folder: the file system is read-only/)
})

t.test('a stage that writes files itself', async t => {
  const table = (await toys.total?.())?.default.output
  const save = defineStage({
    name: 'save',
    version: 1,
    about: 'Writes a file.',
    params: Type.Object({}),
    input: table,
    output: table,
    operator: (_, { out }) =>
      each(async (row: object) => {
        await using file = await open(join(out, 'file'), 'w')
        disk.room = 100
        await file.writeFile(Buffer.alloc(1000))
        return { ...row }
      }),
  })
  const error = await failure(
    run([{ use: 'numbers', count: 2 }, { use: 'sum' }, { use: 'total' }, { use: 'save' }], newOut(), { stages: withStages(save) }),
  )
  told(t, error, /^save {2}all {2}\S+\n {2}Can't write its files: the disk is full \(.* free\)\.\n/)
})

t.test('a checkpoint of which a part can be written: the folder that was there stays, and no other', async t => {
  const out = newOut()
  const entry = (byte: number) => ({ name: 'w', dtype: 'f32', shape: [500], read: async () => new Uint8Array(2000).fill(byte) }) as const
  const write = (byte: number): Promise<unknown> =>
    writeCheckpoint({
      folder: join(out, 'model'),
      source: join(root, 'fixtures/tiny-llama'),
      entries: [entry(byte)],
      shardBytes: 1e6,
      recipe: {},
      progress: () => {},
    })
  await write(1)
  disk.room = 1000
  await t.rejects(write(2), { code: 'ENOSPC' })
  t.same(await readdir(out), ['model'])
  disk.room = Number.POSITIVE_INFINITY
  const file = await open(join(out, 'model/model.safetensors'))
  t.equal((await file.readFile()).at(-1), 1)
  await file.close()
  await writeFile(join(out, 'model/notes.txt'), 'mine')
  const said = /^expected a checkpoint that a run has written, or nothing, and found /
  await t.rejects(write(3), { name: 'PipeError', message: said, hint: /Move it away/ }, 'a file of the user in it')
  t.equal(await readFile(join(out, 'model/notes.txt'), 'utf8'), 'mine')
  await rm(join(out, 'model'), { recursive: true })
  await mkdir(join(out, 'model'))
  for (const name of ['config.json', 'model.safetensors'])
    await cp(join(root, 'fixtures/hf-reference/llama-gqa', name), join(out, 'model', name))
  await t.rejects(write(4), { name: 'PipeError', message: /found another model\.$/ }, 'a model of the user')
  t.ok((await readdir(join(out, 'model'))).includes('model.safetensors'))
})
