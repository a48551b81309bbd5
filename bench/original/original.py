"""The published QTIP recipe in plain PyTorch, to hold this project's results against.

`npm run bench -- original` runs it beside this project and keeps both; by itself:

    python3 bench/original/original.py --model FOLDER --quantized RUN/model --text TEXT --test TEXT --out original.json

Same model, same calibration tokens, same table of the HYB code as the run in RUN; the rest as published
(QTIP, arXiv:2406.11235): a Hessian a linear's input in f64, damped by 1 % of its mean; signs su and sv drawn for each linear;
source scale 0.9; block LDL with blocks of 16 columns; tail-biting search in two passes; each block fine-tuned after each linear
(order v, q, k, o, up, gate, down) against the outputs of the original block, with Adam, signs as real vectors.

Written for reading, not for speed. Needs torch, transformers, tokenizers and safetensors; a GPU makes it bearable.
"""

import argparse
import json
import math
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

L, V, Q, TILE = 16, 2, 9, 16
ORDER = [("self_attn.v_proj", "qkv"), ("self_attn.q_proj", "qkv"), ("self_attn.k_proj", "qkv"), ("self_attn.o_proj", "o"),
         ("mlp.up_proj", "up"), ("mlp.gate_proj", "up"), ("mlp.down_proj", "down")]
READERS = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
FOLDED_INTO_SU = ("self_attn.o_proj", "mlp.down_proj")  # the published code puts the scale of these on the input side


# Hadamard matrices: the order-K factor times Sylvester's 2^p, K the first of the published list that divides n.

FACTORS = (172, 156, 140, 124, 116, 108, 60, 52, 36, 28, 20, 12, 1)
WILLIAMSON = {
    52: ("14f2", "11f8", "1a65", "1090"),
    116: ("192ef749", "1ed1f8b7", "1465fa62", "1c650a63"),
    124: ("4e90c25c", "4e90c25c", "41d4cae0", "7e2b351f"),
    156: ("7282619053", "7898528647", "73452128b3", "46a0edc158"),
    172: ("467aecdd798", "6fc29b650fd", "7595e85ea6b", "63d260192f1"),
}


def paley(q, transposed):
    square = {i * i % q for i in range(1, q)}
    chi = lambda x: 0 if x % q == 0 else (1 if x % q in square else -1)
    return np.array([[1 if i == j else chi(j - i if transposed else i - j) for j in range(q)] for i in range(q)])


def factor(order):
    if order == 1:
        return np.ones((1, 1))
    if order in WILLIAMSON:
        c = order // 4
        rows = [[1 if bit == "1" else -1 for bit in format(int(text, 16), f"0{c}b")] for text in WILLIAMSON[order]]
        a, b, c_, d = (np.array([[row[(j - i) % c] for j in range(c)] for i in range(c)]) for row in rows)
        return np.block([[a, b, c_, d], [-b, a, -d, c_], [-c_, d, a, -b], [-d, -c_, b, a]])
    second = order in (28, 36)
    q = order // 2 - 1 if second else order - 1
    m = np.ones((q + 1, q + 1))
    m[1:, 1:] = paley(q, second)
    if not second:
        m[0, 1:] = -1
        return m
    two = 2 * np.eye(q + 1)
    return np.block([[m, m - two], [m - two, -m]])


def hadamard(n, device, cache={}):
    if n not in cache:
        order = next(k for k in FACTORS if n % k == 0)
        power = n // order
        assert power & (power - 1) == 0, f"{n} has no transform in the published code"
        sylvester = np.ones((1, 1))
        while len(sylvester) < power:
            sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
        cache[n] = torch.tensor(np.kron(factor(order), sylvester) / math.sqrt(n), dtype=torch.float32, device=device)
    return cache[n]


# The code: the newest bits of a state are its low bits.


def expanded(table, device):
    """Values [2^16, 2] of all states: the table's entry at bits 6..14 of s(s+1), its first component negated where bit 15 is set."""
    s = torch.arange(2**L, device=device)
    u = s * (s + 1)
    values = table.to(device).float()[(u >> (15 - Q)) & (2**Q - 1)].clone()
    values[:, 0] *= torch.where((u >> 15) & 1 == 1, -1.0, 1.0)
    return values


def search(x, values, kv, overlap=None):
    """Cheapest state sequence for x [b, steps, 2]; with overlap [b], one that begins and ends in it. Returns states [b, steps]."""
    b, steps, _ = x.shape
    states = torch.arange(2**L, device=x.device)
    groups = 2 ** (L - kv)
    back = torch.empty(steps, b, groups, dtype=torch.uint8, device=x.device)
    cost = None
    for t in range(steps):
        error = ((values[:, 0] - x[:, t, 0, None]) ** 2).add_((values[:, 1] - x[:, t, 1, None]) ** 2)
        if cost is None:
            cost = error if overlap is None else error.masked_fill(states >> kv != overlap[:, None], math.inf)
            continue
        best, back[t] = cost.view(b, 2**kv, groups).min(1)
        cost = error.view(b, groups, 2**kv).add_(best[:, :, None]).view(b, -1)
    if overlap is not None:
        cost = cost.masked_fill(states & (groups - 1) != overlap[:, None], math.inf)
    path = torch.empty(b, steps, dtype=torch.int64, device=x.device)
    path[:, -1] = cost.argmin(1)
    for t in range(steps - 1, 0, -1):
        group = path[:, t] >> kv
        path[:, t - 1] = (back[t].gather(1, group[:, None]).squeeze(1).long() << (L - kv)) | group
    return path


