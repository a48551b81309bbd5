/** What tests of ops share: a device for every instruction set of this machine, random values, and the measure of error. */
import type { Test } from 'tap'
import { openBackend } from '../../native/index.js'
import type { Ops } from '../../native/ops.js'
import type { DType, Tensor } from '../../native/tensor.js'
import { testDevice } from '../helpers.js'

export interface Settings {
  PIPE_ISA?: string
  PIPE_THREADS?: string
  PIPE_OPENBLAS?: string
}

/** A CPU device opened under these settings. They are read before openBackend first waits, so other tests never see them. */
export const openWith = (settings: Settings): Promise<Ops> => {
  const before = { ...process.env }
  Object.assign(process.env, settings)
  const opened = openBackend('cpu')
  for (const name of Object.keys(settings)) {
    if (before[name] === undefined) delete process.env[name]
    else process.env[name] = before[name]
  }
  return opened
}

const lacks = /has only/

/**
 * Every level of this machine, each with one thread and with two, on the built-in GEMM: [name, verbs]. With
 * PIPE_TEST_DEVICE (npm run test:gpu) that device alone.
 */
export const everyDevice = async (): Promise<[string, Ops][]> => {
  if (testDevice !== 'cpu') return [[testDevice, await openBackend(testDevice)]]
  const list: [string, Ops][] = []
  for (const PIPE_ISA of ['portable', 'avx2', 'avx512']) {
    for (const PIPE_THREADS of ['1', '2']) {
      try {
        list.push([`${PIPE_ISA} × ${PIPE_THREADS}`, await openWith({ PIPE_ISA, PIPE_THREADS, PIPE_OPENBLAS: 'off' })])
      } catch (error) {
        if (!lacks.test((error as Error).message)) throw error
      }
    }
  }
  return list
}

/**
 * All cases; under a sanitizer (scripts/sanitize.sh sets PIPE_TEST_SMALL), where an access to memory costs hundreds, those of at
 * most 20,000 elements or steps, as `size` counts them. The shapes that kernels tell apart are among the small ones.
 */
export const affordable = <T>(cases: readonly T[], size: (one: T) => number): readonly T[] =>
  process.env.PIPE_TEST_SMALL === '1' ? cases.filter(one => size(one) <= 20_000) : cases

/** Uniform numbers in [0, 1), the same from the same seed (mulberry32). */
export const uniform = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Standard normal numbers (Box–Muller). */
export const gaussian = (length: number, seed: number): Float32Array => {
  const next = uniform(seed)
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()))
}

const arrays = { f64: Float64Array, f32: Float32Array, i32: Int32Array, i16: Int16Array, u16: Uint16Array, i8: Int8Array, u8: Uint8Array }

/** The values of a tensor that has a typed array of its own; f16 and bf16 as their bits. */
export const values = async (
  x: Tensor,
): Promise<Float64Array | Float32Array | Int32Array | Int16Array | Uint16Array | Int8Array | Uint8Array> => {
  const bytes = await x.read()
  const half: DType[] = ['f16', 'bf16']
  const dtype = half.includes(x.dtype) ? 'u16' : x.dtype
  if (dtype === 'i64' || dtype === 'f16' || dtype === 'bf16') throw new Error(`no array for ${dtype}`)
  return new arrays[dtype](bytes.buffer as ArrayBuffer, bytes.byteOffset, x.size)
}

/** Normalized mean squared error Σ(x−y)²/Σy²; 0 where both are 0. */
export const nmse = (x: ArrayLike<number>, y: ArrayLike<number>): number => {
  if (x.length !== y.length) return Number.NaN
  let [error, power] = [0, 0]
  for (let i = 0; i < y.length; i++) {
    error += (x[i]! - y[i]!) ** 2
    power += y[i]! ** 2
  }
  return error === 0 ? 0 : error / power
}

/** Equal to the bit. */
export const same = (x: NodeJS.ArrayBufferView, y: NodeJS.ArrayBufferView): boolean =>
  Buffer.compare(Buffer.from(x.buffer, x.byteOffset, x.byteLength), Buffer.from(y.buffer, y.byteOffset, y.byteLength)) === 0

/** Runs a case on every device: each output within the bound, equal to the bit on a second run and for any number of threads. */
export const checkAll = async (
  t: Test,
  label: string,
  run: (ops: Ops) => readonly Tensor[],
  expected: readonly Float64Array[],
  bound: number,
) => {
  const seen = new Map<string, Uint8Array>()
  for (const [name, ops] of await everyDevice()) {
    for (let again = 0; again < 2; again++) {
      const outputs = run(ops)
      for (const [i, output] of outputs.entries()) {
        using out = output
        const error = nmse(await values(out), expected[i]!)
        if (!(error <= bound)) t.fail(`${label}, ${name}, output ${i}: NMSE ${error}, allowed ${bound}`)
        const level = `${name.split(' ')[0]} ${i}`
        const bytes = await out.read()
        if (!same(seen.get(level) ?? bytes, bytes)) t.fail(`${label}, ${name}, output ${i}: not the same bits`)
        seen.set(level, bytes)
      }
    }
    await ops.finish()
    if (ops.device.liveBytes !== 0) t.fail(`${label}, ${name}: ${ops.device.liveBytes} bytes are left`)
  }
  t.ok(seen.size > 0, label)
}

/** The same of a case with one output. */
export const check = (t: Test, label: string, run: (ops: Ops) => Tensor, expected: Float64Array, bound: number) =>
  checkAll(t, label, ops => [run(ops)], [expected], bound)

/** Opens arrays, runs f on the tensors, and lets them go once its ops are enqueued. */
export const withTensors = <T>(
  ops: Ops,
  inputs: readonly (readonly [Float32Array | Int32Array, readonly number[]])[],
  f: (...tensors: Tensor[]) => T,
): T => {
  const tensors = inputs.map(([data, shape]) => ops.tensor(data, shape))
  try {
    return f(...tensors)
  } finally {
    for (const tensor of tensors) tensor[Symbol.dispose]()
  }
}
