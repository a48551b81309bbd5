/** Runs one stage on rows, as the engine does, without graph, cache or files. */
import type { Static, TObject } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { from, lastValueFrom, toArray } from 'rxjs'
import type { Ops } from '../../native/ops.js'
import { type DType, Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { bytesTensor, type Context, type NewRow, type Row, type Stage, type Table } from '../../pipeline/define.js'
import { rng } from '../../pipeline/random.js'

export interface Told {
  notes: string[]
}

/** A context as the engine gives it, with everything that a stage was told to note kept in `told`. */
export function contextOf(ops: Ops, told: Told = { notes: [] }, o: Partial<Context> = {}): Context {
  return {
    ops,
    rng: (...name) => rng(0, ...name),
    signal: new AbortController().signal,
    inner: () => Promise.reject(new Error('this stage is run without inner stages')),
    out: '',
    recipe: { graph: 'test' },
    room: () => Promise.resolve({ [Symbol.dispose]() {} }),
    wanted: () => true,
    checkpoint: {
      save: () => Promise.resolve(),
      load: () => Promise.resolve(undefined),
      list: () => Promise.resolve([]),
      drop: () => Promise.resolve(),
    },
    progress: () => {},
    note: text => {
      told.notes.push(text)
    },
    ...o,
  }
}

/** Rows in, rows out; parameters that are left out take their defaults. */
export async function runStage<P extends TObject, I extends Table, O extends Table>(
  stage: Stage<P, I, O>,
  params: Readonly<Record<string, unknown>>,
  rows: readonly Row<I>[],
  context: Context,
): Promise<NewRow<O>[]> {
  const whole = Value.Default(stage.params, structuredClone(params)) as Static<P>
  return await lastValueFrom(from(rows).pipe(stage.operator(whole, context), toArray()))
}

/** These numbers as a tensor column holds them. */
export function ref(
  values: Float32Array | Uint16Array,
  shape: readonly number[],
  dtype: DType = values instanceof Uint16Array ? 'u16' : 'f32',
): TensorRef {
  return bytesTensor(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), dtype, shape)
}

/** What a tensor column holds after a stage, as the next stage finds it. */
export async function settled(value: TensorRef | Tensor | undefined): Promise<TensorRef> {
  if (value === undefined) throw new Error('no tensor')
  return value instanceof Tensor ? bytesTensor(await value.read(), value.dtype, value.shape) : value
}

export async function floats(value: TensorRef | Tensor | undefined): Promise<Float32Array> {
  const bytes = await (value as TensorRef | Tensor).read()
  return new Float32Array(bytes.slice().buffer)
}

/** Standard normals by name. */
export const normals = (n: number, ...name: (string | number)[]): Float32Array => rng(0, ...name).normal(n)

/** XᵀX/T of T correlated tokens: neighbours in a random walk, so that feedback has something to use. */
export function correlated(n: number, tokens: number, ...name: (string | number)[]): { x: Float32Array; h: Float32Array } {
  const noise = normals(tokens * n, ...name)
  const x = new Float32Array(tokens * n)
  for (let t = 0; t < tokens; t++)
    for (let i = 0; i < n; i++) x[t * n + i] = 0.9 * (i > 0 ? (x[t * n + i - 1] ?? 0) : 0) + (noise[t * n + i] ?? 0)
  const h = new Float32Array(n * n)
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let t = 0; t < tokens; t++) sum += (x[t * n + i] ?? 0) * (x[t * n + j] ?? 0)
      h[i * n + j] = sum / tokens
    }
  return { x, h }
}
