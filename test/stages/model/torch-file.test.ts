/** PyTorch files: those that torch wrote are read to the last bit, hostile ones are refused with a sentence, and nothing in them runs. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fromHalf } from '../../../native/codebooks/half.js'
import { readTorchFile, TorchTensor, type Value } from '../../../stages/model/torch-file.js'
import { root, temporary } from '../../helpers.js'
import { uniform } from '../../native/devices.js'
import { archive, dict, global, int, pickle, tensor, text, tuple, writeTorch } from './torch-writer.js'

const fixture = (name: string): string => join(root, 'fixtures/torch', name)

/** Tensors as {dtype, shape, values}, dicts as objects. */
async function plain(value: Value): Promise<unknown> {
  if (value instanceof TorchTensor) {
    const { dtype, shape } = value.ref
    const bytes = (await value.ref.read()).slice().buffer
    const read: Record<string, () => ArrayLike<number | bigint>> = {
      f64: () => new Float64Array(bytes),
      f32: () => new Float32Array(bytes),
      f16: () => Array.from(new Uint16Array(bytes), fromHalf),
      bf16: () => new Float32Array(Uint32Array.from(new Uint16Array(bytes), bits => bits << 16).buffer),
      i64: () => new BigInt64Array(bytes),
      i32: () => new Int32Array(bytes),
      i16: () => new Int16Array(bytes),
      i8: () => new Int8Array(bytes),
      u8: () => new Uint8Array(bytes),
    }
    return [dtype, shape, Array.from(read[dtype]?.() ?? [], Number)]
  }
  if (value instanceof Map) {
    const entries: [string, unknown][] = []
    for (const [key, item] of value) entries.push([String(key), await plain(item)])
    return Object.fromEntries(entries)
  }
  return Array.isArray(value) ? Promise.all(value.map(plain)) : value
}

for (const protocol of [2, 4, 5]) {
  t.test(`torch.save, pickle protocol ${protocol}: every kind of tensor, and plain data`, async t => {
    const rows = [0, 1, 2, 3, 4, 5].flatMap(j => [0, 1, 2, 3].map(i => 6 * i + j))
    t.strictSame(await plain(await readTorchFile(fixture(`kinds-${protocol}.pt`))), {
      f64: ['f64', [2], [0.1, -2.5]],
      f16: ['f16', [2], [1.5, -65504]],
      bf16: ['bf16', [2], [1.5, -226 * 2 ** 120]],
      i64: ['i64', [2], [-(2 ** 53) + 1, 7]],
      i32: ['i32', [2], [-5, 5]],
      i16: ['i16', [2], [-32768, 32767]],
      i8: ['i8', [2], [-128, 127]],
      u8: ['u8', [2], [0, 255]],
      bool: ['u8', [2], [1, 0]],
      scalar: ['f32', [], [0.25]],
      empty: ['f32', [0, 3], []],
      transposed: ['f32', [6, 4], rows],
      cut: ['f32', [2, 3], [8, 9, 10, 14, 15, 16]],
      'same storage': ['f32', [6], [18, 19, 20, 21, 22, 23]],
      parameter: ['f32', [2], [1, 1]],
      state: { weight: ['f32', [2, 3], [0, 1, 2, 3, 4, 5]], bias: ['f32', [2], [-1, 1]] },
      ordered: { a: 1 },
      plain: [null, true, false, -1, 255, 65535, -70000, 2 ** 40, -(2 ** 50), 0.5, 'text ✓', [1], [1, 2, 3, 4]],
    })
  })
}

t.test('what torch writes and is not read: the old format, code, modules', async t => {
  const cases: [string, string][] = [
    ['legacy.pt', "is in PyTorch's format before version 1.6; load it and save it again with a newer one."],
    ['code.pt', 'asks for "posix.system", which may be code: only tensors, numbers, texts, lists and dicts are read.'],
    ['module.pt', 'asks for "torch.nn.modules.linear.Linear", which may be code: only tensors, numbers, texts, lists and dicts are read.'],
  ]
  for (const [name, message] of cases) {
    await t.rejects(readTorchFile(fixture(name)), { name: 'PipeError', where: fixture(name), message }, name)
  }
})

/** The error for a file with this pickle and storage 0 of 16 bytes. */
async function refusal(t: Test, program: Uint8Array): Promise<string> {
  const path = join(temporary(t), 'x.pt')
  writeTorch(path, program, [new Uint8Array(16)])
  return messageOf(readTorchFile(path))
}
const messageOf = (reading: Promise<unknown>): Promise<string> =>
  reading.then(
    () => 'read',
    (error: Error) => (error.name === 'PipeError' ? error.message : `BUG ${error.stack}`),
  )

