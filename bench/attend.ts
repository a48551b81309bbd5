/**
 * Attention of a layer to what a cache holds: one op that does a row at a time, as steps take it, and blocks of queries, as pieces of a
 * prompt do (stages/model/kv-cache.ts): milliseconds, and how fast keys and values are read if each is read once.
 *
 *   --shapes llama-2-7b,llama-3-8b --before 200,2000,8000 --rows 1,8,64,256,2048 --cache f32 --precision bf16 --device cuda:0
 */
import type { Attend } from '../stages/model/attention.js'
import { bandwidthOfCopies } from '../stages/model/bench.js'
import { cacheBytes, KvCache } from '../stages/model/kv-cache.js'
import { shapeOf } from '../stages/model/shapes.js'
import { cardOf, openDevice } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const capacity = 8192
const repeats = 5

export async function run(options: Options): Promise<Figures> {
  const ops = await openDevice(options)
  const { shapes = 'llama-2-7b,llama-3-8b', before: befores = '200,2000,8000', rows: counts = '1,8,64,256', cache: dtype = 'f32' } = options
  const { precision = ops.device.kind === 'cuda' ? 'bf16' : 'f32' } = options
  const of = (name: string, value: string): 'f32' | 'bf16' => {
    if (value !== 'f32' && value !== 'bf16') throw new Error(`--${name} is f32 or bf16, not ${value}`)
    return value
  }
  const how = { slots: 1, capacity, dtype: of('cache', dtype), precision: of('precision', precision) }
  const table: Row[] = []
  for (const shape of shapes.split(',')) {
    const known = shapeOf(shape)
    const config = { ...known, sizes: { ...known.sizes, layers: 1 } }
    const { h, g, e } = config.sizes
    using cache = new KvCache(ops, config, how)
    for (const before of befores.split(',').map(Number))
      for (const rows of counts.split(',').map(Number)) {
        if (before + rows > capacity) continue
        using q = ops.zeros('f32', [rows, h * e])
        using k = ops.zeros('f32', [rows, g * e])
        using v = ops.zeros('f32', [rows, g * e])
        using slots = ops.zeros('i32', [rows])
        using positions = ops.tensor(
          Int32Array.from({ length: rows }, (_, i) => before + i),
          [rows],
        )
        const milliseconds = async (attend: Attend): Promise<number> => {
          const calls = rows > 8 ? 3 : 20
          const run = async (): Promise<number> => {
            const begin = performance.now()
            for (let i = 0; i < calls; i++) attend(0, q, k, v)[Symbol.dispose]()
            await ops.finish()
            return (performance.now() - begin) / calls
          }
          await run()
          let best = Number.POSITIVE_INFINITY
          for (let i = 0; i < repeats; i++) best = Math.min(best, await run())
          return best
        }
        const byRow = await milliseconds(cache.at({ slots, positions }))
        const blocks = await milliseconds(cache.after(before, 0, rows))
        const bytes = cacheBytes(config, { ...how, capacity: before + rows })
        table.push({
          shape,
          before,
          rows,
          'by row, ms': byRow,
          'blocks, ms': blocks,
          'by row / blocks': byRow / blocks,
          'by row, GB/s': bytes / byRow / 1e6,
          'blocks, GB/s': bytes / blocks / 1e6,
        })
      }
  }
  const where = ops.device.kind === 'cpu' ? { threads: ops.device.info().threads } : cardOf(ops)
  return { ...where, cache: how.dtype, precision: how.precision, 'copy, GB/s': (await bandwidthOfCopies(ops)) / 1e9, rows: table }
}
