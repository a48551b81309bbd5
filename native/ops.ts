/**
 * The whole list of verbs. Every op checks its arguments in TypeScript, enqueues, and returns its result's tensor at once.
 * A new op is a folder in native/ops, a line here, a line in binding.cc and one in CMakeLists.txt.
 */
import type { Device } from './device.js'
import { adam } from './ops/adam/adam.js'
import { addBias } from './ops/add-bias/add-bias.js'
import { add } from './ops/add/add.js'
import { attentionBackward } from './ops/attention-backward/attention-backward.js'
import { assign } from './ops/assign/assign.js'
import { advance } from './ops/advance/advance.js'
import { argmax } from './ops/argmax/argmax.js'
import { attendCache } from './ops/attend-cache/attend-cache.js'
import { attention } from './ops/attention/attention.js'
import { blockLdl } from './ops/block-ldl/block-ldl.js'
import { cast } from './ops/cast/cast.js'
import { clear } from './ops/clear/clear.js'
import { addColumnDots } from './ops/column-dots/column-dots.js'
import { concat } from './ops/concat/concat.js'
import { copy } from './ops/copy/copy.js'
import { countNonFinite } from './ops/count-non-finite/count-non-finite.js'
import { crossEntropyGradient } from './ops/cross-entropy-gradient/cross-entropy-gradient.js'
import { crossEntropy } from './ops/cross-entropy/cross-entropy.js'
import { damp } from './ops/damp/damp.js'
import { embed } from './ops/embed/embed.js'
import { gemm } from './ops/gemm/gemm.js'
import { goldenSection } from './ops/golden-section/golden-section.js'
import { gram } from './ops/gram/gram.js'
import { hadamard } from './ops/hadamard/hadamard.js'
import { keepRows } from './ops/keep-rows/keep-rows.js'
import { klDivergence } from './ops/kl-divergence/kl-divergence.js'
import { addEmbedGradient } from './ops/embed-gradient/embed-gradient.js'
import { sparseLogits } from './ops/sparse-logits/sparse-logits.js'
import { topK } from './ops/top-k/top-k.js'
import { klGradient } from './ops/kl-gradient/kl-gradient.js'
import { matmul } from './ops/matmul/matmul.js'
import { meanSquaredError } from './ops/mean-squared-error/mean-squared-error.js'
import { mirror } from './ops/mirror/mirror.js'
import { paste } from './ops/paste/paste.js'
import { proxyError } from './ops/proxy-error/proxy-error.js'
import { reshape } from './ops/reshape/reshape.js'
import { rmsnormBackward } from './ops/rmsnorm-backward/rmsnorm-backward.js'
import { rmsnorm } from './ops/rmsnorm/rmsnorm.js'
import { rope } from './ops/rope/rope.js'
import { sample } from './ops/sample/sample.js'
import { scale } from './ops/scale/scale.js'
import { siluMulBackward } from './ops/silu-mul-backward/silu-mul-backward.js'
import { siluMul } from './ops/silu-mul/silu-mul.js'
import { sumSquares } from './ops/sum-squares/sum-squares.js'
import { addTableGradient } from './ops/table-gradient/table-gradient.js'
import { tensor } from './ops/tensor/tensor.js'
import { transpose } from './ops/transpose/transpose.js'
import { zeros } from './ops/zeros/zeros.js'

export type { TypedArray, Window } from './tensor.js'

const verbs = {
  // making and moving
  tensor,
  zeros,
  reshape,
  copy,
  assign,
  paste,
  concat,
  transpose,
  cast,
  // algebra
  matmul,
  gemm,
  add,
  scale,
  sumSquares,
  goldenSection,
  countNonFinite,
  hadamard,
  gram,
  mirror,
  damp,
  blockLdl,
  proxyError,
  // transformer
  embed,
  rmsnorm,
  addBias,
  rope,
  attention,
  attendCache,
  keepRows,
  siluMul,
  crossEntropy,
  klDivergence,
  argmax,
  sample,
  advance,
  // training: gradients, and the step they are for
  rmsnormBackward,
  attentionBackward,
  siluMulBackward,
  addColumnDots,
  addTableGradient,
  meanSquaredError,
  crossEntropyGradient,
  klGradient,
  topK,
  sparseLogits,
  addEmbedGradient,
  clear,
  adam,
}

type Verbs = { readonly [K in keyof typeof verbs]: ReturnType<(typeof verbs)[K]> }

export interface Ops extends Verbs {
  readonly device: Device
  finish(): Promise<void>
}

/** The verbs on one device. */
export const opsOn = (device: Device): Ops => {
  const bound = Object.fromEntries(Object.entries(verbs).map(([name, make]) => [name, make(device)]))
  return { ...bound, device, finish: () => device.finish() } as unknown as Ops
}
