import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { ParquetFile } from '../../pipeline/parquet.js'
import { rng } from '../../pipeline/random.js'
import { folder } from './harness.js'

const graph = join(folder, 'kill.json')
await writeFile(
  graph,
  JSON.stringify({
    name: 'toy',
    stages: [{ use: 'numbers', count: 10, size: 20_000 }, { use: 'scale' }, { use: 'live' }, { use: 'gather' }, { use: 'total' }],
  }),
)

/** One run in a process of its own; killed once so many batches have finished. */
const run = (
  out: string,
  killAfter = Number.POSITIVE_INFINITY,
  killDelay = 0,
): Promise<{ code: number | null; batches: number; output: string }> =>
  new Promise(resolve => {
    const child = spawn(process.execPath, [fileURLToPath(new URL('toy-run.js', import.meta.url)), graph, out], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout.on('data', (text: Buffer) => {
      output += text.toString()
      if (output.split('ran').length - 1 >= killAfter) setTimeout(() => child.kill('SIGKILL'), killDelay)
    })
    child.on('close', code => resolve({ code, batches: output.split('ran').length - 1, output }))
  })

/** Name → hash of everything that is stored. */
const stored = async (out: string): Promise<Record<string, string>> => {
  const files = (await readdir(join(out, 'cache'), { recursive: true })).filter(name => name.endsWith('.parquet')).sort()
  return Object.fromEntries(
    await Promise.all(
      files.map(async file => [
        file,
        createHash('sha256')
          .update(await readFile(join(out, 'cache', file)))
          .digest('hex'),
      ]),
    ),
  )
}

t.test('killed at any moment: no half file is visible, and the same command ends with the same bytes', async t => {
  const whole = join(folder, 'whole')
  const undisturbed = await run(whole)
  t.equal(undisturbed.code, 0)
  const expected = await stored(whole)
  t.equal(Object.keys(expected).length, 16)
  const random = rng(5, 'kill')
  const out = join(folder, 'killed')
  let batches = 0
  let kills = 0
  for (let i = 0; i < 12; i++) {
    const { code, batches: done, output } = await run(out, 1 + (random.integers(1, 3)[0] as number), random.integers(1, 20)[0])
    batches += done
    if (code === 0) {
      t.match(output, undisturbed.output.split('\n').at(-2) as string, 'the same result')
      break
    }
    kills++
    for (const [file, hash] of Object.entries(await stored(out))) {
      t.equal(hash, expected[file], 'what is visible is whole')
      await (await ParquetFile.open(join(out, 'cache', file))).verify()
    }
  }
  t.ok(kills >= 3, `killed ${kills} times`)
  t.same(await stored(out), expected)
  t.notOk(
    (await readdir(join(out, 'cache'), { recursive: true })).some(name => name.endsWith('.tmp')),
    'nothing half done is left',
  )
  t.ok(batches <= 16 + 2 * kills, `${batches} batches in all: what was stored was not computed again`)
})
