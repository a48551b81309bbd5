/** pipe cache: what is stored, whether it is intact, and what no plan uses any more. */
import { join } from 'node:path'
import type { Command } from 'commander'
import { PipeError } from '../error.js'
import { type CacheEntry, deleteEntries, listCache, usedKeys, verifyEntry } from '../inventory.js'
import { lockFolder } from '../lock.js'
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
        ['Stage, batch, size, age, and whether the graph uses it', 'pipe cache ls graphs/qtip-2bit.json'],
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

/** The folder of the outputs; with a graph, also which of the entries its plan uses. */
async function open(wiring: Wiring, file: string | undefined, o: Options) {
  if (file === undefined) {
    if (o.out === undefined) throw new PipeError('input', { message: 'Whose cache? Give the graph, or --out DIR.' })
    return { out: o.out }
  }
  const { graph, options } = await openGraph(wiring, file, o)
  return { out: options.out, used: async (entries: readonly CacheEntry[]) => usedKeys(await planGraph(graph, options), entries) }
}

const sum = (entries: readonly CacheEntry[]): string =>
  `${plural(entries.length, 'batch', 'batches')}, ${bytes(entries.reduce((total, entry) => total + entry.bytes, 0))}`

const list = (entries: readonly CacheEntry[], used?: ReadonlySet<string>): string[] =>
  table(
    ['stage', 'batch', 'size', 'age', ...(used === undefined ? [] : ['in use']), 'key'],
    entries.map(entry => [
      entry.lineage?.stage ?? 'damaged',
      entry.lineage?.id ?? '',
      bytes(entry.bytes),
      duration(Math.max(0, Date.now() - entry.time.getTime()) / 1000),
      ...(used === undefined ? [] : [used.has(entry.key) ? 'yes' : 'no']),
      entry.key.slice(0, 12),
    ]),
  )

async function ls(wiring: Wiring, file: string | undefined, o: Options): Promise<void> {
  const { out, used } = await open(wiring, file, o)
  const entries = await listCache(out)
  const keys = await used?.(entries)
  const unused = keys === undefined ? [] : entries.filter(({ key }) => !keys.has(key))
  const end = `${shortPath(join(out, 'cache'))}: ${sum(entries)}${unused.length > 0 ? `; not in use: ${sum(unused)}` : ''}`
  wiring.print(`${[...(entries.length > 0 ? [...list(entries, keys), ''] : []), end].join('\n')}\n`)
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
  wiring.print(`${shortPath(join(out, 'cache'))}: ${sum(entries)}, all intact\n`)
}

async function gc(wiring: Wiring, file: string | undefined, o: Options): Promise<void> {
  const { out, used } = await open(wiring, file, o)
  if (used === undefined) throw new PipeError('input', { message: 'What is in use is known from the graph: pipe cache gc <graph.json>' })
  await using _lock = await lockFolder(out)
  const entries = await listCache(out)
  const keys = await used(entries)
  const unused = entries.filter(({ key }) => !keys.has(key))
  if (unused.length === 0) wiring.print(`${shortPath(join(out, 'cache'))}: nothing to delete\n`)
  else wiring.print(`${list(unused).join('\n')}\n\n${o.dryRun ? 'Would delete' : 'Deleting'} ${sum(unused)}\n`)
  if (!o.dryRun) await deleteEntries(out, unused)
}
