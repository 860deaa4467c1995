"""Rows in the layouts of the presets that published recipes name, as many as are asked for, of made-up words."""

import json
import random
from pathlib import Path
from typing import Any, Callable

from preset_rows import ALPACA, MESSAGE, PAIRED, REDDIT, STEER, ULTRA, assistant, said, user


class Words:
    """Questions that no other row has, answers of several lengths."""

    def __init__(self, number: int):
        self.number, self.draw = number, random.Random(number)

    def asked(self) -> str:
        return f"What of number {self.number}?"

    def answer(self) -> str:
        known = ["food", "was", "good", "bad", "and", "staff", "room"]
        return " ".join(self.draw.choices(known, k=self.draw.randint(2, 6)))

    def answers(self, count: int) -> list[str]:
        return [f"{self.answer()} {place}" for place in range(count)]  # no two are the same


def transcript(words: Words) -> str:
    return f"\n\nHuman: {words.asked()}\n\nAssistant:"


def static(words: Words) -> list[dict]:
    chosen, rejected = words.answers(2)
    return [{"prompt": transcript(words), "response": chosen, "chosen": chosen, "rejected": rejected}]


def transcripts(words: Words) -> list[dict]:
    chosen, rejected = (f"{transcript(words)} {answer}" for answer in words.answers(2))
    return [{"chosen": chosen, "rejected": rejected}]


def tree(words: Words) -> list[dict]:
    """A question with four ranked replies, a message a row."""
    name = f"tree {words.number}"
    replies = [said(f"{name} {rank}", name, text, tree=name, rank=rank) for rank, text in enumerate(words.answers(4))]
    return [{**MESSAGE, "message_id": name, "message_tree_id": name, "text": words.asked()}, *replies]


def steered(words: Words) -> list[dict]:
    ratings = words.draw.sample(range(5), 2)
    return [{**STEER, "prompt": words.asked(), "response": text, "helpfulness": rating}
            for text, rating in zip(words.answers(2), ratings)]


def summarised(words: Words) -> list[dict]:
    summaries = [{"text": f" {text}", "policy": "sup4", "note": None} for text in words.answers(2)]
    return [{**REDDIT, "info": {**REDDIT["info"], "post": words.asked()}, "summaries": summaries}]


def fed_back(words: Words) -> list[dict]:
    asked, (chosen, rejected) = user(words.asked()), words.answers(2)
    return [{**ULTRA, "prompt": words.asked(), "chosen": [asked, assistant(chosen)],
             "rejected": [asked, assistant(rejected)]}]


LAYOUTS: dict[str, Callable[[Words], list[dict[str, Any]]]] = {
    "alpaca": lambda words: [{**ALPACA, "instruction": words.asked(), "input": "", "output": words.answer()}],
    "helpsteer2_pairs": steered,
    "hh": transcripts,
    "oasst": tree,
    "rm_static": static,
    "stack_exchange_paired": lambda words: [
        {**PAIRED, "question": words.asked(), **dict(zip(("response_j", "response_k"), words.answers(2)))}],
    "summarize": summarised,
    "ultrachat": lambda words: [{"prompt": words.asked(), "prompt_id": str(words.number), "messages": [
        user(words.asked()), assistant(words.answer()), user("And then?"), assistant(words.answer())]}],
    "ultrafeedback": fed_back,
}


def write_rows(preset: str, folder: Path, count: int = 60) -> Path:
    """A file of rows with ``count`` different prompts."""
    path = folder / f"{preset}.jsonl"
    first = 1000 * sorted(LAYOUTS).index(preset)  # no prompt of one is another's
    rows = [row for number in range(count) for row in LAYOUTS[preset](Words(first + number))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
