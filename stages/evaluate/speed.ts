/**
 * speed: tokens a second of one text, each the likeliest after those before it, as `pipe generate` makes them: quantized
 * linears packed as they are stored, where there are kernels for their code. A rough figure, of some tenths of a second;
 * `pipe bench` measures with care, and large models.
 */
import type { Ops } from '../../native/ops.js'
import { Decoder } from '../model/decoder.js'
import type { Weights } from '../model/quantized.js'

/** Bytes that a model may hold to be measured here: more takes longer to open than anybody wants to wait at the end of a run. */
const most = 2 ** 30
/** Of a text: its first token, those made before time is taken, and the most that are made then. */
const [warmUp, made] = [4, 64]
/** Milliseconds after which no more are made. */
const enough = 200

/** Undefined for a model that holds more than a gibibyte. Raises PipeError as Decoder.open does. */
export async function tokensPerSecond(ops: Ops, weights: Weights): Promise<number | undefined> {
  const { tensors, config } = weights.checkpoint
  const held = [...tensors.values()].reduce((sum, { bytes, dtype }) => sum + (dtype === 'f16' || dtype === 'bf16' ? 2 : 1) * bytes, 0)
  const positions = Math.min(1 + warmUp + made, config.positions ?? Number.POSITIVE_INFINITY)
  if (held > most || positions <= 1 + warmUp) return undefined
  using decoder = await Decoder.open(ops, weights, { slots: 1, positions })
  await decoder.prefill(0, [0])
  for await (const _ of decoder.picks([{ slot: 0, token: 0 }], warmUp));
  await ops.finish()
  const started = performance.now()
  let [count, passed] = [0, 0]
  for await (const _ of decoder.picks([{ slot: 0, token: 0 }], made)) {
    count++
    passed = performance.now() - started
    if (passed > enough) break
  }
  return (1000 * count) / passed
}
