import t from 'tap'
import { openBackend } from '../../native/index.js'
import { bf16Format, decodeReference, f16Format, roundReference } from '../../native/ops/cast/reference.js'
import { everyDevice, gaussian, same, uniform, values } from './devices.js'
import { testDevice } from '../helpers.js'

const integers = (length: number): Int32Array => Int32Array.from({ length }, (_, i) => i * 3 - 100)

t.test('tensor: dtypes follow arrays; half floats and bytes are named', async t => {
  const ops = await openBackend(testDevice)
  t.equal(ops.tensor(new Float64Array(6), [2, 3]).dtype, 'f64')
  t.equal(ops.tensor(new Uint16Array(6), [6], 'bf16').dtype, 'bf16')
  t.equal(ops.tensor(new Uint8Array(24), [6], 'f32').dtype, 'f32')
  t.equal(ops.tensor(Buffer.from('abcd'), [4]).dtype, 'u8')
  t.throws(() => ops.tensor(new Float32Array(6), [6], 'f16'), {
    message: 'tensor: a Float32Array cannot hold f16; give the values in its own type or as bytes',
  })
  t.throws(() => ops.tensor(new Float32Array(6), [5]), { message: 'upload: f32 [5] has 20 bytes, got 24' })
  const part = new Float32Array([1, 2, 3, 4]).subarray(1, 3)
  t.same([...(await values(ops.tensor(part, [2])))], [2, 3], 'a view uploads what it shows')
  t.same([...(await values(ops.zeros('i16', [3])))], [0, 0, 0])
  t.equal((await ops.zeros('f32', [0, 5]).read()).length, 0)
})

t.test('copy, paste, concat, reshape, transpose: every shape', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const [m, n] of [
      [1, 1],
      [1, 9],
      [9, 1],
      [31, 33],
      [32, 32],
      [33, 65],
      [700, 513],
    ] as const) {
      const x = integers(m * n)
      using a = ops.tensor(x, [m, n])
      using b = ops.transpose(a)
      t.same(b.shape, [n, m])
      const back = await values(b)
      t.ok(
        x.every((value, i) => back[(i % n) * m + Math.floor(i / n)] === value),
        `${name} transpose [${m}, ${n}]`,
      )
      const [top, left] = [m >> 1, n >> 2]
      using part = ops.copy(a, { rows: [top, m], columns: [left, n] })
      const cut = await values(part)
      t.ok(
        cut.length === (m - top) * (n - left) &&
          cut.every((value, i) => value === x[(top + Math.floor(i / (n - left))) * n + left + (i % (n - left))]),
        `${name} copy`,
      )
      using into = ops.tensor(new Int32Array((m + 2) * (n + 3)).fill(7), [m + 2, n + 3])
      ops.paste(into, a, { row: 1, column: 2 })
      const pasted = await values(into)
      const expected = Int32Array.from({ length: (m + 2) * (n + 3) }, (_, i) => {
        const [row, column] = [Math.floor(i / (n + 3)) - 1, (i % (n + 3)) - 2]
        return row >= 0 && row < m && column >= 0 && column < n ? x[row * n + column]! : 7
      })
      t.ok(same(pasted, expected), `${name} paste, sentinels kept`)
      using twice = ops.concat([a, a])
      t.ok(same(await values(twice), Int32Array.from([...x, ...x])), `${name} concat`)
      using flat = ops.reshape(a, [n * m])
      t.ok(same(await values(flat), x), `${name} reshape`)
    }
    t.same(ops.transpose(ops.zeros('f32', [0, 3])).shape, [3, 0])
    for (const dtype of ['u8', 'u16', 'f64'] as const) {
      const array = new { u8: Uint8Array, u16: Uint16Array, f64: Float64Array }[dtype](integers(35).map((_, i) => i))
      const turned = await values(ops.transpose(ops.tensor(array, [5, 7])))
      t.ok(
        turned.every((value, i) => value === (i % 5) * 7 + Math.floor(i / 5)),
        `${name} transpose ${dtype}`,
      )
    }
  }
})

