/** Which rows of a model travel together. */

/** What a head reads that is rounded as the linears are, of the layer after the last: `shares` of its row. */
export const headInput = 'head'

/** Linears that read one input: '3/a'. Tensors carried along: 'kept/embed', 'kept/3' (of block 3), 'kept/head'. */
export const batchOf = ({ role, layer, shares }: { readonly role: string; readonly layer: number; readonly shares: string }): string =>
  role !== 'kept' ? `${layer}/${shares}` : shares === 'block' ? `kept/${layer}` : `kept/${shares}`

/** A block is a batch: 'block/3'; a head to be rounded is one after the last. The embedding, and the norm and head behind the blocks, are batches of their own. */
export function blockBatch(row: { readonly role: string; readonly layer: number; readonly shares: string }): string {
  return row.role === 'kept' && row.shares !== 'block' ? batchOf(row) : `block/${row.layer}`
}
