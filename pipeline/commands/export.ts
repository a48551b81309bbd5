/** pipe export: a quantized checkpoint in a form that other programs load. */
import { type Command, Option } from 'commander'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { type DenseType, denseTypes, writeDense } from '../../stages/model/dense.js'
import { holdsLayers, writeLayers } from '../../stages/model/qtip-layers.js'
import { openWeights } from '../../stages/model/quantized.js'
import { writeQtip } from '../../stages/model/write-qtip.js'
import { writing } from '../disk.js'
import { PipeError } from '../error.js'
import { deviceOption, examples, modelOf, openDevice, path, type Register } from './wiring.js'

interface Options {
  to: 'dense' | 'qtip-hf'
  dtype?: DenseType
  model?: string
  quipParams?: string
  out: string
  device: string
}

export const register: Register = (program: Command, wiring) => {
  deviceOption(program.command('export <dir>'))
    .description(
      'Write a checkpoint in another form: dense is what any Hugging Face program loads, with the weights that quantization left; qtip-hf is what the published QTIP program loads, with the same bits.',
    )
    .addOption(new Option('--to <form>', 'the form').choices(['dense', 'qtip-hf']).makeOptionMandatory())
    .requiredOption('--out <dir>', 'folder to write; must be new or empty', path)
    .addOption(new Option('--dtype <type>', 'dense: element type (default: that of the original model)').choices(Object.keys(denseTypes)))
    .option('--model <dir>', "qtip-hf, from the .pt files of QTIP's quantizer: the original model")
    .option('--quip-params <file>', 'and the parameters it was quantized with, as JSON: L, K, V, tlut_bits, decode_mode, td_x, td_y')
    .addHelpText(
      'after',
      examples(
        ['The quantized model for any other program', 'pipe export out/qtip-2bit/model --to dense --out Llama-3.2-1B-2bit'],
        ['A published QTIP checkpoint, decoded', 'pipe export Llama-2-7b-QTIP-2Bit --to dense --out Llama-2-7b-2bit'],
        [
          'For the published program; rounded with --set round.codebook.order=tensor-core',
          'pipe export out/qtip-2bit --to qtip-hf --out hf',
        ],
        [
          "What QTIP's quantizer left, a .pt file for each linear, as a checkpoint",
          'pipe export quantized --model Llama-2-7b-hf --quip-params params.json --to qtip-hf --out hf',
        ],
      ),
    )
    .action(async (dir: string, o: Options) => {
      const say = ({ files, bytes }: { files: readonly string[]; bytes: number }): void =>
        wiring.print(`${o.out}: ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB of tensors\n`)
      if (await holdsLayers(dir)) {
        if (o.model === undefined || o.quipParams === undefined || o.to !== 'qtip-hf')
          throw new PipeError('input', {
            where: dir,
            message: "holds the .pt files of QTIP's quantizer, a linear each.",
            hint: 'Make a checkpoint of them with --to qtip-hf --model DIR --quip-params FILE; that can be measured, or exported to dense.',
          })
        const [model, params] = [await openCheckpoint(o.model), o.quipParams]
        return say(await whole(o.out, () => writeLayers(dir, model, params, o.out)))
      }
      const checkpoint = await openCheckpoint(await modelOf(dir))
      if (o.to === 'qtip-hf') {
        if (o.dtype !== undefined)
          throw new PipeError('input', {
            message: `--dtype ${o.dtype} has no meaning with --to qtip-hf: bits are bits.`,
            hint: 'Leave it out.',
          })
        return say(await whole(o.out, () => writeQtip(checkpoint, o.out, { signal: wiring.signal })))
      }
      const ops = await openDevice(wiring, o.device)
      using weights = await openWeights(ops, checkpoint)
      const { dtype: type, out } = o
      const { files, bytes, dtype } = await whole(out, () => writeDense(ops, weights, out, { dtype: type, signal: wiring.signal }))
      wiring.print(`${o.out}: ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB of ${dtype} tensors\n`)
    })
}

/** All of it is written, or none. */
const whole = <T>(out: string, write: () => Promise<T>): Promise<T> =>
  writing('the checkpoint', out, write, 'Nothing is left half made; give the same command again.')
