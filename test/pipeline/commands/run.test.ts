import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import t from 'tap'
import { root, startPipe, pipe as startedPipe, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'
import { toyGraph } from './toys.js'

const lines = (text: string) => text.trimEnd().split('\n')
const parse = (text: string) => lines(text).map(line => JSON.parse(line))

t.test('the plan and progress on stderr, the results on stdout', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const { code, stdout, stderr } = await startedPipe(['run', graph], { cwd: folder })
  t.equal(code, 0, stderr)
  t.match(
    stderr,
    /^toy {2}→ {2}out\/toy\non cpu \(\w+, \d+ threads?\)(; .*)?\n\nstage +will +batches .*\ncount +be read +6\nsquare +run +6 +\? +never ran here\nsum +run /,
  )
  t.match(stderr, /\nsquare: started\n[\s\S]*square 3: three is odd\n[\s\S]*square: 6 batches in [\d.]+ m?s\n[\s\S]*sum: 1 batch in /)
  t.notMatch(stderr, '\u001b')
  t.match(stdout, /\nwhat +total\nall squares +55\n/)
  t.match(stdout, /\nstage +time +peak memory +run +cached\n[\s\S]*\nsquare +\S+ m?s +(\d+ MB|–) +6 +0\n/)
  t.match(stdout, /\nresults +out\/toy\/result\.json\nevents +out\/toy\/events\.jsonl\ncache +out\/toy\/cache\n$/)

  const result = JSON.parse(readFileSync(join(folder, 'out/toy/result.json'), 'utf8'))
  t.equal(result.total, 55)
  t.equal(result.graph, 'toy')
  t.ok(parse(readFileSync(join(folder, 'out/toy/events.jsonl'), 'utf8')).some(event => event.kind === 'batch-finished'))
})

t.test('again: everything is stored, and it says so', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  await pipe(['run', graph], { cwd: folder })
  const { code, stdout, stderr } = await pipe(['run', graph], { cwd: folder })
  t.equal(code, 0, stderr)
  t.match(stderr, /\nNothing will run: everything is stored\.\n/)
  t.match(stdout, /\nall squares +55\n/)
  t.match(stdout, /\nsquare +– +\S+( MB)? +0 +6\n/)
})

t.test('--json: events as JSON lines on stdout, nothing else there', async t => {
  const folder = temporary(t)
  const { code, stdout } = await startedPipe(['run', toyGraph(folder), '--json'], { cwd: folder })
  t.equal(code, 0)
  const events = parse(stdout)
  t.equal(events[0].kind, 'plan')
  t.equal(events.at(-1).kind, 'result')
  t.equal(events.at(-1).result.results.total, 55)
  t.equal(events.filter(({ kind, stage }) => kind === 'batch-finished' && stage === 'square').length, 6)
  t.ok(events.every(({ seconds }) => typeof seconds === 'number'))
})

t.test('--json: a reader that goes away does not end the run', async t => {
  const folder = temporary(t)
  const words = [process.execPath, join(root, 'dist/pipeline/cli.js'), 'run', toyGraph(folder), '--json', '--device', 'cpu']
  const piped = ['-c', '{ "$@" 2> /dev/null; echo code $? >&2; } | head -n 1', 'sh', ...words, '--set', 'square.wait=50']
  const { stdout, stderr } = spawnSync('sh', piped, { cwd: folder, encoding: 'utf8' })
  t.match(stdout, /^\{.*"kind":"plan".*\n$/)
  t.equal(stderr, 'code 0\n')
  t.equal(JSON.parse(readFileSync(join(folder, 'out/toy/result.json'), 'utf8')).total, 55)
})

t.test('--json: what fails is an event too, whether the engine ran or not', async t => {
  const folder = temporary(t)
  for (const [set, code, kind] of [
    ['square.fail=2', 1, 'failed'],
    ['square.fial=2', 2, 'graph'],
  ] as const) {
    const { code: exit, stdout } = await pipe(['run', toyGraph(folder), '--json', '--set', set], { cwd: folder })
    t.equal(exit, code)
    const failed = parse(stdout).filter(event => event.kind === 'failed')
    t.equal(failed.length, 1)
    t.equal(failed[0].code, kind)
    t.match(failed[0].text, /square/)
  }
})

t.test('a stage that fails: where, why, what is kept; exit code 1; the same command goes on', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const { code, stdout, stderr } = await pipe(['run', graph, '--set', 'square.fail=4'], { cwd: folder })
  t.equal(code, 1)
  t.equal(stdout, '')
  t.match(stderr, /\nsquare {2}4\n {2}row 4 is refused\n {2}Where in the code: add --verbose\.\n {2}The \d finished batches are kept; the same command goes on from here\.\n/)
})

