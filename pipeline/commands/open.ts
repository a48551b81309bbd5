/** What run, plan and cache begin with: the graph read, the device opened, the options of the engine. */
import { resolve } from 'node:path'
import type { Ops } from '../../native/ops.js'
import type { RunOptions } from '../engine.js'
import { PipeError } from '../error.js'
import type { Graph } from '../graph.js'
import { loadGraph } from '../load-graph.js'
import type { Wiring } from './wiring.js'

export interface OpenOptions {
  readonly set: readonly string[]
  /** Of the outputs. Default: out/<name of the graph> in the working directory. */
  readonly out?: string | undefined
  readonly device: string
  readonly memory?: number | undefined
  readonly from?: string | undefined
  readonly to?: string | undefined
  readonly only?: string | undefined
  readonly force?: readonly string[]
}

export async function openGraph(wiring: Wiring, file: string, o: OpenOptions): Promise<{ graph: Graph; options: RunOptions }> {
  const graph = await loadGraph(file, { stages: wiring.stages, set: o.set })
  const [ops, ...others] = await openDevices(wiring, o.device)
  const part = { from: o.only ?? o.from, to: o.only ?? o.to, force: o.force ?? [] }
  const { signal } = wiring
  const versions = await wiring.versions()
  return {
    graph,
    options: {
      out: resolve(o.out ?? `out/${graph.name}`),
      ops,
      others,
      part,
      signal,
      versions,
      ...(o.memory === undefined ? {} : { memory: o.memory }),
    },
  }
}

/** 'cuda:0,cuda:1' → their verbs. All are of one kind: results may differ in the last place between kinds. */
export async function openDevices(wiring: Pick<Wiring, 'openBackend'>, list: string): Promise<[Ops, ...Ops[]]> {
  const names = list.split(',').map(name => name.trim())
  const opened: Ops[] = []
  for (const name of names) opened.push(await wiring.openBackend(name))
  const [first, ...others] = opened
  if (first === undefined) throw new Error('an empty list has one empty name')
  const stranger = others.find(({ device }) => device.kind !== first.device.kind)
  if (stranger !== undefined)
    throw new PipeError('input', {
      where: `--device ${list}`,
      message: `${first.device.name} and ${stranger.device.name} can't share a run: their results may differ in the last place.`,
      hint: 'Name devices of one kind, such as cuda:0,cuda:1.',
    })
  return [first, ...others]
}
