import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { decode, encode, schemaOf } from '../../pipeline/arrow.js'
import { Cache } from '../../pipeline/cache.js'
import { Checkpoints } from '../../pipeline/checkpoint.js'
import { bytesTensor, defineTable, f64, fileTensor, i64, optional, tensor, u32, utf8 } from '../../pipeline/define.js'
import { ofEach, readSealed, writeSealed, writing } from '../../pipeline/disk.js'
import { deleteEntries, listCache, usedKeys, verifyEntry } from '../../pipeline/inventory.js'
import { LiveTensors } from '../../pipeline/lazy.js'
import type { Plan } from '../../pipeline/plan.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { FakeDevice, fakeOps } from './fake.js'

const folder = await mkdtemp(join(tmpdir(), 'pipe-store-'))
t.teardown(() => rm(folder, { recursive: true }))
let count = 0
const newFolder = async (): Promise<string> => {
  const path = join(folder, String(count++))
  await mkdir(path)
  return path
}

const table = defineTable('things', 3, {
  i: u32('which'),
  big: i64('bytes'),
  x: f64('value'),
  name: utf8('name'),
  note: optional(utf8('perhaps')),
  w: tensor('float', 'm n', 'weight'),
  h: optional(tensor('f32', 'n n', 'shared')),
})
const bytes = (n: number, from = 0): Uint8Array => Uint8Array.from({ length: n }, (_, i) => (i + from) % 251)
const key = (letter: string): string => letter.repeat(64)
const lineage = { stage: 's', version: 1, params: {}, inputs: [], id: 'b' }
const row = (more: object = {}) => ({ i: 1, big: 2 ** 40, x: 0.1, name: 'é', w: bytesTensor(bytes(12), 'bf16', [2, 3]), ...more })

t.test('a row goes through an Arrow batch and comes back', async t => {
  const rows = [
    row({ x: Number.NaN, note: 'n', h: bytesTensor(bytes(16), 'f32', [2, 2]) }),
    row({ x: -0, i: 2 ** 32 - 1, big: -5 }),
    row({ x: Number.NEGATIVE_INFINITY }),
  ]
  const batch = await encode(table, rows, () => {
    throw new Error('nothing is live')
  })
  t.equal(batch.numRows, 3)
  const field = schemaOf(table).fields.find(one => one.name === 'w')
  t.equal(field?.metadata.get('ARROW:extension:name'), 'pipe.tensor')
  const back = decode(batch, () => {
    throw new Error('nothing is elsewhere')
  }) as unknown as (ReturnType<typeof row> & { h?: TensorRef; note?: string })[]
  t.same(
    back.map(({ i, big, x, name, note }) => [i, big, x, name, note]),
    [
      [1, 2 ** 40, Number.NaN, 'é', 'n'],
      [2 ** 32 - 1, -5, -0, 'é', undefined],
      [1, 2 ** 40, Number.NEGATIVE_INFINITY, 'é', undefined],
    ],
  )
  t.ok(Object.is(back[1]?.x, -0))
  for (const one of back) t.same([one.w.dtype, one.w.shape, [...(await one.w.read())]], ['bf16', [2, 3], [...bytes(12)]])
  t.same([...((await back[0]?.h?.read()) ?? [])], [...bytes(16)])
  t.equal(back[1]?.h, undefined)
  t.equal(
    (
      await encode(table, [], () => {
        throw new Error()
      })
    ).numRows,
    0,
  )
})

t.test('what does not fit the table is told with row and column', async t => {
  const refused = ({ says, ...more }: { says: RegExp; [column: string]: unknown }) =>
    t.rejects(
      encode(table, [row(), row(more)], () => {
        throw new Error()
      }),
      says,
    )
  await refused({ i: -1, says: /row 1, column "i" \(u32\): -1 came/ })
  await refused({ big: 1.5, says: /column "big" \(i64\): 1\.5 came/ })
  await refused({ x: '0', says: /column "x" \(f64\): "0" came/ })
  await refused({ name: undefined, says: /column "name" \(utf8\): nothing came, and the column is not optional/ })
  await refused({ w: 3, says: /column "w" \(float \[m n\]\): 3 came/ })
  await refused({ h: bytesTensor(bytes(2), 'f16', [1, 1]), says: /column "h" \(f32 \[n n\]\): a tensor f16 \[1,1\] came/ })
})