t.test('graph mistakes: exit code 2, nothing is made', async t => {
  const folder = temporary(t)
  const { code, stderr } = await pipe(['run', toyGraph(folder), '--set', 'squaer.factor=2', '--set', 'square.factr=2'], { cwd: folder })
  t.equal(code, 2)
  t.match(stderr, /Did you mean "square/)
  t.match(stderr, /Did you mean "factor"\?/)
  t.notOk(existsSync(join(folder, 'out')))
})

t.test('a model folder that is missing: exit code 1 or 2, one sentence, nothing is made', async t => {
  const folder = temporary(t)
  const { code, stderr } = await pipe([
    'run',
    'graphs/qtip-2bit.json',
    '--set',
    `model=${join(folder, 'none')}`,
    '--out',
    join(folder, 'out'),
  ])
  t.ok(code === 1 || code === 2, `${code}`)
  t.match(stderr, /model {2}path\n {2}There is no such folder: \S+none/)
  t.notOk(existsSync(join(folder, 'out/cache')))
})

t.test('SIGINT: stops cleanly with 130, keeps what is finished, and the same command goes on', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const args = ['run', graph, '--set', 'count.count=20', '--set', 'square.wait=200']
  const running = startPipe([...args, '--json'], { cwd: folder })
  await running.saw(/"batch-finished","stage":"square".*\n[\s\S]*"batch-finished","stage":"square"/)
  running.kill('SIGINT')
  const { code, stderr } = await running.finished
  t.equal(code, 130)
  t.match(stderr, /\nStopping: /)
  t.match(stderr, /\nStopped\.\nThe (\d+ )?finished batch(es)? (is|are) kept; the same command goes on from here\.\n$/)
  t.notMatch(stderr, /\n\s+at /)
  const kept = Number(/The (\d+) finished/.exec(stderr)?.[1] ?? 1)
  const again = await pipe([...args, '--json'], { cwd: folder })
  t.equal(again.code, 0)
  const usage = parse(again.stdout)
    .at(-1)
    .result.stages.find(({ id }: { id: string }) => id === 'square')
  t.strictSame(usage.batches, { run: 20 - kept, cached: kept })
})

