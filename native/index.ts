/** Opens a backend: loads its addon and gives the verbs. What the rest of the project imports from here are tensors in, tensors out. */
import type { Device, DeviceFailure, DeviceInfo, FileRange, OpArgs, OpStats, Program } from './device.js'
import { chooseGpu, loadAddon, surveyAddon } from './machine.js'
import { type Ops, opsOn } from './ops.js'
import { bytesPerElement, type DType, elements, type Handle, Tensor } from './tensor.js'

interface Field {
  name: string
  kind: 'tensor' | 'whole' | 'real' | 'flag'
  type: string
  writes: boolean
  required: boolean
}

/** The class Device of an addon: native/core/node_device.h. */
interface NativeDevice {
  ops(): { name: string; fields: Field[] }[]
  info(): DeviceInfo
  empty(bytes: number): Handle
  upload(bytes: Uint8Array): Handle
  bring(bytes: Uint8Array): Promise<Handle>
  bring(fd: number, offset: number, bytes: number): Promise<Handle>
  enqueue(op: number, ...values: unknown[]): number
  wait(handle?: Handle): Promise<Uint8Array | undefined>
  record(): void
  recorded(): Handle
  replay(program: Handle): number
  form(program: Handle): string
  forget(program: Handle): void
  write(handle: Handle, bytes: Uint8Array): void
  release(handle: Handle): void
  liveBytes(): number
  peakBytes(): number
  stats(): Record<string, OpStats>
  progress(): { done: number; failed: number[] }
}
interface Addon {
  Device: new (number: number) => NativeDevice
}

/** The stack of the call of `run` with this ticket; later calls of the same op may share it. */
interface Trace {
  stack?: string
  ticket: number
}

/** An op as `run` needs it: where each named value goes, which dtypes a tensor may have (none listed: any), its calls since the last read. */
interface Entry {
  index: number
  fields: Field[]
  place: Map<string, number>
  dtypes: (readonly string[] | undefined)[]
  calls: number
  trace: Trace
}

/** Traces are looked through, and those of calls that ran well dropped, when so many are kept. */
const kept = 4096
/**
 * Calls of one op since the last read that get a stack of their own; later ones are a loop's. Taking one costs 5 µs, three times all the rest, and more in a
 * first prompt, whose code is not compiled yet.
 */
const traced = 8
/** The longest array that Node 20 can hold. */
const readable = 2 ** 32

class NativeQueue implements Device {
  readonly #native: NativeDevice
  readonly #entries = new Map<string, Entry>()
  readonly #traces = new Map<number, Trace>()
  #limit = kept

  constructor(
    readonly kind: 'cpu' | 'cuda',
    readonly name: string,
    native: NativeDevice,
    readonly noGpu?: string,
  ) {
    this.#native = native
    for (const [index, { name, fields }] of native.ops().entries()) {
      const dtypes = fields.map(({ type }) => (type === 'any' || type === '' ? undefined : type === '16' ? ['f16', 'bf16', 'u16'] : [type]))
      const place = new Map(fields.map((field, i) => [field.name, i]))
      this.#entries.set(name, { index, fields, dtypes, place, calls: 0, trace: { ticket: 0 } })
    }
  }

  get liveBytes(): number {
    return this.#native.liveBytes()
  }
  get peakBytes(): number {
    return this.#native.peakBytes()
  }

  empty(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this, dtype, shape, this.#native.empty(expectShape(shape) * bytesPerElement[dtype]))
  }

