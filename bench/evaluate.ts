/**
 * What a block takes when text is evaluated, opening included: quantized linears decoded once for all of it, or multiplied
 * from their bits (`pipe eval --weights dense | packed`). Random weights of a known shape, windows of 2048 tokens, one a chunk.
 *
 *   --shape llama-2-7b --layers 2 --codes hyb,mul1 --bits 2 --chunks 1,8 --precision bf16 --device cuda:0
 */
import type { Ops } from '../native/ops.js'
import { readConfig } from '../stages/model/config.js'
import { toDense } from '../stages/model/incoherence.js'
import type { PackedWeights } from '../stages/model/linear.js'
import type { Weights } from '../stages/model/quantized.js'
import { randomWeights, shapeOf } from '../stages/model/shapes.js'
import { type Form, runModels, tokensAtOnce } from '../stages/model/streams.js'
import { cardOf, openDevice } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const vocab = 4096

/** Linears drawn once, however often they are opened, and decoded where they are asked for dense, as those of a checkpoint are. */
function kept(ops: Ops, random: Weights): Weights & Disposable {
  const drawn = new Map<string, PackedWeights>()
  const packed = async (linear: string) => {
    const one = drawn.get(linear) ?? (await random.packed?.(linear))
    if (one === undefined) return undefined
    drawn.set(linear, one)
    return { ...one, trellis: ops.copy(one.trellis), su: ops.copy(one.su), sv: ops.copy(one.sv) }
  }
  return {
    ...random,
    packed,
    async open(name, dtype = 'f32') {
      const one = name.includes('_proj.') ? await packed(name.replace(/\.weight$/, '')) : undefined
      if (one === undefined) return random.open(name, dtype)
      using trellis = one.trellis
      using su = one.su
      using sv = one.sv
      using codes = one.codec.unpack(trellis)
      using values = one.codec.decode(codes, one.m, one.n)
      const dense = toDense(ops, values, su, sv, one.transform)
      if (dtype === 'f32') return dense
      using wide = dense
      return ops.cast(wide, dtype)
    },
    [Symbol.dispose]() {
      for (const { trellis, su, sv } of drawn.values()) for (const x of [trellis, su, sv]) x[Symbol.dispose]()
      random[Symbol.dispose]()
    },
  }
}

export async function run(o: Options): Promise<Figures> {
  const ops = await openDevice(o)
  const layers = Number(o.layers ?? 2)
  const shape = o.shape ?? 'llama-2-7b'
  const precision = o.precision === 'bf16' ? 'bf16' : 'f32'
  const config = readConfig({ ...shapeOf(shape).raw, num_hidden_layers: layers, vocab_size: vocab }, shape)
  const rows: Row[] = []
  for (const code of (o.codes ?? 'hyb,mul1').split(',')) {
    using weights = kept(ops, randomWeights(ops, config, shape, { use: `trellis/${code}`, K: Number(o.bits ?? 2) }))
    for (const count of (o.chunks ?? '1,8').split(',').map(Number)) {
      const chunks = Array.from({ length: count }, (_, c) => [Int32Array.from({ length: tokensAtOnce }, (_, i) => (i * 7919 + c) % vocab)])
      const milliseconds = async (form: Form): Promise<number> => {
        await ops.finish()
        const started = performance.now()
        const streams = await runModels(ops, [weights], chunks, { precision, form, progress() {} })
        await ops.finish()
        for (const x of streams.flat()) x[Symbol.dispose]()
        return (performance.now() - started) / layers
      }
      const best: Record<Form, number> = { dense: Number.POSITIVE_INFINITY, packed: Number.POSITIVE_INFINITY }
      for (let again = 0; again < 3; again++)
        for (const form of ['dense', 'packed'] as const) best[form] = Math.min(best[form], await milliseconds(form))
      rows.push({ code, tokens: count * tokensAtOnce, 'dense, ms a block': best.dense, 'packed, ms a block': best.packed })
    }
  }
  return { device: ops.device.name, ...cardOf(ops), shape, precision, rows }
}
