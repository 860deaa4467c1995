"""One role's answers, in the terms of the papers: log-probabilities of responses, values, scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, attention_mask
from ..logprobs import CHUNK, chunked_token_logprobs, exact_kl
from .families import head_logits


class Role:
    """One role's answers. Frozen roles never build a graph."""

    def __init__(self, models: Any, name: str, trainable: bool):
        """models: the ``Models`` it is one of."""
        self.models, self.name, self.trainable = models, name, trainable
        self.stored = None  # kept log-probabilities by content, see references.py
        self.scalar: torch.nn.Linear | None = None  # a head of its own, float32: rewards, values

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        own = {} if self.scalar is None else {f"scalar.{key}": value for key, value in self.scalar.named_parameters()}
        return {**self.models.roles.named_parameters(self.name), **own}

    def add_scalar_head(self, outputs: int = 1, like: Role | None = None, seed: int | None = None) -> None:
        """A Linear(hidden, outputs) in float32: of zeros, so that all scores are equal and a loss of comparisons starts
        at ln 2 whatever the size of the states; a copy of another role's; or N(0, 1/(hidden + 1)) by a seed, as in
        arXiv 2009.01325."""
        hidden = self.models.roles.module.get_output_embeddings().in_features  # OPT-350m projects its last states down
        self.scalar = torch.nn.utils.skip_init(torch.nn.Linear, hidden, outputs)
        torch.nn.init.zeros_(self.scalar.weight)
        torch.nn.init.zeros_(self.scalar.bias)
        if seed is not None:
            drawn = torch.Generator().manual_seed(seed)
            torch.nn.init.normal_(self.scalar.weight, std=(hidden + 1) ** -0.5, generator=drawn)
        if like is not None:
            self.scalar.load_state_dict(like.scalar.state_dict())
        self.scalar.to(self.models.device).requires_grad_(self.trainable)

    def _scalar_at(self, batch: Batch, index: Tensor) -> Tensor:
        """(…,) flat indices into the rows → (…, outputs), in float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            return self.scalar(self.hidden_states(batch).flatten(0, 1)[index].float())

    def values(self, batch: Batch) -> Tensor:
        """(B, K, T): V(s_t), read at the state that predicts y_t; 0 outside the mask."""
        values = self._scalar_at(batch, batch.source[batch.mask]).squeeze(-1)  # (N,)
        return torch.zeros(batch.mask.shape, device=values.device).masked_scatter(batch.mask, values)

    def final_outputs(self, batch: Batch) -> Tensor:
        """(B, K, outputs): the head at each response's last token; 0 where a response is absent."""
        return self._scalar_at(batch, batch.last) * batch.present.unsqueeze(-1)

    def hidden_states(self, batch: Batch) -> Tensor:
        """(R, L, H): the backbone's last hidden states, in this role."""
        models = self.models
        models.used.add(self.name)
        grad = torch.is_grad_enabled() and self.trainable
        with torch.set_grad_enabled(grad), models.roles.use(self.name), models.autocast():
            module = models.roles.module
            if module.training != grad:
                module.train(grad)  # checkpointing works in train() only; dropout is LoRA's, 0 where it matters
            backbone = getattr(module, module.base_model_prefix)
            mask = attention_mask(batch, models.config.attention, models.mask_dtype)
            # HF's own causal mask (None here) would read restarted positions as a packed row
            mask = mask if mask is not None else (batch.group >= 0).long()
            return backbone(input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids,
                            use_cache=False).last_hidden_state

    def head(self, states: Tensor) -> Tensor:
        """(N, H) → (N, V) logits."""
        with self.models.roles.use(self.name), self.models.autocast():
            return head_logits(self.models.roles.module, states)

    def _head_learns(self) -> bool:
        with self.models.roles.use(self.name):
            return any(one.requires_grad for one in self.models.roles.module.get_output_embeddings().parameters())

    def token_logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """(B, K, T): log π(y_t | x, y_<t) at a sampling temperature, 0 outside the mask.
        The head sees response positions only."""
        hidden = self.hidden_states(batch)
        head = self.head if temperature == 1 else lambda states: self.head(states).float() / temperature
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            states = hidden.flatten(0, 1)[batch.source[batch.mask]]  # (N, H)
            labels, learns = batch.labels[batch.mask], self._head_learns()
            values = chunked_token_logprobs(states, labels, head, head_learns=learns)  # (N,)
            return torch.zeros(batch.mask.shape, device=values.device).masked_scatter(batch.mask, values)

    def token_kl(self, batch: Batch, other: Role, temperature: float = 1.0) -> Tensor:
        """(B, K, T): KL(π ‖ π_other) over the whole vocabulary at each token's state, in nats, 0 outside the mask;
        without a graph."""
        places = batch.source[batch.mask]  # (N,)
        with torch.no_grad():
            states = [role.hidden_states(batch).flatten(0, 1)[places].split(CHUNK) for role in (self, other)]
            values = [exact_kl(self.head(own).float() / temperature, other.head(theirs).float() / temperature)
                      for own, theirs in zip(*states)]
            return torch.zeros(batch.mask.shape, device=places.device).masked_scatter(batch.mask, torch.cat(values))

    def response_logprobs(self, batch: Batch) -> Tensor:
        """(B, K): log π(y|x), summed over the response and its end token; from the store where this role has one."""
        if self.stored is not None:
            return self.stored.lookup(batch)
        return self.token_logprobs(batch).sum(-1)
