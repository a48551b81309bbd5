/**
 * qtip: quantized linears in the form of QTIP's published checkpoints (the "hfized" folders), read as any other model.
 *
 *   W = diag(SV) · H_m · Ŵ · H_nᵀ · diag(SU)      QTIP (arXiv:2406.11235) section 3
 *
 * rcp says whether a transform was split for tensor parallelism: 1 that of the inputs, 2 that of the outputs, into tp_rank
 * blocks. The program computes with SU, SV and f16 values and divides by 32 before the product what it multiplies by 32 after
 * it, against overflow: a power of two, so that nothing of it is seen here. qtip-config.ts has the names and shapes.
 */
import { createHash } from 'node:crypto'
import type { Codec } from '../../native/codebook.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import { decodePublished, hasTable, naturalWords, packedShape, settingsOf } from '../../native/codebooks/trellis/published.js'
import { hadamardFactor } from '../../native/ops/hadamard/hadamard.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import type { Checkpoint } from './checkpoint.js'
import { expectFinite } from './finite.js'
import { toDense } from './incoherence.js'
import type { PackedWeights } from './linear.js'
import { codeOf, mismatch, type QtipQuantization, shortName } from './qtip-config.js'

/** Blocks that a transform is split into for tensor parallelism, unless tp_rank says otherwise. */
const usualRank = 8

/** Ŵ of one linear turned back: f32 [m, n]. Raises PipeError when rcp or tp_rank make no sense for it. */
export async function decodeQtip(
  ops: Ops,
  checkpoint: Checkpoint,
  quantization: QtipQuantization,
  linear: string,
  [m, n]: readonly [number, number],
): Promise<Tensor> {
  const transform = await transformOf(checkpoint, quantization, linear, m, n)
  const code = codeOf(quantization, linear)
  const open = (name: string): Promise<Tensor> => checkpoint.ref(`${linear}.${name}`).open(ops, 'f32')
  const packed = await checkpoint.ref(`${linear}.trellis`).read()
  using tlut = hasTable(code) ? await open('tlut') : undefined
  using values = decodePublished(ops, code, packed, tlut, m, n)
  using su = await open('SU')
  using sv = await open('SV')
  return toDense(ops, values, su, sv, transform)
}

/**
 * A linear as it is packed, in natural words; undefined where its code has no products here. Codecs are kept in `codecs`,
 * one for each table there is. Raises PipeError as decodeQtip does.
 */
export async function openPackedQtip(
  ops: Ops,
  checkpoint: Checkpoint,
  quantization: QtipQuantization,
  linear: string,
  [m, n]: readonly [number, number],
  codecs: Map<string, Codec>,
): Promise<PackedWeights | undefined> {
  const code = codeOf(quantization, linear)
  const settings = settingsOf(code)
  if (settings === undefined || m % code.Tx !== 0 || n % code.Ty !== 0) return undefined
  const transform = await transformOf(checkpoint, quantization, linear, m, n)
  const table = hasTable(code) ? checkpoint.ref(`${linear}.tlut`) : undefined
  const key = JSON.stringify([
    settings,
    table &&
      createHash('sha256')
        .update(await table.read())
        .digest('hex'),
  ])
  let codec = codecs.get(key)
  if (codec === undefined) {
    const { codebook, params } = codebookOf(settings)
    const tlut = await table?.open(ops)
    try {
      if (tlut !== undefined) await expectFinite(ops, checkpoint.path, [[`${linear}.tlut`, tlut]])
    } catch (error) {
      tlut?.[Symbol.dispose]()
      throw error
    }
    codec = codebook.open(ops, params, tlut && { tlut })
    codecs.set(key, codec)
  }
  if (codec.packed === undefined) return undefined
  const words = await checkpoint.ref(`${linear}.trellis`).read()
  return {
    linear,
    m,
    n,
    transform,
    codec,
    trellis: ops.device.upload(naturalWords(code, words, m, n), 'i16', packedShape(code, m, n)),
    su: await checkpoint.ref(`${linear}.SU`).open(ops, 'f32'),
    sv: await checkpoint.ref(`${linear}.SV`).open(ops, 'f32'),
  }
}

/** Orders of the transforms of outputs and inputs. */
async function transformOf(
  checkpoint: Checkpoint,
  { params }: QtipQuantization,
  linear: string,
  m: number,
  n: number,
): Promise<{ m: number; n: number }> {
  const fail = (message: string): never => {
    throw new PipeError('input', { where: checkpoint.path, message: `"${linear}" [${m}, ${n}]: ${message}.`, hint: mismatch })
  }
  const scalar = async (name: string): Promise<number | undefined> => {
    if (!checkpoint.tensors.has(`${linear}.${name}`)) return undefined
    const bytes = await checkpoint.ref(`${linear}.${name}`).read()
    return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigInt64(0, true))
  }
  // Where rcp was lost, a checkpoint that was split says by a linear's name how: o and down have their inputs split.
  const split = params.split_for_tp === true ? (['o', 'down'].includes(shortName(linear)) ? 1 : 2) : 0
  const rcp = (await scalar('rcp')) ?? split
  if (![0, 1, 2].includes(rcp)) fail(`rcp is ${rcp}; 0, 1 and 2 mean something`)
  const rank = rcp === 0 ? 1 : ((await scalar('tp_rank')) ?? usualRank)
  const side = rcp === 1 ? n : m
  if (rank < 1 || side % rank !== 0) fail(`its ${rcp === 1 ? 'inputs' : 'outputs'} can't be split into tp_rank = ${rank} blocks`)
  const transform = { m: rcp === 2 ? m / rank : m, n: rcp === 1 ? n / rank : n }
  for (const order of [transform.m, transform.n])
    if (hadamardFactor(order) === undefined) fail(`no Hadamard matrix of order ${order} is known`)
  return transform
}
