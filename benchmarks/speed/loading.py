"""A file of comparisons from disk to tokens, against ``load_dataset`` and what DPOTrainer makes of it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.prepare import load_models
from benchmarks.speed.request import Answer, Request
from benchmarks.speed.texts import write_pairs
from benchmarks.speed.training import adapted

UNIT = "rows"
PER_STEP = 100  # rows of the file for each of the request's steps
EXACT = True


def written(request: Request) -> str:
    path = Path(request.work) / "pairs.jsonl"
    write_pairs(request, path, PER_STEP * request.steps)
    return str(path)


def ours(request: Request) -> Answer:
    from algorithms.common.data.records import FileData, set_cache_folder

    models, path = load_models(request), written(request)
    set_cache_folder(Path(request.work) / "records")
    answer = Answer()
    with answer.watched(request.device):
        records = FileData(path=path, heldout=0.0, audit=0.0).load(0).preferences
        examples = [models.tokenize(record) for record in records]
    answer.values = fingerprint((e.prompt, *e.responses) for e in examples)
    answer.items = len(examples)
    return answer


def trl(request: Request) -> Answer:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model, path = adapted(request, "policy", AutoModelForCausalLM), written(request)
    tokenizer = AutoTokenizer.from_pretrained(request.base)
    answer = Answer()
    with answer.watched(request.device):
        rows = load_dataset("json", data_files=path, split="train", cache_dir=request.work)
        trainer = DPOTrainer(model=model, train_dataset=rows, processing_class=tokenizer, args=DPOConfig(
            output_dir=request.work, use_cpu=request.device == "cpu", report_to=[], max_length=None, bf16=False,
            disable_tqdm=True, **request.option))
        kept = trainer.train_dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
        found = [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in kept]
    answer.values, answer.items = fingerprint(found), len(found)
    return answer


def fingerprint(rows) -> list[float]:
    """A number for each row's tokens, in order of size: the sides keep their rows in orders of their own."""
    return sorted(float(sum(place * token for ids in row for place, token in enumerate(ids, 1))) for row in rows)


SIDES = {"ours": ours, "TRL": trl}
OPTIONS = {"TRL": [{}, {"dataset_num_proc": 2}]}
