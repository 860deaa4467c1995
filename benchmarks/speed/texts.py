"""The comparisons that both sides read: random words, or those of a file."""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import AutoTokenizer

from algorithms.common.data.records import FileData, render_transcript, views
from algorithms.common.support.errors import DataError
from benchmarks.random_models import LAB
from benchmarks.speed.request import BATCH, Lengths, Request

PAIRS = 512  # that are prepared
Pair = dict[str, str]  # prompt, chosen, rejected


def prepare_texts(request: Request) -> None:
    """Write ``pairs.jsonl``. DataError where a file has too few of these lengths."""
    taken = _taken(request) if request.data else random_pairs(request.lengths, PAIRS)
    write(taken, Path(request.folder) / "pairs.jsonl")


def pairs(request: Request, count: int) -> list[Pair]:
    """The first of them, again from the beginning where they are not enough."""
    lines = (Path(request.folder) / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(lines[index % len(lines)]) for index in range(count)]


def write_pairs(request: Request, path: Path, count: int) -> None:
    """So many with prompts of their own: those of a file have their number before them."""
    if request.data:
        rows = [{**row, "prompt": f"{number} {row['prompt']}"} for number, row in enumerate(pairs(request, count))]
    else:
        rows = random_pairs(request.lengths, count)
    write(rows, path)


def write(rows: list[Pair], path: Path) -> None:
    """As JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def random_pairs(lengths: Lengths, count: int) -> list[Pair]:
    """Words of the lab's vocabulary, each a token of its own, so that both sides find the same tokens."""
    tokenizer = AutoTokenizer.from_pretrained(LAB)
    texts = (tokenizer.decode([index]) for index in range(len(tokenizer)))
    words = sorted({text for text in texts if text[:1] == " " and text[1:].isalpha()
                    and len(tokenizer(text + text, add_special_tokens=False).input_ids) == 2})
    draw = random.Random(0)
    return [{"prompt": "".join(draw.choices(words, k=draw.randint(*lengths.prompt))),
             **{key: "".join(draw.choices(words, k=draw.randint(*lengths.response))) for key in ("chosen", "rejected")}}
            for _ in range(count)]


def _taken(request: Request) -> list[Pair]:
    """The first comparisons of the file that have the lengths asked for, in tokens of the lab's vocabulary."""
    source = FileData(path=request.data, heldout=0.0, audit=0.0, on_bad_row="drop")
    comparisons = views.pairs(source.load(0).preferences)
    tokenizer = AutoTokenizer.from_pretrained(LAB)
    found, taken = [], []
    for record in comparisons:
        row = _texts(record.prompt, record.responses)
        prompt, *responses = (len(ids) for ids in tokenizer(list(row.values()), add_special_tokens=False).input_ids)
        found.append((prompt, min(responses), max(responses)))
        if request.lengths.hold(prompt, responses):
            taken.append(row)
            if len(taken) == PAIRS:
                break
    if len(taken) < BATCH:
        raise DataError("data: found {} of {} comparisons with prompts of {} tokens and responses of {}; expected "
                        "{} or more; fix: {}".format(len(taken), len(found), *request.lengths.texts, BATCH,
                                                     _usual(found) if len(found) >= BATCH else "more comparisons"))
    return taken


def _usual(found: list[tuple[int, int, int]]) -> str:
    """Lengths that most have. found: of a prompt, its shorter and its longer response."""
    outside = len(found) // 20  # in each direction
    prompts, shorter, longer = map(sorted, zip(*found))
    least, most = outside, -1 - outside
    return f"prompt={prompts[least]}-{prompts[most]} response={shorter[least]}-{longer[most]} are usual here"


def _texts(prompt, responses: list[str]) -> Pair:
    """Responses begin with a space, and are parted from the prompt there by both sides' tokenizers."""
    prompt = prompt if isinstance(prompt, str) else render_transcript(prompt)
    chosen, rejected = (" " + " ".join(text.split()) for text in responses)
    return {"prompt": prompt.rstrip(), "chosen": chosen, "rejected": rejected}
