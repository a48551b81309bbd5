/** pipe cache: what is stored, whether it is intact, and what no plan uses any more. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import { listCheckpoints, type SavedState } from '../checkpoint.js'
import { PipeError } from '../error.js'
import { type CacheEntry, damagedLists, deleteEntries, listCache, usedCheckpoints, usedKeys, verifyEntry } from '../inventory.js'
import { lockFolder } from '../lock.js'
import type { Plan } from '../plan.js'
import { planGraph } from '../planning.js'
import { shortPath } from '../report.js'
import { bytes, duration, plural, table } from '../text.js'
import { openGraph } from './open.js'
import { collect, deviceOption, examples, path, type Register, type Wiring } from './wiring.js'

interface Options {
  out?: string
  set: string[]
  device: string
  dryRun?: true
}

export const register: Register = (program, wiring) => {
  const cache = program
    .command('cache')
    .description('What is stored, whether it is intact, and what the graph does not use any more.')
    .addHelpText(
      'after',
      examples(
        ['Stage, batch or checkpoint, size, age, and whether the graph uses it', 'pipe cache ls graphs/qtip-2bit.json'],
        ['Read everything and check every hash', 'pipe cache verify --out out/qtip-2bit'],
        ['What could be deleted', 'pipe cache gc graphs/qtip-2bit.json --dry-run'],
      ),
    )
  const command = (name: string, about: string, act: (wiring: Wiring, file: string | undefined, o: Options) => Promise<void>): Command =>
    deviceOption(cache.command(`${name} [graph.json]`), 'as for pipe run: results of different kinds of devices are stored apart')
      .description(about)
      .option('--out <dir>', 'the folder of the outputs (default: out/<name of the graph>)', path)
      .option('--set <name=value>', 'an input or a parameter, as for pipe run', collect, [])
      .action((file: string | undefined, o: Options) => act(wiring, file, o))
  command('ls', 'List what is stored.', ls)
  command('verify', 'Read every stored batch and check its hashes. Exit code 1 if one is damaged.', verify)
  command('gc', 'Delete what the present plan of the graph does not use.', gc).option('--dry-run', 'only say what would be deleted')
}

/** The folder of the outputs; with a graph, also how to plan it. */
async function open(wiring: Wiring, file: string | undefined, o: Options): Promise<{ out: string; plan?: () => Promise<Plan> }> {
  if (file === undefined) {
    if (o.out === undefined) throw new PipeError('input', { message: 'Whose cache? Give the graph, or --out DIR.' })
    await expectCache(o.out)
    return { out: o.out }
  }
  const { graph, options } = await openGraph(wiring, file, o)
  await expectCache(options.out)
  return { out: options.out, plan: () => planGraph(graph, options) }
}

async function expectCache(out: string): Promise<void> {
  if ((await stat(join(out, 'cache')).catch(() => undefined))?.isDirectory()) return
  throw new PipeError('input', {
    where: shortPath(out),
    message: 'expected the folder of a run, with cache/ in it, and found none.',
    hint: 'Name what a run has written: --out DIR.',
  })
}

interface Stored {
  readonly entries: readonly CacheEntry[]
  readonly checkpoints: readonly SavedState[]
}

const inFolder = async (out: string): Promise<Stored> => ({
  entries: await listCache(out),
  checkpoints: await listCheckpoints(join(out, 'cache')),
})

/** Which of it the plan uses, and of which stage a checkpoint is. */
function inUse({ entries }: Stored, plan: Plan) {
  const [keys, stages] = [usedKeys(plan, entries), usedCheckpoints(plan)]
  return { stages, has: (key: string): boolean => keys.has(key) || stages.has(key) }
}

function unusedOf(stored: Stored, used: ReturnType<typeof inUse>): Stored {
  const unused = ({ key }: { key: string }): boolean => !used.has(key)
  return { entries: stored.entries.filter(unused), checkpoints: stored.checkpoints.filter(unused) }
}

const isNone = ({ entries, checkpoints }: Stored): boolean => entries.length + checkpoints.length === 0

function sum({ entries, checkpoints }: Stored): string {
  const size = bytes([...entries, ...checkpoints].reduce((total, one) => total + one.bytes, 0))
  const batches = entries.length > 0 || checkpoints.length === 0 ? [plural(entries.length, 'batch', 'batches')] : []
  const saved = checkpoints.length > 0 ? [plural(checkpoints.length, 'checkpoint', 'checkpoints')] : []
  return [...batches, ...saved, size].join(', ')
}