  upload(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor {
    expectBytes(bytes, dtype, shape)
    return new Tensor(this, dtype, shape, this.#native.upload(bytes))
  }

  async bring(source: Uint8Array | FileRange, dtype: DType, shape: readonly number[]): Promise<Tensor> {
    if (source instanceof Uint8Array) {
      expectBytes(source, dtype, shape)
      return new Tensor(this, dtype, shape, await this.#native.bring(source))
    }
    const { fd, offset } = source
    if (!Number.isSafeInteger(offset) || offset < 0) throw new RangeError(`upload: a tensor can't begin at byte ${offset} of a file`)
    return new Tensor(this, dtype, shape, await this.#native.bring(fd, offset, expectShape(shape) * bytesPerElement[dtype]))
  }

  run(op: string, args: OpArgs): void {
    const entry = this.#entries.get(op)
    if (entry === undefined) throw new Error(`the ${this.name} addon has no op "${op}"; it has ${[...this.#entries.keys()].join(', ')}`)
    const { fields, place, dtypes, index } = entry
    const values: unknown[] = new Array(fields.length)
    for (const name in args) {
      const value = args[name]
      const i = place.get(name)
      if (i === undefined) throw new TypeError(`${op}: no argument is called ${name}; it takes ${[...place.keys()].join(', ')}`)
      if (value instanceof Tensor) {
        if (fields[i]!.kind !== 'tensor') throw new TypeError(`${op}: ${name} must be a number, got a tensor`)
        if (dtypes[i]?.includes(value.dtype) === false)
          throw new TypeError(`${op}: ${name} must be ${dtypes[i]!.join(' or ')}, got ${value.dtype}`)
        if (value.device !== this) throw new TypeError(`${op}: ${name} is on another device`)
        values[i] = value.handle
      } else if (value !== undefined) {
        if (fields[i]!.kind === 'tensor') throw new TypeError(`${op}: ${name} must be a tensor, got ${value}`)
        values[i] = Number(value)
      }
    }
    for (let i = 0; i < values.length; i++) {
      if (values[i] === undefined && fields[i]!.required) throw new TypeError(`${op}: ${fields[i]!.name} is missing`)
    }
    const ticket = this.#native.enqueue(index, ...values)
    if (entry.calls++ < traced) {
      entry.trace = { ticket }
      Error.captureStackTrace(entry.trace)
    }
    this.#traces.set(ticket, entry.trace)
    if (this.#traces.size >= this.#limit) this.#forget()
  }

  write(tensor: Tensor, bytes: Uint8Array): void {
    if (tensor.device !== this) throw new TypeError('write: the tensor is on another device')
    this.#native.write(tensor.handle, bytes)
  }

  record(f: () => void): Program {
    const native = this.#native
    native.record()
    try {
      f()
    } catch (error) {
      native.forget(native.recorded())
      throw error
    }
    const program = native.recorded()
    return {
      run: () => {
        native.replay(program)
      },
      form: () => native.form(program),
      [Symbol.dispose]: () => native.forget(program),
    }
  }

  async finish(): Promise<void> {
    await this.#native.wait().catch(error => this.#blame(error))
  }

  async read(tensor: Tensor): Promise<Uint8Array> {
    if (tensor.device !== this) throw new TypeError('read: the tensor is on another device')
    if (tensor.bytes > readable) throw new RangeError(`read: ${tensor.dtype} [${tensor.shape}] has more than 4 GB; read it in parts (copy)`)
    for (const entry of this.#entries.values()) entry.calls = 0
    return (await this.#native.wait(tensor.handle).catch(error => this.#blame(error)))!
  }

  release(handle: Handle): void {
    this.#native.release(handle)
  }
  info(): DeviceInfo {
    return this.noGpu === undefined ? this.#native.info() : { ...this.#native.info(), noGpu: this.noGpu }
  }
  stats(): Readonly<Record<string, OpStats>> {
    return this.#native.stats()
  }

  /** Drops the traces of calls that ran well. */
  #forget(): void {
    const { done, failed } = this.#native.progress()
    const blamed = new Set(failed)
    for (const ticket of this.#traces.keys()) {
      if (ticket > done) break
      if (!blamed.has(ticket)) this.#traces.delete(ticket)
    }
    this.#limit = this.#traces.size + kept
  }

  /** Throws a failure of the queue with the stack of the call that enqueued the op. */
  #blame(error: Error & { ticket?: number; code?: DeviceFailure }): never {
    const failure: Error & { code?: DeviceFailure } = new Error(error.message)
    if (error.code !== undefined) failure.code = error.code
    const trace = this.#traces.get(error.ticket ?? 0)
    if (trace?.stack !== undefined) {
      const note = trace.ticket !== error.ticket ? '\n    (one of many calls of this op; the stack is that of an earlier one)' : ''
      failure.stack = `Error: ${error.message}${note}${trace.stack.slice(trace.stack.indexOf('\n'))}`
    }
    throw failure
  }
}

const expectShape = (shape: readonly number[]): number => {
  if (!shape.every(size => Number.isSafeInteger(size) && size >= 0) || !Number.isSafeInteger(elements(shape) * 8)) {
    throw new RangeError(`[${shape}] is not a shape: sizes are whole numbers from 0, and their product has a limit`)
  }
  return elements(shape)
}

function expectBytes({ length }: Uint8Array, dtype: DType, shape: readonly number[]): void {
  const expected = expectShape(shape) * bytesPerElement[dtype]
  if (length !== expected) throw new RangeError(`upload: ${dtype} [${shape}] has ${expected} bytes, got ${length}`)
}

const openDevice = (kind: 'cpu' | 'cuda', number: number, noGpu?: string): Ops => {
  const addon = loadAddon(kind) as Addon
  let native: NativeDevice
  try {
    native = new addon.Device(number)
  } catch (error) {
    if (kind === 'cpu') throw error
    const reason = (error as Error).message.replace(/\.$/, '')
    throw new Error(`cuda:${number} cannot be used: ${reason}.\n  --device cpu does without; pipe doctor says more.`)
  }
  return opsOn(new NativeQueue(kind, kind === 'cuda' ? `cuda:${number}` : 'cpu', native, noGpu))
}

/** The first GPU that can be used, if all that it needs is there; else the CPU, which says why. */
const openAny = (): Ops => {
  const choice = chooseGpu(surveyAddon('cuda', { libraries: false }))
  if ('reason' in choice) return openDevice('cpu', 0, choice.reason)
  try {
    return openDevice('cuda', choice.number)
  } catch (error) {
    return openDevice('cpu', 0, (error as Error).message.split('.\n')[0])
  }
}

/**
 * Opens 'cpu', or 'cuda:0', 'cuda:1', … ('cuda' is the first), or 'auto': the first GPU that can be used, else the CPU.
 * Each call makes a device of its own: a queue and its thread, with a pool of threads or a stream. PIPE_ISA,
 * PIPE_THREADS, PIPE_OPENBLAS and PIPE_CUDA_LIBS are read then. Rejects with a sentence when the addon cannot be loaded,
 * or the machine lacks what it needs; 'auto' only when the CPU's does.
 */
export const openBackend = async (device: string): Promise<Ops> => {
  if (device === 'auto') return openAny()
  const match = /^(cpu|cuda)(?::(\d{1,3}))?$/.exec(device)
  if (match === null || (match[1] === 'cpu' && match[2] !== undefined))
    throw new Error(`unknown device "${device}"; it may be auto, cpu, or cuda:0, cuda:1, …\n  pipe doctor lists what this machine has.`)
  return openDevice(match[1] as 'cpu' | 'cuda', Number(match[2] ?? 0))
}
