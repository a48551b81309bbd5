/**
 * pickle: the data in a Python pickle (protocols 2 to 5), without its code. A pickle is a program for a stack machine that
 * may import any name and call it; here only the names that the caller knows exist, and only what they were made for can be
 * called. Whatever else it asks for is refused by name. Nothing is evaluated.
 *
 * dict, OrderedDict → Map; list, tuple → array; int, float → number; str → string; None → null.
 */

/** A name that a pickle may ask for: something to call with arguments, or a constant. */
export type Known = { readonly call: (args: readonly Value[]) => Value } | { readonly constant: object }
/** `object`: what a known name or a persistent id stands for. */
export type Value = null | boolean | number | string | Uint8Array | Value[] | Map<Value, Value> | object

export interface Dictionary {
  /** What 'module name' stands for; undefined: refused. */
  known(name: string): Known | undefined
  /** What a persistent id stands for; may throw an Error with a sentence. */
  persistent(id: Value): Value
}

/** Lists inside lists: none that torch writes is nested so deep. */
const deepest = 1000

/** Runs the pickle. Throws an Error whose message is a sentence to follow the file's name. */
export function unpickle(bytes: Uint8Array, dictionary: Dictionary): Value {
  return new Machine(bytes, dictionary).run()
}

class OrderedDict extends Map<Value, Value> {}

class Machine {
  #at = 0
  readonly #view: DataView
  #stack: Value[] = []
  /** Stacks below the marks. */
  readonly #below: Value[][] = []
  readonly #memo = new Map<number, Value>()

