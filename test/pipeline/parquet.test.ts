import { createHash } from 'node:crypto'
import { mkdtemp, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import t from 'tap'
import { hashPieces } from '../../pipeline/hashing.js'
import { ParquetFile, writeParquet } from '../../pipeline/parquet.js'
import { rng } from '../../pipeline/random.js'

const folder = await mkdtemp(join(tmpdir(), 'pipe-parquet-'))
t.teardown(() => rm(folder, { recursive: true }))

const blob = (bytes: Uint8Array) => ({ bytes: bytes.byteLength, read: async () => bytes.slice() })
/** n bytes of which no two blocks are equal. */
const random = (name: string, n: number): Uint8Array => {
  const bytes = new Uint8Array(n)
  const block = rng(1, name).bytes(4099)
  for (let i = 0; i < n; i += 4099) bytes.set(block.subarray(0, Math.min(4099, n - i)), i)
  for (let i = 0; i < n; i += 4099) bytes[i] = i >> 12
  return bytes
}
const sizes = [0, 1, 3, 1000, 4 * 2 ** 20 - 1, 4 * 2 ** 20, 4 * 2 ** 20 + 1, 9_000_000]

t.test('what was written comes back: sizes around a row, an empty tensor, no tensor', async t => {
  for (const some of [sizes, [], [5]]) {
    const path = join(folder, `sizes-${some.length}.parquet`)
    const blobs = some.map(n => random(String(n), n))
    const bytes = await writeParquet(path, { some: 'value', n: some.length }, blobs.map(blob))
    const file = await ParquetFile.open(path)
    t.equal(file.bytes, bytes)
    t.same(file.value, { some: 'value', n: some.length })
    t.same(file.sizes, some)
    for (const [i, expected] of blobs.entries()) t.ok(Buffer.compare(await file.read(i), expected) === 0, `${some[i]} bytes`)
    await file.verify()
  }
})

t.test('another reader finds equal bytes', async t => {
  const path = join(folder, 'duckdb.parquet')
  const blobs = sizes.map(n => random(String(n), n))
  await writeParquet(path, { a: 1 }, blobs.map(blob))
  const connection = await (await DuckDBInstance.create(':memory:')).connect()
  const reader = await connection.runAndReadAll(`SELECT tensor, sha256, sha256(data) AS hash, data FROM read_parquet('${path}')`)
  const found = new Map<number, Uint8Array[]>()
  for (const row of reader.getRowObjects() as { tensor: number; sha256: string; hash: string; data: { bytes: Uint8Array } }[]) {
    t.equal(row.hash, row.sha256, 'its hash is that of its data')
    found.set(row.tensor, [...(found.get(row.tensor) ?? []), row.data.bytes])
  }
  t.equal(found.size, blobs.length)
  for (const [i, expected] of blobs.entries()) t.ok(Buffer.compare(Buffer.concat(found.get(i) ?? []), expected) === 0)
  const metadata = await connection.runAndReadAll(
    `SELECT decode(value) AS v FROM parquet_kv_metadata('${path}') WHERE decode(key) = 'pipe'`,
  )
  t.same(JSON.parse(String(metadata.getRows()[0]?.[0])), { value: { a: 1 }, sizes })
  connection.closeSync()
})

t.test('any flipped byte is found', async t => {
  const path = join(folder, 'flip.parquet')
  await writeParquet(path, { a: [1, 2, 3] }, [blob(random('a', 40)), blob(random('b', 7))])
  const whole = await readFile(path)
  const flipped = join(folder, 'flipped.parquet')
  const unnoticed: number[] = []
  for (let i = 0; i < whole.byteLength; i++) {
    const bytes = Buffer.from(whole)
    bytes[i] = (bytes[i] as number) ^ (1 << (i % 8))
    await writeFile(flipped, bytes)
    const error = await ParquetFile.open(flipped)
      .then(file => file.verify())
      .catch((e: unknown) => e)
    if ((error as { code?: string } | undefined)?.code !== 'damaged') unnoticed.push(i)
  }
  t.same(unnoticed, [])
})

t.test('a byte flipped in any row of a large tensor is found', async t => {
  const path = join(folder, 'large.parquet')
  await writeParquet(path, {}, [blob(random('large', 9_000_000))])
  const whole = await readFile(path)
  for (const at of [1000, 4_500_000, 8_900_000]) {
    const bytes = Buffer.from(whole)
    bytes[at] = (bytes[at] as number) ^ 1
    await writeFile(path, bytes)
    await t.rejects((await ParquetFile.open(path)).verify(), { code: 'damaged' }, `byte ${at}`)
  }
})

t.test('hashes are the same wherever they are made, and what belongs to a larger array stays', async t => {
  const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
  const piece = 300_000
  for (const n of [0, 10, 299_999, 300_000, 300_001, 1_000_000]) {
    const bytes = random(`hash ${n}`, n)
    const expected: string[] = []
    for (let at = 0; at === 0 || at < n; at += piece) expected.push(sha256(bytes.subarray(at, at + piece)))
    const copy = bytes.slice()
    const around = new Uint8Array(n + 5)
    around.set(bytes, 5)
    const [own, view] = await Promise.all([hashPieces(bytes.slice(), piece), hashPieces(around.subarray(5), piece)])
    t.same(own.sha256, expected)
    t.same(view.sha256, expected)
    for (const { bytes: back } of [own, view]) t.equal(Buffer.compare(back, copy), 0)
    t.equal(Buffer.compare(around.subarray(5), copy), 0, `${n} bytes`)
  }
})

t.test('a cut or lengthened file is found', async t => {
  const path = join(folder, 'cut.parquet')
  await writeParquet(path, {}, [blob(random('a', 700))])
  const { length } = await readFile(path)
  for (const size of [length - 1, length - 9, 500, 11, 0]) {
    await truncate(path, size)
    await t.rejects(ParquetFile.open(path), { code: 'damaged' }, `${size} of ${length} bytes`)
  }
  await writeParquet(path, {}, [blob(random('a', 700))])
  const file = await open(path, 'a')
  await file.write('x')
  await file.close()
  await t.rejects(ParquetFile.open(path), { code: 'damaged' })
})

t.test('a writer that fails leaves nothing', async t => {
  const path = join(folder, 'failed.parquet')
  const failing = { bytes: 10, read: () => Promise.reject(new Error('gone')) }
  await t.rejects(writeParquet(path, {}, [blob(random('a', 700)), failing]), /gone/)
  await t.rejects(writeParquet(path, {}, [{ ...blob(random('a', 7)), bytes: 8 }]), /7 bytes, not 8/)
  t.notOk((await readdir(folder)).some(name => name.startsWith('failed')))
})
