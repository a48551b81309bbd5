/** What is said on a machine whose driver is too old, shows no GPU, or has lost it: with a driver of our own, which answers the first questions only. */
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { pipe, root, temporary } from '../helpers.js'

/** As libcuda.so.1 as the CUDA runtime needs it to ask for the version and to start; CUDA's numbers for results come from the environment. */
const driver = `
#include <stdlib.h>
#include <string.h>
static int number(const char* name, int otherwise) { const char* text = getenv(name); return text ? atoi(text) : otherwise; }
int cuInit(unsigned flags) { (void)flags; return number("FAKE_INIT", 0); }
int cuDriverGetVersion(int* version) { *version = number("FAKE_VERSION", 13000); return 0; }
static int nothing(void) { return 0; }
int cuGetExportTable(const void** table, const void* id) { (void)id; *table = 0; return 500; }
int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags, void* status);
int cuGetProcAddress(const char* name, void** function, int version, unsigned long long flags) { return cuGetProcAddress_v2(name, function, version, flags, 0); }
int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long long flags, void* status) {
  (void)version, (void)flags;
  *function = !strcmp(name, "cuInit") ? (void*)cuInit : !strcmp(name, "cuDriverGetVersion") ? (void*)cuDriverGetVersion
    : !strcmp(name, "cuGetExportTable") ? (void*)cuGetExportTable : !strcmp(name, "cuGetProcAddress") ? (void*)cuGetProcAddress_v2 : (void*)nothing;
  if (status) *(int*)status = 0;
  return 0;
}
`

const folder = temporary(t)
writeFileSync(join(folder, 'driver.c'), driver)
const compiled = spawnSync('cc', ['-shared', '-fPIC', '-w', '-o', join(folder, 'libcuda.so.1'), join(folder, 'driver.c')])
const skip = !existsSync(join(root, 'build/Release/cuda.node')) ? 'cuda.node is not built' : compiled.status !== 0 ? 'no C compiler' : false

/** The sentences of --device cuda:0, and why --device auto takes the CPU. */
function opened(env: Record<string, string>): { cuda: string; auto: { isa: string; noGpu: string } } {
  const script = `
    import { openBackend } from '${join(root, 'dist/native/index.js')}'
    const cuda = await openBackend('cuda:0').then(() => 'opened', error => error.message)
    console.log(JSON.stringify({ cuda, auto: (await openBackend('auto')).device.info() }))`
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env: { ...process.env, LD_LIBRARY_PATH: folder, ...env },
  })
  if (stdout === '') throw new Error(stderr)
  return JSON.parse(stdout)
}
const end = '\n  --device cpu does without; pipe doctor says more.'

t.test('a driver that is too old', { skip }, async t => {
  const { cuda, auto } = opened({ FAKE_VERSION: '11080' })
  t.match(
    cuda,
    /^cuda:0 cannot be used: the NVIDIA driver is too old: it serves CUDA 11\.8, and 1\d\.0 is needed\. Install a newer driver, or build with an older CUDA toolkit \(12\.0 or newer\)\.\n/,
  )
  t.ok(cuda.endsWith(end))
  t.match(auto.noGpu, /^cuda\.node is built, but the NVIDIA driver is too old: it serves CUDA 11\.8/)
  t.match(auto.isa, /portable|avx/)
})

t.test('a driver that shows no GPU', { skip }, async t => {
  const { cuda } = opened({ FAKE_INIT: '100', CUDA_VISIBLE_DEVICES: '' })
  t.equal(cuda, `cuda:0 cannot be used: the NVIDIA driver shows no GPU, with CUDA_VISIBLE_DEVICES="".${end}`)
})

t.test('a GPU that was lost, one that another program has for itself, a driver half updated', { skip }, async t => {
  t.match(opened({ FAKE_INIT: '214' }).cuda, /^cuda:0 cannot be used: the GPU was lost \(.*ECC.*\)\. nvidia-smi and the kernel's log/)
  t.match(
    opened({ FAKE_INIT: '46' }).cuda,
    /^cuda:0 cannot be used: the GPU is busy or was lost \(.*\)\. nvidia-smi tells whether another program/,
  )
  t.match(
    opened({ FAKE_INIT: '803' }).cuda,
    /^cuda:0 cannot be used: the NVIDIA driver's library and its kernel module are of different versions/,
  )
})

t.test('pipe doctor tells of it, and goes on', { skip }, async t => {
  const { code, stdout } = await pipe(['doctor'], { env: { LD_LIBRARY_PATH: folder, FAKE_VERSION: '11080' } })
  t.equal(code, 0)
  t.match(
    stdout,
    /\n✗ {2}NVIDIA driver {2}.*serves CUDA 11\.8\n +The NVIDIA driver is too old: [\s\S]*\nOps run on cpu unless --device says otherwise\.\n$/,
  )
})