t.test('operations that torch.save writes for many entries, or that other writers do', async t => {
  const file = join(temporary(t), 'data.pt')
  const read = async (...parts: Parameters<typeof pickle>): Promise<unknown> => {
    writeTorch(file, pickle(...parts))
    return plain(await readTorchFile(file))
  }
  // More than 256 texts that are met again: from there on the memo is told by four bytes.
  const names = Array.from({ length: 300 }, (_, i) => `layers.${i}`)
  const number = (op: string, i: number): Buffer => {
    const bytes = Buffer.from([op.charCodeAt(0), 0, 0, 0, 0])
    bytes.writeUInt32LE(i, 1)
    return bytes
  }
  const stored = names.flatMap((name, i) => [text(name), i < 256 ? Buffer.from(['q'.charCodeAt(0), i]) : number('r', i)])
  const again = names.map((_, i) => (i < 256 ? Buffer.from(['h'.charCodeAt(0), i]) : number('j', i)))
  t.strictSame(await read('](', ...stored, ...again, 'e'), [...names, ...names], 'BINPUT, LONG_BINPUT, BINGET, LONG_BINGET')
  t.strictSame(await read('(', int(1), int(2), 'l'), [1, 2], 'LIST')
  t.strictSame(await read('(', text('a'), int(1), text('b'), int(2), 'd'), { a: 1, b: 2 }, 'DICT')
  t.strictSame(await read(int(1), int(2), '0'), 1, 'POP')
  t.strictSame(await read(int(1), '(', int(2), int(3), '1'), 1, 'POP_MARK')
  t.strictSame(await read('U', 3, 'abc'), 'abc', 'SHORT_BINSTRING')
  t.strictSame(await read(number('T', 3), 'abc'), 'abc', 'BINSTRING')
  const eight = Buffer.from([3, 0, 0, 0, 0, 0, 0, 0])
  t.strictSame(await read(0x8d, eight, 'abc'), 'abc', 'BINUNICODE8')
  for (const [name, op] of Object.entries({ SHORT_BINBYTES: Buffer.from('C\x03'), BINBYTES: number('B', 3), BINBYTES8: Buffer.from([0x8e, ...eight]) }))
    t.strictSame(Buffer.from((await read(op, 'abc')) as Uint8Array), Buffer.from('abc'), name)
})

t.test('pickles that are programs', async t => {
  const ran = join(temporary(t), 'ran')
  const command = text(`touch ${ran}`)
  const names = 'which may be code'
  const cases: [string, Buffer, string | RegExp][] = [
    ['GLOBAL and REDUCE', pickle(global('os', 'system'), tuple(command), 'R'), `asks for "os.system", ${names}`],
    ['the built-in one', pickle(global('posix', 'system'), command, 0x85, 'R'), `asks for "posix.system", ${names}`],
    ['STACK_GLOBAL', pickle(text('builtins'), text('eval'), 0x93, tuple(command), 'R'), `asks for "builtins.eval", ${names}`],
    ['INST', pickle('(', command, 'ios\nsystem\n'), 'asks for the operation "i", which is not read.'],
    ['OBJ', pickle('(', command, 'o'), 'asks for the operation "o", which is not read.'],
    ['NEWOBJ', pickle(global('collections', 'OrderedDict'), ')', 0x81), 'asks for the operation 0x81, which is not read.'],
    ['EXT1', pickle(0x82, 1), 'asks for the operation 0x82, which is not read.'],
    ['inside a dict', pickle('}', text('a'), global('os', 'system'), command, 0x85, 'Rs'), `asks for "os.system", ${names}`],
    ['another of torch', pickle(global('torch', 'load'), command, 0x85, 'R'), `asks for "torch.load", ${names}`],
    ['a name with a dot', pickle(text('torch'), text('FloatStorage.__init__'), 0x93), 'asks for "torch.FloatStorage.__init__"'],
    ['a name of Object', pickle(global('torch', 'constructor'), ')R'), 'asks for "torch.constructor"'],
    ['BUILD', pickle('}', '}', 'b'), 'sets attributes of an object, which is not read.'],
    ['a tensor called', pickle(tensor({ numel: 4, shape: [4], strides: [1] }), ')R'), 'calls what can not be called.'],
    ['text called', pickle(text('os.system'), tuple(command), 'R'), 'calls what can not be called.'],
    ['a storage type called', pickle(global('torch', 'FloatStorage'), ')R'), 'calls what can not be called.'],
    ['protocol 0', Buffer.from('cos\nsystem\n(S"ls"\ntR.'), `asks for "os.system", ${names}`],
    ['protocol 9', Buffer.from([0x80, 9, 0x2e]), 'is a pickle of protocol 9; 2 to 5 are read.'],
    [
      'OrderedDict of something',
      pickle(global('collections', 'OrderedDict'), tuple(text('a')), 'R'),
      'makes an OrderedDict with arguments',
    ],
  ]
  for (const [label, program, message] of cases) t.match(await refusal(t, program), message, label)
  t.throws(() => readFileSync(ran), { code: 'ENOENT' }, 'nothing ran')
})

