"""What a model's tokenizer makes of the data: how many tokens records have, how many would be cut, and one of them as
it is read, with what is learned marked."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algorithm import Algorithm
from ..data.records import Records
from ..data.records.inspection import summary
from ..data.template import Example, Template
from ..support.phases import progress
from .agenda import ANY
from .stages import Bench

COUNTED = 5_000  # records of a set that are tokenised, evenly spread
CHARACTERS = 1_200  # shown of a row
LONG = "sequence-length-is-longer-than-the-specified-maximum"  # what the tokenizer would warn of
OPEN, CLOSE = "»", "«"  # around what is learned


def counted(bench: Bench, sets: dict[str, Records]) -> dict[str, Any]:
    """Set → the lengths of its prompts and of its records' longest responses in tokens, and how many records the
    model's limits cut, of so many that were tokenised."""
    limits, found = (bench.model.max_length, bench.model.max_prompt_length), {}
    total = sum(min(len(records), COUNTED) for records in sets.values())
    bench.tokenizer.deprecation_warnings[LONG] = True       # over-long texts are what is counted here
    with progress("tokenising", total, "records") as advance:
        for name, records in sets.items():
            rows = np.unique(np.linspace(0, len(records) - 1, min(len(records), COUNTED)).astype(np.int64))
            prompts, responses, cut = [], [], 0
            for record in records.select(rows):
                example = bench.template.example(record, ANY, ANY)
                longest = max(map(len, example.responses), default=0)
                prompts.append(len(example.prompt))
                responses.append(longest)
                cut += len(example.prompt) + longest > limits[0]
                advance()
            found[name] = {"records": len(records), "counted": len(rows), "truncated": cut,
                           "prompt": summary(prompts, str), "response": summary(responses, str)}
    return {"model": bench.model.name, "max_length": limits[0], "max_prompt_length": limits[1], "sets": found}


def rendered(bench: Bench, algorithm: Algorithm) -> str | None:
    """The first record that the method learns from as text, special tokens written out, learned parts between marks."""
    records = bench.view(algorithm.view)[0]
    if not len(records):
        return None
    return "\n".join(marked(bench.template, bench.example(records[0], algorithm.every_turn)))


def marked(template: Template, example: Example) -> list[str]:
    """The prompt, and each response with what is learned of it between marks; of a bare prompt nothing is."""
    lines = [_decoded(template, example.prompt)]
    for k, ids in enumerate(example.responses):
        learned = [True] * len(ids) if example.targets is None else [one is not None for one in example.targets[k]]
        text, start = "", 0
        for end in range(1, len(ids) + 1):
            if end == len(ids) or learned[end] != learned[start]:
                part = _decoded(template, ids[start:end])
                text += f"{OPEN}{part}{CLOSE}" if learned[start] else part
                start = end
        score = "" if example.scores is None else f"[score {example.scores[k]:g}] "
        lines.append(score + text)
    return lines


def _decoded(template: Template, ids: list[int]) -> str:
    return template.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def told(found: dict[str, Any]) -> list[str]:
    """The counts, a line for each set."""
    lines = [f"tokens of {found['model']} (a record is cut beyond model.max_length={found['max_length']})"]
    for name, one in found["sets"].items():
        of = "" if one["counted"] == one["records"] else f" of {one['counted']:,} spread over them"
        prompt, response = one["prompt"], one["response"]
        share = f"{one['truncated']:,} cut{of}" if one["truncated"] else f"none cut{of}"
        answers = f"longest response {response['median']:,.0f}, at most {response['max']:,.0f}; "
        answers = answers if response["max"] else ""
        lines.append(f"  {name:14s} {one['records']:>9,} records: prompt {prompt['median']:,.0f} (median), "
                     f"at most {prompt['max']:,.0f}; {answers}{share}")
    return lines


def shown(text: str) -> str:
    """A row for the terminal: of a long one the beginning and the end."""
    if len(text) <= CHARACTERS:
        return text
    return f"{text[:CHARACTERS // 2]} […{len(text) - CHARACTERS:,} characters…] {text[-CHARACTERS // 2:]}"