t.test('moving: wrong arguments are refused with a sentence', async t => {
  const ops = await openBackend(testDevice)
  const x = ops.zeros('f32', [2, 3])
  t.throws(() => ops.paste(ops.zeros('f32', [3, 3]), x, { row: 2 }), {
    message: 'paste: x [2, 3] at row 2, column 0 does not fit into [3, 3]',
  })
  t.throws(() => ops.paste(ops.zeros('i32', [3, 3]), x, {}), { message: 'paste: x must be i32 [?, ?], got f32 [2, 3]' })
  t.throws(() => ops.copy(x, { rows: [1, 0] }), { message: 'copy: window rows 1…0, columns 0…3 is not within [2, 3]' })
  t.throws(() => ops.reshape(x, [7]), { message: 'reshape: [2,3] has 6 elements, [7] has 7' })
  t.throws(() => ops.concat([x, ops.zeros('f32', [2, 4])]), { message: 'concat: rows[1] must be f32 [?, 3], got f32 [2, 4]' })
  t.throws(() => ops.concat([]), { message: 'concat: there are no tensors' })
  t.throws(() => ops.cast(x, 'i32'), { message: 'cast: there is no conversion from f32 to i32, only to f64, f32, f16, bf16' })
})

/** Numbers around every rounding boundary: each f16 and bf16 value, the middles, and a bit to both sides. */
const boundaries = (bits: number, bias: number): Float64Array => {
  const list: number[] = []
  for (let code = 0; code < 0x8000; code++) {
    const [x, next] = [decodeReference(code, bits, bias), decodeReference(code + 1, bits, bias)]
    if (!Number.isFinite(x)) break
    const middle = Number.isFinite(next) ? (x + next) / 2 : x * (1 + 2 ** -(bits + 1) / (2 - 2 ** -bits))
    list.push(x, middle, middle * (1 - 2 ** -50), middle * (1 + 2 ** -50), -middle)
  }
  return Float64Array.from(list)
}

t.test('cast: to nearest even, and back exactly, every two-byte number', async t => {
  const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i)
  for (const [name, ops] of await everyDevice()) {
    for (const [dtype, mantissa, bias, format] of [
      ['f16', 10, 15, f16Format],
      ['bf16', 7, 127, bf16Format],
    ] as const) {
      using x = ops.tensor(bits, [0x10000], dtype)
      using wide = ops.cast(x, 'f32')
      const decoded = await values(wide)
      t.ok(
        bits.every(code => Object.is(decoded[code], decodeReference(code, mantissa, bias))),
        `${name} ${dtype} → f32`,
      )
      using again = ops.cast(wide, dtype)
      const codes = await values(again)
      t.ok(
        bits.every(code => codes[code] === code || Number.isNaN(decoded[code])),
        `${name} f32 → ${dtype}`,
      )
      t.ok(
        bits.every(code => !Number.isNaN(decoded[code]) || Number.isNaN(decodeReference(codes[code]!, mantissa, bias))),
        `${name} NaN stays`,
      )
      const edges = boundaries(mantissa, bias)
      for (const source of ['f64', 'f32'] as const) {
        using y = ops.tensor(source === 'f64' ? edges : Float32Array.from(edges), [edges.length])
        const exact = source === 'f64' ? edges : Float32Array.from(edges)
        const rounded = await values(ops.cast(ops.cast(y, dtype), 'f64'))
        const wrong = exact.findIndex((value, i) => rounded[i] !== roundReference(value, format))
        t.equal(wrong, -1, `${name} ${source} → ${dtype}: ${exact[wrong]} gives ${rounded[wrong]}`)
      }
    }
  }
})

t.test('cast: integers to f32, f32 and f64 each way', async t => {
  for (const [name, ops] of await everyDevice()) {
    // Eights, which a GPU takes at once, and what is no eight.
    const last = [0, 1, 2, 3, 4, 5, 6]
    for (const array of [
      Int32Array.of(-16777216, 5),
      Int32Array.of(-16777216, ...last),
      Int16Array.of(-32768, 5),
      Int16Array.of(-32768, ...last),
      Uint16Array.of(65535, 5),
      Uint16Array.of(65535, ...last),
      Int8Array.of(-128, 5),
      Int8Array.of(-128, ...last),
      Uint8Array.of(255, 5),
      Uint8Array.of(255, ...last),
    ]) {
      t.same([...(await values(ops.cast(ops.tensor(array, [array.length]), 'f32')))], [...array], `${name} ${array.constructor.name}`)
    }
    for (const count of [1000, 1001]) {
      const x = Float64Array.from(gaussian(count, 4), value => value * Math.PI)
      const narrow = Float32Array.from(x)
      t.ok(same(await values(ops.cast(ops.tensor(x, [count]), 'f32')), narrow), `${name} f64 → f32`)
      t.ok(same(await values(ops.cast(ops.tensor(narrow, [count]), 'f64')), Float64Array.from(narrow)), `${name} f32 → f64`)
    }
  }
})

