/** What run, plan and cache begin with: the graph read, the device opened, the options of the engine. */
import { resolve } from 'node:path'
import type { RunOptions } from '../engine.js'
import { type Graph, loadGraph } from '../graph.js'
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
  const ops = await wiring.openBackend(o.device)
  const part = { from: o.only ?? o.from, to: o.only ?? o.to, force: o.force ?? [] }
  const { signal } = wiring
  const versions = await wiring.versions()
  return {
    graph,
    options: {
      out: resolve(o.out ?? `out/${graph.name}`),
      ops,
      part,
      signal,
      versions,
      ...(o.memory === undefined ? {} : { memory: o.memory }),
    },
  }
}
