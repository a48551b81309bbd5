/** A rounded row as a linear that can be trained on, and back: what training has made of its columns. */
import type { Codec } from '../../native/codebook.js'
import { codebookOf } from '../../native/codebooks/settings.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { PipeError } from '../../pipeline/define.js'
import { Parameter, QuantizedLinear } from './trainable.js'

/** The columns of a rounded row that decoding takes. */
export interface RoundedRow {
  readonly linear: string
  readonly m: number
  readonly n: number
  readonly transform: string
  readonly codebook: string
  readonly scale: number
  readonly codes?: TensorRef | undefined
  readonly su?: TensorRef | undefined
  readonly sv?: TensorRef | undefined
  readonly table?: TensorRef | undefined
}

/** Codecs by their settings, each opened once; rows of one run mostly have the same. */
export class Codecs implements Disposable {
  readonly #open = new Map<string, Codec>()

  constructor(private readonly ops: Ops) {}

  of(settings: string): Codec {
    const known = this.#open.get(settings)
    if (known !== undefined) return known
    const { codebook, params } = codebookOf(settings)
    const codec = codebook.open(this.ops, params)
    this.#open.set(settings, codec)
    return codec
  }

  [Symbol.dispose](): void {
    for (const codec of this.#open.values()) codec[Symbol.dispose]()
    this.#open.clear()
  }
}

/** A QuantizedLinear with SU, SV (the scale in it) and, with `trainTable`, a table of its own as parameters. */
export class RoundedLinear implements Disposable {
  private constructor(
    readonly linear: QuantizedLinear,
    /** What SV was multiplied with. */
    private readonly folded: number,
    /** Trained, or kept as it came. */
    private readonly table: Parameter | undefined,
  ) {}

  /** `stage`: who asks, for sentences. bias: taken over; a Parameter is trained. */
  static async open(
    ops: Ops,
    codecs: Codecs,
    row: RoundedRow,
    o: { stage: string; trainTable: boolean; bias?: Parameter | undefined },
  ): Promise<RoundedLinear> {
    const { m, n, codes, su, sv } = row
    const where = `${o.stage}  ${row.linear}`
    if (!codes || !su || !sv)
      throw new PipeError('failed', { where, message: 'The row has no codes, su or sv.', hint: 'Put "rht" and "round" before.' })
    const codec = codecs.of(row.codebook)
    const [Tx, Ty] = codec.tile
    const [tableName, entries] = Object.entries(codec.tables)[0] ?? []
    const { training } = codec
    if (o.trainTable && (training === undefined || tableName === undefined || entries === undefined))
      throw new PipeError('input', {
        where,
        message: `"tableRate" is above 0, and the code has no table that can be trained: ${row.codebook}`,
        hint: 'Leave "tableRate" out, or round with "trellis/hyb" or "trellis/lut".',
      })
    const hasOwn = o.trainTable || row.table !== undefined
    const table =
      hasOwn && tableName && entries
        ? Parameter.of(ops, tableName, row.table ? await row.table.open(ops, 'f32') : ops.cast(entries, 'f32'))
        : undefined
    const folded = row.scale > 0 ? row.scale : 1
    using signs = await sv.open(ops, 'f32')
    const linear = new QuantizedLinear(ops, {
      su: Parameter.of(ops, 'SU', await su.open(ops, 'f32')),
      sv: Parameter.of(ops, 'SV', ops.scale(signs, { factor: folded })),
      scale: row.scale > 0 ? 1 : 0, // it is in SV; a linear of zeros stays one
      transform: JSON.parse(row.transform) as { m: number; n: number },
      codes: await codes.open(ops),
      ...(o.bias && { bias: o.bias }),
      decode:
        o.trainTable && table && training
          ? { table, training }
          : opened => {
              if (table && training) return training.decode(opened, m, n, table.value)
              using padded = codec.decode(opened, Math.ceil(m / Tx) * Tx, Math.ceil(n / Ty) * Ty)
              return ops.copy(padded, { rows: [0, m], columns: [0, n] })
            },
    })
    return new RoundedLinear(linear, folded, table)
  }

  /** The columns as training has left them: copies; SV without the scale. */
  columns(ops: Ops): { su: Tensor; sv: Tensor; table: Tensor | undefined } {
    const { parameters } = this.linear
    const [su, sv] = [parameters.get('SU') as Parameter, parameters.get('SV') as Parameter]
    return { su: ops.copy(su.value), sv: ops.scale(sv.value, { factor: 1 / this.folded }), table: this.table && ops.copy(this.table.value) }
  }

  [Symbol.dispose](): void {
    this.linear[Symbol.dispose]()
    this.table?.[Symbol.dispose]()
  }
}
