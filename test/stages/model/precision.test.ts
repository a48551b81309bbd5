/** precision: what auto means. */
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import type { Ops } from '../../../native/ops.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { precisionOf } from '../../../stages/model/precision.js'
import { root } from '../../helpers.js'

t.test('auto: bf16 on a GPU for a large model stored in 16 bits', async t => {
  const ops = await openBackend('cpu')
  const on = (kind: 'cpu' | 'cuda'): Ops => ({
    ...ops,
    device: new Proxy(ops.device, { get: (target, key) => (key === 'kind' ? kind : Reflect.get(target, key, target)) }),
  })
  const bf16 = await openCheckpoint(join(root, 'fixtures/tiny-llama'))
  const f32 = await openCheckpoint(join(root, 'fixtures/hf-reference/llama-gqa'))
  /** The same with wide linears. */
  const large = (checkpoint: typeof bf16): typeof bf16 => ({
    ...checkpoint,
    expected: checkpoint.expected.map(tensor => (tensor.role === 'linear' ? { ...tensor, shape: [4096, 4096] } : tensor)),
  })
  t.equal(precisionOf('auto', on('cuda'), large(bf16)), 'bf16')
  t.equal(precisionOf('auto', on('cuda'), bf16), 'f32', 'small')
  t.equal(precisionOf('auto', on('cuda'), large(f32)), 'f32', 'stored in f32')
  t.equal(precisionOf('auto', on('cpu'), large(bf16)), 'f32', 'on a CPU')
  t.equal(precisionOf('bf16', on('cpu'), f32), 'bf16', 'asked for')
  t.equal(precisionOf('f32', on('cuda'), large(bf16)), 'f32', 'asked for')
})
