/** The .pt files of QTIP's quantizer, made a checkpoint: the same weights; what is missing or does not fit is said. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from '../../../native/index.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { writeLayers } from '../../../stages/model/qtip-layers.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { close, pipe, temporary, testDevice } from '../../helpers.js'
import { floats } from '../run-stage.js'
import { halves, type Json, linear, others, readVector, writeVector } from './qtip-folder.js'
import { dict, int, pickle, tensor, writeTorch } from './torch-writer.js'

const ops = await openBackend(testDevice)
const vector = 'qtip_hyb_k2'

/** A dict of arrays and numbers as torch saves it. */
function writeDict(
  path: string,
  items: Readonly<Record<string, { type: string; array: NodeJS.ArrayBufferView & { length: number }; shape?: number[] } | number | null>>,
): void {
  const storages: Uint8Array[] = []
  const pickled = Object.entries(items).map(([name, item]): [string, Uint8Array] => {
    if (item === null) return [name, Buffer.from('N')]
    if (typeof item === 'number') return [name, int(item)]
    const { type, array, shape = [array.length] } = item
    const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1))
    storages.push(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    return [name, tensor({ type, key: `${storages.length - 1}`, numel: array.length, shape, strides })]
  })
  writeTorch(path, pickle(dict(Object.fromEntries(pickled))), storages)
}

interface Made {
  layers: string
  base: string
  params: string
}

/** The files of a model whose down_proj is a published vector, split as rcp says, with the original model beside it. */
async function make(t: Test, rcp: 0 | 1 | 2, change: Json = {}): Promise<Made> {
  const folder = temporary(t)
  const { params, m, n, scale, values, entry } = readVector(vector)
  const base = join(folder, 'base')
  await writeVector(base, vector, (config, _, entries) => {
    delete config.quip_params
    entries.length = 0
  })
  const layers = temporary(t)
  const scales = rcp === 0 ? Float32Array.of(scale) : Float32Array.from({ length: 4 }, (_, i) => scale * (1 + i))
  const [trellis, tlut] = [entry('trellis', ''), entry('tlut', '')]
  writeDict(join(layers, '0_down.pt'), {
    trellis: { type: 'ShortStorage', array: new Int16Array(Uint8Array.from(await trellis.read()).buffer), shape: [...trellis.shape] },
    SU: { type: 'HalfStorage', array: halves(values('SU')) },
    SV: { type: 'HalfStorage', array: halves(values('SV')) },
    Wscale: { type: 'FloatStorage', array: scales, ...(rcp === 0 && { shape: [] }) },
    tlut: { type: 'HalfStorage', array: new Uint16Array(Uint8Array.from(await tlut.read()).buffer), shape: [...tlut.shape] },
    rcp,
    tp_rank: 4,
  })
  const norm = { type: 'FloatStorage', array: new Float32Array(m).fill(3) }
  writeDict(join(layers, '0_layernorm.pt'), {
    input_layernorm: norm,
    post_attention_layernorm: { ...norm, array: new Float32Array(m).fill(4) },
  })
  const file = join(folder, 'params.json')
  writeFileSync(file, JSON.stringify({ ...params, skip_list: others, split_for_tp: rcp !== 0, ...change }))
  t.equal(n % 4, 0)
  return { layers, base, params: file }
}

t.test('on the command line: a checkpoint that decodes to the published weights, with the tuned norms', async t => {
  const { layers, base, params } = await make(t, 0)
  const out = join(temporary(t), 'hf')
  const { code, stderr } = await pipe(['export', layers, '--to', 'qtip-hf', '--model', base, '--quip-params', params, '--out', out])
  t.equal(code, 0, stderr)
  const checkpoint = await openCheckpoint(out)
  using weights = await openWeights(ops, checkpoint)
  using dense = await weights.open(`${linear}.weight`)
  close(t, await floats(dense), readVector(vector).values('hatW'), 1e-6)
  t.ok((await floats(checkpoint.ref('model.layers.0.input_layernorm.weight'))).every(x => x === 3))
  t.ok((await floats(checkpoint.ref('model.layers.0.post_attention_layernorm.weight'))).every(x => x === 4))
  const original = await openCheckpoint(base)
  for (const name of ['model.norm.weight', 'model.layers.0.mlp.up_proj.weight'])
    t.strictSame(await checkpoint.ref(name).read(), await original.ref(name).read(), name)

  const untold = await pipe(['export', layers, '--to', 'dense', '--out', `${out}2`])
  t.equal(untold.code, 1)
  t.match(untold.stderr, "holds the .pt files of QTIP's quantizer")
  t.notMatch(untold.stderr, /\n\s+at /)
})

t.test('scales of the blocks of a split transform', async t => {
  const { m, n, scale, values } = readVector(vector)
  for (const rcp of [1, 2] as const) {
    const { layers, base, params } = await make(t, rcp)
    const out = join(temporary(t), 'hf')
    await writeLayers(layers, await openCheckpoint(base), params, out)
    const checkpoint = await openCheckpoint(out)
    const [side, name, other] = rcp === 1 ? [n, 'SU', 'SV'] : [m, 'SV', 'SU']
    const signs = values(name)
    const expected = Float32Array.from(signs, (sign, i) => sign * Math.fround(scale * (1 + Math.floor((4 * i) / side))))
    t.strictSame(await floats(checkpoint.ref(`${linear}.${name}`)), expected)
    t.equal(checkpoint.ref(`${linear}.${other}`).dtype, 'f16', 'as it was')
    t.equal(Buffer.from(await checkpoint.ref(`${linear}.rcp`).read()).readBigInt64LE(0), BigInt(rcp))
    t.equal(Buffer.from(await checkpoint.ref(`${linear}.tp_rank`).read()).readBigInt64LE(0), 4n)
  }
})

t.test("what is missing, or doesn't fit", async t => {
  const cases: [Json, (made: Made) => void, string | RegExp][] = [
    [{ K: 3 }, () => undefined, `"trellis" is [96,32], and ${linear} needs [96,48].`],
    [{ tlut_bits: 8 }, () => undefined, `"tlut" is [512,2], and ${linear} needs [256,2].`],
    [{ L: undefined }, () => undefined, /"quip_params"\/L/],
    [{ skip_list: [] }, () => undefined, 'expected 0_q.pt and found none.'],
    [{}, ({ layers }) => rmSync(join(layers, '0_layernorm.pt')), 'expected 0_layernorm.pt and found none.'],
    [{}, ({ params }) => writeFileSync(params, '['), 'is not valid JSON'],
    [{}, ({ layers }) => writeDict(join(layers, '0_down.pt'), { SU: 1 }), 'expected the tensor "Wscale" and found none.'],
    [
      {},
      ({ layers }) => writeDict(join(layers, '0_layernorm.pt'), { input_layernorm: null }),
      'expected the tensor "input_layernorm" and found something else.',
    ],
  ]
  for (const [change, damage, message] of cases) {
    const made = await make(t, 0, change)
    damage(made)
    const error = (await writeLayers(made.layers, await openCheckpoint(made.base), made.params, join(temporary(t), 'hf')).catch(
      (error: unknown) => error,
    )) as Error
    t.equal(error.name, 'PipeError', error.stack ?? '')
    t.match(error.message, message)
  }
})
