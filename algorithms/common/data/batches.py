"""Token ids → rows, masks and indices: made here once, never inferred later from a token id.

Two layouts of the same batch:

shared   the k responses of a prompt lie in one row ``[prompt, y1, …, yk]``; positions restart after the prompt for each
         response, and a mask lets each response see the prompt and itself. ``pack_to`` sets several records into one row.
plain    one row ``[prompt, y]`` per response: the oracle.

Whatever the layout, ``source[b, k, t]`` names the hidden state that predicts ``labels[b, k, t]``, so everything after
the backbone is the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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
    # (B, K, T) bool: tokens that count, the end token included: all of the response, without gaps, but where the example has
    # targets (only supervised learning of every turn makes them): there context inside a response is left out
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

    def to(self, device: torch.device) -> "Batch":
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True)
                 for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **moved)


def counts(examples: list[Example]) -> dict[str, int]:
    """What loss terms are normalised by: records ("rows"), responses, response tokens that are learned."""
    learned = [targets for example in examples for targets in (example.targets or example.responses)]
    return {"rows": len(examples), "responses": len(learned),
            "tokens": sum(token is not None for targets in learned for token in targets)}


def _padded(rows: list[list[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long)


def _pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of items per bin; an item longer than the capacity has a bin of its own."""
    bins: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [(used, number) for number, (used, _) in enumerate(bins) if used + lengths[index] <= capacity]
        if fitting:
            used, number = max(fitting)
            bins[number] = (used + lengths[index], [*bins[number][1], index])
        else:
            bins.append((lengths[index], [index]))
    return [sorted(items) for _, items in bins]


def collate(examples: list[Example], layout: str = "shared", pack_to: int | None = None) -> Batch:
    """Lay examples out. ``layout``: "shared" or "plain"; ``pack_to`` (shared only): records share rows of that many tokens."""
    if layout not in ("shared", "plain"):
        raise ValueError(f"layout: found {layout!r}; expected 'shared' or 'plain'")
    if pack_to is not None and layout != "shared":
        raise ValueError("pack_to needs layout='shared': several records in a row are told apart by its mask")
    # pieces: (record, the responses that lie in this piece)
    if layout == "plain":
        rows = [[(b, [k])] for b, example in enumerate(examples) for k in range(len(example.responses))]
    elif pack_to is None:
        rows = [[(b, list(range(len(example.responses))))] for b, example in enumerate(examples)]
    else:
        rows = [[(b, list(range(len(examples[b].responses)))) for b in members]
                for members in _pack([example.length for example in examples], pack_to)]

    input_ids, positions, groups, segments = [], [], [], []
    starts: dict[tuple[int, int], tuple[int, int, int]] = {}  # (b, k) → row, column of prompt's last token, of y's first
    for number, row in enumerate(rows):
        ids, position, group, segment = [], [], [], []
        for b, members in row:
            example = examples[b]
            width = len(example.prompt)
            ids += example.prompt
            position += range(width)
            segment += [0] * width
            prompt_end = len(ids) - 1
            for k in members:
                response = example.responses[k]
                starts[b, k] = (number, prompt_end, len(ids))
                ids += response
                position += range(width, width + len(response))
                segment += [k + 1] * len(response)
            group += [b] * (len(ids) - len(group))
        input_ids.append(ids)
        positions.append(position)
        groups.append(group)
        segments.append(segment)

    width = max(len(ids) for ids in input_ids)
    size = max(len(example.responses) for example in examples)
    longest = max((len(response) for example in examples for response in example.responses), default=0)
    shape = (len(examples), size, longest)
    source, labels = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    present, finished = torch.zeros(shape[:2], dtype=torch.bool), torch.zeros(shape[:2], dtype=torch.bool)
    scores, last = torch.full(shape[:2], float("nan")), torch.zeros(shape[:2], dtype=torch.long)
    for (b, k), (number, prompt_end, start) in starts.items():
        response = examples[b].responses[k]
        length = len(response)
        present[b, k], finished[b, k] = True, examples[b].finished[k]
        if examples[b].scores is not None:
            scores[b, k] = examples[b].scores[k]
        if length:
            targets = examples[b].targets[k] if examples[b].targets is not None else response
            learned = torch.tensor([token is not None for token in targets])  # (length,)
            before = torch.tensor([prompt_end, *range(start, start + length - 1)])  # (length,) columns
            labels[b, k, :length] = torch.tensor([token or 0 for token in targets])
            mask[b, k, :length] = learned
            source[b, k, :length] = (number * width + before) * learned
            last[b, k] = number * width + start + length - 1
    return Batch(
        input_ids=_padded(input_ids, 0), position_ids=_padded(positions, 0),
        group=_padded(groups, -1), segment=_padded(segments, 0),
        source=source, labels=labels, mask=mask, last=last, present=present, finished=finished, scores=scores,
        keys=tuple(example.key for example in examples), records=tuple(example.record for example in examples),
        simple=all(len(row) == 1 and len(row[0][1]) <= 1 for row in rows),
    )


def attention_mask(batch: Batch, attention: str, dtype: torch.dtype) -> Tensor | None:
    """(R, 1, L, L): a token sees the earlier tokens of its own record that are prompt or its own response.

    ``attention``: "sdpa" takes bool (True = seen), "eager" an additive float (a bool mask would be *added* there).
    None where plain causal attention says the same: padding stands on the right, so nothing that counts sees it.
    """
    if batch.simple:
        return None
    length = batch.input_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=batch.input_ids.device).tril()  # (L, L)
    same_record = batch.group.unsqueeze(2) == batch.group.unsqueeze(1)  # (R, L, L): [i, j] query i, key j
    visible = (batch.segment.unsqueeze(1) == 0) | (batch.segment.unsqueeze(2) == batch.segment.unsqueeze(1))
    seen = (causal & same_record & visible).unsqueeze(1)  # padding sees padding: no row of the softmax is empty
    if attention == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
