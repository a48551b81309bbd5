/** checkpoint: a model written to disk; metrics, taskScores: what was measured on it. */
import { defineTable, f64, i64, utf8 } from '../../pipeline/define.js'

export const checkpoint = defineTable('checkpoint', 1, {
  source: utf8('folder of the original checkpoint'),
  path: utf8('folder of the quantized checkpoint, relative to the run folder'),
  sha256: utf8('hash of the written files, in order of name'),
  bitsPerWeight: f64('bits stored for the quantized linears, signs, scales and tables included, over their weights'),
  bytesOriginal: i64('bytes of the original tensors'),
  bytesQuantized: i64('bytes of the written tensors'),
  proxyErrorMean: f64('mean of the linears'),
  proxyErrorMax: f64('worst of the linears'),
  proxyErrorByLinear: utf8('JSON: linear → proxy error'),
})

export const metrics = checkpoint.and({
  perplexityOriginal: f64('exp of the mean negative log-likelihood of the next token, original model'),
  perplexityQuantized: f64('the same of the quantized model'),
  kl: f64('mean over tokens of KL(original ‖ quantized), nats'),
  klMedian: f64('median of the same'),
  kl90: f64('90th percentile of the same'),
  kl99: f64('99th percentile of the same'),
  agreement: f64('share of tokens where both models find the same token the most likely'),
  tokens: i64('predictions measured'),
})

export const taskScores = checkpoint.and({
  tasks: utf8('JSON: task → original and quantized → items, and acc, accNorm, perplexity with their standard errors'),
})
