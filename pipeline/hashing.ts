/**
 * sha256 of tensors and files, off the event loop: a core hashes 2 GB a second at best, and a GPU waits for the loop that feeds it.
 * (crypto.subtle has threads of its own, but copies what it hashes, on the loop.)
 */
import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'

export interface Task {
  readonly id: number
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly piece: number
}
export interface Answer {
  readonly id: number
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly sha256: readonly string[]
}
export type Hashed = Pick<Answer, 'bytes' | 'sha256'>

/** Below this, sending costs as much as hashing (about 0.1 ms). */
const worthBytes = 2 ** 18
/** Four hash 2.4 GB of a checkpoint a second, and a 7B model has 13.5, which nothing can begin before. A core of every two: ops of the CPU want the others. */
const mostThreads = Math.min(8, Math.max(1, Math.floor(availableParallelism() / 2)))

class Thread {
  readonly #worker = new Worker(new URL('./hashing-worker.js', import.meta.url))
  readonly #asked = new Map<number, { answer: (hashed: Hashed) => void; fail: (error: unknown) => void }>()
  #next = 0

  constructor() {
    this.#worker.unref()
    this.#worker.on('message', ({ id, bytes, sha256 }: Answer) => {
      this.#asked.get(id)?.answer({ bytes, sha256 })
      this.#over(id)
    })
    this.#worker.on('error', error => {
      threads.splice(threads.indexOf(this), 1)
      for (const [id, { fail }] of this.#asked) {
        fail(error)
        this.#over(id)
      }
    })
  }

  get load(): number {
    return this.#asked.size
  }

  hash(bytes: Uint8Array<ArrayBuffer>, piece: number): Promise<Hashed> {
    return new Promise((answer, fail) => {
      const id = this.#next++
      if (this.#asked.size === 0) this.#worker.ref() // the process stays for what it waits for, not for idle threads
      this.#asked.set(id, { answer, fail })
      this.#worker.postMessage({ id, bytes, piece } satisfies Task, [bytes.buffer])
    })
  }

  #over(id: number): void {
    this.#asked.delete(id)
    if (this.#asked.size === 0) this.#worker.unref()
  }
}
const threads: Thread[] = []

/**
 * The hash of every `piece` bytes (of nothing: one). The bytes must be the caller's own: a large array is empty
 * afterwards, and what it held comes back.
 */
export async function hashPieces(bytes: Uint8Array, piece: number): Promise<Hashed> {
  // A view of something larger can't move without it.
  const owned = isWhole(bytes) ? bytes : bytes.slice()
  if (owned.byteLength < worthBytes) {
    const sha256: string[] = []
    for (let from = 0; from === 0 || from < owned.byteLength; from += piece)
      sha256.push(
        createHash('sha256')
          .update(owned.subarray(from, from + piece))
          .digest('hex'),
      )
    return { bytes: owned, sha256 }
  }
  const idlest = threads.reduce<Thread | undefined>((a, b) => (a === undefined || b.load < a.load ? b : a), undefined)
  if (idlest !== undefined && (idlest.load === 0 || threads.length >= mostThreads)) return idlest.hash(owned, piece)
  const thread = new Thread()
  threads.push(thread)
  return thread.hash(owned, piece)
}

const isWhole = (bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> =>
  bytes.buffer instanceof ArrayBuffer && bytes.byteLength === bytes.buffer.byteLength

/** A file is read and hashed in pieces, several at a time: one core takes 10 s for the 13 GB of a 7B model. */
const pieceBytes = 2 ** 24
const piecesAtOnce = 2 * mostThreads

/** sha256 over the sha256 (in hex) of the file's pieces of 16 MiB, in order; of a file that is none longer too. */
export async function hashOfFile(path: string): Promise<string> {
  const file = await open(path, 'r')
  const digests: string[] = []
  let next = 0
  try {
    const { size } = await file.stat()
    const work = async (): Promise<void> => {
      let bytes: Uint8Array = new Uint8Array(0)
      for (let i = next++; i * pieceBytes < size; i = next++) {
        const length = Math.min(pieceBytes, size - i * pieceBytes)
        if (bytes.byteLength !== length) bytes = new Uint8Array(length)
        for (let done = 0; done < length; ) {
          const { bytesRead } = await file.read(bytes, done, length - done, i * pieceBytes + done)
          if (bytesRead === 0) throw new Error(`${path} became shorter while it was read`)
          done += bytesRead
        }
        const hashed = await hashPieces(bytes, pieceBytes)
        digests[i] = hashed.sha256[0] as string
        bytes = hashed.bytes
      }
    }
    await Promise.all(Array.from({ length: Math.min(piecesAtOnce, Math.ceil(size / pieceBytes)) }, work))
  } finally {
    await file.close()
  }
  return createHash('sha256').update(digests.join()).digest('hex')
}
