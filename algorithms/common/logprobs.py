"""Log-probabilities of responses. Pure tensor functions, float32 inside."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 512  # positions whose logits exist at the same time; at a vocabulary of 128k that is 0.26 GB in fp32


def token_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log π(y_t | …) of aligned labels: (B, T, V), (B, T) → (B, T), in nats. Any leading shape will do.

    The caller has shifted: logits[:, t] predicts labels[:, t].
    """
    return logits.log_softmax(-1, dtype=torch.float32).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def length_normalized(logprobs: Tensor, mask: Tensor, *, length_penalty: float = 1.0) -> Tensor:
    """Σ_t log π(y_t | …) / |y|^length_penalty: (B, K, T), (B, K, T) → (B, K), in nats a token.

    ``length_penalty``: 1 is the mean over the response's tokens, 0 their sum. An empty response gives 0.
    """
    return per_length(torch.where(mask, logprobs, 0).sum(-1), mask, length_penalty=length_penalty)


def per_length(sums: Tensor, mask: Tensor, *, length_penalty: float = 1.0) -> Tensor:
    """The same from summed log-probabilities: (B, K), (B, K, T) → (B, K)."""
    lengths = mask.sum(-1).clamp_min(1).to(sums.dtype)
    return sums / lengths**length_penalty


def chunked_token_logprobs(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int = CHUNK,
                           head_learns: bool = True) -> Tensor:
    """(N, H), (N,) → (N,): head and log-softmax, ``chunk`` positions at a time.

    ``head_learns``: whether a parameter of the head may need a gradient. Several chunks are then made again in the
    backward pass; where the states alone need one, it is taken at once and nothing is made twice.
    """
    def one(states: Tensor, targets: Tensor) -> Tensor:
        return token_logprobs(head(states), targets)

    gradient = torch.is_grad_enabled()
    if gradient and not head_learns and hidden.requires_grad and len(hidden):
        return _WithGradient.apply(hidden, labels, head, chunk)
    pieces = []
    for states, targets in zip(hidden.split(chunk), labels.split(chunk)):
        if gradient and len(hidden) > chunk:
            pieces.append(checkpoint(one, states, targets, use_reentrant=False))
        else:
            pieces.append(one(states, targets))
    return torch.cat(pieces) if pieces else hidden.new_zeros(0, dtype=torch.float32)


class _WithGradient(torch.autograd.Function):
    """The log-probabilities with ∂ log π(y_t)/∂h_t, (N, H), in place of logits for the backward pass.

    ∂ log π(y_t)/∂z_t = onehot(y_t) − softmax(z_t) for the logits z_t = head(h_t), and y_t's depends on no other state:
    what comes from above is one factor for each.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int) -> Tensor:
        chunks = [_values_and_gradient(states, targets.unsqueeze(-1), head)
                  for states, targets in zip(hidden.split(chunk), labels.split(chunk))]
        values, gradients = map(torch.cat, zip(*chunks))
        ctx.save_for_backward(gradients)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, above: Tensor):
        (gradients,) = ctx.saved_tensors
        return (above.unsqueeze(-1) * gradients).to(gradients.dtype), None, None, None


def _values_and_gradient(states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(n, H), (n, 1) → (n,) log π(y_t), (n, H) ∂ log π(y_t)/∂h_t. A function: no logits outlive their chunk."""
    with torch.enable_grad():
        logits = head(leaf := states.detach().requires_grad_())  # (n, V)
    logprobs = logits.detach().log_softmax(-1, dtype=torch.float32)
    values = logprobs.gather(-1, targets).squeeze(-1)
    downward = logprobs.exp_().scatter_add_(-1, targets, logprobs.new_full(targets.shape, -1.0))  # softmax − onehot
    return values, torch.autograd.grad(logits, leaf, downward.to(logits.dtype))[0].neg_()


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(π ‖ π_ref) over the whole vocabulary at each state: (N, V), (N, V) → (N,), in nats.

    Tokens that π never takes (logit −inf, as where it is truncated) add nothing: p log p → 0.
    """
    logp, ref_logp = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    p = logp.exp()
    return torch.where(p > 0, p * (logp - ref_logp), 0).sum(-1)
