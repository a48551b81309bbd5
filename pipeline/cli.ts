#!/usr/bin/env node
/** argv → command. The one place that opens a backend and knows the built-in stages, and the only one that ends the process. */
import { readFileSync } from 'node:fs'
import { Command } from 'commander'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const program = new Command('pipe')
  .description('Quantize the weights of Hugging Face language models to 1-4 bits.')
  .version(version)
await program.parseAsync()
