"""Token ids → rows, masks and indices: made here once, never inferred later from a token id.

Two layouts of the same batch:

shared   the k responses of a prompt lie in one row ``[prompt, y1, …, yk]``; positions restart after the prompt for
         each response, and a mask lets each response see the prompt and itself. ``pack_to`` sets several records into
         one row.
plain    one row ``[prompt, y]`` per response: the oracle.

Whatever the layout, ``source[b, k, t]`` names the hidden state that predicts ``labels[b, k, t]``, so everything after
the backbone is the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .template import Example


@dataclass(frozen=True)
class Batch:
    """B records with up to K responses of up to T tokens, laid out in R rows of L tokens."""

    input_ids: Tensor  # (R, L) long
    position_ids: Tensor  # (R, L) long
    group: Tensor  # (R, L) long: the record a token belongs to, −1 for padding
    segment: Tensor  # (R, L) long: 0 for the prompt, k + 1 for response k
    source: Tensor  # (B, K, T) long: flat index into R·L of the state that predicts the label; 0 outside the mask
    labels: Tensor  # (B, K, T) long: the response's tokens, or the example's targets; 0 outside the mask
    # (B, K, T) bool: tokens that count, the end token included: all of the response, without gaps, but where the
    # example has targets (only supervised learning of every turn makes them): there context in a response is left out
    mask: Tensor
    last: Tensor  # (B, K) long: flat index into R·L of each response's last token, where a reward is read
    present: Tensor  # (B, K) bool: responses that exist
    finished: Tensor  # (B, K) bool: responses that end with the end token
    scores: Tensor  # (B, K) float; NaN where a record has no scores
    keys: tuple[str, ...]  # B content keys of the examples
    records: tuple[str, ...]  # B record keys, for messages
    simple: bool  # no row holds more than one response or record: plain causal attention is exact

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def ends(self) -> Tensor:
        """(B, K, T) bool: the end tokens of the responses that have one, where whole responses count."""
        last = self.mask.sum(-1, keepdim=True).clamp_min(1) - 1  # (B, K, 1)
        return torch.zeros_like(self.mask).scatter(-1, last, self.finished.unsqueeze(-1))

    def to(self, device: torch.device) -> "Batch":
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True)
                 for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **moved)


def counts(examples: list[Example]) -> dict[str, int]:
    """What loss terms are normalised by: records ("rows"), responses, response tokens that are learned."""
    learned = [targets for example in examples for targets in (example.targets or example.responses)]
    return {"rows": len(examples), "responses": len(learned),
            "tokens": sum(token is not None for targets in learned for token in targets)}


def longest_first(lengths: list[int], size: int) -> list[list[int]]:
    """Indices of items that go through a model together, at most ``size`` at once.

    Like lengths together: little padding. The longest first: memory runs out at the start or never.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start:start + size] for start in range(0, len(order), size)]


def least_padded(lengths: list[int], size: int, pass_cost: float) -> list[list[int]]:
    """``longest_first`` in the groups, of at most ``size``, that cost least: of each its width times its rows, which is
    the tokens that are computed, and ``pass_cost``, the tokens that a pass costs beside them. A group of many may take
    more memory than one of a longer item before it.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    least, starts = [0.0], [0]  # of the first items of that order: their cost, and where their last group starts
    for end in range(1, len(order) + 1):
        cost, start = min((least[start] + lengths[order[start]] * (end - start) + pass_cost, start)
                          for start in range(max(0, end - size), end))
        least.append(cost)
        starts.append(start)
    groups, end = [], len(order)
    while end:
        groups.append(order[starts[end]:end])
        end = starts[end]
    return groups[::-1]


def _padded(rows: list[list[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long)


def _pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of items per bin; an item longer than the capacity has a bin of its own."""
    bins: list[list[int]] = []
    filled: list[int] = []  # of each bin
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [number for number, used in enumerate(filled) if used + lengths[index] <= capacity]
        if fitting:
            fullest = max(fitting, key=lambda number: (filled[number], number))
            filled[fullest] += lengths[index]
            bins[fullest].append(index)
        else:
            filled.append(lengths[index])
            bins.append([index])
    return [sorted(members) for members in bins]


class _Place(NamedTuple):
    """Where a response lies: its row, and the columns of its prompt's last token and of its own first."""

    row: int
    prompt_end: int
    start: int


