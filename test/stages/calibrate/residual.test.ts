/** residual: what is kept where, and what is saved how often. */
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import type { Ops } from '../../../native/ops.js'
import { Residual } from '../../../stages/calibrate/residual.js'
import { testDevice } from '../../helpers.js'
import { contextWith, memoryCheckpoint } from '../context.js'

const ops = await openBackend(testDevice)
/** The same verbs on a device of this kind with 80 GB, as far as one can tell. */
const as = (kind: 'cpu' | 'cuda'): Ops => ({
  ...ops,
  device: new Proxy(ops.device, {
    get(target, key) {
      if (key === 'kind') return kind
      if (key === 'info') return () => ({ ...target.info(), totalBytes: 80e9 })
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  }),
})
const gpu = as('cuda')

/** Passes two chunks through blocks 0 to 3, adding 1 in each; the names saved after each block. */
async function passed(on: Ops, checkpoint: ReturnType<typeof memoryCheckpoint>, bytes: number): Promise<string[][]> {
  using residual = await Residual.open(contextWith(on, { checkpoint }), 2, 3, 3, bytes)
  if (residual.layer === 0) await residual.start(async () => [ops.zeros('f32', [4]), ops.zeros('f32', [4])])
  const names: string[][] = []
  while (residual.layer <= 3) {
    for (const chunk of [0, 1]) {
      using x = await residual.take(chunk)
      using one = ops.tensor(new Float32Array(4).fill(1), [4])
      const values = new Float32Array((await x.read()).slice().buffer)
      if (!values.every(value => value === residual.layer)) throw new Error(`${values} enters block ${residual.layer}`)
      await residual.put(chunk, ops.add(x, one))
    }
    await residual.advance()
    names.push(checkpoint.names)
  }
  return names
}

t.test('a small stream is saved after every block, a large one on a GPU once computing has taken long', async t => {
  const small = memoryCheckpoint()
  t.strictSame((await passed(gpu, small, 1e6)).at(-1), ['3.0', '3.1'])
  const large = memoryCheckpoint()
  t.strictSame(await passed(gpu, large, 9e9), [[], [], [], []], '18 s to save, none to compute')
})

t.test('a stream that does not fit is read back from where it was saved', async t => {
  for (const [where, on, bytes] of [
    ['CPU', as('cpu'), 9e9],
    ['GPU', gpu, 50e9],
  ] as const) {
    const checkpoint = memoryCheckpoint()
    t.strictSame((await passed(on, checkpoint, bytes)).at(-1), ['3.0', '3.1'], where)
    t.equal((await passed(on, checkpoint, bytes)).length, 1, `${where}: a second time from the last block`)
  }
  await ops.finish()
  t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
})