def round_tiles(x, values, kv):
    """Reconstruction of sequences x [b, 256], tail-biting by two passes."""
    out = []
    for part in x.half().float().view(-1, TILE * TILE // V, V).split(256):
        half = part.shape[1] // 2
        first = search(part.roll(half, 1), values, kv)
        out.append(values[search(part, values, kv, first[:, half] >> kv)].view(len(part), -1))
    return torch.cat(out)


def block_ldl(h):
    n = len(h)
    c = torch.linalg.cholesky(h)
    for i in range(0, n, TILE):
        c[:, i : i + TILE] = c[:, i : i + TILE] @ torch.linalg.inv(c[i : i + TILE, i : i + TILE])
    for i in range(0, n, TILE):
        c[i : i + TILE, i : i + TILE] = 0
    return c


def padded(matrix, rows, columns):
    return F.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def quantize(w, h, values, bits, generator):
    """The incoherent weight, rounded: Ŵr, scale, su, sv and the proxy error."""
    m, n = w.shape
    hm, hn = hadamard(m, w.device), hadamard(n, w.device)
    su, sv = (torch.where(torch.randn(k, generator=generator, device=w.device) < 0, -1.0, 1.0) for k in (n, m))
    wr = hm.T @ (sv[:, None] * w * su) @ hn
    hr = hn.T @ (su[:, None] * h * su) @ hn
    mean = hr.diagonal().mean()
    hr = hr + 0.01 * mean * torch.eye(n, device=w.device)
    scale = wr.square().mean().sqrt() / (values.square().mean().sqrt() * 0.9)
    # Sizes that 16 does not divide are not in the published code: padded, so that the bundled models can be compared.
    rows, columns = -m % TILE + m, -n % TILE + n
    full = torch.eye(columns, device=w.device) * mean
    full[:n, :n] = hr
    lower = block_ldl(full)
    target, done = padded(wr / scale, rows, columns), torch.zeros(rows, columns, device=w.device)
    for k in range(columns - TILE, -1, -TILE):
        here = slice(k, k + TILE)
        z = target[:, here] + (target[:, k + TILE :] - done[:, k + TILE :]) @ lower[k + TILE :, here]
        done[:, here] = round_tiles(z.reshape(-1, TILE * TILE), values, bits * V).view(rows, TILE)
    rounded = done[:m, :n] * scale
    difference = wr - rounded
    error = torch.trace(difference @ hr @ difference.T) / torch.trace(wr @ hr @ wr.T)
    return rounded, su, sv, error.item()


class Quantized(torch.nn.Module):
    """y = sv ⊙ (Hm Ŵr Hnᵀ (su ⊙ x)), su and sv trained; the scale in one of them, as published."""

    def __init__(self, rounded, su, sv, bias, into_su):
        super().__init__()
        m, n = rounded.shape
        scale = rounded.square().mean().sqrt()
        self.register_buffer("fixed", hadamard(m, rounded.device) @ (rounded / scale) @ hadamard(n, rounded.device).T)
        self.su = torch.nn.Parameter(su * scale if into_su else su)
        self.sv = torch.nn.Parameter(sv if into_su else sv * scale)
        self.bias = bias

    def forward(self, x):
        return F.linear(x * self.su, self.fixed) * self.sv + (0 if self.bias is None else self.bias)


def tokens_of(path, tokenizer, length, count, last=False):
    """Windows as this project cuts them: documents one after the other; the first of the file, or its last."""
    text = Path(path).read_text(encoding="utf-8")
    documents = [json.loads(line)["text"] for line in text.split("\n") if line.strip()] if path.endswith(".jsonl") else [text]
    ids = [i for encoding in tokenizer.encode_batch(documents) for i in encoding.ids]
    count = min(count, len(ids) // length)
    ids = ids[len(ids) - count * length :] if last else ids[: count * length]
    return torch.tensor(ids).view(count, length)


@torch.no_grad()
def perplexity(model, windows, device):
    total = 0.0
    for part in windows.split(8):
        ids = part.to(device)
        logits = model(input_ids=ids).logits.float()
        total += F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum").double().item()
    return math.exp(total / (windows.shape[0] * (windows.shape[1] - 1)))


@torch.no_grad()
def teach(model, windows, device):
    """What enters and leaves each block of the original model, and the Hessian of each linear's input."""
    layers = model.model.layers
    inputs = [[] for _ in layers]
    outputs = [[] for _ in layers]
    hessians = [{} for _ in layers]
    calls = {}
    hooks = []
    for i, layer in enumerate(layers):

        def keep(module, args, kwargs, output, i=i):
            inputs[i].append(args[0] if args else kwargs["hidden_states"])
            outputs[i].append(output[0] if isinstance(output, tuple) else output)
            calls.update({key: value for key, value in kwargs.items() if key in ("position_embeddings", "attention_mask", "position_ids")})

        hooks.append(layer.register_forward_hook(keep, with_kwargs=True))
        for key, name in READERS.items():

            def add(module, args, i=i, key=key):
                x = args[0].reshape(-1, args[0].shape[-1]).double()
                hessians[i][key] = hessians[i].get(key, 0) + x.T @ x

            hooks.append(layer.get_submodule(name).register_forward_pre_hook(add))
    for part in windows.split(8):
        model(input_ids=part.to(device))
    for hook in hooks:
        hook.remove()
    tokens = windows.numel()
    means = [{key: (h / tokens).float() for key, h in one.items()} for one in hessians]
    return [torch.cat(x) for x in inputs], [torch.cat(x) for x in outputs], means, calls


def fine_tune(block, inputs, outputs, call, options):
    """Adam on what the block still can change, against the original block's outputs; the best state on the held-out sequences stays."""
    positions = {"position_embeddings": tuple(part[:1] for part in call["position_embeddings"])}
    run = lambda x: (lambda y: y[0] if isinstance(y, tuple) else y)(block(x, **positions))
    held = options.valid
    train_x, train_y, valid_x, valid_y = inputs[:-held], outputs[:-held], inputs[-held:], outputs[-held:]

    @torch.no_grad()
    def validate():
        parts = [F.mse_loss(run(x), y).item() for x, y in zip(valid_x.split(options.batch), valid_y.split(options.batch))]
        return sum(parts) / len(parts)

    best, state, misses = validate(), {k: v.clone() for k, v in block.state_dict().items()}, 0
    optimizer = torch.optim.Adam([p for p in block.parameters() if p.requires_grad], lr=options.rate)
    for _ in range(options.epochs):
        for index in torch.randperm(len(train_x), device="cpu").split(options.batch):
            optimizer.zero_grad()
            F.mse_loss(run(train_x[index]), train_y[index]).backward()
            optimizer.step()
        loss = validate()
        if loss < best:
            best, state, misses = loss, {k: v.clone() for k, v in block.state_dict().items()}, 0
        else:
            misses += 1
            if misses >= 5:
                break
    block.load_state_dict(state)


def machine(device):
    """The card, its driver and CUDA; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else ""
    return {"gpu": torch.cuda.get_device_name(), "driver": driver or "unknown", "cuda": torch.version.cuda}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--quantized", required=True, help="a checkpoint this project made of it with trellis/hyb: for the table")
    parser.add_argument("--text", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--measured", type=int, default=64, help="sequences of the test text, its last")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning after each linear; 0: none")
    parser.add_argument("--rate", type=float, default=3e-6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--valid", type=int, default=32, help="calibration sequences held out")
    parser.add_argument("--seeds", type=int, default=1, help="draws of signs that are tried; all are reported")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    windows = tokens_of(options.text, tokenizer, options.length, options.sequences)
    measured = tokens_of(options.test, tokenizer, options.length, options.measured, last=True)
    stored = {name: tensor for path in sorted(Path(options.quantized).glob("*.safetensors")) for name, tensor in load_file(path).items()}
    values = expanded(stored["codebook.tlut"].view(2**Q, V), device)

    runs = []
    for seed in range(options.first, options.first + options.seeds):
        began = time.time()
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="sdpa").to(device).eval()
        original = perplexity(model, measured, device)
        inputs, outputs, hessians, call = teach(model, windows, device)
        errors = {}
        for i, block in enumerate(model.model.layers):
            generator = torch.Generator(device=device).manual_seed(1000 * seed + i)
            torch.manual_seed(1000 * seed + i)
            for name, key in ORDER:
                parent = block.get_submodule(name.rsplit(".", 1)[0])
                linear = block.get_submodule(name)
                with torch.no_grad():
                    rounded, su, sv, errors[f"{i}.{name}"] = quantize(linear.weight.detach(), hessians[i][key], values, options.bits, generator)
                setattr(parent, name.rsplit(".", 1)[1], Quantized(rounded, su, sv, linear.bias, name in FOLDED_INTO_SU))
                if options.epochs > 0:
                    fine_tune(block, inputs[i], outputs[i], call, options)
        result = perplexity(model, measured, device)
        mean = sum(errors.values()) / len(errors)
        runs.append({"seed": seed, "perplexity": result, "proxyErrorMean": mean, "seconds": round(time.time() - began, 1)})
        print(json.dumps({"original": original, **runs[-1]}), flush=True)
    record = {"about": "published recipe in plain PyTorch", "bits": options.bits, "epochs": options.epochs, "rate": options.rate}
    record |= {"original": original, "runs": runs, **machine(device), "torch": torch.__version__}
    Path(options.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
