/** A device of the run: its queue, a bound of memory of its own, and what is worked on there. */
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Ops } from '../native/ops.js'
import { defaultMemory, hostLimit } from './device.js'
import type { DeviceUsage } from './events.js'
import { Memory } from './memory.js'
import { Busy } from './usage.js'

export class Lane {
  /** Batches that were finished here. */
  finished = 0
  /** It failed for good: nothing is given to it any more. */
  isLost = false
  /** Stages and batches that are worked on now. */
  readonly underWay = new Set<string>()
  readonly #busy = new Busy()

  constructor(
    /** 'cuda:1'; a second queue on the same device is 'cuda:1 (2)'. */
    readonly name: string,
    readonly ops: Ops,
    readonly memory: Memory,
  ) {}

  /** The stage works here, on this batch, until this is disposed. */
  work(stage: string, batch?: string): Disposable {
    const what = batch === undefined ? stage : `${stage}  ${batch}`
    this.underWay.add(what)
    const interval = this.#busy.begin()
    return {
      [Symbol.dispose]: () => {
        this.underWay.delete(what)
        interval[Symbol.dispose]()
      },
    }
  }

  /**
   * After a failure for lack of memory, with nothing under way here: what the failed stage forgot to dispose is freed now,
   * not whenever it is collected, and a failed op that nobody has read from is forgotten.
   */
  async reclaim(): Promise<void> {
    const { ops } = this
    await ops.finish().catch(() => {})
    if (ops.device.liveBytes === 0) return
    collect()
    await setImmediate() // collected tensors are released after the collection
    await ops.finish().catch(() => {})
  }

  get usage(): DeviceUsage {
    const { name, finished, isLost, ops } = this
    const opSeconds = Object.values(ops.device.stats()).reduce((sum, { seconds }) => sum + seconds, 0)
    return {
      device: name,
      seconds: this.#busy.seconds,
      opSeconds,
      batches: finished,
      peakBytes: ops.device.peakBytes,
      ...(isLost ? { isLost } : {}),
    }
  }
}

let collector: (() => void) | undefined
/** Collects garbage. Node shows the function only when asked to; the flag changes nothing else. */
function collect(): void {
  if (collector === undefined) {
    setFlagsFromString('--expose-gc')
    collector = runInNewContext('gc') as () => void
  }
  collector()
}

/** A lane for each device. `failed` as of Memory. `memory`: bytes for each; left out, a share of what is free. */
export async function openLanes(
  devices: readonly Ops[],
  memory: number | undefined,
  signal: AbortSignal,
  failed: (lane: Lane, error: unknown) => unknown,
): Promise<readonly Lane[]> {
  const lanes: Lane[] = []
  for (const ops of devices) {
    const { device } = ops
    const twins = devices.filter(other => other.device.name === device.name).length
    const before = lanes.filter(lane => lane.ops.device.name === device.name).length
    const limit = memory ?? (await defaultMemory(device, twins))
    const host = await hostLimit(device, devices.length)
    const lane: Lane = new Lane(
      before === 0 ? device.name : `${device.name} (${before + 1})`,
      ops,
      new Memory(device, limit, signal, error => failed(lane, error), undefined, host),
    )
    lanes.push(lane)
  }
  return lanes
}
