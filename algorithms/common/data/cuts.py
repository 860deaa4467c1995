"""What does not fit is cut, and said where it happens: how many of how many, and by which limit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from .template import Example

log = logging.getLogger(__name__)


def tell_cut_examples(what: str, examples: Iterable[Example], max_length: int, max_prompt_length: int,
                      said: set[str] | None = None) -> int:
    """Say how many examples lost something to the limits on their tokens, and what; returns it. said: what was told
    before, and is not again."""
    total = cut = ends = texts = middles = turns = 0
    for example in examples:
        total += 1
        cut += example.truncated
        ends += not all(example.finished)
        texts += example.prompt_cut
        middles += example.turns_left_out > 0
        turns += example.turns_left_out
    if cut:
        lost = {"the end of a response": ends, "a part of their prompt's text": texts,
                f"whole turns before the user's last one ({turns:,} in all)": middles}
        _warn(f"{what}: {cut:,} of {total:,} records are cut to fit model.max_length={max_length} and "
              f"model.max_prompt_length={max_prompt_length}: "
              + ", ".join(f"{count:,} lose {part}" for part, count in lost.items() if count), said)
    return cut


def tell_cut_prompts(what: str, whole: Sequence[Collection[int]], kept: Sequence[Collection[int]], max_length: int,
                     new_tokens: int, said: set[str] | None = None) -> int:
    """Say how many prompts, before and after as token ids, were cut to leave room for their answers; returns it.
    said: as above."""
    cut = sum(len(after) < len(before) for before, after in zip(whole, kept, strict=True))
    if cut:
        _warn(f"{what}: {cut:,} of {len(kept):,} prompts are cut to leave room for answers of {new_tokens} tokens "
              f"within model.max_length={max_length}", said)
    return cut


def _warn(text: str, said: set[str] | None) -> None:
    if said is None or text not in said:
        log.warning("%s", text)
    if said is not None:
        said.add(text)
