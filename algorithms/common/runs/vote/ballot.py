"""Which two answers a person sees next, in which order, and what becomes of the choice. Knows no web."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ...data.records.record import parse_transcript
from ...evaluation.verdicts import Pair, Verdict, append, now, read
from ...support.terminal import printable

FIRST, SECOND, TIE, SKIP = CHOICES = ("first", "second", "tie", "skip")


@dataclass(frozen=True)
class Question:
    """Two answers as a person sees them: the id and the order tell nothing of whose they are."""

    id: str
    pair: Pair
    order: str      # left_first | right_first

    @property
    def answers(self) -> list[str]:
        both = [self.pair.left_response, self.pair.right_response]
        return [shown(text) for text in (both if self.order == "left_first" else both[::-1])]

    @property
    def prompt(self) -> list[dict[str, str]]:
        """Its turns, each with a role where it is a transcript."""
        parsed = parse_transcript(self.pair.prompt)
        turns = parsed[0] if parsed and not parsed[1] else [{"role": "", "content": self.pair.prompt}]
        return [{"role": turn["role"], "text": shown(turn["content"]).strip("\n")} for turn in turns]

    def outcome(self, choice: str) -> str:
        if choice in (FIRST, SECOND):
            return "left" if (choice == FIRST) == (self.order == "left_first") else "right"
        return {TIE: "tie", SKIP: "none"}[choice]


@dataclass(frozen=True)
class Progress:
    total: int      # pairs of answers
    voted: int      # by this person, ties among them
    skipped: int


class Ballot:
    """The open questions of one person on the answers of finished runs, shared by all windows of a process.

    Every choice is in the file of verdicts before it is answered for. What other processes write there counts too.
    """

    def __init__(self, path: Path, pairs: Iterable[Pair], judge: str, seed: int):
        self.path, self.judge = path, judge
        differing = [pair for pair in pairs if shown(pair.left_response) != shown(pair.right_response)]
        draw = random.Random(f"{seed}/{judge}")
        self.questions = {question.id: question for pair in balanced(differing, draw) if (
            question := Question(secrets.token_hex(8), pair, draw.choice(("left_first", "right_first"))))}
        self._held: dict[str, str] = {}     # window → the question it shows; whoever took one last stands last
        self._lock = Lock()
        self._read: tuple = ()
        self._choices: dict[tuple, str] = {}    # outcome by what was judged

    def next(self, window: str) -> Question | None:
        """What this window shows: as before, until that has a vote; else what no other window shows, or, where all is
        shown somewhere, what has been for longest. None where nothing is open."""
        with self._lock:
            done = self._done()
            if (held := self._held.get(window)) and key(self.questions[held].pair) not in done:
                return self.questions[held]
            self._held.pop(window, None)
            unanswered = (one for one in self.questions.values() if key(one.pair) not in done)
            elsewhere, waiting = {one: age for age, one in enumerate(self._held.values())}, []
            for question in unanswered:
                if question.id not in elsewhere:
                    break
                waiting.append(question)
            else:
                question = min(waiting, key=lambda one: elsewhere[one.id], default=None)
            if question is not None:
                self._held[window] = question.id
            return question

    def vote(self, id: str, choice: str) -> bool:
        """Keeps a choice; False where the question has one already. KeyError for an unknown question; UserError where
        it cannot be kept."""
        question = self.questions[id]
        with self._lock:
            if key(question.pair) in self._done():
                return False
            pair = question.pair
            append(self.path, [Verdict(pair.prompt_id, pair.prompt, pair.left, pair.left_response, pair.right,
                                       pair.right_response, question.outcome(choice), self.judge, question.order, now(),
                                       choice, pair.sample)])
            return True

    def progress(self) -> Progress:
        with self._lock:
            done = self._done()
            outcomes = [done[asked] for one in self.questions.values() if (asked := key(one.pair)) in done]
        skipped = outcomes.count("none")
        return Progress(len(self.questions), len(outcomes) - skipped, skipped)

    def _done(self) -> dict[tuple, str]:
        """This person's choices, read again whenever the file is another one."""
        try:
            stat = self.path.stat()
            found = stat.st_ino, stat.st_mtime_ns, stat.st_size
        except FileNotFoundError:
            found = ()
        if found != self._read:
            self._choices = {key(one): one.outcome for one in read(self.path) if one.judge == self.judge}
            self._read = found
        return self._choices


def key(one: Pair | Verdict) -> tuple:
    """What is compared, whichever stands left."""
    sides = frozenset({(one.left, one.left_response), (one.right, one.right_response)})
    return one.prompt_id, one.sample, sides


def balanced(pairs: Sequence[Pair], draw: random.Random) -> list[Pair]:
    """The pairs in random order, yet so that at every moment each two sides have been compared about equally often."""
    comparisons: dict[tuple, list[Pair]] = {}
    for pair in pairs:
        comparisons.setdefault((pair.left, pair.right), []).append(pair)
    for group in comparisons.values():
        draw.shuffle(group)
    found = []
    for turn in itertools.zip_longest(*comparisons.values()):
        asked = [pair for pair in turn if pair is not None]
        draw.shuffle(asked)     # a fixed order would tell whose turn it is
        found += asked
    return found


def shown(text: str) -> str:
    """A text as the page has it: control characters, those that reorder text too, are written out."""
    return printable(text.replace("\r\n", "\n"))
