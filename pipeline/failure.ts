/** What fails in a stage, told with its place, what is kept, and how to go on. */
import type { Engine } from './context.js'
import { isFull, refused } from './disk.js'
import { PipeError, sentence } from './error.js'
import type { Node } from './survey.js'

/** A failed op that nobody read from: the queue does not say whose it was, so all who are at work are named. */
export function lostFailure(engine: Engine, error: unknown): unknown {
  const atWork = engine.nodes.filter(node => engine.usage(node).isActive).map(node => [node.id, ...engine.usage(node).batches].join('  '))
  return wrappedAt(engine, atWork.join(' or '), error)
}

/** A failure told with its place and how to go on. Stops, damage and what already has its place pass. */
export const wrapped = (engine: Engine, node: Node, batch: string | undefined, error: unknown): unknown =>
  wrappedAt(engine, [node.id, batch].filter(part => part !== undefined).join('  '), error)

function wrappedAt(engine: Engine, place: string, thrown: unknown): unknown {
  if (placed.has(thrown as object) || engine.signal.aborted) return thrown
  const error = isFull(thrown) ? refused('its files', engine.out, thrown) : thrown // of a stage that writes
  const known = (error as Error | undefined)?.name === 'PipeError' ? (error as PipeError) : undefined
  if (known !== undefined && ['stopped', 'damaged', 'locked'].includes(known.code)) return error
  const where = known?.where === undefined ? place : `${place}  ${known.where}`
  const n = engine.finishedBatches
  const kept = n === 0 ? 'Nothing is lost' : n === 1 ? 'The finished batch is kept' : `The ${n} finished batches are kept`
  const told = new PipeError(
    known?.code ?? 'failed',
    {
      where,
      message: known?.message ?? sentence(error),
      ...(known?.hint === undefined ? {} : { hint: known.hint }),
      goOn: `${kept}; the same command goes on from here.`,
    },
    { cause: known === undefined ? error : (known.cause ?? known) },
  )
  placed.add(told)
  return told
}
const placed = new WeakSet<object>()
