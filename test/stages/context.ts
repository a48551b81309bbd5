/** What the tests of calibrate and model run a stage with: everything is wanted, there is room, checkpoints are in memory. */
import type { Ops } from '../../native/ops.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { bytesTensor, type Checkpoint, type Context } from '../../pipeline/define.js'
import { contextOf } from './run-stage.js'

/** Checkpoints as the engine keeps them, without files. */
export function memoryCheckpoint(): Checkpoint & { readonly names: string[]; readonly peakBytes: number } {
  let peakBytes = 0
  const saved = new Map<string, NonNullable<Awaited<ReturnType<Checkpoint['load']>>>>()
  return {
    get names() {
      return [...saved.keys()].sort()
    },
    get peakBytes() {
      return peakBytes
    },
    async save(name, value, tensors) {
      const stored: Record<string, TensorRef> = {}
      for (const [key, tensor] of Object.entries(tensors)) stored[key] = bytesTensor(await tensor.read(), tensor.dtype, tensor.shape)
      const refs = [...saved.values()].flatMap(({ tensors }) => Object.values(tensors)) // what is replaced is there until then
      peakBytes = Math.max(
        peakBytes,
        [...refs, ...Object.values(stored)].reduce((sum, { bytes }) => sum + bytes, 0),
      )
      saved.set(name, { value, tensors: stored })
    },
    load: async name => saved.get(name),
    list: async () => [...saved.keys()],
    drop: async name => {
      saved.delete(name)
    },
  }
}

export const contextWith = (ops: Ops, o: Partial<Context> = {}): Context =>
  contextOf(ops, undefined, { checkpoint: memoryCheckpoint(), ...o })