t.test('on a terminal the drawing gives way to what is said at the first signal, and is drawn anew below', async t => {
  const folder = temporary(t)
  const stop = new AbortController()
  let said = ''
  const stderr = {
    isTTY: true,
    write: (text: string) => {
      said += text
      if (/square .*\d %/.test(text)) setImmediate(interrupt)
    },
  }
  const interrupt = (): void => {
    if (stop.signal.aborted) return
    stop.abort()
    said += 'Stopping.\n'
  }
  const args = ['run', toyGraph(folder), '--set', 'count.count=20', '--set', 'square.wait=200']
  t.equal((await pipe(args, { cwd: folder, signal: stop.signal, stderr })).code, 130)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the codes are what is tested
  t.match(said, /\r\u001b\[(\d)A\u001b\[JStopping\.\n[^\u001b]/)
  const [, after = ''] = said.split('Stopping.\n')
  t.equal([...after.matchAll(/^\S*count /gm)].length, 1, 'each stage has a line, once')
})

t.test('SIGINT twice: stops at once', async t => {
  const folder = temporary(t)
  const running = startPipe(['run', toyGraph(folder), '--set', 'square.wait=60000'], { cwd: folder })
  await running.saw('square: started')
  running.kill('SIGINT')
  await running.saw('Stopping')
  running.kill('SIGINT')
  t.equal((await running.finished).code, 130)
  t.strictSame(readdirSync(join(folder, 'out/toy')).sort(), ['cache', 'events.jsonl'], 'nor is its lock left')
})

t.test('a second run in the same folder is told who is there', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const first = startPipe(['run', graph, '--set', 'square.wait=60000'], { cwd: folder })
  await first.saw('square: started')
  const { code, stderr } = await startedPipe(['run', graph], { cwd: folder })
  t.equal(code, 1)
  t.match(stderr, new RegExp(`Process ${first.pid}, since .* is working in this folder`))
  t.equal((await startedPipe(['cache', 'gc', graph], { cwd: folder })).code, 1, 'nor is anything deleted meanwhile')
  first.kill('SIGKILL')
  await first.finished
  t.equal((await startedPipe(['run', graph], { cwd: folder })).code, 0, 'a dead process holds no lock')
})

t.test('nor does one that was killed and whose parent never asks how it ended', { skip: !existsSync('/proc/self/stat') }, async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const slow = [process.execPath, join(root, 'dist/pipeline/cli.js'), 'run', graph, '--device', 'cpu', '--set', 'square.wait=60000']
  // The shell becomes a sleep, which is the run's parent then and waits for nobody.
  const parent = spawn('sh', ['-c', '"$@" & echo $!; exec sleep 1000', 'sh', ...slow], { cwd: folder, stdio: ['ignore', 'pipe', 'ignore'] })
  t.teardown(() => parent.kill('SIGKILL'))
  const [first] = (await once(parent.stdout, 'data')) as [Buffer]
  const pid = Number(first.toString())
  const state = () => / \(.*\) (\w)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]
  while (!existsSync(join(folder, 'out/toy/.lock'))) await setTimeout(20)
  process.kill(pid, 'SIGKILL')
  while (state() !== 'Z') await setTimeout(20)
  t.match(await pipe(['run', graph], { cwd: folder }), { code: 0 })
  t.equal(state(), 'Z', 'it is listed still')
})

t.test('--to, --from, --only, --force', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const ran = async (...args: string[]) => {
    const { stdout } = await pipe(['run', graph, '--json', ...args], { cwd: folder })
    const event = parse(stdout).at(-1)
    return event.kind === 'result'
      ? Object.fromEntries(event.result.stages.map(({ id, batches }: { id: string; batches: { run: number } }) => [id, batches.run]))
      : event.text
  }
  t.match(await ran('--from', 'sum'), /square/, 'what comes before has to be stored')
  t.strictSame(await ran('--to', 'square'), { count: 0, square: 6 })
  t.match(await ran('--from', 'sum'), { sum: 1, square: 0 })
  t.match(await ran('--force', 'square'), { square: 6 })
  t.match(await ran('--only', 'square'), { square: 0 })
  t.match(await ran('--force', 'sqare'), /No stage is called "sqare"\. Did you mean "square"\?/)
})

t.test('--memory, --device: what cannot be is said', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const memory = await pipe(['run', graph, '--memory', 'lots'], { cwd: folder })
  t.equal(memory.code, 2)
  t.match(memory.stderr, /--memory <size>.*'lots'.*Give a size of at least 1 MB, such as 4GB or 512MiB\./)
  const device = await startedPipe(['run', graph, '--device', 'gpu'], { cwd: folder })
  t.equal(device.code, 1)
  t.equal(
    device.stderr,
    '--device gpu\n  unknown device "gpu"; it may be auto, cpu, or cuda:0, cuda:1, …\n  pipe doctor lists what this machine has.\n',
  )
  t.equal((await startedPipe(['run', graph, '--memory', '1.5GB'], { cwd: folder })).code, 0)
})
