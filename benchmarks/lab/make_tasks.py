"""Makes the tasks lab's artefacts again: tokenizer, base model, the tasks' rows, and which tasks are admitted.

    python -m benchmarks.lab.make_tasks [model] [rows] [admission] [--out DIR] [--tasks DIR] [--steps N]

model       trains the tokenizer on the corpus and pretrains a 1M-parameter Llama on it: the base of the lab.
rows        writes NAME.jsonl.gz beside every task's NAME.yaml; the YAMLs are written by hand.
admission   measures every task (`admission.py`), writes admission.json, and moves what is refused to `refused/`.

All three without a name. World, corpus, tokenizer and rows are the same on every machine; weights differ in their last
bits between processors, so the committed model is the reference.
"""

import argparse
import json
import logging
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks.lab import corpus
from benchmarks.lab.admission import admit
from benchmarks.lab.make_reviews import load_base, pretrain, train_tokenizer
from benchmarks.lab.task_rows import WORDINGS, rows, write_rows

MODEL = Path(__file__).parent / "tasks_model"       # base model and tokenizer
TASKS = Path(__file__).parent / "tasks"             # a YAML and a file of rows each
REFUSED = "refused"                                 # folder in it
ADMISSION = "admission.json"

VOCABULARY = 1792               # every word of the world is one token behind a space
PRETRAIN_STEPS = 4000
ROWS, WIDTH = 8, 256            # one step; as wide as the prompts that tuning and evaluation ask
PARTS = ("model", "rows", "admission")

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"what to make: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=MODEL, help="the model's folder (default: the committed one)")
    parser.add_argument("--tasks", type=Path, default=TASKS, help="the tasks' folder (default: the committed one)")
    parser.add_argument("--steps", type=int, default=PRETRAIN_STEPS, help="pretraining steps (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"found {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parts = options.parts or PARTS
    if "model" in parts:
        make_model(options.out, options.steps)
    if "rows" in parts:
        make_rows(options.tasks)
    if "admission" in parts:
        make_admission(options.tasks, options.out)


def make_model(folder: Path, steps: int) -> None:
    """Tokenizer and base model, pretrained from seed 0."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(corpus.documents, VOCABULARY)
    tokenizer.save_pretrained(folder)
    model = pretrain(tokenizer, steps, corpus.documents, ROWS, WIDTH, VOCABULARY)
    model.to(torch.bfloat16).save_pretrained(folder)


def make_rows(folder: Path) -> None:
    """The rows of every task, beside its YAML."""
    for path in sorted(folder.rglob("*.yaml")):
        write_rows(path.with_suffix(".jsonl.gz"), rows(path.stem))
    log.info("rows of %d tasks", len(WORDINGS))


def make_admission(folder: Path, model: Path) -> None:
    """Measure all tasks; those admitted lie in `folder` afterwards, the others in its folder of refused ones."""
    table = admit(folder, load_base(model), AutoTokenizer.from_pretrained(model, local_files_only=True))
    (folder / ADMISSION).write_text(json.dumps(table, indent=2) + "\n")
    (folder / REFUSED).mkdir(exist_ok=True)
    for path in sorted(folder.rglob("*.yaml")):
        side = folder if table[path.stem]["admitted"] else folder / REFUSED
        for one in (path, path.with_suffix(".jsonl.gz")):
            one.rename(side / one.name)


if __name__ == "__main__":
    main()
