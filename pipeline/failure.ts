/** What fails in a stage, told with its place, what is kept, and how to go on. */
import type { DeviceFailure } from '../native/device.js'
import type { Engine } from './context.js'
import { isFull, refused } from './disk.js'
import { PipeError, sentence } from './error.js'
import type { Lane } from './lane.js'
import type { Node } from './survey.js'

/** Was it the device's doing, and what? Also of an error that tells of one. */
export function deviceFailure(error: unknown): DeviceFailure | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const { code } = at as { code?: unknown }
    if (code === 'ERR_DEVICE_MEMORY' || code === 'ERR_DEVICE_LOST') return code
  }
  return undefined
}

/** A failed op that nobody read from: the queue does not say whose it was, so all who are at work there are named. */
export const lostFailure = (engine: Engine, lane: Lane, error: unknown): unknown =>
  wrappedAt(engine, [...lane.underWay].join(' or '), error)

/** A device is gone, and the others go on. */
export const tellLost = (engine: Engine, { name }: Lane, error: unknown): void =>
  engine.emit({ kind: 'device-lost', device: name, text: `${name} is not used any more, the other devices go on: ${sentence(error)}` })

/** Batches for which a device's memory was out twice, told when all others are finished. */
export function outOfMemory(engine: Engine, errors: readonly unknown[]): unknown {
  const mistakes = errors.flatMap(error => (error instanceof PipeError ? error.mistakes : [{ message: sentence(error), where: undefined }]))
  const shown = mistakes.slice(0, mostShown).map(({ where, message }) => ({ ...(where === undefined ? {} : { where }), message }))
  const more = mistakes.length - shown.length
  const last = {
    message: `${more > 0 ? `And so for ${more} more. ` : ''}Each was tried twice, the second time with nothing beside it; all other batches are finished.`,
    ...goOn(engine),
  }
  const told = new PipeError('memory', [...shown, last], { cause: errors[0] })
  placed.add(told)
  return told
}
/** More paragraphs than this nobody reads. */
const mostShown = 5

/** A failure told with its place and how to go on. Stops, damage and what already has its place pass. */
export const wrapped = (engine: Engine, node: Node, batch: string | undefined, error: unknown): unknown =>
  wrappedAt(engine, [node.id, batch].filter(part => part !== undefined).join('  '), error)

function wrappedAt(engine: Engine, place: string, thrown: unknown): unknown {
  if (placed.has(thrown as object) || engine.signal.aborted) return thrown
  const error = isFull(thrown) ? refused('its files', engine.out, thrown) : thrown // of a stage that writes
  const known = (error as Error | undefined)?.name === 'PipeError' ? (error as PipeError) : undefined
  if (known !== undefined && ['stopped', 'damaged', 'locked'].includes(known.code)) return error
  const where = known?.where === undefined ? place : `${place}  ${known.where}`
  const ofDevice = deviceFailure(error) !== undefined
  const hint = known === undefined && !ofDevice ? 'Where in the code: add --verbose.' : known?.hint
  const told = new PipeError(
    known?.code ?? (deviceFailure(error) === 'ERR_DEVICE_MEMORY' ? 'memory' : 'failed'),
    {
      where,
      message: known?.message ?? sentence(error),
      ...(hint !== undefined && { hint }),
      ...goOn(engine, known?.code === 'input'),
    },
    { cause: known === undefined ? error : (known.cause ?? known) },
  )
  placed.add(told)
  return told
}

/** Nothing where nothing was finished, as in a plan. isMistake: the same command alone would end here again. */
export function goOn({ finishedBatches: n }: Engine, isMistake = false): { goOn?: string } {
  if (n === 0) return {}
  const kept = n === 1 ? 'The finished batch is kept' : `The ${n} finished batches are kept`
  return { goOn: `${kept}; ${isMistake ? 'once that is put right, ' : ''}the same command goes on from here.` }
}
const placed = new WeakSet<object>()
