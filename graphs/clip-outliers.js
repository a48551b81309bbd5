import { defineStage, each, Type } from 'pipe'
import { linears } from 'pipe/tables'

const sigma = Type.Number({ default: 6, exclusiveMinimum: 0, description: 'Weights beyond sigma times their rms are clipped' })

export default defineStage({
  name: 'clip-outliers', version: 1, about: 'Clip weights far from the rest.',
  params: Type.Object({ sigma }), input: linears, output: linears,
  operator: ({ sigma }, { ops }) => each({ role: 'linear' }, async row => {
    const w = await row.weight.open(ops, 'f32')
    const x = new Float32Array((await w.read()).buffer)
    w[Symbol.dispose]()
    const limit = sigma * Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length)
    return { ...row, weight: ops.tensor(x.map(v => Math.max(-limit, Math.min(limit, v))), w.shape) }
  }),
})
