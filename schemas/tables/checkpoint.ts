/** checkpoint: a model written to disk; metrics, taskScores: what was measured on it. */
import { defineTable, f64, i64, optional, utf8 } from '../../pipeline/define.js'

export const checkpoint = defineTable('checkpoint', 2, {
  source: optional(utf8('folder of the original checkpoint; none: it is not compared with any')),
  path: utf8('folder of the checkpoint, absolute or relative to the run folder'),
  weights: i64('weights of its linears'),
  bitsPerWeight: f64('bits stored for the quantized linears, signs, scales and tables included, over their weights; dense: of all linears'),
  bytesOriginal: optional(i64('bytes of the original tensors')),
  bytesQuantized: i64('bytes of its tensors'),
  proxyErrorMean: optional(f64('mean of the linears, where this run rounded them')),
  proxyErrorMax: optional(f64('worst of the linears')),
  proxyErrorByLinear: optional(utf8('JSON: linear → proxy error')),
})

/** One that a run has made of another. */
export const written = checkpoint.and({
  source: utf8('folder of the original checkpoint'),
  bytesOriginal: i64('bytes of the original tensors'),
  sha256: utf8('hash of the written files, in order of name'),
  proxyErrorMean: f64('mean of the linears'),
  proxyErrorMax: f64('worst of the linears'),
  proxyErrorByLinear: utf8('JSON: linear → proxy error'),
})

export const metrics = checkpoint.and({
  perplexityOriginal: optional(f64('exp of the mean negative log-likelihood of the next token, original model')),
  perplexityQuantized: f64('the same of the model measured'),
  kl: optional(f64('mean over tokens of KL(original ‖ quantized), nats')),
  klMedian: optional(f64('median of the same')),
  kl90: optional(f64('90th percentile of the same')),
  kl99: optional(f64('99th percentile of the same')),
  agreement: optional(f64('share of tokens where both models find the same token the most likely')),
  tokens: i64('predictions measured'),
  speedOriginal: optional(f64('tokens a second that the original makes of one text; none: it is large, or there is none')),
  speedQuantized: optional(f64('the same of the model measured')),
})

export const taskScores = checkpoint.and({
  tasks: utf8('JSON: task → original (if there is one) and quantized → items, and acc, accNorm, perplexity with their standard errors'),
})
