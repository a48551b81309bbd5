import type { Commands } from '../program.js'

/** In the order of the help. Loaded when asked for: all together take half a second. */
export const commands: Commands = {
  run: () => import('./run.js'),
  plan: () => import('./plan.js'),
  stages: () => import('./stages.js'),
  graph: () => import('./graph.js'),
  cache: () => import('./cache.js'),
  eval: () => import('./eval.js'),
  export: () => import('./export.js'),
  generate: () => import('./generate.js'),
  chat: () => import('./chat.js'),
  serve: () => import('./serve.js'),
  bench: () => import('./bench.js'),
  doctor: () => import('./doctor.js'),
}
