/**
 * hessian-files: H of each linear from files that another program wrote, in place of calibrate and hessian.
 *
 *   H = sym(flatH) + mu·muᵀ        flatH: the lower triangle row by row, n(n+1)/2 numbers; mu, where it is there: the mean
 *
 * One file a layer and input, as the published programs name them: 3_qkv, 3_o, 3_up, 3_down (.pt or .safetensors), q, k and v
 * sharing one, up and gate another. Files with mu hold the covariance about it; mu·muᵀ makes it the second moment again.
 * Not damped here: damping belongs to the factorisation (stage round).
 *
 * QuIP# (arXiv:2402.04396) appendix F.2; QTIP (arXiv:2406.11235) section 4.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import { concatMap, pipe } from 'rxjs'
import type { Tensor } from '../../native/tensor.js'
import { defineStage, directory, type NewRow, PipeError, type Row, runs } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { type Group, most, sizesOf, sum } from '../model/sizes.js'
import { readMoments, secondMoment } from './moments.js'

const params = Type.Object(
  {
    path: directory('Folder with a file for each layer and input: 0_qkv.pt, 0_o.pt, 0_up.pt, 0_down.pt, … (or .safetensors)'),
  },
  { additionalProperties: false },
)

const input = linears.with('weight', 'source')

/** By the last part of a linear's name: what the files call its input. */
const inputs: Readonly<Record<string, string>> = {
  q_proj: 'qkv',
  k_proj: 'qkv',
  v_proj: 'qkv',
  o_proj: 'o',
  up_proj: 'up',
  gate_proj: 'up',
  down_proj: 'down',
}

export default defineStage({
  name: 'hessian-files',
  version: 1,
  about: 'Take the Hessians of the linears from files, in place of calibrating.',
  params,
  input,
  output: linears,
  cache: false,
  memory: (_bytes, _params, rows) => held(sizesOf(rows).groups),
  estimate(rows) {
    const { groups } = sizesOf(rows)
    return { operations: 8 * sum(groups, ({ n }) => n * n), memory: held(groups), disk: 0 }
  },
  operator: ({ path }, { ops }) =>
    pipe(
      runs(row => `${row.role}/${row.layer}/${row.shares}`),
      concatMap(async (rows): Promise<NewRow<typeof linears>[]> => {
        if (rows[0]?.role === 'kept') return rows.map(row => ({ ...row, hessian: undefined }))
        const opened = new Map<string, Tensor>()
        try {
          for (const row of rows) {
            const file = await fileOf(path, row)
            if (!opened.has(file)) opened.set(file, await secondMoment(ops, await readMoments(file, row)))
            opened.set(row.linear, opened.get(file) as Tensor)
          }
        } catch (error) {
          for (const tensor of opened.values()) tensor[Symbol.dispose]()
          throw error
        }
        return rows.map(row => ({ ...row, hessian: opened.get(row.linear) }))
      }),
      concatMap(rows => rows),
    ),
})

/** The triangle, its transpose and H, in f32. */
const held = (groups: readonly Group[]): number => 12 * most(groups, ({ n }) => n * n)

async function fileOf(path: string, { linear, layer }: Row<typeof input>): Promise<string> {
  const name = inputs[linear.slice(linear.lastIndexOf('.') + 1)]
  if (name === undefined)
    throw new PipeError('input', {
      where: `hessian-files  ${linear}`,
      message: 'no file is known to hold the Hessian of such a linear.',
      hint: `Known: ${Object.keys(inputs).join(', ')}.`,
    })
  const names = await readdir(path)
  const found = ['.pt', '.safetensors'].map(ending => `${layer}_${name}${ending}`).find(file => names.includes(file))
  if (found !== undefined) return join(path, found)
  throw new PipeError('input', {
    where: path,
    message: `expected ${layer}_${name}.pt or ${layer}_${name}.safetensors, the Hessian of ${linear}, and found neither.`,
    hint: 'Every block of the model needs its four files.',
  })
}
