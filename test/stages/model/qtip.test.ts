/** QTIP's published checkpoints as models: they decode to the published weights; what contradicts itself is refused with a sentence. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from '../../../native/index.js'
import { hadamardFactor } from '../../../native/ops/hadamard/hadamard.js'
import { hadamardReference } from '../../../native/ops/hadamard/reference.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import model from '../../../stages/model/model.js'
import { openWeights } from '../../../stages/model/quantized.js'
import type { NewEntry } from '../../../stages/model/safetensors.js'
import { close, pipe, root, temporary, testDevice } from '../../helpers.js'
import { contextOf, floats, runStage } from '../run-stage.js'
import { bytesOf, type Json, linear, readVector, scalar, writeVector } from './qtip-folder.js'

const ops = await openBackend(testDevice)
const vectors = ['qtip_hyb_k2', 'qtip_hyb_k4', 'qtip_1mad_k2', 'qtip_lut_l12_k2']

type Change = (config: Json, params: Json, entries: NewEntry[]) => void
const make = async (t: Test, name: string, change?: Change): Promise<string> => {
  const folder = temporary(t)
  await writeVector(folder, name, change)
  return folder
}
const decoded = async (folder: string): Promise<Float32Array> => {
  using weights = await openWeights(ops, await openCheckpoint(folder))
  using dense = await weights.open(`${linear}.weight`)
  return floats(dense)
}
const drop = (entries: NewEntry[], name: string): void => {
  entries.splice(
    entries.findIndex(entry => entry.name === `${linear}.${name}`),
    1,
  )
}

for (const name of vectors) {
  t.test(`${name}: a model with this linear decodes to the published weights`, async t => {
    const { values } = readVector(name)
    // 1e-3 of the largest weight, and 1e-6 of the power: hatW was computed in f32, by another order of sums.
    const near = (got: Float32Array, message: string): void => {
      const expected = values('hatW')
      const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
      const worst = got.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0)
      t.ok(worst <= 1e-3 * largest, `${message}: ${worst} of ${largest}`)
      close(t, got, expected, 1e-6, message)
    }
    near(await decoded(await make(t, name)), 'as stored')
    near(
      await decoded(
        await make(t, name, (_, params, entries) => {
          drop(entries, 'rcp')
          drop(entries, 'tp_rank')
          params.skip_list = null
        }),
      ),
      'fine-tuned: no rcp; and no list of dense linears',
    )
  })
}

t.test('transforms split for tensor parallelism, with rcp stored and with rcp lost', async t => {
  const { values, m, n, scale } = readVector('qtip_hyb_k2')
  const definition = (orderM: number, orderN: number): Float64Array => {
    const blocks = (x: Float64Array, order: number): Float64Array => {
      const out = new Float64Array(x.length)
      for (let i = 0; i < x.length; i += order) out.set(hadamardReference(x.subarray(i, i + order), hadamardFactor(order)!.K, true), i)
      return out
    }
    const [hat, su, sv] = [values('hatWr'), values('SU'), values('SV')]
    for (let i = 0; i < m; i++) hat.set(blocks(hat.subarray(i * n, (i + 1) * n), orderN), i * n)
    for (let j = 0; j < n; j++) {
      const column = blocks(
        Float64Array.from({ length: m }, (_, i) => hat[i * n + j]!),
        orderM,
      )
      for (let i = 0; i < m; i++) hat[i * n + j] = sv[i]! * scale * column[i]! * su[j]!
    }
    return hat
  }
  const set =
    (rcp: number, rank: number): Change =>
    (_, params, entries) => {
      params.split_for_tp = true
      drop(entries, 'rcp')
      drop(entries, 'tp_rank')
      entries.push(scalar(`${linear}.rcp`, rcp), scalar(`${linear}.tp_rank`, rank))
    }
  close(t, await decoded(await make(t, 'qtip_hyb_k2', set(1, 8))), definition(m, n / 8), 1e-11, 'inputs in 8 blocks of 48')
  close(t, await decoded(await make(t, 'qtip_hyb_k2', set(2, 4))), definition(m / 4, n), 1e-11, 'outputs in 4 blocks of 16')
  const lost: Change = (_, params, entries) => {
    params.split_for_tp = true
    drop(entries, 'rcp')
  }
  close(t, await decoded(await make(t, 'qtip_hyb_k2', lost)), definition(m, n / 8), 1e-11, 'down_proj has its inputs split')
})

t.test('other types of floats; bits of v_proj', async t => {
  const half: Change = (_, __, entries) => {
    const sv = readVector('qtip_1mad_k2')
    drop(entries, 'SV')
    const bits = Uint16Array.from(sv.values('SV'), sign => (sign > 0 ? 0x3f00 : 0xbf00)) // ±0.5 in bf16
    entries.push({ name: `${linear}.SV`, dtype: 'bf16', shape: [sv.m], read: bytesOf(bits) })
  }
  const { values, scale } = readVector('qtip_1mad_k2')
  const expected = values('hatW').map(x => (x * 0.5) / scale)
  close(t, await decoded(await make(t, 'qtip_1mad_k2', half)), expected, 1e-6)

  const v = 'model.layers.0.self_attn.v_proj'
  const three: Change = (_, params, entries) => {
    params.K_v_proj = 3
    params.skip_list = ['0_q', '0_k', '0_o', '0_up', '0_gate']
    const random = (bytes: number) => Uint8Array.from({ length: bytes }, (_, i) => (i * 37 + (i >> 3)) & 255)
    entries.push(
      { name: `${v}.trellis`, dtype: 'i16', shape: [8, 48], read: async () => random(8 * 96) },
      { name: `${v}.SU`, dtype: 'f32', shape: [64], read: bytesOf(new Float32Array(64).fill(1)) },
      { name: `${v}.SV`, dtype: 'f32', shape: [32], read: bytesOf(new Float32Array(32).fill(1)) },
    )
  }
  using weights = await openWeights(ops, await openCheckpoint(await make(t, 'qtip_1mad_k2', three)))
  using dense = await weights.open(`${v}.weight`)
  const power = (await floats(dense)).reduce((sum, x) => sum + x * x, 0) / dense.size
  t.ok(power > 0.8 && power < 1.2, `${power}: 1MAD's values have a deviation of 1, and transforms keep it`)
})

t.test('what contradicts itself', async t => {
  const set =
    (name: string, value: unknown): Change =>
    (_, params) => {
      params[name] = value
    }
  const cases: [string, string, Change, string | RegExp][] = [
    ['K', 'qtip_hyb_k2', set('K', 3), `"${linear}.trellis" is [96,32], not [96,48]`],
    ['tile', 'qtip_1mad_k2', set('td_x', 8), `"${linear}.trellis" is [64,32], not [128,16]`],
    ['tile', 'qtip_1mad_k2', set('td_x', 48), `"${linear}" [64, 256]: tiles of td_x × td_y = 48 × 16 don't divide it`],
    ['table', 'qtip_hyb_k2', set('tlut_bits', 8), `"${linear}.tlut" is [512,2], not [256,2]`],
    ['table', 'qtip_lut_l12_k2', set('tlut_bits', 9), '"lut" has a table of 2^L rows: tlut_bits must be L = 12, not 9'],
    ['mode', 'qtip_1mad_k2', set('decode_mode', 'quantlut_sym'), '"quantlut_sym" gives pairs, not V = 1'],
    ['mode', 'qtip_hyb_k2', set('decode_mode', '1mad'), '"1mad" gives one weight a step, not V = 2'],
    ['mode', 'qtip_hyb_k2', set('decode_mode', 'toString'), '"quip_params" has the decode_mode "toString".'],
    ['L', 'qtip_hyb_k2', set('L', 20), 'states of L = 20 bits, and up to 16 are read'],
    ['L', 'qtip_hyb_k2', set('L', '16'), /"quip_params"\/L: .* got "16"/],
    ['codebook', 'qtip_hyb_k2', set('codebook', 'E8P12'), '"quip_params" has the codebook "E8P12"'],
    [
      'dtype',
      'qtip_1mad_k2',
      (_, __, e) => {
        drop(e, 'SU')
        e.push({ name: `${linear}.SU`, dtype: 'i8', shape: [256], read: async () => new Uint8Array(256) })
      },
      `"${linear}.SU" is i8, not f32 or f16 or bf16`,
    ],
    ['skipped', 'qtip_1mad_k2', set('skip_list', ['0_down']), `"${linear}.weight" [64,256] is missing`],
    ['missing', 'qtip_hyb_k2', (_, __, e) => drop(e, 'tlut'), `"${linear}.tlut" [512,2] is missing`],
  ]
  for (const [label, name, change, message] of cases) {
    const pattern = typeof message === 'string' ? { test: (text: string) => text.includes(message) } : message
    const error = await openCheckpoint(await make(t, name, change)).then(
      () => undefined,
      (error: Error) => error,
    )
    t.equal(error?.name, 'PipeError', label)
    t.ok(pattern.test(error?.message ?? ''), `${label}: ${error?.message}`)
  }
  const rcp =
    (value: number, rank = 8): Change =>
    (_, __, entries) => {
      drop(entries, 'rcp')
      drop(entries, 'tp_rank')
      entries.push(scalar(`${linear}.rcp`, value), scalar(`${linear}.tp_rank`, rank))
    }
  await t.rejects(decoded(await make(t, 'qtip_1mad_k2', rcp(7))), {
    message: `"${linear}" [64, 256]: rcp is 7; 0, 1 and 2 mean something.`,
  })
  await t.rejects(decoded(await make(t, 'qtip_1mad_k2', rcp(1, 7))), {
    message: `"${linear}" [64, 256]: its inputs can't be split into tp_rank = 7 blocks.`,
  })
  const broken = await make(t, 'qtip_hyb_k2', (_, __, entries) => {
    drop(entries, 'tlut')
    entries.push({ name: `${linear}.tlut`, dtype: 'f16', shape: [512, 2], read: bytesOf(new Uint16Array(1024).fill(0x7e00)) })
  })
  using others = await openWeights(ops, await openCheckpoint(broken))
  const openPacked = async (): Promise<void> => {
    await others.packed?.(linear)
  }
  await t.rejects(openPacked, { name: 'PipeError', message: /down_proj\.tlut" has 1024 elements that are NaN/ })
  await t.rejects(runStage(model, { path: await make(t, 'qtip_1mad_k2') }, [{}], contextOf(ops)), {
    name: 'PipeError',
    message: 'the model is quantized already.',
  })
})

t.test('on the command line: measured, exported, refused', async t => {
  const folder = await make(t, 'qtip_hyb_k2')
  const dense = join(temporary(t), 'dense')
  const exported = await pipe(['export', folder, '--to', 'dense', '--dtype', 'f32', '--out', dense])
  t.equal(exported.code, 0, exported.stderr)
  const plain = await openCheckpoint(dense)
  t.notOk('quip_params' in plain.config.raw)
  t.strictSame(await floats(plain.ref(`${linear}.weight`)), await decoded(folder))
  const refused = await pipe([
    'eval',
    await make(t, 'qtip_hyb_k2', (_, params) => {
      params.K = 4
    }),
    '--text',
    join(root, 'fixtures/tiny-llama/test.jsonl'),
  ])
  t.equal(refused.code, 1)
  t.match(refused.stderr, `"${linear}.trellis" is [96,32], not [96,64]`)
  t.match(refused.stderr, 'config.json and the safetensors files must be of the same model.')
  t.notMatch(refused.stderr, /\n\s+at /)
})

t.test('nothing is left on the device', async t => {
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
