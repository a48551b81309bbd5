/**
 * The way back through blocks: all gradients of a model against PyTorch's, of every family against differences of a forward
 * pass in float64, and of a quantized linear against differences of its definition.
 */
import { join } from 'node:path'
import t from 'tap'
import { codebookOf } from '../../../native/codebooks/settings.js'
import { trellisCodes } from '../../../native/codebooks/trellis/codes.js'
import { kernelOrder } from '../../../native/codebooks/trellis/kernel-layout.js'
import { gemmReference } from '../../../native/ops/gemm/reference.js'
import { hadamardFactor } from '../../../native/ops/hadamard/hadamard.js'
import { hadamardReference } from '../../../native/ops/hadamard/reference.js'
import type { Tensor } from '../../../native/tensor.js'
import { backwardBlock, forwardHeadWithTape, forwardWithTape, type Tape } from '../../../stages/model/backward.js'
import { headName } from '../../../stages/model/architecture.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { embed, forwardBlock, openBlock, Rotary } from '../../../stages/model/forward.js'
import { openWeights } from '../../../stages/model/quantized.js'
import {
  DenseLinear,
  disposeBlock,
  openTrainable,
  Parameter,
  parametersOf,
  QuantizedLinear,
  type TrainableBlock,
} from '../../../stages/model/trainable.js'
import { backends, nmse, root } from '../../helpers.js'
import { gaussian, uniform } from '../../native/devices.js'
import { numbers, readAll } from '../safetensors-reader.js'
import { blockReference, type Place } from './block-reference.js'

const floats = async (x: { read(): Promise<Uint8Array> }): Promise<Float32Array> => new Float32Array((await x.read()).slice().buffer)
const folderOf = (family: string) => join(root, 'fixtures/hf-reference', family)

/** H [n, n] of blocks of this order along the diagonal; its columns are the rows of Hᵀ. */
const hadamardMatrix = (n: number, block: number): Float64Array => {
  const H = new Float64Array(n * n)
  for (let i = 0; i < n; i++) {
    const one = Float64Array.from({ length: block }, (_, j) => (j === i % block ? 1 : 0))
    H.set(hadamardReference(one, hadamardFactor(block)!.K, false), i * n + i - (i % block))
  }
  return H
}
const valuesOf = async (block: TrainableBlock): Promise<Map<string, Float64Array>> =>
  new Map(await Promise.all(parametersOf(block).map(async ({ name, value }) => [name, Float64Array.from(await floats(value))] as const)))

const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