@dataclass
class _Row:
    """A row as it grows, token by token: ids, and for each token its position, its record and its segment."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)

    def add(self, tokens: list[int], position: int, group: int, segment: int) -> None:
        """Append tokens of one segment; the first of them has that position."""
        self.ids += tokens
        self.positions += range(position, position + len(tokens))
        self.groups += [group] * len(tokens)
        self.segments += [segment] * len(tokens)


_Piece = tuple[int, list[int]]  # a record, and those of its responses that share one copy of its prompt


def collate(examples: list[Example], layout: str = "shared", pack_to: int | None = None) -> Batch:
    """Lay examples out. ``layout``: "shared" or "plain";
    ``pack_to`` (shared only): records share rows of that many tokens."""
    if layout not in ("shared", "plain"):
        raise ValueError(f"layout: found {layout!r}; expected 'shared' or 'plain'")
    if pack_to is not None and layout != "shared":
        raise ValueError("pack_to needs layout='shared': several records in a row are told apart by its mask")
    pieces = _plain(examples) if layout == "plain" else _shared(examples, pack_to)
    rows, places = _laid_out(examples, pieces)
    return Batch(
        input_ids=_padded([row.ids for row in rows], 0), position_ids=_padded([row.positions for row in rows], 0),
        group=_padded([row.groups for row in rows], -1), segment=_padded([row.segments for row in rows], 0),
        **_responses(examples, places, width=max(len(row.ids) for row in rows)),
        keys=tuple(example.key for example in examples), records=tuple(example.record for example in examples),
        simple=all(len(row) == 1 and len(row[0][1]) <= 1 for row in pieces),
    )


def _plain(examples: list[Example]) -> list[list[_Piece]]:
    """Each response in a row of its own."""
    return [[(b, [k])] for b, example in enumerate(examples) for k in range(len(example.responses))]


def _shared(examples: list[Example], pack_to: int | None) -> list[list[_Piece]]:
    """Each record in a row of its own, or with ``pack_to`` several in one."""
    pieces = [(b, list(range(len(example.responses)))) for b, example in enumerate(examples)]
    if pack_to is None:
        return [[piece] for piece in pieces]
    return [[pieces[b] for b in members] for members in _pack([example.length for example in examples], pack_to)]


def _laid_out(examples: list[Example], pieces: list[list[_Piece]]) -> tuple[list[_Row], dict[tuple[int, int], _Place]]:
    """The rows, and where response k of record b lies in them, by (b, k)."""
    rows, places = [], {}
    for number, row_pieces in enumerate(pieces):
        row = _Row()
        for b, members in row_pieces:
            prompt, responses = examples[b].prompt, examples[b].responses
            row.add(prompt, position=0, group=b, segment=0)
            prompt_end = len(row.ids) - 1
            for k in members:
                places[b, k] = _Place(number, prompt_end, start=len(row.ids))
                row.add(responses[k], position=len(prompt), group=b, segment=k + 1)
        rows.append(row)
    return rows, places


def _responses(examples: list[Example], places: dict[tuple[int, int], _Place], width: int) -> dict[str, Tensor]:
    """The (B, K) and (B, K, T) tensors of a Batch, by name; rows are ``width`` tokens long."""
    most = max(len(example.responses) for example in examples)
    longest = max((len(response) for example in examples for response in example.responses), default=0)
    of_responses, of_tokens = (len(examples), most), (len(examples), most, longest)
    source, labels = torch.zeros(of_tokens, dtype=torch.long), torch.zeros(of_tokens, dtype=torch.long)
    mask = torch.zeros(of_tokens, dtype=torch.bool)
    present, finished = torch.zeros(of_responses, dtype=torch.bool), torch.zeros(of_responses, dtype=torch.bool)
    scores, last = torch.full(of_responses, float("nan")), torch.zeros(of_responses, dtype=torch.long)
    for (b, k), (row, prompt_end, start) in places.items():
        example, response = examples[b], examples[b].responses[k]
        present[b, k], finished[b, k] = True, example.finished[k]
        if example.scores is not None:
            scores[b, k] = example.scores[k]
        if not response:
            continue
        length, end = len(response), start + len(response) - 1
        targets = response if example.targets is None else example.targets[k]
        learned = torch.tensor([token is not None for token in targets])  # (length,)
        before = torch.tensor([prompt_end, *range(start, end)])  # (length,): the column before each token
        labels[b, k, :length] = torch.tensor([token or 0 for token in targets])
        mask[b, k, :length] = learned
        source[b, k, :length] = (row * width + before) * learned
        last[b, k] = row * width + end
    return {"source": source, "labels": labels, "mask": mask, "last": last,
            "present": present, "finished": finished, "scores": scores}


def attention_mask(batch: Batch, attention: str, dtype: torch.dtype) -> Tensor | None:
    """(R, 1, L, L): a token sees the earlier tokens of its own record that are prompt or its own response.

    None where plain causal attention says the same: padding stands on the right, so nothing that counts sees it.
    """
    if batch.simple:
        return None
    length = batch.input_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=batch.input_ids.device).tril()  # (L, L)
    same_record = batch.group.unsqueeze(2) == batch.group.unsqueeze(1)  # (R, L, L): [i, j] query i, key j
    visible = (batch.segment.unsqueeze(1) == 0) | (batch.segment.unsqueeze(2) == batch.segment.unsqueeze(1))
    seen = (causal & same_record & visible).unsqueeze(1)  # padding sees padding: no row of the softmax is empty
    return mask_for(attention, seen, dtype)


def mask_for(attention: str, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 1, Q, L) bool, True = seen → as "sdpa" takes it, which is this, or "eager", which adds it to the scores."""
    if attention == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
