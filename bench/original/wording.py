"""Requests of zero-shot tasks as the lm-evaluation-harness's own templates and functions make them.

    git clone --branch v0.4.3 https://github.com/EleutherAI/lm-evaluation-harness HARNESS
    python bench/original/wording.py HARNESS DATA --out requests.json
    npm run bench -- wording --harness requests.json --data DATA

Reads the harness's YAML, renders with jinja2 and calls its Python; what its ConfigurableTask does between the two for
multiple choice and log-likelihoods without examples is done here. Needs jinja2 and PyYAML alone: of `datasets` its code
uses one `map`.
"""
import argparse
import ast
import importlib.util
import json
import pathlib
import subprocess
import sys
import types

import jinja2
import yaml

FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada": "lambada/lambada_openai.yaml",
}
ENVIRONMENT = jinja2.Environment(loader=jinja2.BaseLoader, undefined=jinja2.StrictUndefined)


class Rows(list):
    def map(self, f):
        return Rows({**row, **f(row)} for row in self)


def load(path):
    """A task's settings, what it includes below them, functions in place of their names."""

    class Loader(yaml.SafeLoader):
        pass

    def function(loader, node):
        module, name = loader.construct_scalar(node).split(".")
        spec = importlib.util.spec_from_file_location(module, path.parent / f"{module}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    Loader.add_constructor("!function", function)
    settings = yaml.load(path.read_text(encoding="utf-8"), Loader)
    included = settings.pop("include", None)
    return settings if included is None else {**load(path.parent / included), **settings}


def value(setting, row, literal=str.isdigit):
    """What a setting means for a row: a function's result, a field, a rendered template (read as Python where `literal`), or itself."""
    if callable(setting):
        return setting(row)
    if not isinstance(setting, str):
        return setting
    if setting in row:
        return row[setting]
    text = ENVIRONMENT.from_string(setting).render(**row)
    return ast.literal_eval(text) if literal(text) else text


def item(settings, row):
    delimiter = settings.get("target_delimiter", " ")
    if settings["output_type"] == "loglikelihood":
        pair = [value(settings[name], row, literal=lambda _: False) for name in ("doc_to_text", "doc_to_target")]
        return {"requests": [pair], "gold": 0, "lengths": []}
    text, target = value(settings["doc_to_text"], row), value(settings["doc_to_target"], row)
    choices = value(settings["doc_to_choice"], row, literal=lambda _: True)
    lengths = [len(choice) for choice in choices]
    if isinstance(text, int):  # of winogrande the choices are contexts
        return {"requests": [[choice, f"{delimiter}{target}"] for choice in choices], "gold": text, "lengths": lengths}
    return {"requests": [[text, f"{delimiter}{choice}"] for choice in choices], "gold": int(target), "lengths": lengths}


def rows_of(folder, task):
    (path,) = [path for path in pathlib.Path(folder).glob("*.jsonl") if task in path.name]
    with open(path, encoding="utf-8") as lines:
        rows = Rows(json.loads(line) for line in lines if line.strip())
    for row in rows:  # fields of data sets of other names: boolq by itself, HellaSwag as the harness prepares it
        if "label" not in row and task in ("boolq", "hellaswag"):
            row["label"] = int(row["answer"] if task == "boolq" else row["gold"])
    return rows


def main(o):
    sys.modules["datasets"] = types.SimpleNamespace(Dataset=Rows)
    tasks = {}
    for task, name in FILES.items():
        settings = load(pathlib.Path(o.harness) / "lm_eval/tasks" / name)
        rows = rows_of(o.data, task)
        prepare = settings.get("process_docs")
        prepared = rows if prepare is None or "query" in rows[0] else prepare(rows)
        metrics = [one["metric"] for one in settings["metric_list"]]
        tasks[task] = {"metrics": metrics, "items": [item(settings, row) for row in prepared]}
    commit = subprocess.run(["git", "-C", o.harness, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    whole = {"commit": commit, "jinja2": jinja2.__version__, "tasks": tasks}
    pathlib.Path(o.out).write_text(json.dumps(whole), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harness")
    parser.add_argument("data")
    parser.add_argument("--out", required=True)
    main(parser.parse_args())
