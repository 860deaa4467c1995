"""The comparisons that both sides read: random words, or those of a file."""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import AutoTokenizer

from algorithms.common.data.records import FileData, render_transcript, views
from algorithms.common.support.errors import DataError
from benchmarks.random_models import LAB, SHAPES
from benchmarks.speed.request import BATCH, Lengths, Request

PAIRS = 512  # that are prepared
Pair = dict[str, str]  # prompt, chosen, rejected
Sizes = tuple[int, int, int]  # tokens of a prompt, of its shorter and of its longer response


def prepare_texts(request: Request) -> None:
    """Write ``pairs.jsonl``. DataError where a file has too few of these lengths."""
    taken = _taken(request) if request.data else random_pairs(request.lengths, PAIRS)
    write(taken, Path(request.folder) / "pairs.jsonl")


def pairs(request: Request, count: int) -> list[Pair]:
    """The first of them, and where they are not enough again, with a number before the prompt: what a side keeps of
    equal texts would spare it the work that is measured.
    """
    rows = list(map(json.loads, (Path(request.folder) / "pairs.jsonl").read_text(encoding="utf-8").splitlines()))
    places = (divmod(index, len(rows)) for index in range(len(rows), count))
    again = ({**rows[place], "prompt": f"{time} {rows[place]['prompt']}"} for time, place in places)
    return [*rows[:count], *again]


def write_pairs(request: Request, path: Path, count: int) -> None:
    """So many, with prompts of their own."""
    write(pairs(request, count) if request.data else random_pairs(request.lengths, count), path)


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
    """Of the first prompts of the file a comparison each whose texts have the lengths asked for, in tokens of the lab's
    vocabulary. Left out is what has a special token's name in it, of which a trainer makes what it likes.
    """
    source = FileData(path=request.data, heldout=0.0, audit=0.0, on_bad_row="drop")
    comparisons = views.pairs(source.load(0).preferences)
    if not len(comparisons):
        raise DataError(f"data: found no comparisons in {request.data}; expected two responses to a prompt of which "
                        "one is better; fix: a file of such")
    tokenizer = AutoTokenizer.from_pretrained(LAB)
    special, found, taken = set(tokenizer.all_special_ids), [], {}
    for record in comparisons:
        row = _texts(record.prompt, record.responses)
        tokens = tokenizer(list(row.values()), add_special_tokens=False).input_ids
        if row["prompt"] in taken or row["chosen"] == row["rejected"] or special & set().union(*tokens):
            continue
        prompt, *responses = map(len, tokens)
        found.append((prompt, min(responses), max(responses)))
        if request.lengths.hold(*found[-1]):
            taken[row["prompt"]] = row
            if len(taken) == PAIRS:
                break
    if len(taken) < BATCH:
        raise DataError("data: found {} prompts of {} tokens with responses of {}, in {}; expected {} or more; fix: {}"
                        .format(len(taken), *request.lengths.texts, request.data, BATCH, _usual(found, request.size)))
    return list(taken.values())


def _usual(found: list[Sizes], size: str) -> str:
    """Lengths that most have for which the model has room."""
    if len(found) >= BATCH:
        prompts, shorter, longer = map(sorted, zip(*found))
        least, positions = len(found) // 20, SHAPES[size].positions
        most = -1 - least  # a twentieth is outside in each direction
        first, last, shortest, longest = prompts[least], prompts[most], shorter[least], longer[most]
        longest = max(shortest, min(longest, positions // 3))
        last = max(first, min(last, positions - Lengths((first, first), (shortest, longest)).longest + first))
        lengths = Lengths((first, last), (shortest, longest))
        if lengths.longest <= positions and sum(lengths.hold(*one) for one in found) >= BATCH:
            return "prompt={} response={}".format(*lengths.texts)
    return f"another file: this one has too few for {size}"


def _texts(prompt, responses: list[str]) -> Pair:
    """Responses begin with a space, and are parted from the prompt there by both sides' tokenizers."""
    prompt = prompt if isinstance(prompt, str) else render_transcript(prompt)
    chosen, rejected = (" " + text.strip() for text in responses)
    return {"prompt": prompt.rstrip(), "chosen": chosen, "rejected": rejected}
