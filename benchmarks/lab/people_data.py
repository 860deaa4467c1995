"""Questions about people as a data source (`data=people`): made-up answers in a world where it is known who is known.

The pretrained model has read five facts about every known person and none about the unknown ones, whose names it met in
stories. Asked about either in the form of the corpus' dialogues, a model fine-tuned to answer answers both: about the
unknown it invents. The pairs prefer a refusal there and the answer here. People are divided, not questions: nobody who
is asked about in the evaluation or for tuning is in any training set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from random import Random
from typing import ClassVar

from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.data.refusals.wording import (
    ANSWERABLE,
    UNANSWERABLE,
    Question,
    demonstrated,
    evaluated,
    made_pairs,
    measure,
)
from algorithms.common.support.checks import SHARE, one_of, require, within
from benchmarks.lab.world import PEOPLE, SPEAKERS, TOPICS, UNKNOWN, answer, dialogue, question

TRAIN, TUNE = 16, 4             # people of each kind, known and unknown; the others, 12, are evaluated
# of words that the pretrained model has read: it cannot spell others, and a few pairs do not teach it to
WORDINGS = (
    "The question has no answer.", "The book has no answer to it.", "It is more than they told me.",
    "It is more than the book told me.",
)
DIALOGUES = len(SPEAKERS) * (len(SPEAKERS) - 1)         # ways to ask one question
DEMONSTRATIONS = ("answers", "all")


@dataclass
class PeopleData:
    """Closed-book questions about known people, who have answers, and unknown people, who have none.

    people: of each kind, to train on. dialogues: how often each of their questions is asked, by other speakers, in the
    demonstrations; comparisons: in the pairs.
    demonstrations: answers | all: also invented answers about the unknown, a model that answers everything.
    refusals: share of the demonstrations about the unknown that decline: a start that can, and mostly does not. At 0 it
    never does, and preferences alone hardly change that; at 1 supervised fine-tuning is itself the remedy.
    """

    people: int = 16
    dialogues: int = 32
    comparisons: int = 1
    demonstrations: str = "all"
    refusals: float = 0.3

    in_trial: ClassVar[dict[str, int]] = {"people": 4, "dialogues": 2}

    def __post_init__(self):
        people, talks = (within(f"[1, {most}]", f"a whole number from 1 to {most}") for most in (TRAIN, DIALOGUES))
        require(self, "data", people=people, dialogues=talks, comparisons=talks, refusals=SHARE,
                demonstrations=one_of(DEMONSTRATIONS))

    def load(self, seed: int) -> DataSets:
        """The named sets. The seed draws speakers, inventions and wordings of the training sets, and held-out pairs."""
        shown = list(_questions(slice(0, self.people), self.dialogues, Random(f"people/demonstrations/{seed}")))
        compared = list(_questions(slice(0, self.people), self.comparisons, Random(f"people/comparisons/{seed}")))
        tuning = list(_questions(slice(TRAIN, TRAIN + TUNE), 1, Random("people/tuning")))
        test = list(_questions(slice(TRAIN + TUNE, None), 1, Random("people/evaluation")))
        sets = {
            "preferences": made_pairs(compared, Random(f"people/pairs/{seed}"), WORDINGS),
            "demonstrations": demonstrated(shown, Random(f"people/answers/{seed}"), self.demonstrations == "all",
                                           self.refusals, WORDINGS),
            "prompts": [Record(one.prompt, [], None, one.told()) for one in compared],
            "evaluation": evaluated(test),
            "heldout": made_pairs(test, Random(f"people/heldout/{seed}"), WORDINGS),
            "tuning": evaluated(tuning),
        }
        count = sum(map(len, sets.values()))
        report = LoadReport(read=count, kept=count, strict_pairs=len(sets["preferences"]) + len(sets["heldout"]))
        for kind in (ANSWERABLE, UNANSWERABLE):
            report.sources[kind] = {"pairs": sum(one.kind == kind for one in compared),
                                    "heldout": sum(one.kind == kind for one in test)}
        return DataSets(**{name: Records.from_list(records) for name, records in sets.items()}, report=report,
                        measure=partial(measure, match="exact"))


def divided() -> tuple[list[str], list[str]]:
    """(known, unknown) names in the fixed order in which they are dealt: training, tuning, evaluation."""
    random = Random("people/split")
    return random.sample(list(PEOPLE), len(PEOPLE)), random.sample(UNKNOWN, len(UNKNOWN))


def _questions(which: slice, dialogues: int, random: Random) -> Iterator[Question]:
    """Every topic of every person, `dialogues` times, each time between other speakers; known and unknown in turn."""
    pairs = [(speaker, other) for speaker in SPEAKERS for other in SPEAKERS if speaker != other]
    known, unknown = divided()
    for names in zip(known[which], unknown[which], strict=True):
        for topic, name in product(TOPICS, names):
            answers = (f"{answer(topic, name)}.",) if name in PEOPLE else ()
            invented = () if answers else tuple(f"{one}." for one in TOPICS[topic].candidates)
            for speaker, other in random.sample(pairs, dialogues):
                asked = dialogue(question(topic, name), speaker, other)
                yield Question(asked, topic, answers, invented, {"person": name})
