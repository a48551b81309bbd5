/** A file with the moments of one input: flatH, and the mean mu where the program subtracted it. */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { fileTensor, PipeError } from '../../pipeline/define.js'
import { readSafetensors } from '../model/safetensors.js'
import { readTorchFile, TorchTensor } from '../model/torch-file.js'

export interface Moments {
  readonly path: string
  readonly n: number
  /** [n(n+1)/2]: entry (i, j), j ≤ i, at i(i+1)/2 + j. */
  readonly flatH: TensorRef
  /** [n] */
  readonly mu: TensorRef | undefined
}

/** Reads what is there and checks that it is of n inputs. Raises PipeError with a sentence. */
export async function readMoments(path: string, { n, linear }: { readonly n: number; readonly linear: string }): Promise<Moments> {
  const { tensors, numbers } = path.endsWith('.pt') ? await fromTorch(path) : await fromSafetensors(path)
  const fail = (message: string): never => {
    throw new PipeError('input', { where: path, message, hint: 'The files must be of the same model.' })
  }
  const [flatH, mu] = [tensors.get('flatH'), tensors.get('mu')]
  if (flatH === undefined) return fail(`expected the lower triangle of a Hessian, "flatH", and found ${listed([...tensors.keys()])}.`)
  const count = flatH.shape.length === 1 ? (flatH.shape[0] ?? 0) : 0
  const side = (Math.sqrt(8 * count + 1) - 1) / 2
  if (!Number.isInteger(side)) fail(`"flatH" is [${flatH.shape}], which is the triangle of no matrix.`)
  if (side !== n) fail(`its Hessian is of ${side} inputs, and ${linear} has ${n}.`)
  const told = numbers.get('n')
  if (told !== undefined && told !== n) fail(`says n = ${told}, and its "flatH" is of ${n} inputs.`)
  if (mu !== undefined && String(mu.shape) !== String([n])) fail(`"mu" is [${mu.shape}], not [${n}].`)
  for (const [name, ref] of Object.entries({ flatH, mu }))
    if (ref !== undefined && !['f64', 'f32', 'f16', 'bf16'].includes(ref.dtype)) fail(`"${name}" is ${ref.dtype}, not of floats.`)
  return { path, n, flatH, mu }
}

interface Read {
  readonly tensors: ReadonlyMap<string, TensorRef>
  readonly numbers: ReadonlyMap<string, number>
}

async function fromTorch(path: string): Promise<Read> {
  const value = await readTorchFile(path)
  const [tensors, numbers] = [new Map<string, TensorRef>(), new Map<string, number>()]
  for (const [name, item] of value instanceof Map ? value : []) {
    if (typeof name !== 'string') continue
    if (item instanceof TorchTensor) tensors.set(name, item.ref)
    else if (typeof item === 'number') numbers.set(name, item)
  }
  return { tensors, numbers }
}

async function fromSafetensors(path: string): Promise<Read> {
  const { entries } = await readSafetensors(path)
  const tensors = new Map([...entries].map(([name, { offset, dtype, shape }]) => [name, fileTensor(path, offset, dtype, shape)]))
  const n = tensors.get('n')
  if (n?.dtype !== 'i64' || n.bytes !== 8) return { tensors, numbers: new Map() }
  const bytes = await n.read()
  return { tensors, numbers: new Map([['n', Number(new DataView(bytes.buffer, bytes.byteOffset).getBigInt64(0, true))]]) }
}

const listed = (names: readonly string[]): string => (names.length === 0 ? 'no tensors' : names.map(name => `"${name}"`).join(', '))

/** H f32 [n, n] = sym(flatH) + mu·muᵀ. The caller disposes it. Raises PipeError when it has NaN or infinite entries. */
export async function secondMoment(ops: Ops, { path, n, flatH, mu }: Moments): Promise<Tensor> {
  const flat = await floats(ops, flatH)
  const triangle = new Float32Array(n * n)
  for (let i = 0, at = 0; i < n; at += ++i) {
    triangle.set(flat.subarray(at, at + i + 1), i * n)
    triangle[i * n + i] = (flat[at + i] as number) / 2 // it meets itself in the sum
  }
  using lower = ops.tensor(triangle, [n, n])
  using upper = ops.transpose(lower)
  const h = ops.add(lower, upper)
  try {
    if (mu !== undefined) {
      using mean = ops.tensor(await floats(ops, mu), [n, 1])
      ops.gemm(h, mean, mean, { transposeB: true, beta: 1 })
    }
    using count = ops.countNonFinite(h)
    const [bad = 0] = new Float64Array((await count.read()).slice().buffer)
    if (bad === 0) return h
    throw new PipeError('input', {
      where: path,
      message: `its Hessian has ${bad} entries that are NaN or infinite, of ${n * n}.`,
      hint: 'The file is damaged, or was made from activations that overflowed.',
    })
  } catch (error) {
    h[Symbol.dispose]()
    throw error
  }
}

async function floats(ops: Ops, ref: TensorRef): Promise<Float32Array> {
  if (ref.dtype === 'f64') return Float32Array.from(new Float64Array((await ref.read()).slice().buffer))
  if (ref.dtype === 'f32') return new Float32Array((await ref.read()).slice().buffer)
  using wide = await ref.open(ops, 'f32')
  return new Float32Array((await wide.read()).slice().buffer)
}
