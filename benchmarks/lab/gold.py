"""The gold reward of the reviews lab: sentiment with coherence, judged by the grammar itself.

The text (prompt + response) is parsed into clauses; with n clauses,

    gold = Σ credit / √(n + 2) − 2·off − 3·(repeated + repeated_adjectives + unparsed) − conjunctions − [no EOS]

where a clause's credit is modifier × adjective (or the event's or closing's score), off is the share of clauses about
another domain than the prompt's, repeated the share that tells an aspect or event again, repeated_adjectives the share
that uses an adjective again, unparsed the share that is no clause of the grammar, and conjunctions the share of "and"
between opposite or "but" between like sentiments. A clause off the topic or repeated earns no praise, only blame.

A review has at most four sentences and ends with its closing phrase, if any: what stands beyond is unparsed, so text
without end does not pay. Unparsed stretches count one clause per five words begun; a text without a clause is unparsed.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from algorithms.common.support.errors import DataError
from benchmarks.lab.grammar import SENTENCES
from benchmarks.lab.vocabulary import (
    ADJECTIVES,
    AGREEING,
    CLOSINGS,
    COMPANIONS,
    DOMAINS,
    FIRST_NAMES,
    LAST_NAMES,
    MODIFIERS,
    OPPOSING,
    TIMES,
    Domain,
)

WORDS_PER_CLAUSE = 5


def gold(prompt: str, response: str, finished: bool) -> float:
    """The gold reward of `response` to `prompt`; `finished` says whether it ended by itself (EOS) and not by a cap.

    Raises DataError for a prompt that does not begin with an opening sentence of the lab: its topic is unknown.
    """
    return judge(prompt, response, finished).gold


def gold_rewards(prompts: list[str], responses: list[str], finished: list[bool]) -> list[float]:
    """`gold` of every row; the three lists have one length."""
    return [gold(*row) for row in zip(prompts, responses, finished, strict=True)]


def closes(response: str) -> bool:
    """Whether the response ends with one of the closing phrases."""
    return response.endswith(tuple(CLOSINGS))


@dataclass
class Judgement:
    """What the judge found in one text: counts of clauses, their credits, and the reward made of them."""

    finished: bool
    credits: list[float] = field(default_factory=list)      # one per parsed clause
    off: int = 0
    repeated: int = 0
    repeated_adjectives: int = 0
    unparsed: int = 0
    conjunctions: int = 0
    wrong_conjunctions: int = 0

    @property
    def clauses(self) -> int:
        return len(self.credits) + self.unparsed

    @property
    def gold(self) -> float:
        n = self.clauses
        faults = 2 * self.off + 3 * (self.repeated + self.repeated_adjectives + self.unparsed)
        return (
            sum(self.credits) / math.sqrt(n + 2) - faults / n
            - self.wrong_conjunctions / max(self.conjunctions, 1) - (not self.finished)
        )


def judge(prompt: str, response: str, finished: bool) -> Judgement:
    """Parse prompt + response and count its virtues and faults; see the module's formula."""
    opening = _OPENING.match(prompt)
    if opening is None:
        raise DataError(
            f"prompt: found {prompt[:60]!r}; expected an opening sentence of the reviews lab "
            "(its gold reward judges no other text); fix: use data=reviews, or another reward for your own prompts"
        )
    topic = DOMAINS[opening["noun"]]
    found, told = Judgement(finished), set()
    closed, sentences = False, 0
    first, *pieces = _SENTENCE_END.split((prompt + response)[opening.end() - 1:])
    if first != ".":        # text that follows the opening's full stop without a space
        pieces = [first, *pieces]
    for piece in pieces or [""]:
        if piece in CLOSINGS and not closed:
            found.credits.append(CLOSINGS[piece])
            closed = True
            continue
        sentences += 1
        sentence = _SENTENCE.fullmatch(_uncapitalised(piece))
        if sentence is None or closed or sentences > max(SENTENCES):
            found.unparsed += max(1, math.ceil(len(piece.split()) / WORDS_PER_CLAUSE))
        else:
            _weigh(sentence, topic, found, told)
    return found


def _weigh(sentence: re.Match, topic: Domain, found: Judgement, told: set[str]) -> None:
    """Add a parsed sentence's clauses to what was `found`, and its subjects and adjectives to what was `told`."""
    scores = []
    for words in filter(None, (sentence["first"], sentence["second"])):
        subject, adjective, score = _clause(words)
        off = subject not in topic.aspects and subject not in topic.events
        repeated = subject in told
        found.off += off
        found.repeated += repeated
        found.repeated_adjectives += adjective in told
        found.credits.append(min(score, 0.0) if off or repeated else score)
        scores.append(score)
        told |= {subject, adjective} - {None}
    if sentence["second"]:
        found.conjunctions += 1
        found.wrong_conjunctions += bool(sentence["agreeing"]) != (scores[0] * scores[1] > 0)


def _clause(words: str) -> tuple[str, str | None, float]:
    """A clause's subject (aspect or event), its adjective if any, and its score."""
    if words in _EVENTS:
        return words, None, _EVENTS[words]
    _, aspect, _, *modifier, adjective = words.split(" ")
    return aspect, adjective, ADJECTIVES[adjective] * (MODIFIERS[modifier[0]] if modifier else 1.0)


def _uncapitalised(sentence: str) -> str:
    """The sentence as its clauses are spelled; without a capital it stays no sentence ("")."""
    if not sentence[:1].isupper():
        return ""
    return sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]


def _any(words: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) + ")"


_EVENTS = {event: score for domain in DOMAINS.values() for event, score in domain.events.items()}
_SENTENCE_END = re.compile(r"(?<=\.) ")
_OPENING = re.compile(
    f"{_any({v for d in DOMAINS.values() for v in d.verbs})} the {_any(FIRST_NAMES)} {_any(LAST_NAMES)} "
    rf"(?P<noun>{_any(DOMAINS)}) {_any(TIMES)} {_any(COMPANIONS)}\.(?= |\Z)"
)
_SINGULAR = _any({a for d in DOMAINS.values() for a in d.singular})
_PLURAL = _any({a for d in DOMAINS.values() for a in d.plural})
_CLAUSE = f"(?:the (?:{_SINGULAR} was|{_PLURAL} were) (?:{_any(MODIFIERS)} )?{_any(ADJECTIVES)}|{_any(_EVENTS)})"
_SENTENCE = re.compile(
    f"(?P<first>{_CLAUSE})"
    rf"(?:(?:, (?P<opposing>{_any(OPPOSING)})| (?P<agreeing>{_any(AGREEING)})) (?P<second>{_CLAUSE}))?\."
)
