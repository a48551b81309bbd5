/**
 * TAP in, sentences out. Counts assertions (test points that are no subtest's summary), names what was skipped, shows
 * failures with file and place, and ends with the line `N passed, N failed, N skipped`.
 *
 * A file that crashes, times out, breaks its plan or holds no test point is a failure. A todo counts as skipped.
 */
import { Parser, type Result } from 'tap-parser'

interface Counts {
  passed: number
  failed: number
  skipped: number
}

export class Reporter {
  readonly parser = new Parser()
  readonly counts: Counts = { passed: 0, failed: 0, skipped: 0 }
  readonly #files: { name: string; seconds: number }[] = []
  readonly #skipped: string[] = []
  readonly #failures: string[] = []
  #file: { name: string; parser: Parser; before: Counts } | undefined

  constructor(private readonly write: (line: string) => void) {
    this.parser.on('child', parser => {
      this.#close()
      this.#file = { name: parser.name, parser, before: { ...this.counts } }
    })
    this.parser.on('pass', () => {
      this.counts.passed += 1
    })
    this.parser.on('fail', (result: Result) => this.#fail(result.fullname, explain(result.diag)))
    this.parser.on('todo', (result: Result) => this.#skip(result, result.todo === true ? 'to do' : `to do: ${result.todo}`))
    this.parser.on('skip', (result: Result) => {
      if (result.skip === 'no tests found') this.#fail(result.fullname, 'holds no test')
      else this.#skip(result, result.skip === true ? '' : `${result.skip}`)
    })
    this.parser.on('assert', (result: Result) => {
      this.#files.push({ name: result.name, seconds: (result.time ?? 0) / 1000 })
    })
    this.parser.on('bailout', (reason: string) => this.#fail(this.#file?.name ?? '', `bailed out: ${reason}`))
  }

  /** Prints the summary, once the parser has completed. True when nothing failed. */
  end(): boolean {
    this.#close()
    const ran = this.parser.results?.ok === true && this.#files.length > 0
    if (!ran && this.counts.failed === 0) this.#fail('the whole run', 'ended before its tests')
    const slowest = [...this.#files].sort((a, b) => b.seconds - a.seconds).slice(0, 10)
    this.write('\nslowest files')
    for (const { name, seconds } of slowest) this.write(`${seconds.toFixed(1).padStart(7)} s  ${name}`)
    if (this.#skipped.length > 0) this.write(`\nskipped\n  ${this.#skipped.join('\n  ')}`)
    if (this.#failures.length > 0) this.write(`\nfailed\n${this.#failures.join('\n')}`)
    const { passed, failed, skipped } = this.counts
    this.write(`\n${passed} passed, ${failed} failed, ${skipped} skipped`)
    return failed === 0
  }

  /** The file before is over: a failure of its own (a plan that was not kept, say) may have had no test point. */
  #close(): void {
    if (this.#file === undefined) return
    const { name, parser, before } = this.#file
    const failed = this.counts.failed - before.failed
    if (failed === 0 && parser.results?.ok === false) {
      const reasons = parser.failures.map(failure => `${failure.tapError ?? ''}`).filter(text => text !== '')
      this.#fail(name, reasons.join('\n') || 'failed without a failing test point')
    }
    const counts = [`${this.counts.passed - before.passed} passed`]
    if (this.counts.failed > before.failed) counts.push(`${this.counts.failed - before.failed} FAILED`)
    if (this.counts.skipped > before.skipped) counts.push(`${this.counts.skipped - before.skipped} skipped`)
    const seconds = this.#files.at(-1)?.seconds ?? 0
    this.write(`${seconds.toFixed(1).padStart(7)} s  ${name}  ${counts.join(', ')}`)
    this.#file = undefined
  }

  #fail(fullname: string, text: string): void {
    this.counts.failed += 1
    this.#failures.push(`  ${fullname}\n${text.trimEnd().replace(/^/gm, '      ')}\n`)
  }

  #skip(result: Result, reason: string): void {
    this.counts.skipped += 1
    this.#skipped.push(reason === '' ? result.fullname : `${result.fullname} (${reason})`)
  }
}

/** What tap says about a failed assertion: the difference, else what was found; then where. */
function explain(diag: unknown): string {
  if (typeof diag !== 'object' || diag === null) return ''
  const said = diag as Readonly<Record<string, unknown>>
  const lines: string[] = []
  if (said.diff !== undefined) lines.push(`${said.diff}`)
  else for (const key of ['found', 'wanted', 'doNotWant']) if (key in said) lines.push(`${key}: ${JSON.stringify(said[key]).slice(0, 600)}`)
  for (const key of ['message', 'error', 'code', 'exitCode', 'signal', 'timeout']) if (said[key] != null) lines.push(`${key}: ${said[key]}`)
  if (said.source !== undefined) lines.push(`${said.source}`)
  if (said.stack !== undefined) lines.push(`${said.stack}`)
  return lines.join('\n')
}
