"""Diverse beam search: Vijayakumar et al. 2016, arXiv 1610.02424.

Beams are in groups that search one after the other at every step; a token that earlier groups took at this step costs
a later group ``penalty`` for each time (Hamming diversity, §4). As in the paper the penalty decides which beams go on
and is no part of a beam's own score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.batches import longest_first
from ..support.phases import progress
from .model import Models
from .sampling import Sample, prefill, visible


@torch.no_grad()
def diverse_beams(models: Models, role: str, prompts: list[list[int]], *, beams: int, groups: int, penalty: float,
                  max_new_tokens: int, batch_size: int) -> list[list[Sample]]:
    """``beams`` responses for each prompt (token ids): each group's, by falling log-probability, group after group.

    ``batch_size``: sequences decoded at the same time, at least one prompt's.
    """
    results: list[list[Sample]] = [[] for _ in prompts]
    chunk = max(1, batch_size // beams)
    models.used.add(models.role(role).name)
    with models.roles.merged(models.role(role).name), progress("beam search", len(prompts), "prompts") as advance:
        for members in longest_first(list(map(len, prompts)), chunk):
            found = _search(models, [prompts[i] for i in members], beams, groups, penalty, max_new_tokens)
            for index, samples in zip(members, found):
                results[index] = samples
            advance(len(members))
    return results


def _search(models: Models, prompts: list[list[int]], beams: int, groups: int, penalty: float, length: int
            ) -> list[list[Sample]]:
    model, device = models.roles.module, models.device
    count, width = len(prompts), beams // groups
    logits, mask, position, cache = prefill(models, prompts, length).spread(beams)
    seen = visible(models, mask, length)
    stop = torch.tensor(models.template.stop_ids, device=device)
    scores = torch.full((count, groups, width), -torch.inf, device=device)
    scores[:, :, 0] = 0.0  # a group's beams are one until its first step
    ended = torch.zeros(count, groups, width, dtype=torch.bool, device=device)
    lengths = torch.full((count, groups, width), length, device=device)
    tokens = torch.zeros(count, groups, width, length, dtype=torch.long, device=device)
    first_row = torch.arange(count * groups, device=device).view(count, groups, 1) * width  # of each group in the batch
    for step in range(length):
        logprobs = logits.float().log_softmax(-1).view(count, groups, width, -1)
        token, parent, scores = _advance(logprobs, scores, ended, penalty, stop[:1])
        tokens, ended, lengths = (_follow(x, parent) for x in (tokens, ended, lengths))
        tokens[..., step] = token
        lengths[~ended & torch.isin(token, stop)] = step + 1
        ended = ended | torch.isin(token, stop)
        if step + 1 == length or bool(ended.all()):
            break
        cache.reorder_cache((first_row + parent).flatten())
        logits = model(input_ids=token.view(-1, 1), attention_mask=seen[..., :mask.shape[1] + step + 1],
                       position_ids=position, past_key_values=cache, use_cache=True).logits[:, -1]
        position = position + 1
    return [[Sample(ids[:n], bool(over)) for ids, n, over in zip(*rows)] for rows in
            zip(tokens.flatten(1, 2).tolist(), lengths.flatten(1, 2).tolist(), ended.flatten(1, 2).tolist())]


def _advance(logprobs: Tensor, scores: Tensor, ended: Tensor, penalty: float, stop: Tensor
             ) -> tuple[Tensor, Tensor, Tensor]:
    """One step of all groups: (P, G, W, V) log-probabilities, (P, G, W) scores → tokens, parents, scores (P, G, W).

    A beam that has ended goes on as itself, at no cost, with the end token ``stop``, (1,).
    """
    count, groups, width, vocabulary = logprobs.shape
    stays = torch.full((vocabulary,), -torch.inf, device=logprobs.device).index_fill(0, stop, 0.0)
    totals = scores.unsqueeze(-1) + torch.where(ended.unsqueeze(-1), stays, logprobs)  # (P, G, W, V)
    taken = torch.zeros(count, vocabulary, device=logprobs.device)  # how often at this step
    chosen = []
    for group in range(groups):
        candidates = totals[:, group]  # (P, W, V)
        alive = (~ended[:, group]).unsqueeze(-1)
        best = (candidates - penalty * taken.unsqueeze(1) * alive).flatten(1).topk(width).indices  # (P, W)
        token, parent = best % vocabulary, best // vocabulary
        chosen.append((token, parent, candidates.flatten(1).gather(1, best)))
        adds = (~ended[:, group]).gather(1, parent).float()  # an ended beam takes no token
        taken.scatter_add_(1, token, adds)
    return tuple(torch.stack(parts, 1) for parts in zip(*chosen))


def _follow(values: Tensor, parent: Tensor) -> Tensor:
    """(P, G, W, …) of each beam's parent."""
    index = parent.view(*parent.shape, *[1] * (values.dim() - 3)).expand(*parent.shape, *values.shape[3:])
    return values.gather(2, index)
