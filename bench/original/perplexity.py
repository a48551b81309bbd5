"""Perplexity by the published protocols with plain torch and transformers, in float32: what `pipe eval --protocol` should give.

    python bench/original/perplexity.py MODEL TEXT --protocol wikitext2 --length 512
"""
import argparse
import json
import math

import torch
import transformers

PROTOCOLS = {"wikitext2": ("\n\n", None, None), "c4": (" ", 1100, 256), "ptb": (" ", None, None)}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--protocol", choices=PROTOCOLS, required=True)
parser.add_argument("--length", type=int, default=2048)
o = parser.parse_args()
join, documents, windows = PROTOCOLS[o.protocol]
with open(o.text, encoding="utf-8", newline="") as file:
    text = file.read()
if o.text.endswith(".jsonl"):
    text = join.join([json.loads(line)["text"] for line in text.split("\n") if line][:documents])
torch.set_num_threads(1)
tokens = transformers.AutoTokenizer.from_pretrained(o.model).encode(text)
model = transformers.AutoModelForCausalLM.from_pretrained(o.model).float().eval()
count = min(len(tokens) // o.length, windows or len(tokens))
batches = torch.tensor(tokens[: count * o.length]).view(count, o.length).split(8)
with torch.inference_mode():
    nll = 0.0
    for ids in batches:
        scores = model(ids).logits[:, :-1].double().log_softmax(-1)
        nll -= scores.gather(-1, ids[:, 1:, None]).sum().item()
predictions = count * (o.length - 1)
print(json.dumps({"perplexity": math.exp(nll / predictions), "predictions": predictions}))
