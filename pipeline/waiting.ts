/** Whom a run waits for: said when nothing has been heard for long, and told as a failure when nothing can come any more. */
import type { OpenEngine } from './engine.js'
import { PipeError } from './error.js'
import { goOn } from './failure.js'
import type { Node } from './survey.js'

/** Seconds of silence after which it is said, for the first time; then after twice as many, and so on. */
const firstSeconds = 30

interface Awaited {
  readonly stage: string
  /** Those it has been given and not given back, of a stage that works batch by batch. */
  readonly batches: readonly string[]
}

/** The first stages at work: those behind them wait for what they give. */
function awaited({ nodes, usage }: OpenEngine): readonly Awaited[] {
  const atWork = nodes.filter(node => usage(node).isActive)
  const isBehind = (node: Node): boolean => node.from.some(above => atWork.includes(above) || isBehind(above))
  return atWork.filter(node => !isBehind(node)).map(node => ({ stage: node.id, batches: node.isStream ? [] : [...usage(node).batches] }))
}

/** Says now and then for whom the run waits, while nothing is heard of any stage, until it is disposed. */
export function watchSilence(engine: OpenEngine): Disposable {
  let [silent, next] = [0, firstSeconds]
  let heard = engine.heard
  const timer = setInterval(() => {
    if (engine.heard !== heard) [silent, next, heard] = [0, firstSeconds, engine.heard]
    if (++silent < next) return
    next *= 2
    for (const { stage, batches } of awaited(engine))
      engine.emit({ kind: 'waiting', stage, ...(batches[0] === undefined ? {} : { batch: batches.join(', ') }), silentSeconds: silent })
  }, 1000)
  timer.unref()
  return { [Symbol.dispose]: () => clearInterval(timer) }
}

/**
 * What `work` gives; rejects with PipeError 'failed' when the process has nothing left to do and `work` is not done: no timer, no
 * file, no op, no thread is under way then, so nothing can settle what a stage waits for.
 */
export async function unlessStuck<T>(engine: OpenEngine, work: Promise<T>): Promise<T> {
  let stop: () => void = () => {}
  const stuck = new Promise<never>((_, reject) => {
    stop = () => reject(stuckIn(engine, awaited(engine)))
    process.once('beforeExit', stop)
  })
  try {
    return await Promise.race([work, stuck])
  } finally {
    process.off('beforeExit', stop)
  }
}

const stuckIn = (engine: OpenEngine, stages: readonly Awaited[]): PipeError =>
  new PipeError('failed', {
    ...(stages.length > 0 && {
      where: stages.map(({ stage, batches }) => `${stage}${batches.length > 0 ? `  ${batches.join(', ')}` : ''}`).join(', '),
    }),
    message: 'It neither gives what is waited for nor ends, and nothing is under way that could change that: the run would wait for ever.',
    hint: 'A promise in it is never settled, or an observable never completes: an operator has to complete once its source has.',
    ...goOn(engine, true),
  })
