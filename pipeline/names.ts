/**
 * What the stages of a stream segment call the batches they are given: as `inputsOf` does, and in the same way where it is
 * known only while they run which batches there will be.
 */
import { hashOf } from './fingerprint.js'
import { inputsOf, keyOf, nameBeside, type Node } from './survey.js'

interface Origin {
  readonly above: Node
  readonly id: string
}

/** Of one reader: what each name stands for, and the names of each stage's batches. */
class Given {
  readonly origins = new Map<string, Origin>()
  readonly #names = new Map<Node, Map<string, string>>()

  name({ above, id }: Origin): string | undefined {
    return this.#names.get(above)?.get(id)
  }

  add(name: string, origin: Origin): void {
    this.origins.set(name, origin)
    const names = this.#names.get(origin.above) ?? new Map<string, string>()
    this.#names.set(origin.above, names.set(origin.id, name))
  }
}

export class Names {
  readonly #given = new Map<Node, Given>()

  /** The reader's name for a batch of a stage above it. Asked in the order in which they are read. */
  of(reader: Node, above: Node, id: string): string {
    const given = this.#of(reader)
    const known = given.name({ above, id })
    if (known !== undefined) return known
    const name = nameBeside(given.origins, above, id)
    given.add(name, { above, id })
    return name
  }

  /** The same beforehand; undefined where it depends on what else there will be. */
  foretold(reader: Node, above: Node, id: string): string | undefined {
    return reader.from.length === 1 ? id : this.#of(reader).name({ above, id })
  }

  /** The key of a batch of this name, whichever of the stages that its stage reads it comes from. */
  keyOf(node: Node, id: string): string | undefined {
    const origin = this.#of(node).origins.get(id)
    if (node.isStream || node.places !== undefined || origin === undefined) return keyOf(node, id)
    const key = this.keyOf(origin.above, origin.id)
    return key === undefined ? undefined : hashOf([node.print.hash, key])
  }

  #of(reader: Node): Given {
    const known = this.#given.get(reader)
    if (known !== undefined) return known
    const given = new Given()
    for (const { id, origin } of inputsOf(reader) ?? []) given.add(id, { above: origin.node, id: origin.place.id })
    this.#given.set(reader, given)
    return given
  }
}
