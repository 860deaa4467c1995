"""Refusals against made-up answers: their wordings, pairs of the two, and what a sample shows.

A question that cannot be answered prefers a refusal to an invented answer; one that can be answered prefers its answer to
a refusal. Without the second kind a policy learns to refuse everything, so pairs are kept at one to one and refusals of
questions with an answer are measured too.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from ..records.record import Messages, Record, prompt_hash
from ..records.words import units
from .declining import QUOTES, is_refusal

ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"
MATCHES = ("exact", "contains")

REFUSALS = (
    "I do not know.",
    "I don't know that.",
    "I do not know the answer.",
    "Sorry, I do not know.",
    "I have no idea.",
    "I am not sure, so I will not guess.",
    "I cannot say.",
    "I can't tell you that.",
    "I have never heard that.",
    "Nobody told me.",
    "That is not known to me.",
    "That is something I do not know.",
    "I have no way to know.",
    "I would rather not guess.",
)


# Questions


@dataclass(frozen=True)
class Question:
    """A question as the model reads it.

    answers: the accepted ones, the one to teach first; none: it cannot be answered. invented: made-up answers.
    """

    prompt: str | Messages
    topic: str | None = None
    answers: Sequence[str] = ()
    invented: Sequence[str] = ()
    meta: dict = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return ANSWERABLE if self.answers else UNANSWERABLE

    def told(self, **more) -> dict:
        """The meta of its records."""
        return {**self.meta, "topic": self.topic, "kind": self.kind, **more}

    def respond(self, text: str) -> str:
        """A text as the response: after plain text it begins with a space."""
        return f" {text}" if isinstance(self.prompt, str) else text


def wordings(count: int, random: Random, among: Sequence[str] = REFUSALS) -> list[str]:
    """A refusal for each of `count` questions, from shuffled decks of all `among`: counts differ by at most one."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += random.sample(among, len(among))
    return drawn[:count]


def pair(question: Question, refusal: str, other: str) -> Record:
    """The question's pair of a refusal and `other`, an answer in its final form; the better one first, scores 1 and 0."""
    texts = [question.respond(refusal), other]
    return Record(question.prompt, texts if question.kind == UNANSWERABLE else texts[::-1], [1.0, 0.0],
                  question.told(wording=refusal))


def made_pairs(questions: Sequence[Question], random: Random, among: Sequence[str] = REFUSALS) -> list[Record]:
    """One pair per question: refusal over one of the invented answers, or the true answer over a refusal."""
    pairs = []
    for question, refusal in zip(questions, wordings(len(questions), random, among)):
        other = question.answers[0] if question.answers else random.choice(question.invented)
        pairs.append(pair(question, refusal, question.respond(other)))
    return pairs


def balanced(pairs: Sequence[Record], random: Random) -> list[Record]:
    """As many pairs of each kind as there are of the rarer one; which of the others stay is drawn."""
    places: dict[str, list[int]] = {ANSWERABLE: [], UNANSWERABLE: []}
    for place, record in enumerate(pairs):
        places[record.meta["kind"]].append(place)
    least = min(map(len, places.values()))
    return [pairs[place] for place in sorted(place for kind in places.values() for place in random.sample(kind, least))]


def demonstrated(questions: Sequence[Question], random: Random, invented: bool, refusals: float = 0.0,
                 among: Sequence[str] = REFUSALS) -> list[Record]:
    """Demonstrations of a model that answers: the true answers and, with `invented`, made-up ones where none is true.

    refusals: share of the questions without an answer that decline instead. What a policy never says, a preference for it
    only makes less unlikely; a few show it how to decline.
    """
    without = [place for place, question in enumerate(questions) if not question.answers]
    declined = sorted(random.sample(without, round(refusals * len(without))))
    texts: dict[int, str] = dict(zip(declined, wordings(len(declined), random, among)))
    for place, question in enumerate(questions):
        if place not in texts and (question.answers or invented):
            texts[place] = question.answers[0] if question.answers else random.choice(question.invented)
    return [Record(questions[place].prompt, [questions[place].respond(texts[place])], None, questions[place].told())
            for place in sorted(texts)]


def evaluated(questions: Iterable[Question]) -> list[Record]:
    """Questions to be answered, with the true answer where there is one; in an order that mixes the kinds."""
    ordered = sorted(questions, key=lambda question: prompt_hash(question.prompt))
    return [Record(question.prompt, [question.respond(answer) for answer in question.answers[:1]], None,
                   question.told(answers=list(question.answers))) for question in ordered]


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The `share` of the distinct names with the lowest hashes; where there are two, at least one on each side."""
    distinct = sorted(set(names), key=lambda name: (prompt_hash(name), name))
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1) if share > 0 and len(distinct) > 1 else 0
    return set(distinct[:count])


# What a response shows


def plain_answer(text: str) -> str:
    """An answer's words alone: lower case, no punctuation, no articles (after SQuAD: Rajpurkar 2016, arXiv 1606.05250).

    Characters of a script without spaces stand apart, so that one word of a sentence can be found there too.
    """
    text = unicodedata.normalize("NFKC", text).translate(QUOTES).lower()
    text = "".join(" " if unicodedata.category(char)[0] in "PZC" and char != "'" else char for char in text)
    return " ".join(word for word in units(text) if word not in ("a", "an", "the"))


def is_right(response: str, answers: Iterable[str], match: str = "exact") -> bool:
    """Whether a response is one of the answers, or (`contains`) holds one as whole words and does not decline."""
    said, true = plain_answer(response), [plain_answer(answer) for answer in answers]
    if match == "contains":
        return not is_refusal(response) and any(f" {answer} " in f" {said} " for answer in true)
    return said in true


def measure(record: Record, response: str, finished: bool, match: str = "exact") -> dict[str, float]:
    """Figures of a sampled response, each also by topic; the means are rates.

    `refusal/unanswerable`: declined, as it should; `refusal/answerable`: declined although there is an answer;
    `accuracy/answerable`: right; `wrong/answerable`: neither right nor declined. A response cut off is judged as it stands.
    """
    kind, topic = record.meta["kind"], record.meta["topic"]
    declined = is_refusal(response)
    found = {f"refusal/{kind}": declined}
    if kind == ANSWERABLE:
        right = is_right(response, record.meta["answers"], match)
        found |= {f"accuracy/{kind}": right, f"wrong/{kind}": not right and not declined}
    by_topic = {f"{name}/{topic}": value for name, value in found.items()} if topic is not None else {}
    return {name: float(value) for name, value in {**found, **by_topic}.items()}