t.test('cast: some rows of a matrix alone', async t => {
  for (const [name, ops] of await everyDevice()) {
    for (const n of [33, 40]) {
      using whole = ops.tensor(gaussian(7 * n, 5), [7, n])
      for (const dtype of ['f32', 'f16', 'bf16', 'f64'] as const) {
        using all = ops.cast(whole, dtype)
        using some = ops.cast(whole, dtype, [2, 6])
        t.same(some.shape, [4, n])
        t.ok(same(await values(some), (await values(all)).slice(2 * n, 6 * n)), `${name} f32 → ${dtype}, ${n} columns`)
        using back = ops.cast(all, 'f32', [3, 4])
        using wide = ops.cast(all, 'f32')
        t.ok(same(await values(back), (await values(wide)).slice(3 * n, 4 * n)), `${name} ${dtype} → f32, ${n} columns`)
      }
      t.throws(() => ops.cast(whole, 'f16', [3, 8]), { message: `cast: x rows 3…8, columns 0…${n} is not within [7, ${n}]` })
    }
  }
})

t.test('cast: random numbers of every size', async t => {
  const next = uniform(9)
  const x = Float32Array.from({ length: 5000 }, () => (next() - 0.5) * 2 ** (next() * 60 - 40))
  for (const [name, ops] of await everyDevice()) {
    for (const [dtype, format] of [
      ['f16', f16Format],
      ['bf16', bf16Format],
    ] as const) {
      const rounded = await values(ops.cast(ops.cast(ops.tensor(x, [5000]), dtype), 'f32'))
      t.ok(
        x.every((value, i) => rounded[i] === roundReference(value, format)),
        `${name} ${dtype}`,
      )
    }
  }
})

t.test('a read gives what is there when it is asked for, whatever is enqueued behind it', async t => {
  for (const [name, ops] of await everyDevice()) {
    // On a GPU, into pinned memory; aside on the device; in several pieces.
    for (const n of [1, 1000, 20_000, ops.device.kind === 'cuda' ? 9_000_000 : 30_000]) {
      using x = ops.tensor(new Float32Array(n).fill(1), [1, n])
      using twos = ops.tensor(new Float32Array(n).fill(2), [1, n])
      const before = x.read()
      ops.paste(x, twos, {})
      const after = x.read()
      const none = ops.finish()
      const gone = ops.add(x, x)
      const sum = gone.read()
      gone[Symbol.dispose]()
      using other = ops.zeros('f32', [1, n])
      const zeros = other.read()
      for (const [read, value] of [
        [before, 1],
        [after, 2],
        [sum, 4],
        [zeros, 0],
      ] as const)
        t.ok(
          new Float32Array((await read).slice().buffer).every(v => v === value),
          `${name}, ${n}: ${value}`,
        )
      await none
    }
    // More reads than there is pinned memory for, none awaited.
    const many = Array.from({ length: 100 }, (_, i) => ops.tensor(new Float32Array(100).fill(i), [100]))
    const reads = await Promise.all(many.map(x => x.read()))
    t.ok(reads.every((bytes, i) => new Float32Array(bytes.slice().buffer)[99] === i))
    for (const x of many) x[Symbol.dispose]()
  }
})

t.test('narrow rectangles: copies whatever their offsets and widths, products of few columns', async t => {
  for (const [name, ops] of await everyDevice()) {
    const [m, n] = [70, 52]
    const numbers = integers(m * n)
    using x = ops.tensor(
      Uint16Array.from(numbers, v => v & 0xffff),
      [m, n],
    )
    for (const [from, to] of [
      [0, 16],
      [8, 24],
      [3, 20],
      [1, 2],
      [0, 52],
    ] as const) {
      using part = ops.copy(x, { rows: [1, m], columns: [from, to] })
      const got = await values(part)
      t.ok(
        got.every((v, i) => v === ((numbers[(1 + Math.floor(i / (to - from))) * n + from + (i % (to - from))] as number) & 0xffff)),
        `${name}: columns ${from} to ${to}`,
      )
    }
  }
})
