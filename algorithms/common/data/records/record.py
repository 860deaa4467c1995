"""One data record, its content hashes, and the Anthropic-HH transcript form of a prompt.

Everything the project reads becomes a :class:`Record`; ``storage.py`` stores many of them, ``views.py`` derives what
algorithms train on.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Messages = list[dict[str, Any]]

MARKS = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:", "system": "\n\nSystem:"}
_TURN = re.compile(r"\n\n(Human|Assistant):(?=\s|\Z)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Record:
    """A prompt with k responses and, where they were judged, k scores.

    prompt: plain text, or messages ``[{"role": "system|user|assistant", "content": text}, …]``. A turn may hold
    further keys (JSON-able), which a chat template may read; ``weight``, which it never sees, is 0 where an answer is
    not to be learned.
    responses: k texts; their order carries no meaning. k = 0 is a bare prompt.
    scores: one finite number for each response, higher is better, ties allowed; or None.
    meta: JSON-able; not part of the content. ``judgements`` in it is how many labels the scores are (``judgements``).
    extras: the further keys of each response's turn, k dicts; None where no response has any.
    """

    prompt: str | Messages
    responses: list[str]
    scores: list[float] | None = None
    meta: dict = field(default_factory=dict)
    extras: list[dict] | None = None

    def __post_init__(self):
        if self.extras is not None and len(self.extras) != len(self.responses):
            raise ValueError(f"{len(self.extras)} extras for {len(self.responses)} responses")
        if self.scores is None:
            return
        if len(self.scores) != len(self.responses):
            raise ValueError(f"{len(self.scores)} scores for {len(self.responses)} responses")
        try:
            finite = all(map(math.isfinite, self.scores))
        except TypeError:
            raise ValueError(f"scores must be numbers: {self.scores}") from None
        if not finite:
            raise ValueError(f"scores must be finite: {self.scores}")

    @property
    def key(self) -> str:
        """Hash of prompt, responses, their extras and scores (not meta): 16 bytes as 32 hexadecimal digits."""
        return content_key(prompt_json(self.prompt), self.responses, self.scores, self.extras)

    def taking(self, places: Iterable[int], judged: bool = True) -> "Record":
        """The record with the responses at `places` alone, in that order; without scores where it is not `judged`."""
        def taken(values: Sequence | None) -> list | None:
            return None if values is None else [values[place] for place in places]

        places = list(places)
        extras = taken(self.extras)
        return replace(self, responses=taken(self.responses), scores=taken(self.scores) if judged else None,
                       extras=extras if any(extras or []) else None)

    @property
    def strict_pairs(self) -> list[tuple[int, int]]:
        """All (i, j) with scores[i] > scores[j], of different texts."""
        judged = list(enumerate(zip(self.scores or [], self.responses)))
        return [(i, j) for i, (better, chosen) in judged for j, (worse, rejected) in judged
                if better > worse and chosen != rejected]

    @property
    def strict_pair_count(self) -> int:
        """How many ``strict_pairs`` there are, counted without making them."""
        scores = self.scores
        if scores is None or len(scores) < 2:
            return 0
        if len(scores) == 2:
            return int(scores[0] != scores[1] and self.responses[0] != self.responses[1])
        of_text: dict[str, list[float]] = {}
        if len(set(self.responses)) < len(scores):
            for response, score in zip(self.responses, scores):
                of_text.setdefault(response, []).append(score)
        return _unequal(scores) - sum(map(_unequal, of_text.values()))

    @property
    def judgements(self) -> int:
        """How many labels its scores are: what meta says, else one rating, or a comparison for each pair they order; a
        tie of all is one."""
        if self.scores and isinstance(told := self.meta.get("judgements"), int):
            return told
        return max(self.strict_pair_count, 1) if self.scores and self.responses else 0

    @property
    def best(self) -> str | None:
        """The best response of this record alone: a demonstration, one with a positive score, or the top of a ranking.

        What is imitated of many records, whose ratings have a scale, is the views' to say. None where there is none:
        bare prompts, responses nobody judged, all tied. The first of several tops.
        """
        if len(self.responses) == 1:
            return self.responses[0] if self.scores is None or self.scores[0] > 0 else None
        if not self.scores or min(self.scores) == max(self.scores):
            return None
        return self.responses[self.scores.index(max(self.scores))]


def _unequal(scores: list[float]) -> int:
    """How many pairs of two different scores there are."""
    counts = Counter(scores).values()
    return (len(scores) ** 2 - sum(count * count for count in counts)) // 2


def answered(prompt: str | Messages, turns: Messages, scores: list[float] | None = None, meta: dict | None = None
             ) -> Record:
    """The record of a prompt and the turns that answer it."""
    extras = [further(turn) for turn in turns]
    return Record(prompt, [turn["content"] for turn in turns], scores, meta or {}, extras if any(extras) else None)


def further(turn: dict) -> dict:
    """What a turn holds besides its role and text."""
    return {} if len(turn) == 2 else {key: value for key, value in turn.items() if key not in ("role", "content")}


# Hashes are of canonical JSON, which is put together here of texts that are escaped once: millions of rows pass.
_escaped = json.encoder.encode_basestring_ascii
_sorted = json.JSONEncoder(sort_keys=True).encode


def prompt_json(prompt: str | Messages) -> str:
    """What a record's key holds of its prompt: the text, or [role, text, further keys if any] of each turn."""
    if isinstance(prompt, str):
        return _escaped(prompt)
    return f"[{', '.join(map(_turn_json, prompt))}]"


