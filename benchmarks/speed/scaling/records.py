"""Reading a file of comparisons of growing length."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.random_models import SHAPES
from benchmarks.speed.request import BATCH, Answer
from benchmarks.speed.scaling.point import MEMORY, Figure, Point, Spread, per
from benchmarks.speed.steps import models_of

WORDS_OF = [f"{first}{second}" for first in ("ba", "do", "ke", "li", "mu") for second in ("n", "r", "st", "tal", "ves")]
LONGEST = 256  # tokens; nothing is cut
TITLE = "Records of a file"
WORDS = ("A JSON Lines file of comparisons of about 15 words each, read into the sets that methods learn from; read "
         "again in the same way (files below 1 MiB are read as fast as they are looked up); and from the records to "
         f"the first batch of {BATCH} as tensors, for which the order of them all is drawn.")
X = "comparisons in the file"
FIRST = Figure("seconds of the first reading", lambda run: run["seconds"])
FIGURES = (FIRST, Figure("seconds of the next", lambda run: run["again_seconds"]),
           Figure("seconds to the first batch", lambda run: run["batch_seconds"], drawn=False), MEMORY,
           per("seconds", "microseconds a record", factor=1e6, drawn=False))


def points(most: int) -> list[Point]:
    return [Point("records", "DPO's data", 10**power) for power in range(3, 10) if 10**power <= most]


def write(path: Path, count: int) -> None:
    """Comparisons whose prompts all differ, a line at a time."""
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for index in range(count):
            prompt, chosen, rejected = (" ".join(draw.choices(WORDS_OF, k=5)) for _ in range(3))
            file.write(json.dumps({"prompt": f"{index} {prompt}?", "chosen": chosen, "rejected": rejected}) + "\n")


def measure(point: Point, work: str) -> dict[str, float]:
    from algorithms.common.data.records import FileData, set_cache_folder
    from algorithms.common.data.tokenized import Tokenized, batch_indices
    from benchmarks.speed.side import resident

    models = models_of(SHAPES["tiny"], "cpu", "fp32", LONGEST)
    path, found = Path(work) / "pairs.jsonl", {}
    write(path, point.x)
    set_cache_folder(Path(work) / "records")
    found["imported_bytes"] = resident()  # the model is none of the reading's memory
    reading, again, batch = Answer(items=point.x), Answer(), Answer()
    for answer in (reading, again):
        with answer.watched("cpu"):
            records = FileData(path=str(path), heldout=0.0, audit=0.0).load(0).preferences
    with batch.watched("cpu"):
        examples = Tokenized(records, models.tokenize)
        models.collate([examples[index] for index in batch_indices(len(examples), BATCH, len(examples), 0, 0)])
    return {**found, "seconds": reading.seconds, "cpu_seconds": reading.cpu_seconds, "items": reading.items,
            "again_seconds": again.seconds, "batch_seconds": batch.seconds}


def sentence(found: dict[tuple[str, int], dict[str, Spread]]) -> str:
    (line, first), (_, last) = min(found), max(found)
    if first == last:
        return ""
    longer, more = (found[line, last][figure.title].median / max(found[line, first][figure.title].median, 1e-9)
                    for figure in (FIRST, MEMORY))
    return (f"{last // first:,} times the records take {longer:.0f} times the seconds and {more:.1f} times the memory "
            "above the imports.")
