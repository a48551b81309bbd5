/** pipe export: a quantized checkpoint as a plain one. */
import { type Command, Option } from 'commander'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { type DenseType, denseTypes, writeDense } from '../../stages/model/dense.js'
import { openWeights } from '../../stages/model/quantized.js'
import { examples, type Register } from './wiring.js'

interface Options {
  to: 'dense'
  dtype?: DenseType
  out: string
  device: string
}

export const register: Register = (program: Command, wiring) => {
  program
    .command('export <dir>')
    .description(
      'Write a checkpoint in another form: dense is what any Hugging Face program loads, with the weights that quantization left.',
    )
    .addOption(new Option('--to <form>', 'the form').choices(['dense']).makeOptionMandatory())
    .requiredOption('--out <dir>', 'folder to write; must be new or empty')
    .addOption(new Option('--dtype <type>', 'element type (default: that of the original model)').choices(Object.keys(denseTypes)))
    .option('--device <name>', 'where ops run', 'cpu')
    .addHelpText(
      'after',
      examples(['The quantized model for any other program', 'pipe export out/qtip-2bit/model --to dense --out Llama-3.2-1B-2bit']),
    )
    .action(async (dir: string, o: Options) => {
      const checkpoint = await openCheckpoint(dir)
      const ops = await wiring.openBackend(o.device)
      using weights = await openWeights(ops, checkpoint)
      const { files, bytes, dtype } = await writeDense(ops, weights, o.out, { dtype: o.dtype, signal: wiring.signal })
      wiring.print(`${o.out}: ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB of ${dtype} tensors\n`)
    })
}
