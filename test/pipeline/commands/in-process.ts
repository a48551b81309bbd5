/** Commands as people type them, but for the process, whose start is a second of CPU time. One test a command starts a real one. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { commands } from '../../../pipeline/commands/index.js'
import type { Wiring } from '../../../pipeline/commands/wiring.js'
import { runCommand } from '../../../pipeline/program.js'
import { stages } from '../../../stages/index.js'
import { root } from '../../helpers.js'

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

/** Runs `pipe` with these arguments, on the CPU unless they say otherwise, one command at a time. */
export async function pipe(
  args: readonly string[],
  o: { cwd?: string; signal?: AbortSignal; stderr?: Wiring['stderr'] } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  let stdout = ''
  let stderr = ''
  const wiring: Wiring = {
    version,
    stages,
    openBackend: async device => (await import('../../../native/index.js')).openBackend(device === 'auto' ? 'cpu' : device),
    surveyMachine: async () => (await import('../../../native/machine.js')).surveyMachine(),
    versions: async () => {
      const { codebooks } = await import('../../../native/codebooks/index.js')
      return use => codebooks[use]?.version
    },
    print: text => {
      stdout += text
    },
    stderr: o.stderr ?? {
      write: text => {
        stderr += text
      },
    },
    color: false,
    signal: o.signal ?? new AbortController().signal,
  }
  process.chdir(o.cwd ?? root)
  const code = await runCommand(args, commands, wiring)
  process.chdir(root)
  return { code, stdout, stderr }
}