function list({ entries, checkpoints }: Stored, used?: ReturnType<typeof inUse>): string[] {
  const rows = [
    ...entries.map(entry => ({ ...entry, stage: entry.lineage?.stage ?? 'damaged', batch: entry.lineage?.id ?? '' })),
    ...checkpoints.map(one => ({ ...one, stage: used?.stages.get(one.key) ?? '', batch: 'checkpoint' })),
  ]
  return table(
    ['stage', 'batch', 'size', 'age', ...(used === undefined ? [] : ['in use']), 'key'],
    rows.map(row => [
      row.stage,
      row.batch,
      bytes(row.bytes),
      duration(Math.max(0, Date.now() - row.time.getTime()) / 1000),
      ...(used === undefined ? [] : [used.has(row.key) ? 'yes' : 'no']),
      row.key.slice(0, 12),
    ]),
  )
}

async function ls(wiring: Wiring, file: string | undefined, o: Options): Promise<void> {
  const { out, plan } = await open(wiring, file, o)
  const stored = await inFolder(out)
  const used = plan && inUse(stored, await plan())
  const unused = used && unusedOf(stored, used)
  const end = `${shortPath(join(out, 'cache'))}: ${sum(stored)}${unused === undefined || isNone(unused) ? '' : `; not in use: ${sum(unused)}`}`
  wiring.print(`${[...(isNone(stored) ? [] : [...list(stored, used), '']), end].join('\n')}\n`)
}

async function verify(wiring: Wiring, file: string | undefined, o: Options): Promise<void> {
  const { out } = await open(wiring, file, o)
  const entries = await listCache(out)
  const damaged: string[] = []
  for (const entry of entries) {
    const damage = entry.damage ?? (await verifyEntry(entry))
    if (damage !== undefined) damaged.push(`${shortPath(entry.path)}: ${damage}`)
  }
  if (damaged.length > 0) {
    throw new PipeError('damaged', {
      where: join(out, 'cache'),
      message: `${plural(damaged.length, 'batch is', 'batches are')} damaged, of ${entries.length}:\n${damaged.join('\n')}`,
      goOn: 'The next run discards and computes them again.',
    })
  }
  wiring.print(`${shortPath(join(out, 'cache'))}: ${sum({ entries, checkpoints: [] })}, all intact\n`)
}

/**
 * What a batch refers to is written in it, and which batches a stage on a stream gave in their list: where one can't be read,
 * something may look unused and not be.
 */
async function refuseUnknown(out: string, { entries }: Stored, { stages }: Plan): Promise<void> {
  const goOn = 'Nothing was deleted.'
  const unread = entries.find(({ isUnread }) => isUnread)
  if (unread !== undefined) {
    const message = `It could not be read, and what it refers to is in use as well: ${unread.damage}`
    throw new PipeError('disk', { where: shortPath(unread.path), message, goOn })
  }
  if (stages.every(({ scope, action, streamKey }) => scope !== 'stream' || action === 'source' || streamKey !== undefined)) return
  const [list] = await damagedLists(out)
  if (list === undefined) return
  throw new PipeError('damaged', {
    where: shortPath(list),
    message: 'This list of batches is damaged, so it is not known what the stages behind them use.',
    hint: 'Run the graph: that makes the list anew.',
    goOn,
  })
}

async function gc(wiring: Wiring, file: string | undefined, o: Options): Promise<void> {
  const { out, plan } = await open(wiring, file, o)
  if (plan === undefined) throw new PipeError('input', { message: 'What is in use is known from the graph: pipe cache gc <graph.json>' })
  await using _lock = await lockFolder(out)
  const stored = await inFolder(out)
  const planned = await plan()
  await refuseUnknown(out, stored, planned)
  const unused = unusedOf(stored, inUse(stored, planned))
  if (isNone(unused)) wiring.print(`${shortPath(join(out, 'cache'))}: nothing to delete\n`)
  else wiring.print(`${list(unused).join('\n')}\n\n${o.dryRun ? 'Would delete' : 'Deleting'} ${sum(unused)}\n`)
  if (!o.dryRun) await deleteEntries(out, unused.entries, unused.checkpoints)
}
