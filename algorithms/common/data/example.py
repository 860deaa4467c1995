"""A record as token ids."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

_CONTEXT = 2**32 - 1  # stands for "not learned" in a key; no token has this id


@dataclass(frozen=True)
class Example:
    """One record as token ids. ``prompt`` is never empty;
    ``finished[k]`` says that response k ends with the end token."""

    prompt: list[int]
    responses: list[list[int]]  # K lists, each with its end token unless it was cut
    finished: list[bool]  # K
    scores: list[float] | None  # K
    record: str  # the record's key, for messages
    truncated: bool = False  # something was cut to fit
    turns_left_out: int = 0  # whole turns of the prompt's middle, for that
    prompt_cut: bool = False  # text of the prompt, for that
    key: str = field(default="")  # content hash of all token ids, and of the targets where there are any
    # K lists as long as the responses: the token to learn in each place, None where the response's is context only.
    # It may be another than the response's: an answer's end is learned even where the row goes on without its end
    # token.
    targets: list[list[int | None]] | None = None  # None: every token of the responses is learned

    def __post_init__(self):
        if not self.key:
            digest = hashlib.blake2b(digest_size=16)
            targets = [] if self.targets is None else [[None], *self.targets]
            for ids in (self.prompt, *self.responses, *targets):
                digest.update(len(ids).to_bytes(4, "little"))
                digest.update(b"".join((_CONTEXT if token is None else token).to_bytes(4, "little") for token in ids))
            object.__setattr__(self, "key", digest.hexdigest())

    @property
    def length(self) -> int:
        """Tokens of the shared-prefix row: prompt + all responses."""
        return len(self.prompt) + sum(len(response) for response in self.responses)