t.test('pickles that lie about sizes, or are broken', async t => {
  const long = (n: number) => [0x8b, n & 255, (n >> 8) & 255, (n >> 16) & 255, n >>> 24]
  const cases: [string, Buffer, string | RegExp][] = [
    ['a long of 2 GB', pickle(Buffer.from(long(0x7fffffff))), 'holds a whole number of 2147483647 bytes; 8 are read.'],
    [
      'beyond 2^53',
      pickle(0x8a, Buffer.from([8, 1, 0, 0, 0, 0, 0, 0, 1])),
      'holds the number 72057594037927937, beyond what is counted with.',
    ],
    ['a text of 4 GB', pickle('X', Buffer.from([255, 255, 255, 255])), /wants 4294967295 bytes at byte 7 of 8/],
    ['a text of 2^60', pickle(0x8d, Buffer.from([0, 0, 0, 0, 0, 0, 0, 16])), 'holds the number 1152921504606846976'],
    ['nested', pickle('('.repeat(5000)), 'is nested deeper than 1000.'],
    ['empty stack', pickle('R'), 'takes more from its stack than is there.'],
    ['no mark', pickle('t'), 'looks for a mark that is not there.'],
    ['no memo', pickle('h', 7), 'recalls what it never stored (7).'],
    ['no end', Buffer.from([0x80, 2, 0x5d]), /wants 1 bytes at byte 3 of 3/],
    ['a name without an end', Buffer.from('\x80\x02cos', 'latin1'), 'has a name without an end.'],
    ['items of a list', pickle(']', '(', text('a'), text('b'), 'u'), 'sets items of what is no dict.'],
    ['half an item', pickle('}', '(', text('a'), 'u'), 'sets items of what is no dict.'],
    ['append to text', pickle(text('a'), text('b'), 'a'), 'appends to what is no list.'],
    ['no storage', pickle(text('a'), 'Q'), 'refers to something that is no storage of a tensor.'],
  ]
  for (const [label, program, message] of cases) t.match(await refusal(t, program), message, label)
})

t.test('tensors beyond their storage of 16 bytes', async t => {
  const cases: [Parameters<typeof tensor>[0], string | RegExp][] = [
    [{ numel: 5, shape: [5], strides: [1] }, 'says that storage "0" is f32 [5], and it has 16 bytes.'],
    [{ numel: 4, key: '1', shape: [4], strides: [1] }, 'has no storage "1", which a tensor is in.'],
    [{ numel: 4, key: '../data.pkl', shape: [4], strides: [1] }, 'has no storage "../data.pkl"'],
    [{ numel: 4, shape: [5], strides: [1] }, 'has a tensor [5] with strides [1] at 0 of a storage of 4 elements.'],
    [{ numel: 4, offset: 1, shape: [4], strides: [1] }, 'has a tensor [4] with strides [1] at 1 of a storage of 4 elements.'],
    [{ numel: 4, shape: [2, 2], strides: [3, 1] }, 'has a tensor [2,2] with strides [3,1] at 0 of a storage of 4 elements.'],
    [{ numel: 4, shape: [2], strides: [2 ** 52] }, `has a tensor [2] with strides [${2 ** 52}] at 0`],
    [{ numel: 4, shape: [2 ** 52, 2 ** 52], strides: [0, 0] }, /has a tensor \[4503599627370496,4503599627370496\]/],
    [{ numel: 4, shape: [2 ** 40], strides: [0] }, 'has a tensor [1099511627776] that repeats the 4 elements of its storage.'],
    [{ numel: 4, shape: [2], strides: [-1] }, 'has a tensor whose storage, offset, sizes or strides are none.'],
    [{ numel: 4, offset: -1, shape: [2], strides: [1] }, 'has a tensor whose storage, offset, sizes or strides are none.'],
    [{ numel: -4, shape: [2], strides: [1] }, 'refers to something that is no storage of a tensor.'],
    [{ numel: 4, shape: [4], strides: [] }, 'has a tensor whose storage, offset, sizes or strides are none.'],
  ]
  for (const [o, message] of cases) t.match(await refusal(t, pickle(tensor(o))), message, JSON.stringify(o))
  t.equal(await refusal(t, pickle(dict({ ok: tensor({ numel: 4, shape: [2, 2], strides: [1, 2] }), n: int(3) }))), 'read')
})

