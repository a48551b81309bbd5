"""Log-likelihoods of zero-shot tasks with plain torch and transformers, one request at a time, in float32.

    python bench/original/tasks.py MODEL DATA --limit 100 --out theirs.json
    pipe eval MODEL --tasks arc_easy,... --data DATA --limit 100 --json > ours.json
    python bench/original/tasks.py --compare ours.json theirs.json --out bench/results/tasks.json

Wording as in lm-evaluation-harness 0.4.3 (wording.py compares it with the harness itself); its batches, padding and
caches change nothing but rounding, and are left out. The comparison fails where log-likelihoods differ by more than
1e-3, or picks do: of several choices the likeliest, by itself and divided by its characters; of LAMBADA whether greedy
decoding finds the word.
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
    import transformers

    torch.set_num_threads(1)  # of such small products, more wait for each other
    tokenizer = transformers.AutoTokenizer.from_pretrained(o.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(o.model).float().eval()
    positions = model.config.max_position_embeddings

    def answer(context, continuation):
        text, trimmed = context + continuation, context.rstrip()
        tokens = tokenizer.encode(text, add_special_tokens=False)
        asked = len(tokens) - len(tokenizer.encode(trimmed, add_special_tokens=False))
        tokens = torch.tensor(tokens[-(positions + 1):])
        logits = model(tokens[None, :-1]).logits[0, -asked:].double()
        wanted = tokens[-asked:]
        likelihood = logits.log_softmax(-1).gather(-1, wanted[:, None]).sum().item()
        return likelihood, bool((logits.argmax(-1) == wanted).all())

    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    tasks = {}
    with torch.inference_mode():
        for task in o.tasks.split(","):
            answers = [[answer(*pair) for pair in item] for item in items(o.data, task, o.limit)]
            tasks[task] = {
                "logLikelihoods": [[likelihood for likelihood, _ in item] for item in answers],
                "greedy": [[greedy for _, greedy in item] for item in answers],
                "characters": [[len(continuation) - 1 for _, continuation in item] for item in items(o.data, task, o.limit)],
            }
    return {"versions": versions, "tasks": tasks}


def pick(values):
    return values.index(max(values))


def compare(o):
    ours, theirs = (json.loads(pathlib.Path(path).read_text(encoding="utf-8")) for path in o.compare)
    rows = []
    for task, other in theirs["tasks"].items():
        one = ours[task]
        pairs = list(zip(one["logLikelihoods"], other["logLikelihoods"], other["characters"], strict=True))
        differences = [abs(a - b) for x, y, _ in pairs for a, b in zip(x, y, strict=True)]
        if task == "lambada":
            picks = sum(x != y for x, y in zip(one["greedy"], other["greedy"], strict=True))
        else:
            picks = sum(
                pick(x) != pick(y) or pick([v / n for v, n in zip(x, chars)]) != pick([v / n for v, n in zip(y, chars)])
                for x, y, chars in pairs
            )
        rows.append(
            {
                "task": task,
                "items": len(pairs),
                "log-likelihoods": len(differences),
                "largest difference, nats": float(f"{max(differences):.3g}"),
                "other picks": picks,
                "acc": one["acc"][0],
            }
        )
        print(*(f"{name} {value}" for name, value in rows[-1].items()), sep="   ")
    if o.out:
        results = {"command": "bench/original/tasks.py --compare", **theirs["versions"], "rows": rows}
        pathlib.Path(o.out).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(not rows or any(row["largest difference, nats"] > 1e-3 or row["other picks"] > 0 for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--out", help="of the answers, or of the comparison")
    parser.add_argument("--compare", nargs=2, metavar=("OURS", "THEIRS"))
    options = parser.parse_args()
    if options.compare:
        sys.exit(compare(options))
    if not options.data or not options.out:
        parser.error("expected MODEL, DATA and --out FILE")
    pathlib.Path(options.out).write_text(json.dumps(measure(options)), encoding="utf-8")
