/**
 * LDLQ of a linear as the stage `round` does it, on tensors that are on the device: damping and factor of H̃, search for the
 * scale, LDLQ, proxy error. The sizes are Llama-2-7B's; on a CPU one small one. Warm is the least of several, cold the
 * first of the process. The search's own time is the card's; sequences: tiles of 16 × 16 that one step of 16 columns has.
 *
 *   --device cuda:0   --repeat 3
 */
import { from, lastValueFrom, toArray } from 'rxjs'
import type { Ops } from '../native/ops.js'
import { hadamardBlock } from '../native/ops/hadamard/hadamard.js'
import type { Tensor } from '../native/tensor.js'
import type { Context, Row as TableRow } from '../pipeline/define.js'
import { HeldTensors } from '../pipeline/lazy.js'
import { rng } from '../pipeline/random.js'
import type { incoherent } from '../schemas/tables/rounded.js'
import round from '../stages/round/round.js'
import { cardOf, openDevice } from './gpu.js'
import { spectral } from './synthetic-hessian.js'
import type { Figures, Options, Row } from './table.js'

/** [what, rows of each linear of the stack, columns, code, K] */
type Case = readonly [what: string, m: readonly number[], n: number, code: string, K: number]
const large: readonly Case[] = [
  ...['trellis/hyb', 'trellis/mul1'].flatMap(code => [2, 3, 4].map((K): Case => ['o', [4096], 4096, code, K])),
  ['q, k, v', [4096, 4096, 4096], 4096, 'trellis/hyb', 2],
  ['gate, up', [11008, 11008], 4096, 'trellis/hyb', 2],
  ['down', [4096], 11008, 'trellis/hyb', 2],
  ['1B: q, k, v', [2048, 512, 512], 2048, 'trellis/hyb', 2],
  ['1B: o', [2048], 2048, 'trellis/hyb', 2],
]
const small: readonly Case[] = [['small', [256], 256, 'trellis/hyb', 2]]

/** 4096 × 4096, hyb, 2 bits, on an H100: QTIP's own code. */
const published = 9.2

export async function run(options: Options): Promise<Figures> {
  const ops = await openDevice(options)
  const { device } = ops
  const repeats = Number(options.repeat ?? 3)
  const rows: Row[] = []
  for (const [what, m, n, code, K] of device.kind === 'cpu' ? small : large) {
    const settings = { codebook: { use: code, K }, overrides: {}, rowScale: false, damp: 0.01, scale: 'search', feedback: true } as const
    using held = new HeldTensors()
    const linears = m.map((outputs, i) => linear(ops, held, `${what} ${i}`, outputs, n))
    const seconds: number[] = []
    let spent: Record<string, number> = {}
    let error = 0
    for (let i = 0; i <= repeats; i++) {
      await ops.finish()
      const before = secondsOf(ops)
      const start = performance.now()
      const made = await lastValueFrom(from(linears).pipe(round.operator(settings, contextOf(ops)), toArray()))
      await ops.finish()
      seconds.push((performance.now() - start) / 1000)
      spent = Object.fromEntries(Object.entries(secondsOf(ops)).map(([op, time]) => [op, time - (before[op] ?? 0)]))
      error = Math.max(...made.map(row => row.proxyError))
      for (const { codes } of made) (codes as Tensor)[Symbol.dispose]()
    }
    const weights = m.reduce((sum, outputs) => sum + outputs * n, 0)
    const sequences = m.reduce((sum, outputs) => sum + outputs / 16, 0)
    const { trellis_encode: busy = 0, block_ldl: factor = 0, gemm = 0, paste = 0, add = 0, proxy_error: proxy = 0 } = spent
    const warm = Math.min(...seconds.slice(1))
    rows.push({
      what,
      m: m.join('+'),
      n,
      code,
      K,
      'cold s': seconds[0] ?? 0,
      'warm s': warm,
      'Mweights/s': weights / warm / 1e6,
      'search s': busy,
      'search, share': busy / warm,
      'search Mweights/s': weights / busy / 1e6,
      'factor s': factor,
      'feedback s': gemm,
      'copies s': paste + add,
      'proxy error s': proxy,
      sequences,
      ...(device.kind === 'cuda' ? { 'SMs with a pair of them, share': Math.min(1, sequences / 2 / device.info().threads) } : {}),
      'proxy error': error,
      ...(what === 'o' && code === 'trellis/hyb' && K === 2 ? { 'published code s': published, 'times as fast': published / warm } : {}),
    })
  }
  return { ...cardOf(ops), device: device.name, rows }
}

/** Of the device, by op, so far. */
const secondsOf = ({ device }: Ops): Record<string, number> =>
  Object.fromEntries(Object.entries(device.stats()).map(([op, { seconds }]) => [op, seconds]))

/** A row as `rht` gives it: W̃ [m, n] Gaussian, H̃ of a synthetic spectrum, made incoherent. */
function linear(ops: Ops, held: HeldTensors, name: string, m: number, n: number): TableRow<typeof incoherent> {
  // A million normal numbers over and over, mixed by a transform.
  const table = rng(0, name).normal(2 ** 20)
  const values = new Float32Array(m * n)
  for (let at = 0; at < values.length; at += table.length) values.set(table.subarray(0, values.length - at), at)
  using w = ops.tensor(values, [m, n])
  using signs = ops.tensor(rng(0, 'signs', n).signs(n), [n])
  const block = hadamardBlock(n, 65536)
  const weight = held.hold(ops.hadamard(w, { side: 'right', signs, block }))
  using h = spectral(ops, n, rng(0, 'hessian', n))
  using right = ops.hadamard(h, { side: 'right', signs, block })
  const hessian = held.hold(ops.hadamard(right, { side: 'left', signs, block }))
  const [su, sv] = [held.hold(ops.tensor(new Float32Array(n), [n])), held.hold(ops.tensor(new Float32Array(m), [m]))]
  return { role: 'linear', layer: 0, linear: name, shares: 'x', m, n, source: '', transform: '', weight, hessian, su, sv }
}

/** What the engine gives a stage, without an engine. */
const contextOf = (ops: Ops): Context => ({
  ops,
  rng: (...name) => rng(0, ...name),
  signal: new AbortController().signal,
  out: '',
  recipe: {},
  inner: () => Promise.reject(new Error('no inner stages')),
  room: () => Promise.resolve({ [Symbol.dispose]() {} }),
  wanted: () => true,
  checkpoint: {
    save: () => Promise.resolve(),
    load: () => Promise.resolve(undefined),
    list: () => Promise.resolve([]),
    drop: () => Promise.resolve(),
  },
  progress: () => {},
  note: () => {},
})
