"""Log-probabilities of responses. Pure tensor functions, float32 inside."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 512  # positions whose logits exist at the same time; at a vocabulary of 128k that is 0.26 GB in fp32


def token_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log π(y_t | …) of aligned labels: (B, T, V), (B, T) → (B, T), in nats. Any leading shape will do.

    logit[target] − logsumexp(logits), so that no second (B, T, V) tensor is made. The caller has shifted:
    logits[:, t] predicts labels[:, t].
    """
    logits = logits.float()
    target = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return target - logits.logsumexp(-1)


def length_normalized(logprobs: Tensor, mask: Tensor, *, length_penalty: float = 1.0) -> Tensor:
    """Σ_t log π(y_t | …) / |y|^length_penalty: (B, K, T), (B, K, T) → (B, K), in nats a token.

    ``length_penalty``: 1 is the mean over the response's tokens, 0 their sum. An empty response gives 0.
    """
    return per_length(torch.where(mask, logprobs, 0).sum(-1), mask, length_penalty=length_penalty)


def per_length(sums: Tensor, mask: Tensor, *, length_penalty: float = 1.0) -> Tensor:
    """The same from summed log-probabilities: (B, K), (B, K, T) → (B, K)."""
    lengths = mask.sum(-1).clamp_min(1).to(sums.dtype)
    return sums / lengths**length_penalty


def chunked_token_logprobs(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int = CHUNK
                           ) -> Tensor:
    """(N, H), (N,) → (N,): head and log-softmax ``chunk`` positions at a time, made again in the backward pass."""

    def one(states: Tensor, targets: Tensor) -> Tensor:
        return token_logprobs(head(states), targets)

    pieces = []
    for states, targets in zip(hidden.split(chunk), labels.split(chunk)):
        if torch.is_grad_enabled() and len(hidden) > chunk:
            pieces.append(checkpoint(one, states, targets, use_reentrant=False))
        else:
            pieces.append(one(states, targets))
    return torch.cat(pieces) if pieces else hidden.new_zeros(0, dtype=torch.float32)


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(π ‖ π_ref) over the whole vocabulary at each state: (N, V), (N, V) → (N,), in nats.

    Tokens that π never takes (logit −inf, as where it is truncated) add nothing: p log p → 0.
    """
    logp, ref_logp = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    p = logp.exp()
    return torch.where(p > 0, p * (logp - ref_logp), 0).sum(-1)
