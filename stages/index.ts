/** The built-in stages by name, in pipeline order: the table of contents. Imported when used. */
import type { AnyStage } from '../pipeline/define.js'

export const stages: Readonly<Record<string, () => Promise<{ default: AnyStage }>>> = {
  model: () => import('./model/model.js'),
  calibrate: () => import('./calibrate/calibrate.js'),
  hessian: () => import('./hessian/hessian.js'),
  'hessian-files': () => import('./hessian-files/hessian-files.js'),
  allocate: () => import('./allocate/allocate.js'),
  rht: () => import('./rht/rht.js'),
  round: () => import('./round/round.js'),
  finetune: () => import('./finetune/finetune.js'),
  distill: () => import('./distill/distill.js'),
  pack: () => import('./pack/pack.js'),
  write: () => import('./write/write.js'),
  checkpoint: () => import('./checkpoint/checkpoint.js'),
  evaluate: () => import('./evaluate/evaluate.js'),
  tasks: () => import('./tasks/tasks.js'),
}
