/**
 * The trellis search: Mweights/s a core for each code and rate, cycles a state, and the share of the instruction bound.
 * The bound: two vector instructions a state and vector (an addition, a minimum), two of them a cycle; two passes.
 */
import { codebookOf } from '../native/codebooks/settings.js'
import { openBackend } from '../native/index.js'
import type { Row } from './table.js'

const sequences = 64
const scales: Readonly<Record<number, number>> = { 1: 1.15, 2: 1, 3: 0.95, 4: 0.9 }

export const run = async (): Promise<Row[]> => {
  const threads = process.env.PIPE_THREADS
  process.env.PIPE_THREADS = '1'
  const ops = await openBackend('cpu')
  if (threads === undefined) delete process.env.PIPE_THREADS
  else process.env.PIPE_THREADS = threads
  const { isa } = (ops.device as unknown as { info(): { isa: string } }).info()
  const lanes = { avx512: 32, avx2: 16, portable: 8 }[isa] ?? 8
  const clock = cyclesASecond()
  const rows: Row[] = []
  for (const code of ['hyb', 'mul1', '1mad', '2mad', '3inst', 'mcg', 'lut']) {
    for (const K of [2, 3, 4]) {
      const { codebook, params } = codebookOf({ use: `trellis/${code}`, K })
      const codec = codebook.open(ops, params)
      const V = code === 'hyb' ? 2 : 1
      const scale = codec.rms * scales[K]!
      const z = ops.tensor(
        Float32Array.from(gaussian(sequences * 256), x => x * scale),
        [sequences * 16, 16],
      )
      let best = Number.POSITIVE_INFINITY
      let error = 0
      for (let i = 0; i < 5; i++) {
        await ops.finish()
        const start = process.cpuUsage() // the time of the one thread that works, whoever else uses the machine
        const { values, codes } = codec.encode(z)
        await ops.finish()
        const { user, system } = process.cpuUsage(start)
        best = Math.min(best, (user + system) / 1e6)
        const got = new Float32Array((await values.read()).buffer)
        const want = new Float32Array((await z.read()).buffer)
        error = got.reduce((sum, x, j) => sum + (x - want[j]!) ** 2, 0) / got.length / scale ** 2
        values[Symbol.dispose]()
        codes[Symbol.dispose]()
      }
      const states = (2 * sequences * 256 * 65536) / V
      const cycles = (best * clock) / (states / lanes)
      rows.push({
        code,
        K,
        'Mweights/s a core': (sequences * 256) / best / 1e6,
        'cycles a state and vector': cycles,
        'of the bound': 1 / cycles,
        MSE: error,
        isa,
      })
      codec[Symbol.dispose]()
    }
  }
  return rows
}

const gaussian = (n: number): Float32Array => {
  let state = 1
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next()))
}

/** The clock of this core now: a chain of integer additions, each waiting for the last, one a cycle once compiled. */
const cyclesASecond = (): number => {
  const chain = (n: number): number => {
    let x = 1
    for (let i = 0; i < n; i++) x = (x + (x ^ i)) | 0
    return x
  }
  chain(1e7)
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i < 5; i++) {
    const start = performance.now()
    if (chain(1e8) === 0.5) return 0
    best = Math.min(best, performance.now() - start)
  }
  return (2 * 1e8) / (best / 1000) // an exclusive or and an addition
}
