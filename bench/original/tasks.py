"""Log-likelihoods of zero-shot tasks with plain torch and transformers, one request at a time, in float32.

    python bench/original/tasks.py MODEL DATA --limit 100 --out theirs.json
    pipe eval MODEL --tasks arc_easy,... --data DATA --limit 100 --json > ours.json
    python bench/original/tasks.py --compare ours.json theirs.json

Wording as in lm-evaluation-harness 0.4.3. The comparison fails where
log-likelihoods differ by more than 1e-3 or picks differ. The torch part has not been run yet.
"""
import argparse
import json
import pathlib
import re
import sys

TASKS = ["arc_easy", "arc_challenge", "piqa", "winogrande", "boolq", "hellaswag", "lambada"]


def plain(text):
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def questions(task, row):
    """Pairs of context and continuation."""
    if task.startswith("arc"):
        return [(f"Question: {row['question']}\nAnswer:", " " + choice) for choice in row["choices"]["text"]]
    if task == "piqa":
        return [(f"Question: {row['goal']}\nAnswer:", " " + row[name]) for name in ("sol1", "sol2")]
    if task == "boolq":
        return [(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", " " + word) for word in ("no", "yes")]
    if task == "winogrande":
        before, after = row["sentence"].split("_", 1)
        return [(before + row[name], " " + after.strip()) for name in ("option1", "option2")]
    if task == "hellaswag":
        if "query" in row:
            return [(row["query"], " " + choice) for choice in row["choices"]]
        context = plain(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        return [(context, " " + plain(ending)) for ending in row["endings"]]
    words = row["text"].split(" ")
    return [(" ".join(words[:-1]), " " + words[-1])]


def items(folder, task, limit):
    (path,) = [path for path in pathlib.Path(folder).glob("*.jsonl") if task in path.name]
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [questions(task, row) for row in rows[:limit]]


def measure(o):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(o.model)
    model = AutoModelForCausalLM.from_pretrained(o.model, torch_dtype=torch.float32).eval()
    positions = model.config.max_position_embeddings

    def likelihood(context, continuation):
        text, trimmed = context + continuation, context.rstrip()
        tokens = tokenizer.encode(text, add_special_tokens=False)
        asked = len(tokens) - len(tokenizer.encode(trimmed, add_special_tokens=False))
        tokens = torch.tensor(tokens[-(positions + 1):])
        logits = model(tokens[None, :-1]).logits[0, -asked:].double()
        return logits.log_softmax(-1).gather(-1, tokens[-asked:, None]).sum().item()

    with torch.inference_mode():
        return {
            task: {"logLikelihoods": [[likelihood(*pair) for pair in item] for item in items(o.data, task, o.limit)]}
            for task in o.tasks.split(",")
        }


def compare(ours, theirs):
    ours, theirs = (json.load(open(path, encoding="utf-8")) for path in (ours, theirs))
    wrong = 0
    for task in ours.keys() & theirs.keys():
        pairs = list(zip(ours[task]["logLikelihoods"], theirs[task]["logLikelihoods"], strict=True))
        most = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
        picks = sum(one.index(max(one)) != other.index(max(other)) for one, other in pairs)
        wrong += most > 1e-3 or picks > 0
        print(f"{task:14} {len(pairs)} items, largest difference {most:.2e}, {picks} other picks")
    return int(wrong > 0 or not ours.keys() & theirs.keys())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--out", default="theirs.json")
    parser.add_argument("--compare", nargs=2, metavar=("OURS", "THEIRS"))
    options = parser.parse_args()
    if options.compare:
        sys.exit(compare(*options.compare))
    if not options.data:
        parser.error("expected MODEL and DATA")
    pathlib.Path(options.out).write_text(json.dumps(measure(options)), encoding="utf-8")
