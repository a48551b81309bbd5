/**
 * torch-file: the tensors in a PyTorch file (.pt: torch.save since version 1.6), without running what it contains.
 *
 * Such a file is a zip archive: NAME/data.pkl, a pickle in which tensors stand as (storage, offset, sizes, strides), and
 * NAME/data/KEY, the bytes of a storage. Tensors, parameters, dicts, lists, numbers and texts are read, and nothing else:
 * see pickle.ts. Sizes, strides and offsets are checked against the bytes that are there.
 */
import { open } from 'node:fs/promises'
import { bytesPerElement, type DType, elements, type Tensor } from '../../native/tensor.js'
import type { Opener, TensorRef } from '../../native/tensor-ref.js'
import { bytesTensor, fileTensor, PipeError } from '../../pipeline/define.js'
import { type Known, unpickle, type Value } from './pickle.js'
import { readZip, type ZipEntry } from './zip.js'

export type { Value } from './pickle.js'

/** A tensor of such a file. */
export class TorchTensor {
  constructor(readonly ref: TensorRef) {}
}

const storages: Readonly<Record<string, DType>> = {
  DoubleStorage: 'f64',
  FloatStorage: 'f32',
  HalfStorage: 'f16',
  BFloat16Storage: 'bf16',
  LongStorage: 'i64',
  IntStorage: 'i32',
  ShortStorage: 'i16',
  CharStorage: 'i8',
  ByteStorage: 'u8',
  BoolStorage: 'u8',
}
/** First bytes of what torch.save wrote before version 1.6: a pickle of its magic number. */
const legacy = Buffer.from('80028a0a6cfc9c46f9206aa85019', 'hex')
const largestPickle = 2 ** 24

class StorageType {
  constructor(readonly dtype: DType) {}
}
class Storage {
  constructor(
    readonly path: string,
    readonly dtype: DType,
    readonly offset: number,
    readonly numel: number,
  ) {}
}

