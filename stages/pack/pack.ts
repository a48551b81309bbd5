/**
 * pack: codes into the bits that are stored.
 *
 * A tile's codes overlap: each trellis state shares all but its newest K·V bits with the one before, and the last
 * wraps to the first (tail-biting), so that a tile of Tx·Ty weights takes exactly Tx·Ty·K bits. The layout is the codebook's.
 *
 * Codes are states of 16 bits a step, bits K·V a step: what is stored of a 7B model is 1.6 GB in place of 6.5.
 *
 * QTIP (arXiv:2406.11235) section 3.2.
 */
import { Type } from '@sinclair/typebox'
import { codebookOf } from '../../native/codebooks/settings.js'
import { defineStage, each } from '../../pipeline/define.js'
import { packed, rounded } from '../../schemas/tables/rounded.js'
import { bytesOfCodes, most, sizesOf } from '../model/sizes.js'

const params = Type.Object({}, { additionalProperties: false })

export default defineStage({
  name: 'pack',
  version: 1,
  about: 'Pack codes into the bits that are stored.',
  params,
  input: rounded,
  output: packed,
  condenses: true,
  estimate(rows) {
    const { groups, weights } = sizesOf(rows)
    return { operations: 16 * weights, memory: 6 * most(groups, ({ m, n }) => m * n), disk: bytesOfCodes(rows) }
  },
  operator: (_, { ops }) =>
    each({}, async ({ codes, ...row }) => {
      if (row.role === 'kept' || !codes) return { ...row, trellis: undefined }
      const { codebook, params } = codebookOf(row.codebook)
      using codec = codebook.open(ops, params)
      using open = await codes.open(ops)
      return { ...row, trellis: codec.pack(open) }
    }),
})