def _turn_json(turn: dict) -> str:
    more = f", {_sorted(more)}" if (more := further(turn)) else ""
    return f"[{_escaped(turn['role'])}, {_escaped(turn['content'])}{more}]"


def meta_json(meta: dict) -> str:
    """``json.dumps``, without its making of an encoder where there are texts and whole numbers alone."""
    parts = []
    for key, value in meta.items():
        if type(key) is not str or type(value) is not int and type(value) is not str:
            return json.dumps(meta)
        parts.append(f"{_escaped(key)}: {value if type(value) is int else _escaped(value)}")
    return f"{{{', '.join(parts)}}}"


def content_key(prompt: str, responses: Iterable[str], scores: list[float] | None, extras: list[dict] | None) -> str:
    """``Record.key``, of the prompt as :func:`prompt_json` gives it."""
    judged = "null" if scores is None else f"[{', '.join(map(repr, map(float, scores)))}]"
    beside = "" if extras is None else f", {_sorted(extras)}"
    content = f"[{prompt}, [{', '.join(map(_escaped, responses))}], {judged}{beside}]"
    return hashlib.blake2b(content.encode("ascii"), digest_size=16).hexdigest()


def short_hash(text: str) -> int:
    """Stable 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def prompt_hash(prompt: str | Messages) -> int:
    """Stable 64-bit hash of a prompt's roles and texts, whatever else its turns hold (often no more than numbers and
    dates); a plain text and the same text as one user message are equal."""
    if isinstance(prompt, str):
        return short_hash(f'[["user", {_escaped(prompt)}]]')
    turns = (f"[{_escaped(turn['role'])}, {_escaped(turn['content'])}]" for turn in prompt)
    return short_hash(f"[{', '.join(turns)}]")


def hashes(prompt: str | Messages) -> tuple[str, int, int]:
    """A prompt's :func:`prompt_json`, :func:`prompt_hash` and :func:`root_hash`, each text escaped once where it can
    be."""
    if isinstance(prompt, str):
        whole = _escaped(prompt)
        one = short_hash(f'[["user", {whole}]]')
        return whole, one, one
    whole = prompt_json(prompt)
    one = prompt_hash(prompt) if any(map(further, prompt)) else short_hash(whole)
    return whole, one, one if len(prompt) == 1 else root_hash(prompt)


def root_hash(prompt: str | Messages) -> int:
    """Hash of where a conversation begins: the prompt up to its first user turn, without system messages.

    Prompts that continue one conversation share it; of a single question it is ``prompt_hash`` of that question alone.
    """
    if isinstance(prompt, str):
        return prompt_hash(prompt)
    turns = [turn for turn in prompt if turn["role"] != "system"] or prompt
    last = next((index for index, turn in enumerate(turns) if turn["role"] == "user"), len(turns) - 1)
    return prompt_hash(turns[:last + 1])


def parse_transcript(text: str) -> tuple[Messages, str, str] | None:
    """Cut an HH transcript at its last ``\\n\\nAssistant:``.

    Returns the prompt as messages, the response without its leading space, and the prompt's text with the mark; None
    where the text is no transcript (it must begin with a turn mark). ``render_transcript(messages)`` is exactly
    the prompt's text: a mark without white space after it is no mark, and its text stays in the turn before.
    """
    prompt, mark, response = text.rpartition(MARKS["assistant"])
    if not mark:
        return None
    system = prompt.startswith(MARKS["system"] + " ")
    turns = list(_TURN.finditer(prompt))
    first = len(MARKS["system"]) if system else turns[0].start() if turns else None
    if first is None or not system and first != 0:
        return None
    starts = [("system", first)] if system else []
    starts += [(_ROLES[turn[1]], turn.end()) for turn in turns]
    ends = [turn.start() for turn in turns][0 if system else 1:] + [len(prompt)]
    messages = [{"role": role, "content": _turn_text(prompt[start:end])} for (role, start), end in zip(starts, ends)]
    return messages, response.removeprefix(" "), prompt + mark


def _turn_text(raw: str) -> str:
    return raw[1:] if raw[:1] == " " and not raw[1:2].isspace() and raw != " " else raw


def render_transcript(messages: Messages) -> str:
    """The HH form of a prompt: ``\\n\\nHuman: …\\n\\nAssistant: …\\n\\nHuman: …\\n\\nAssistant:``.

    The answer follows after a space. A turn is its mark, a space and its text. A text that is empty or starts
    with white space follows its mark directly.
    """
    turns = []
    for turn in messages:
        content = turn["content"]
        turns += [MARKS[turn["role"]], " " if content and not content[0].isspace() else "", content]
    return "".join(turns) + MARKS["assistant"]


# the same as a chat template, for whoever serves a model that was trained on it
TRANSCRIPT = ("{% for m in messages %}{{ " + repr(MARKS) + "[m['role']] }}{% if m['content'][:1] | trim %}{{ ' ' }}"
              "{% endif %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ " + repr(MARKS["assistant"])
              + " }}{% endif %}")