t.test('stored: live tensors once, files and other batches by reference, exact numbers', async t => {
  const cache = new Cache(await newFolder())
  const device = new FakeDevice()
  const file = join(folder, 'weights.bin')
  await writeFile(file, bytes(1000))
  const shared = device.upload(bytes(16), 'f32', [2, 2])
  const rows = [
    row({ w: fileTensor(file, 100, 'f16', [2, 5]), h: shared, x: Number.NaN }),
    row({ w: device.upload(bytes(8, 9), 'f32', [2]), h: shared, x: -0 }),
  ]
  await cache.store(key('a'), table, rows, lineage)
  t.equal(device.liveTensors, 0, 'stored tensors are disposed')
  const [first, second] = cache.rows(await cache.load(key('a'), table)) as unknown as [
    Record<'w' | 'h', TensorRef>,
    Record<'w' | 'h', TensorRef>,
  ]
  t.same([...(await first.w.read())], [...bytes(20, 100)])
  t.same([...(await second.w.read())], [...bytes(8, 9)])
  t.equal(first.h, second.h, 'a shared tensor stays one')
  t.same((first as unknown as { x: number }).x, Number.NaN)
  t.ok(Object.is((second as unknown as { x: number }).x, -0))
  const [entry] = await listCache(join(cache.folder, '..').replace(/\/$/, '')).catch(() => [])
  t.equal(entry, undefined, 'an inventory looks under out/cache')

  await cache.store(key('b'), table, [{ ...row(), ...first }], { ...lineage, id: 'c' })
  const [third] = cache.rows(await cache.load(key('b'), table)) as unknown as [Record<'w' | 'h', TensorRef>]
  t.same([...(await third.h.read())], [...bytes(16)])
  t.ok((await readFile(cache.path(key('b')))).byteLength < 3000, 'references weigh little')
  t.ok(await cache.has(key('b')))

  await rename(cache.path(key('a')), `${cache.path(key('a'))}.moved`)
  t.notOk(await new Cache(cache.folder).has(key('b')), 'refers to a batch that is gone')
  await rename(`${cache.path(key('a'))}.moved`, cache.path(key('a')))
  await writeFile(file, bytes(119))
  t.notOk(await new Cache(cache.folder).has(key('a')), 'refers to a file that is shorter now')
  await rm(file)
  t.notOk(await new Cache(cache.folder).has(key('b')), 'refers, through another batch, to a file that is gone')
  t.ok((await readdir(cache.folder)).length > 0)
})