for (const { name: backend, skip, open } of backends) {
  // Mixed precision: operands of every product have 8 bits, so a gradient is that far off, whichever way it is computed.
  for (const [precision, allowed] of [
    ['f32', 1e-4],
    ['bf16', 5e-2],
  ] as const)
    t.test(`${backend}, ${precision}: every gradient of llama-gqa is PyTorch's`, { skip }, async t => {
      const ops = await open()
      const { tensors } = readAll(join(folderOf('llama-gqa'), 'gradients.safetensors'))
      const [sequences, length] = tensors.get('input_ids')!.shape as [number, number]
      const bytes = tensors.get('input_ids')!.bytes
      const ids = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
      const checkpoint = await openCheckpoint(folderOf('llama-gqa'))
      const { config } = checkpoint
      {
        using weights = await openWeights(ops, checkpoint)
        using rotary = new Rotary(ops, config)
        const layers = Array.from({ length: config.sizes.layers }, (_, layer) => layer)
        const blocks = await Promise.all(layers.map(layer => openTrainable(ops, config, layer, name => weights.open(name))))
        const [norm, matrix] = [config.architecture.norm, headName(config.architecture, config.tied)]
        const [weight, rows] = await Promise.all(
          [norm, matrix].map(async name => Parameter.of(ops, `${name}.weight`, await weights.open(`${name}.weight`))),
        )
        const head: TrainableBlock = { norms: new Map([[norm, weight!]]), linears: new Map([[matrix, new DenseLinear(ops, rows!)]]) }
        const tapes: Tape[] = []
        let [x] = (await embed(ops, weights, [ids])) as [Tensor]
        for (const [layer, block] of blocks.entries()) {
          const { out, tape } = forwardWithTape(ops, config, layer, block, x, rotary.of(length), precision)
          tapes.push(tape)
          x = out
        }
        const { out: logits, tape } = forwardHeadWithTape(ops, config, head, x, precision)
        const targets = ids.map((_, i) => ((i + 1) % length === 0 ? -1 : ids[i + 1]!))
        using labels = ops.tensor(targets, [targets.length])
        const count = sequences * (length - 1)
        const { loss, gradient } = ops.crossEntropyGradient(logits, labels, { factor: 1 / count })
        logits[Symbol.dispose]()
        {
          using losses = loss
          const mean = (await floats(losses)).reduce((sum, z) => sum + z, 0) / count
          const expected = numbers(tensors.get('loss')!)[0]!
          t.ok(Math.abs(mean - expected) <= (allowed / 100) * expected, `loss ${mean}, expected ${expected}`)
        }
        let dx = backwardBlock(ops, tape, gradient)
        for (const tape of tapes.reverse()) dx = backwardBlock(ops, tape, dx)

        const found = new Map<string, ArrayLike<number>>()
        for (const block of [...blocks, head]) {
          for (const { name, gradient } of parametersOf(block)) found.set(name, await floats(gradient))
          disposeBlock(block)
        }
        // A row of the embedding gets the gradients of the tokens that read it.
        const { d, vocab } = config.sizes
        const embedding = new Float64Array(vocab * d)
        const byToken = await floats(dx)
        for (const [i, g] of byToken.entries()) embedding[ids[Math.floor(i / d)]! * d + (i % d)]! += g
        found.set(`${config.architecture.embed}.weight`, embedding)
        dx[Symbol.dispose]()

        const expected = [...tensors].filter(([name]) => name.startsWith('grad.'))
        t.strictSame([...found.keys()].sort(), expected.map(([name]) => name.slice(5)).sort(), 'every parameter has a gradient')
        let worst = 0
        for (const [name, tensor] of expected) {
          const error = Math.sqrt(nmse(found.get(name.slice(5)) ?? [], numbers(tensor)))
          t.ok(error <= allowed, `${name}: relative error ${error.toExponential(2)}, allowed ${allowed}`)
          worst = Math.max(worst, error)
        }
        t.comment(`${precision}: the worst of the relative errors is ${worst.toExponential(2)}`)
      }
      await ops.finish()
      t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
    })

  for (const [family, layer] of [
    ['mistral-window', 0],
    ['qwen2-bias', 1],
    ['qwen3-qknorm', 0],
  ] as const) {
    t.test(`${backend}: a block of ${family} against differences`, { skip }, async t => {
      const ops = await open()
      const checkpoint = await openCheckpoint(folderOf(family))
      const { config } = checkpoint
      const [sequences, length] = [1, 20] // longer than mistral's window
      const { d } = config.sizes
      const [x0, dOut] = [gaussian(sequences * length * d, 1), gaussian(sequences * length * d, 2)]
      {
        using weights = await openWeights(ops, checkpoint)
        using rotary = new Rotary(ops, config)
        const positions = rotary.of(length)
        const block = await openTrainable(ops, config, layer, name => weights.open(name))
        const { out, tape } = forwardWithTape(ops, config, layer, block, ops.tensor(x0, [sequences * length, d]), positions)
        {
          using dense = await openBlock(ops, weights, layer)
          using same = forwardBlock(ops, config, layer, dense, ops.tensor(x0, [sequences * length, d]), positions)
          t.strictSame(await floats(out), await floats(same), 'the forward pass with a tape is the one without')
          out[Symbol.dispose]()
        }
        // Twice, with half of the gradient each time: gradients are added up.
        using half = ops.tensor(dOut, [sequences * length, d])
        const again = forwardWithTape(ops, config, layer, block, ops.tensor(x0, [sequences * length, d]), positions)
        again.out[Symbol.dispose]()
        using first = backwardBlock(ops, tape, ops.scale(half, { factor: 0.5 }))
        using second = backwardBlock(ops, again.tape, ops.scale(half, { factor: 0.5 }))
        using dx = ops.add(first, second)

        const place: Place = { config, layer, sequences, length, cos: await floats(positions.cos), sin: await floats(positions.sin) }
        const known = await valuesOf(block)
        const given = new Map<string, { value: Float64Array; gradient: Float32Array }>([
          ['x', { value: Float64Array.from(x0), gradient: await floats(dx) }],
        ])
        for (const { name, gradient } of parametersOf(block)) given.set(name, { value: known.get(name)!, gradient: await floats(gradient) })
        for (const [name, { value, gradient }] of given) {
          // Along the gradient itself and a random direction at once: the first sees its size, the second what it misses.
          const unit = (z: ArrayLike<number>) => {
            const size = Math.sqrt(dot(z, z))
            return Float64Array.from(z, c => c / size)
          }
          const other = unit(gaussian(value.length, 3))
          const along = unit(gradient).map((c, i) => c + other[i]!)
          const at = (h: number) => {
            const moved = value.map((z, i) => z + h * along[i]!)
            const inputs = new Map([...known, [name, moved] as const])
            return dot(blockReference(place, inputs, name === 'x' ? moved : x0), dOut)
          }
          const slope = (at(1e-4) - at(-1e-4)) / 2e-4
          const error = Math.abs(slope - dot(along, gradient)) / Math.sqrt(dot(gradient, gradient))
          t.ok(error <= 2e-5, `${name}: ${error.toExponential(2)} of its size`)
        }
        disposeBlock(block)
      }
      await ops.finish()
      t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
    })
  }

  t.test(`${backend}: a quantized linear against differences: x, SU, SV, bias, table`, { skip }, async t => {
    const ops = await open()
    for (const { order, transform } of [
      { order: 'rows', transform: { m: 24, n: 40 } }, // both of order K·2ᵖ with K > 1, and no whole tiles
      { order: 'tensor-core', transform: { m: 8, n: 20 } },
    ]) {
      const [m, n, rows, scale] = [24, 40, 3, 0.3]
      const [L, Q, V] = [12, 4, 2]
      const settings = { use: 'trellis/hyb', L, K: 2, Q, order }
      const { codebook, params } = codebookOf(settings)
      using codec = codebook.open(ops, params)
      const training = codec.training
      if (training === undefined) throw new Error('HYB has a table')
      const next = uniform(1)
      const codes = Uint16Array.from({ length: 6 * 128 }, () => Math.floor(next() * 2 ** L))
      const values = {
        x: gaussian(rows * n, 2),
        SU: gaussian(n, 3),
        SV: gaussian(m, 4),
        bias: gaussian(m, 5),
        tlut: gaussian(2 ** Q * V, 6),
      }
      const dy = gaussian(rows * m, 7)
      const parameter = (name: keyof typeof values, shape: number[]) => Parameter.of(ops, name, ops.tensor(values[name], shape))
      using table = parameter('tlut', [2 ** Q, V])
      const parts = () => ({
        su: parameter('SU', [n]),
        sv: parameter('SV', [m]),
        bias: parameter('bias', [m]),
        scale,
        transform,
        codes: ops.tensor(codes, [6, 128]),
      })
      using linear = new QuantizedLinear(ops, { ...parts(), decode: { table, training } })
      using fixed = new QuantizedLinear(ops, { ...parts(), decode: coded => training.decode(coded, m, n, table.value) })
      const lookup = trellisCodes.hyb!.table!({ L, Q, V })

      const [Hm, Hn] = [hadamardMatrix(m, transform.m), hadamardMatrix(n, transform.n)]
      /** y = x·diag(SU)·Mᵀ·diag(SV) + b, M = scale·H_m·Ŵ·H_nᵀ. */
      const forward = (at: Record<keyof typeof values, ArrayLike<number>>): Float64Array => {
        const W = new Float64Array(m * n)
        for (let e = 0; e < m * n; e++) {
          const [i, j] = [Math.floor(e / n), e % n]
          const [tile, p] = [Math.floor(i / 16) * 3 + Math.floor(j / 16), (i % 16) * 16 + (j % 16)]
          const place = order === 'rows' ? p : kernelOrder.indexOf(p)
          const index = lookup.index(codes[tile * 128 + Math.floor(place / V)]!)
          W[e] = (index >= 65536 && place % V === 0 ? -1 : 1) * at.tlut[(index & 0xffff) * V + (place % V)]!
        }
        const right = gemmReference(W, Hn, m, n, n, { lda: n, ldb: n, transposeB: true, alpha: scale })
        const M = gemmReference(Hm, right, m, n, m, { lda: m, ldb: n })
        const scaled = Float64Array.from(at.x, (value, i) => value * at.SU[i % n]!)
        const u = gemmReference(scaled, M, rows, m, n, { lda: n, ldb: n, transposeB: true })
        return u.map((value, i) => value * at.SV[i % m]! + at.bias[i % m]!)
      }
      const base = dot(forward(values), dy)
      using x = ops.tensor(values.x, [rows, n])
      using slope = ops.tensor(dy, [rows, m])
      for (const [label, through] of Object.entries({ linear, fixed })) {
        const { y, kept } = through.forward(x)
        using out = y
        t.ok(nmse(await floats(out), forward(values)) < 1e-11, `${order}, ${label}: y`)
        using dx = through.backward(slope, x, kept)
        for (const tensor of kept) tensor[Symbol.dispose]()
        const found = new Map<string, Float32Array>([['x', await floats(dx)]])
        for (const [name, { gradient }] of through.parameters) found.set(name, await floats(gradient))
        t.strictSame([...found.keys()], ['x', 'SU', 'SV', 'bias', ...(label === 'linear' ? ['tlut'] : [])], `${label}: what is trained`)
        for (const [name, gradient] of found) {
          const key = name as keyof typeof values
          // y is linear in each of them: differences are exact whatever the step.
          const expected = Float64Array.from(values[key], (_, i) => {
            const moved = Float64Array.from(values[key], (z, l) => (l === i ? z + 1 : z))
            return dot(forward({ ...values, [key]: moved }), dy) - base
          })
          t.ok(nmse(gradient, expected) < 1e-11, `${order}, ${label}: ${name}, NMSE ${nmse(gradient, expected)}`)
        }
      }
    }
    await ops.finish()
    t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
  })
}
