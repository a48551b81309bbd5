/** A codebook as graphs, tables and checkpoints name it: { "use": "trellis/hyb", …its parameters }. */
import { type Static, type TObject, type TUnsafe, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import type { Codebook } from '../codebook.js'
import { codebooks } from './index.js'

export interface Settings {
  readonly use: string
  readonly [parameter: string]: unknown
}

/** The schema of a parameter that names a codebook: one of those there are, with its own parameters beside "use". */
export const codebookSchema: TUnsafe<Settings> = Type.Unsafe<Settings>(
  Type.Union(
    Object.values(codebooks).map(({ name, about, params }) =>
      Type.Object({ use: Type.Literal(name), ...params.properties }, { additionalProperties: false, description: about }),
    ),
    { description: 'The code to round with: { "use": name, … }' },
  ),
)

/** The codebook and its parameters, defaults filled in, from settings or their JSON. Throws when there is no such codebook or a parameter is wrong. */
export function codebookOf(settings: Settings | string): { codebook: Codebook; params: Static<TObject> } {
  const { use, ...rest } = typeof settings === 'string' ? (JSON.parse(settings) as Settings) : settings
  const codebook = codebooks[use]
  if (codebook === undefined) throw new Error(`unknown codebook "${use}"; known: ${Object.keys(codebooks).join(', ')}`)
  const params = Value.Default(codebook.params, structuredClone(rest)) as Static<TObject>
  const [error] = Value.Errors(codebook.params, params)
  if (error)
    throw new Error(`codebook ${use}: ${error.path.slice(1) || 'parameters'}: ${error.message}, got ${JSON.stringify(error.value)}`)
  return { codebook, params }
}