/** What was saved, tensors as lazy references. Raises PipeError with one sentence for whatever is wrong, or is not data. */
export async function readTorchFile(path: string): Promise<Value> {
  try {
    const entries = await archive(path)
    const pickle = [...entries.keys()].filter(name => name.endsWith('/data.pkl'))
    const [name = ''] = pickle
    if (pickle.length !== 1) throw new Error(`has ${pickle.length} entries "…/data.pkl", not one: it is no file of torch.save.`)
    const prefix = name.slice(0, -'data.pkl'.length)
    if (entries.has(`${prefix}constants.pkl`)) throw new Error('is a TorchScript program; a file of torch.save was expected.')
    const order = entries.get(`${prefix}byteorder`)
    if (order !== undefined && (order.bytes !== 6 || String(await content(path, order)) !== 'little'))
      throw new Error('was written on a machine of another byte order.')
    const entry = entries.get(name) as ZipEntry
    if (entry.bytes > largestPickle) throw new Error(`has a pickle of ${entry.bytes} bytes; ${largestPickle} are read.`)
    return unpickle(await content(path, entry), { known, persistent: id => storageOf(path, prefix, entries, id) })
  } catch (error) {
    if (error instanceof PipeError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    throw new PipeError(
      'input',
      {
        where: path,
        message: code === undefined ? message : `could not be read (${code}).`,
        hint: 'A file of torch.save with tensors in it was expected; if you trust another, load it in Python and save its tensors as safetensors.',
      },
      { cause: error },
    )
  }
}

async function archive(path: string): Promise<Map<string, ZipEntry>> {
  const file = await open(path, 'r')
  const start = Buffer.alloc(legacy.length)
  await file.read(start, 0, start.length, 0).finally(() => file.close())
  if (start.equals(legacy)) throw new Error("is in PyTorch's format before version 1.6; load it and save it again with a newer one.")
  if (start.readUInt32LE(0) !== 0x04034b50) throw new Error('is no PyTorch file: it does not begin like a zip archive.')
  return readZip(path)
}

const content = async (path: string, { offset, bytes }: ZipEntry): Promise<Buffer> =>
  Buffer.from(await fileTensor(path, offset, 'u8', [bytes]).read())

/** The names that stand in a file of tensors. */
const known = (name: string): Known | undefined => {
  if (name === 'torch._utils _rebuild_tensor_v2') return { call: rebuildTensor }
  if (name === 'torch._utils _rebuild_parameter') return { call: ([data]) => expectTensor(data) }
  const [module, storage = ''] = name.split(' ')
  return module === 'torch' && Object.hasOwn(storages, storage) ? { constant: new StorageType(storages[storage] as DType) } : undefined
}

/** A persistent id: ('storage', type, key, device, elements). */
function storageOf(path: string, prefix: string, entries: ReadonlyMap<string, ZipEntry>, id: Value): Storage {
  const [kind, type, key, , numel] = Array.isArray(id) ? id : []
  const constant = typeof type === 'object' && type !== null && 'constant' in type ? type.constant : undefined
  if (kind !== 'storage' || !(constant instanceof StorageType) || typeof key !== 'string' || !isCount(numel))
    throw new Error('refers to something that is no storage of a tensor.')
  const entry = entries.get(`${prefix}data/${key}`)
  if (entry === undefined) throw new Error(`has no storage "${key}", which a tensor is in.`)
  const { dtype } = constant
  if (numel * bytesPerElement[dtype] > entry.bytes)
    throw new Error(`says that storage "${key}" is ${dtype} [${numel}], and it has ${entry.bytes} bytes.`)
  return new Storage(path, dtype, entry.offset, numel)
}

function rebuildTensor(args: readonly Value[]): TorchTensor {
  const [storage, offset, shape, strides] = args
  if (!(storage instanceof Storage) || !isCount(offset) || !isCounts(shape) || !isCounts(strides) || shape.length !== strides.length)
    throw new Error('has a tensor whose storage, offset, sizes or strides are none.')
  const size = elements(shape)
  const span = size === 0 ? 0 : shape.reduce((sum, length, i) => sum + (length - 1) * (strides[i] as number), 1)
  if (!Number.isSafeInteger(size) || !Number.isSafeInteger(span) || offset + span > storage.numel)
    throw new Error(`has a tensor [${shape}] with strides [${strides}] at ${offset} of a storage of ${storage.numel} elements.`)
  // Sizes that strides of 0 blow up would be paid for when the tensor is opened.
  if (size > storage.numel) throw new Error(`has a tensor [${shape}] that repeats the ${storage.numel} elements of its storage.`)
  const from = storage.offset + offset * bytesPerElement[storage.dtype]
  return new TorchTensor(
    isContiguous(shape, strides)
      ? fileTensor(storage.path, from, storage.dtype, shape)
      : new Strided(fileTensor(storage.path, from, storage.dtype, [span]), shape, strides),
  )
}

function expectTensor(data: Value | undefined): TorchTensor {
  if (data instanceof TorchTensor) return data
  throw new Error('has a parameter that is no tensor.')
}

const isCount = (value: Value | undefined): value is number => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
const isCounts = (value: Value | undefined): value is number[] => Array.isArray(value) && value.length <= 64 && value.every(isCount)

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return false
    step *= shape[i] as number
  }
  return true
}

/** A transposed or cut tensor: put in order when it is read. */
class Strided implements TensorRef {
  readonly dtype: DType
  readonly bytes: number

  constructor(
    private readonly storage: TensorRef,
    readonly shape: readonly number[],
    private readonly strides: readonly number[],
  ) {
    this.dtype = storage.dtype
    this.bytes = elements(shape) * bytesPerElement[storage.dtype]
  }

  async read(): Promise<Uint8Array> {
    const from = await this.storage.read()
    const width = bytesPerElement[this.dtype]
    const to = new Uint8Array(this.bytes)
    const index = this.shape.map(() => 0)
    for (let at = 0, source = 0; at < to.length; at += width) {
      for (let byte = 0; byte < width; byte++) to[at + byte] = from[source * width + byte] as number
      for (let i = this.shape.length - 1; i >= 0; i--) {
        source += this.strides[i] as number
        if (++(index[i] as number) < (this.shape[i] as number)) break
        source -= (this.shape[i] as number) * (this.strides[i] as number)
        index[i] = 0
      }
    }
    return to
  }

  async open(ops: Opener, dtype?: DType): Promise<Tensor> {
    return bytesTensor(await this.read(), this.dtype, this.shape).open(ops, dtype)
  }
}
