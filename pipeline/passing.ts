/** Rows on their way from one stage to the next: which batch they belong to, and where their tensors go. */
import { map, Observable, type OperatorFunction, ReplaySubject } from 'rxjs'
import { Tensor } from '../native/tensor.js'
import type { TensorRef } from '../native/tensor-ref.js'
import { type AnyRow, checkRow } from './arrow.js'
import type { AnyStage, Table } from './define.js'
import { bytesTensor, type HeldTensors, type LiveTensors } from './lazy.js'
import { each } from './rows.js'

/** The batch a row belongs to: a symbol, because {...row} copies it and a stage can't forget it. */
export const batchOf = Symbol('batch')
export type Tagged = AnyRow & { readonly [batchOf]?: string }

/** Rows of an inline stage for the next one: live tensors of a live table move, others go through the host. */
export function handOver(table: Table, live: LiveTensors): OperatorFunction<Tagged, Tagged> {
  if (!table.live) {
    const known = new WeakMap<Tensor, Promise<TensorRef>>()
    return each(async row => (await onHost(table, [row], known)[0]) as Tagged)
  }
  return map(row => {
    checkRow(table, row)
    return mapTensors(row, tensor => live.hold(tensor)) as Tagged
  })
}

/** Rows of a stage for the next one in the same batch: their tensors stay on the device. */
export function holdRows(table: Table, rows: readonly AnyRow[], held: HeldTensors): AnyRow[] {
  return rows.map(row => {
    checkRow(table, row)
    return mapTensors(row, tensor => held.hold(tensor))
  })
}

export const tagged = (rows: readonly AnyRow[], id: string): Tagged[] => rows.map(row => ({ ...row, [batchOf]: id }))

/** A batch of a stream: its rows come as they are made, and are kept for who listens later. */
export interface Passing {
  readonly id: string
  readonly rows: Observable<Tagged>
}

/** Each batch by itself: neighbours belong together. Unlike runs, does not wait until a batch is whole: live rows may not fit at a time. */
export const apart: OperatorFunction<Tagged, Passing> = source =>
  new Observable(out => {
    let last: { id: string; rows: ReplaySubject<Tagged> } | undefined
    return source.subscribe({
      next: row => {
        const id = row[batchOf] as string
        if (last?.id !== id) {
          last?.rows.complete()
          last = { id, rows: new ReplaySubject() }
          out.next(last)
        }
        last.rows.next(row)
      },
      error: error => out.error(error),
      complete: () => {
        last?.rows.complete()
        out.complete()
      },
    })
  })

/** What the stage asked for, and the batch. */
export function inputRow(stage: AnyStage, row: AnyRow, id: string | undefined): Tagged {
  const columns = Object.keys(stage.input.columns).map(name => [name, row[name]])
  return { ...Object.fromEntries(columns), ...(id === undefined ? {} : { [batchOf]: id }) }
}

export function idOf(stage: AnyStage, row: Tagged): string {
  const id = stage.batch?.(row) ?? row[batchOf]
  if (typeof id === 'string' && id !== '') return id
  throw new Error('a row belongs to no batch: make it from the row that came ({...row, …}), or give the stage batch(row)')
}

/** Live tensors read to the host and disposed; the same tensor in several rows stays one. */
export function onHost(table: Table, rows: readonly AnyRow[], known = new WeakMap<Tensor, Promise<TensorRef>>()): Promise<AnyRow>[] {
  const read = (tensor: Tensor): Promise<TensorRef> => {
    const ref =
      known.get(tensor) ??
      (async () => {
        using held = tensor
        return bytesTensor(await held.read(), held.dtype, held.shape)
      })()
    known.set(tensor, ref)
    return ref
  }
  return rows.map(async row => {
    checkRow(table, row)
    const entries = Reflect.ownKeys(row).map(async name => {
      const value = (row as Record<PropertyKey, unknown>)[name]
      return [name, value instanceof Tensor ? await read(value) : value] as const
    })
    return Object.fromEntries(await Promise.all(entries)) as AnyRow
  })
}

const mapTensors = (row: AnyRow, f: (tensor: Tensor) => TensorRef): AnyRow =>
  Object.fromEntries(
    Reflect.ownKeys(row).map(name => {
      const value = (row as Record<PropertyKey, unknown>)[name]
      return [name, value instanceof Tensor ? f(value) : value]
    }),
  )

export function disposeAll(rows: readonly AnyRow[]): void {
  for (const row of rows) for (const value of Object.values(row)) if (value instanceof Tensor) value[Symbol.dispose]()
}

/** Bytes of the distinct tensors of these rows. */
export function bytesOf(rows: readonly AnyRow[]): number {
  const refs = new Set<TensorRef>()
  for (const row of rows) for (const value of Object.values(row)) if (isRef(value)) refs.add(value)
  return [...refs].reduce((sum, ref) => sum + ref.bytes, 0)
}
export const isRef = (value: unknown): value is TensorRef =>
  typeof value === 'object' && value !== null && 'bytes' in value && 'open' in value