  constructor(
    private readonly bytes: Uint8Array,
    private readonly dictionary: Dictionary,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  run(): Value {
    for (;;) {
      const code = this.#u8()
      if (code === 0x2e) return this.#pop() // STOP
      const act = acts[code]
      if (act === undefined) throw new Error(`asks for the operation ${nameOf(code)}, which is not read.`)
      act(this)
    }
  }

  /** The next n bytes. */
  take(n: number): Uint8Array {
    if (n < 0 || this.#at + n > this.bytes.length)
      throw new Error(`wants ${n} bytes at byte ${this.#at} of ${this.bytes.length}: it is cut short, or lies.`)
    this.#at += n
    return this.bytes.subarray(this.#at - n, this.#at)
  }

  /** The next n bytes as a number, little-endian. */
  uint(n: 1 | 2 | 4 | 8): number {
    const at = this.#at
    this.take(n)
    if (n === 8) return whole(this.#view.getBigUint64(at, true))
    return n === 1 ? this.#view.getUint8(at) : n === 2 ? this.#view.getUint16(at, true) : this.#view.getUint32(at, true)
  }
  #u8 = (): number => this.uint(1)

  int32(): number {
    return this.uint(4) | 0
  }
  float(): number {
    const at = this.#at
    this.take(8)
    return this.#view.getFloat64(at, false)
  }
  /** A whole number of n bytes, two's complement. */
  long(n: number): number {
    if (n > 8) throw new Error(`holds a whole number of ${n} bytes; 8 are read.`)
    let value = 0n
    for (const [i, byte] of this.take(n).entries()) value |= BigInt(byte) << BigInt(8 * i)
    return whole(BigInt.asIntN(8 * n, value))
  }
  text(n: number): string {
    return Buffer.from(this.take(n)).toString('utf8')
  }
  line(): string {
    const end = this.bytes.indexOf(0x0a, this.#at)
    if (end < 0) throw new Error('has a name without an end.')
    const text = this.text(end - this.#at)
    this.#at = end + 1
    return text
  }

  push(value: Value): void {
    this.#stack.push(value)
  }
  pop(): Value {
    return this.#pop()
  }
  #pop(): Value {
    const value = this.#stack.pop()
    if (value === undefined) throw new Error('takes more from its stack than is there.')
    return value
  }
  top(): Value {
    const value = this.#pop()
    this.push(value)
    return value
  }
  mark(): void {
    if (this.#below.length >= deepest) throw new Error(`is nested deeper than ${deepest}.`)
    this.#below.push(this.#stack)
    this.#stack = []
  }
  /** What was pushed since the last mark. */
  marked(): Value[] {
    const below = this.#below.pop()
    if (below === undefined) throw new Error('looks for a mark that is not there.')
    const values = this.#stack
    this.#stack = below
    return values
  }

  remember(index = this.#memo.size): void {
    this.#memo.set(index, this.top())
  }
  recall(index: number): void {
    const value = this.#memo.get(index)
    if (value === undefined) throw new Error(`recalls what it never stored (${index}).`)
    this.push(value)
  }

  named(module: Value, name: Value): void {
    if (typeof module !== 'string' || typeof name !== 'string') throw new Error('asks for a name that is no text.')
    const known = module === 'collections' && name === 'OrderedDict' ? orderedDict : this.dictionary.known(`${module} ${name}`)
    if (known === undefined)
      throw new Error(
        `asks for ${JSON.stringify(`${module}.${name}`)}, which may be code: only tensors, numbers, texts, lists and dicts are read.`,
      )
    this.push(known)
  }
  call(): void {
    const args = this.#pop()
    const callee = this.#pop()
    if (typeof callee !== 'object' || callee === null || !('call' in callee) || typeof callee.call !== 'function' || !Array.isArray(args))
      throw new Error('calls what can not be called.')
    this.push((callee as { call: (args: readonly Value[]) => Value }).call(args))
  }
  persistent(): void {
    this.push(this.dictionary.persistent(this.#pop()))
  }
}

const orderedDict: Known = {
  call: args => {
    if (args.length > 0) throw new Error('makes an OrderedDict with arguments, which is not read.')
    return new OrderedDict()
  },
}

const whole = (value: bigint): number => {
  const number = Number(value)
  if (!Number.isSafeInteger(number)) throw new Error(`holds the number ${value}, beyond what is counted with.`)
  return number
}
const nameOf = (code: number): string =>
  code > 0x20 && code < 0x7f ? `"${String.fromCharCode(code)}"` : `0x${code.toString(16).padStart(2, '0')}`

/** The values since the mark as keys and values. */
const setItems = (to: Value, items: readonly Value[]): void => {
  if (!(to instanceof Map) || items.length % 2 !== 0) throw new Error('sets items of what is no dict.')
  for (let i = 0; i < items.length; i += 2) to.set(items[i] as Value, items[i + 1] as Value)
}
const append = (to: Value, items: readonly Value[]): void => {
  if (!Array.isArray(to)) throw new Error('appends to what is no list.')
  for (const item of items) to.push(item)
}
const last = (m: Machine, n: number): Value[] => Array.from({ length: n }, () => m.pop()).reverse()

/** Operations by their byte; Python's Lib/pickletools.py describes them. Left out are those of protocol 0 and those that make objects of classes. */
const acts: Readonly<Record<number, (m: Machine) => void>> = {
  128: m => {
    const protocol = m.uint(1) // PROTO
    if (protocol < 2 || protocol > 5) throw new Error(`is a pickle of protocol ${protocol}; 2 to 5 are read.`)
  },
  149: m => void m.uint(8), // FRAME: how much to read at once; all is here
  40: m => m.mark(), // MARK
  48: m => void m.pop(), // POP
  49: m => void m.marked(), // POP_MARK
  78: m => m.push(null), // NONE
  136: m => m.push(true), // NEWTRUE
  137: m => m.push(false), // NEWFALSE
  74: m => m.push(m.int32()), // BININT
  75: m => m.push(m.uint(1)), // BININT1
  77: m => m.push(m.uint(2)), // BININT2
  138: m => m.push(m.long(m.uint(1))), // LONG1
  139: m => m.push(m.long(m.uint(4))), // LONG4
  71: m => m.push(m.float()), // BINFLOAT
  88: m => m.push(m.text(m.uint(4))), // BINUNICODE
  140: m => m.push(m.text(m.uint(1))), // SHORT_BINUNICODE
  141: m => m.push(m.text(m.uint(8))), // BINUNICODE8
  85: m => m.push(m.text(m.uint(1))), // SHORT_BINSTRING: str of Python 2
  84: m => m.push(m.text(m.uint(4))), // BINSTRING
  67: m => m.push(m.take(m.uint(1))), // SHORT_BINBYTES
  66: m => m.push(m.take(m.uint(4))), // BINBYTES
  142: m => m.push(m.take(m.uint(8))), // BINBYTES8
  93: m => m.push([]), // EMPTY_LIST
  97: m => {
    const [item] = last(m, 1)
    append(m.top(), [item as Value]) // APPEND
  },
  101: m => {
    const items = m.marked()
    append(m.top(), items) // APPENDS
  },
  108: m => m.push(m.marked()), // LIST
  41: m => m.push([]), // EMPTY_TUPLE
  133: m => m.push(last(m, 1)), // TUPLE1
  134: m => m.push(last(m, 2)), // TUPLE2
  135: m => m.push(last(m, 3)), // TUPLE3
  116: m => m.push(m.marked()), // TUPLE
  125: m => m.push(new Map()), // EMPTY_DICT
  100: m => {
    const items = m.marked()
    m.push(new Map())
    setItems(m.top(), items) // DICT
  },
  115: m => {
    const item = last(m, 2)
    setItems(m.top(), item) // SETITEM
  },
  117: m => {
    const items = m.marked()
    setItems(m.top(), items) // SETITEMS
  },
  113: m => m.remember(m.uint(1)), // BINPUT
  114: m => m.remember(m.uint(4)), // LONG_BINPUT
  148: m => m.remember(), // MEMOIZE
  104: m => m.recall(m.uint(1)), // BINGET
  106: m => m.recall(m.uint(4)), // LONG_BINGET
  99: m => m.named(m.line(), m.line()), // GLOBAL
  147: m => {
    const [module, name] = last(m, 2) as [Value, Value]
    m.named(module, name) // STACK_GLOBAL
  },
  82: m => m.call(), // REDUCE
  81: m => m.persistent(), // BINPERSID
  98: m => {
    // BUILD: the attributes of an object; state dicts carry their version in one, which is not needed.
    m.pop()
    if (!(m.top() instanceof OrderedDict)) throw new Error('sets attributes of an object, which is not read.')
  },
}
