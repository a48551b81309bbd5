/** pipe doctor: what this machine has, and what each missing piece would bring. */
import { existsSync, readFileSync, statfsSync, statSync } from 'node:fs'
import { totalmem } from 'node:os'
import { hostFreeBytes } from '../device.js'
import { type Check, diagnose, type Facts } from '../doctor.js'
import { PipeError } from '../error.js'
import { table, wrap } from '../text.js'
import { examples, type Register, type Wiring } from './wiring.js'

const marks = { ok: '✓', missing: '–', wrong: '✗' } as const

export const register: Register = (program, wiring) => {
  program
    .command('doctor')
    .description('What this machine has: addons, instruction sets, GPUs, libraries, memory, disk; and what each missing piece would bring.')
    .option('--json', 'the same as JSON')
    .addHelpText(
      'after',
      examples(['Exit code 1 if pipe cannot run here', 'pipe doctor'], ['For a report of a mistake', 'pipe doctor --json > doctor.json']),
    )
    .action(async (o: { json?: true }) => {
      const facts = await factsOf(wiring)
      const { checks, device } = diagnose(facts)
      const text = device === undefined ? 'Ops can run nowhere on this machine.' : `Ops run on ${device} unless --device says otherwise.`
      if (o.json) wiring.print(`${JSON.stringify({ version: wiring.version, device: device ?? null, checks, ...facts })}\n`)
      else wiring.print(`pipe ${wiring.version}\n\n${drawn(checks).join('\n')}\n\n${text}\n`)
      if (device === undefined) throw new PipeError('input', { message: 'pipe cannot run here: see the lines marked ✗.' })
    })
}

async function factsOf(wiring: Wiring): Promise<Facts> {
  const { engines } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { engines: { node: string } }
  const driver = existsSync('/proc/driver/nvidia/version') ? readFileSync('/proc/driver/nvidia/version', 'utf8') : ''
  const release = /Kernel Module\D*([\d.]+)/.exec(driver)?.[1]
  const names = ['PIPE_ISA', 'PIPE_THREADS', 'PIPE_OPENBLAS', 'PIPE_CUDA_LIBS', 'CUDA_VISIBLE_DEVICES']
  return {
    machine: await wiring.surveyMachine(),
    node: process.versions.node,
    nodeNeeded: Number(/\d+/.exec(engines.node)?.[0]),
    ...(release === undefined ? {} : { driverRelease: release }),
    environment: Object.fromEntries(names.filter(name => process.env[name] !== undefined).map(name => [name, process.env[name]])),
    memory: { freeBytes: await hostFreeBytes(), totalBytes: totalmem() },
    disks: folders().map(diskOf),
  }
}

/** Where runs write by default; the outputs' folder by itself where it is on another disk. */
const folders = (): string[] => (existsSync('out') && statSync('out').dev !== statSync('.').dev ? ['.', 'out'] : ['.'])

function diskOf(folder: string): Facts['disks'][number] {
  const path = folder === '.' ? 'this folder' : folder
  try {
    const { bavail, bsize } = statfsSync(folder)
    return { path, freeBytes: bavail * bsize }
  } catch {
    return { path }
  }
}

/** A line a piece, its advice below it. */
function drawn(checks: readonly Check[]): string[] {
  const width = 96
  return table(
    [],
    checks.flatMap(({ name, state, found, advice }) => {
      const [first = '', ...more] = [...wrap(found.split(' '), width), ...wrap((advice ?? '').split(' '), width)].filter(
        line => line !== '',
      )
      return [[marks[state], name, first], ...more.map(line => ['', '', line])]
    }),
  )
}
