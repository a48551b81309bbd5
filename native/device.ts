/**
 * A device is an in-order queue of ops. `run` checks nothing but hands the op over and returns at once; one
 * native thread (CPU) or one stream (CUDA) runs the queue in order, never on the event loop. Only reading waits.
 */
import type { DType, Holder, Tensor } from './tensor.js'

/** What an op takes: tensors, numbers, flags. Names as in the op's Args struct (C++). */
export type OpArgs = Readonly<Record<string, Tensor | number | boolean | undefined>>

/** How often an op ran and how long, in seconds: of the queue's thread (CPU), of the stream (CUDA: complete after a read or finish). */
export interface OpStats {
  calls: number
  seconds: number
}

/** What a device runs on. */
export interface DeviceInfo {
  /** Instruction set: 'avx512', 'sm_90'. */
  readonly isa: string
  /** Threads of the CPU, multiprocessors of a GPU. */
  readonly threads: number
  /** The library for products of matrices that was found, 'built-in', or for a GPU where cuBLAS was looked for. */
  readonly blas: string
  /** Of a GPU: its name, and what driver and addon are for. */
  readonly card?: string
  readonly driver?: string
  readonly runtime?: string
  /** Of a GPU: memory, and what of it is free now. */
  readonly totalBytes?: number
  readonly freeBytes?: number
  /** Of a GPU: the most that this program's tensors and its ops' scratch memory have taken. */
  readonly takenBytes?: number
  /** Of a CPU that was chosen because there was no usable GPU: why there was none. */
  readonly noGpu?: string
}

/** One addon and what it finds on this machine, without opening a device. Texts as in native/core/machine.h. */
export interface AddonState {
  readonly kind: 'cpu' | 'cuda'
  /** Where the addon is, or should be. */
  readonly path: string
  readonly isBuilt: boolean
  /** Why an addon that is there cannot be loaded. */
  readonly broken?: string
  /** Why there is no device, when the addon was loaded and finds none. */
  readonly reason?: string
  readonly architectures?: string
  readonly driver?: string
  readonly runtime?: string
  readonly release?: string
  readonly blas?: string
  readonly looked?: string
  readonly devices: readonly (Partial<DeviceInfo> & { readonly reason?: string })[]
}

/** The GPU that --device auto takes, or why it takes none. */
export type GpuChoice = { readonly number: number } | { readonly reason: string }

/** What this machine has, as far as ops are concerned. */
export interface Machine {
  readonly cpu: AddonState
  readonly cuda: AddonState
  readonly gpu: GpuChoice
}

/**
 * The `code` of an error that a program can do something about: memory was out (with less at a time it may do), or the
 * device is gone (another may do). Other errors of a queue have none.
 */
export type DeviceFailure = 'ERR_DEVICE_MEMORY' | 'ERR_DEVICE_LOST'

/** Where in an open file a tensor's bytes begin. */
export interface FileRange {
  /** File descriptor. */
  readonly fd: number
  readonly offset: number
}

/**
 * Ops that were recorded, with the tensors they read and write: every run is the same ops on the same tensors, whatever these
 * hold then. Tensors that were made and disposed meanwhile are the program's until it is disposed.
 */
export interface Program extends Disposable {
  /** Enqueues all of them. A run that failed leaves nothing behind: the next makes all again. */
  run(): void
  /** What a run is, once there were two: 'ops', one after the other; 'graph', one launch of a GPU; or why it is no graph. */
  form(): string
}

export interface Device extends Holder {
  /** The backend's kind: part of cache keys, because results may differ in the last place between kinds. */
  readonly kind: 'cpu' | 'cuda'
  /** 'cpu', 'cuda:0', … */
  readonly name: string
  /** Bytes of tensors that are alive, or disposed but in use by an op that runs: memory is taken when an op first touches it. */
  readonly liveBytes: number
  /** The most that `liveBytes` has been since the start. */
  readonly peakBytes: number
  /** A tensor with unspecified contents. */
  empty(dtype: DType, shape: readonly number[]): Tensor
  /** A tensor with a copy of these bytes (row-major, little-endian). */
  upload(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor
  /**
   * The same by another thread, of bytes that must not change until then, or straight from a file: the event loop has
   * other devices to feed. Rejects when memory is out or the file ends early.
   */
  bring(source: Uint8Array | FileRange, dtype: DType, shape: readonly number[]): Promise<Tensor>
  /**
   * Enqueues an op of the addon by name. A failure rejects the next read or finish, with the stack of this call; what
   * the op should have written is never read.
   */
  run(op: string, args: OpArgs): void
  /** Overwrites a tensor with these bytes, in the order of the queue: what is enqueued later sees them. */
  write(tensor: Tensor, bytes: Uint8Array): void
  /**
   * Records the ops that `f` runs, instead of running them. What an op looks at on the host (token ids that are checked,
   * on a GPU) it does not look at in a program. Throws what `f` throws; reading and waiting meanwhile reject.
   */
  record(f: () => void): Program
  /** Waits until the queue is empty. Rejects with the first failure since the last wait. */
  finish(): Promise<void>
  info(): DeviceInfo
  /** Calls and seconds per op since the start. */
  stats(): Readonly<Record<string, OpStats>>
}