t.test('opening: uploads, converts, moves live tensors, and tells what is wrong with a file', async t => {
  const ops = fakeOps()
  const cast: string[] = []
  Object.assign(ops, {
    cast: (x: Tensor, dtype: 'f32') => {
      cast.push(`${x.dtype}→${dtype}`)
      return ops.device.empty(dtype, x.shape)
    },
  })
  const ref = bytesTensor(bytes(4), 'bf16', [2])
  for (const dtype of [undefined, 'bf16', 'f32'] as const) {
    using x = await ref.open(ops, dtype)
    t.same([x.dtype, x.shape], [dtype ?? 'bf16', [2]])
  }
  t.same(cast, ['bf16→f32'])
  t.equal(ops.device.liveTensors, 0)

  const live = new LiveTensors()
  const x = ops.device.upload(bytes(4), 'f32', [1])
  const held = live.hold(x)
  t.equal(await held.open(ops), x)
  await t.rejects(held.open(ops), /a live tensor can be opened once/)
  live.hold(ops.device.upload(bytes(4), 'f32', [1]))
  x[Symbol.dispose]()
  live[Symbol.dispose]()
  t.equal(ops.device.liveTensors, 0, 'what nobody opened is disposed')

  const file = join(folder, 'short.bin')
  await writeFile(file, bytes(10))
  await t.rejects(fileTensor(file, 4, 'f32', [2]).read(), /The file ends at byte 10, but a tensor was to be at bytes 4 to 12/)
  await t.rejects(fileTensor(join(folder, 'none'), 0, 'f32', [2]).open(ops), /The file is gone/)
  await t.rejects(bytesTensor(bytes(3), 'f32', [1]).read(), /f32\[1\] is 4 bytes, and 3 came/)
  t.throws(() => fileTensor(file, -1, 'f32', [1]), /can't begin at byte -1/)
  t.throws(() => fileTensor(file, 0, 'f32', [2 ** 40, 2 ** 40]), /is no shape/)
  t.throws(() => bytesTensor(bytes(3), 'f32', [-1]), /is no shape/)
})

t.test('of thousands of files so many are open at a time as a process may hold', async t => {
  let [open, most] = [0, 0]
  const doubled = await ofEach([...Array(1000).keys()], async i => {
    most = Math.max(most, ++open)
    await new Promise(done => setTimeout(done, i % 7))
    open--
    return 2 * i
  })
  t.strictSame([doubled.length, doubled[999], most], [1000, 1998, 64])
})

t.test('checkpoints: saved whole, listed oldest first, dropped; a damaged one is told', async t => {
  const cache = new Cache(await newFolder())
  const device = new FakeDevice()
  const checkpoints = new Checkpoints(cache, 'stream')
  t.same(await checkpoints.list(), [])
  t.equal(await checkpoints.load('layer 1'), undefined)
  for (const name of ['layer 10', 'layer/9', 'layer 1']) {
    using x = device.upload(bytes(8, name.length), 'f32', [2])
    await checkpoints.save(name, { done: name }, { x, y: x })
    t.notOk(x.disposed, "it stays the stage's")
  }
  t.same(await checkpoints.list(), ['layer 10', 'layer/9', 'layer 1'])
  const loaded = await new Checkpoints(cache, 'stream').load('layer/9')
  t.same(loaded?.value, { done: 'layer/9' })
  t.same([...((await loaded?.tensors.y?.read()) ?? [])], [...bytes(8, 7)])
  t.equal(await new Checkpoints(cache, 'other').load('layer/9'), undefined)
  const file = join(cache.folder, 'checkpoints/stream', `${encodeURIComponent('layer/9')}.parquet`)
  const damaged = await readFile(file)
  damaged[damaged.indexOf(Buffer.from(bytes(8, 7)))] = 0
  await writeFile(file, damaged)
  await t.rejects(checkpoints.load('layer/9'), { code: 'damaged', path: file })
  await cache.discard(file, '')
  t.equal(await checkpoints.load('layer/9'), undefined)
  await checkpoints.drop('layer 10')
  t.same(await checkpoints.list(), ['layer 1'])
  await checkpoints.dropAll()
  t.same(await checkpoints.list(), [])
})

t.test('sealed: what is read is what was written, or nothing, whichever bit is another', async t => {
  const path = join(await newFolder(), 'a/sealed.json')
  const value = { list: ['0/attn', 'é'], number: -1.5e-7, none: null, '1': true }
  t.equal(await readSealed(path), undefined)
  await writeSealed(path, value)
  t.strictSame(await readSealed(path), value)
  const good = await readFile(path)
  let noticed = 0
  for (let bit = 0; bit < good.length * 8; bit++) {
    const bad = Buffer.from(good)
    bad[bit >> 3]! ^= 1 << (bit & 7)
    await writeFile(path, bad)
    const read = await readSealed(path)
    if (read === undefined) noticed++
    else t.strictSame(read, value, `bit ${bit}`)
  }
  t.ok(noticed >= good.length * 8 - 8, `${noticed}: all but some of the line break`)
})

t.test('inventory: lists, verifies, finds what no plan uses', async t => {
  const out = await newFolder()
  const cache = new Cache(join(out, 'cache'))
  await cache.store(key('a'), table, [row()], { ...lineage, id: 'b2' })
  await cache.store(key('c'), table, [row()], { ...lineage, id: 'b10' })
  const [shared] = cache.rows(await cache.load(key('a'), table))
  await cache.store(key('b'), table, [shared as ReturnType<typeof row>], { ...lineage, stage: 't' })
  await writeFile(join(out, 'cache/aa/x.parquet.1-1.tmp'), 'half')
  const entries = await listCache(out)
  t.same(
    entries.map(({ key, lineage }) => [key[0], lineage?.stage, lineage?.id]),
    [
      ['a', 's', 'b2'],
      ['c', 's', 'b10'],
      ['b', 't', 'b'],
    ],
  )
  for (const entry of entries) t.equal(await verifyEntry(entry), undefined)
  const plan = { stages: [{ keys: { b: key('b') } }] } as unknown as Plan
  const used = usedKeys(plan, entries)
  t.same([...used].sort(), [key('a'), key('b')], "b, and a, in which b's tensor lies")
  await deleteEntries(
    out,
    entries.filter(entry => !used.has(entry.key)),
  )
  t.same((await readdir(join(out, 'cache'), { recursive: true })).filter(name => /\.(parquet|tmp)$/.test(name)).length, 2)
  const path = cache.path(key('a'))
  const bad = await readFile(path)
  bad[150] = (bad[150] as number) ^ 1
  await writeFile(path, bad)
  t.match(await verifyEntry(entries[0] as (typeof entries)[0]), /damaged/)
  t.equal(await verifyEntry(entries[1] as (typeof entries)[0]), undefined, 'one that is deleted by now is not damaged')
})

t.test('a disk that refuses says so in a sentence, and leaves nothing half done', async t => {
  const out = await newFolder()
  for (const [code, says] of [
    [
      'ENOSPC',
      /Can't write batch b of s: the disk is full \(.* free\)\.\n.*Free space there, or write elsewhere with --out\.\n.*the same command goes on/,
    ],
    ['EROFS', /read-only/],
  ] as const) {
    const refusal = writing('batch b of s', out, async () => {
      throw Object.assign(new Error(code), { code })
    })
    const error = await refusal.then(
      () => undefined,
      (e: unknown) => e as { text: string; code: string },
    )
    t.equal(error?.code, 'disk')
    t.match(error?.text, says)
  }
  // A tensor whose read fails as a full disk would: through the real writer.
  const cache = new Cache(join(out, 'cache'))
  const full = {
    ...bytesTensor(bytes(4), 'f32', [1]),
    bytes: 4,
    dtype: 'f32',
    shape: [1],
    open: () => {},
    read: () => Promise.reject(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' })),
  }
  await t.rejects(cache.store(key('d'), table, [row({ w: full })], lineage))
  t.notOk(await cache.has(key('d')))
  await writeFile(join(out, 'file'), '')
  await t.rejects(new Cache(join(out, 'file')).store(key('d'), table, [row()], lineage), {
    code: 'disk',
    message: /is a file, not a folder/,
  })
})