t.test('archives that lie', async t => {
  const good = pickle(dict({ a: tensor({ numel: 2, shape: [2], strides: [1] }) }))
  const [name, data] = ['archive/data.pkl', 'archive/data/0']
  const bytes = new Uint8Array(8)
  type Entries = Parameters<typeof archive>[0]
  const cases: [string, Entries, Parameters<typeof archive>[1], string | RegExp][] = [
    [
      'right',
      [
        { name, content: good },
        { name: data, content: bytes },
      ],
      {},
      'read',
    ],
    [
      'with a comment',
      [
        { name, content: good },
        { name: data, content: bytes },
      ],
      { comment: 'hello' },
      'read',
    ],
    [
      'zip64, as beyond 4 GB',
      [
        { name, content: good },
        { name: data, content: bytes },
      ],
      { zip64: true },
      'read',
    ],
    ['compressed', [{ name, content: good, lie: { method: 8 } }], {}, `has the entry "${name}" compressed`],
    ['encrypted', [{ name, content: good, lie: { flags: 1 } }], {}, `has the entry "${name}" encrypted`],
    ['two sizes', [{ name, content: good, lie: { packed: 7, bytes: 8 } }], {}, `has the entry "${name}" of 7 bytes that claims to be 8.`],
    ['beyond the end', [{ name, content: good, lie: { bytes: 1e6 } }], {}, `has the entry "${name}" of 1000000 bytes`],
    ['far beyond', [{ name, content: good, lie: { bytes: 0xfffffffe } }], {}, `has the entry "${name}" of 4294967294 bytes`],
    ['zip64 without it', [{ name, content: good, lie: { bytes: 0xffffffff } }], {}, `has the entry "${name}" without its zip64 sizes.`],
    [
      'overlap',
      [
        { name, content: good, lie: { bytes: good.length + 4 } },
        { name: data, content: bytes },
      ],
      {},
      `has entries "${name}" and "${data}" that overlap`,
    ],
    ['another name', [{ name, content: good, lie: { local: 'archive/other.pk' } }], {}, `has no entry "${name}" at byte 0`],
    [
      'one place for two',
      [
        { name, content: good },
        { name: data, content: bytes, lie: { header: 0 } },
      ],
      {},
      `has no entry "${data}" at byte 0`,
    ],
    [
      'twice',
      [
        { name, content: good },
        { name, content: good },
      ],
      {},
      `has two entries "${name}".`,
    ],
    ['more entries than there are', [{ name, content: good }], { count: 3 }, /which can't be/],
    ['65535 entries', [{ name, content: good }], { count: 0xffff }, 'says that its directory is of zip64, and has none.'],
    ['no pickle', [{ name: data, content: bytes }], {}, 'has 0 entries "…/data.pkl", not one'],
    [
      'two pickles',
      [
        { name, content: good },
        { name: 'b/data.pkl', content: good },
      ],
      {},
      'has 2 entries "…/data.pkl", not one',
    ],
    [
      'a program',
      [
        { name, content: good },
        { name: 'archive/constants.pkl', content: bytes },
      ],
      {},
      'is a TorchScript program',
    ],
    [
      'another byte order',
      [
        { name, content: good },
        { name: 'archive/byteorder', content: Buffer.from('big') },
      ],
      {},
      'of another byte order',
    ],
  ]
  const path = join(temporary(t), 'x.pt')
  for (const [label, entries, o, message] of cases) {
    writeFileSync(path, archive(entries, o))
    t.match(await messageOf(readTorchFile(path)), message, label)
  }
  writeFileSync(path, 'PK')
  t.match(await messageOf(readTorchFile(path)), 'is no PyTorch file: it does not begin like a zip archive.')
  t.match(await messageOf(readTorchFile(join(path, 'nothing'))), /could not be read \(ENOTDIR\)/)
})

t.test('cut anywhere, or with bytes changed: a sentence, or data; never a crash, never code', async t => {
  const path = join(temporary(t), 'x.pt')
  const whole = readFileSync(fixture('kinds-2.pt'))
  let refused = 0
  for (let cut = 0; cut < whole.length; cut += 197) {
    writeFileSync(path, whole.subarray(0, cut))
    const message = await messageOf(readTorchFile(path).then(plain))
    if (message.startsWith('BUG') || message === 'read') t.fail(`cut at ${cut}: ${message}`)
  }
  const next = uniform(11)
  for (let i = 0; i < 120; i++) {
    const changed = Buffer.from(whole)
    // In the pickle, where it begins, or in the directory at the end.
    for (let n = 0; n < 3; n++) {
      const at = Math.floor(next() * 3000)
      changed[i % 2 === 0 ? at : changed.length - 1 - (at % 1800)] = Math.floor(next() * 256)
    }
    writeFileSync(path, changed)
    const message = await messageOf(readTorchFile(path).then(plain))
    if (message !== 'read') refused++
    if (message.startsWith('BUG')) t.fail(`change ${i}: ${message}`)
  }
  t.ok(refused > 20 && refused < 120, `${refused} of 120 refused`)
})
