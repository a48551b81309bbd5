/** A thread that hashes what hashing.ts sends, and sends it back. */
import { createHash } from 'node:crypto'
import { parentPort } from 'node:worker_threads'
import type { Answer, Task } from './hashing.js'

parentPort?.on('message', ({ id, bytes, piece }: Task) => {
  const sha256: string[] = []
  for (let from = 0; from === 0 || from < bytes.byteLength; from += piece)
    sha256.push(
      createHash('sha256')
        .update(bytes.subarray(from, from + piece))
        .digest('hex'),
    )
  const answer: Answer = { id, bytes, sha256 }
  parentPort?.postMessage(answer, [bytes.buffer])
})
