/** A context for running one stage by itself: everything is wanted, there is room, checkpoints are in memory. */
import { from, lastValueFrom, toArray } from 'rxjs'
import type { Ops } from '../../native/ops.js'
import type { Tensor, TensorRef } from '../../native/tensor.js'
import { type AnyStage, bytesTensor, type Context } from '../../pipeline/define.js'
import { rng } from '../../pipeline/random.js'

type Saved = NonNullable<Awaited<ReturnType<Context['checkpoint']['load']>>>

export interface FakeContext extends Context {
  readonly notes: string[]
  readonly saved: Map<string, Saved>
}

export function fakeContext(ops: Ops, o: Partial<Context> = {}): FakeContext {
  const notes: string[] = []
  const saved = new Map<string, Saved>()
  return {
    ops, notes, saved,
    rng: (...name) => rng(0, ...name),
    signal: new AbortController().signal,
    room: async () => ({ [Symbol.dispose]: () => undefined }),
    wanted: () => true,
    checkpoint: {
      async save(name, value, tensors) {
        const stored: Record<string, TensorRef> = {}
        for (const [key, tensor] of Object.entries(tensors)) stored[key] = bytesTensor(await tensor.read(), tensor.dtype, tensor.shape)
        saved.set(name, { value, tensors: stored })
      },
      load: async name => saved.get(name),
      list: async () => [...saved.keys()],
      drop: async name => { saved.delete(name) },
    },
    progress: () => undefined,
    note: text => { notes.push(text) },
    out: '',
    recipe: {},
    ...o,
  }
}

/** The rows that a stage gives for these. Parameters are as given: defaults are the engine's to fill in. */
export const runStage = async <R extends object>(stage: AnyStage, params: object, rows: readonly object[], context: Context): Promise<R[]> =>
  lastValueFrom(from(rows).pipe(stage.operator(params, context) as never, toArray())) as Promise<R[]>

export const floats = async (x: Tensor | TensorRef): Promise<Float32Array> => new Float32Array((await x.read()).slice().buffer)
