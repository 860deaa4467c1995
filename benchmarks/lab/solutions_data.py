"""Worked solutions of the tasks lab as a data source (`data=solutions`): few to imitate, more questions with an answer.

Numbers, sums, days and months, some steps later (`chains.py`), asked in a wording that the corpus does not have, in one
of four forms that ask for steps. Training asks what the corpus works out in its own wording; tuning and evaluation ask
other questions, whose conclusions stand nowhere in it. A solution ends in its answer, so a rule can check that.
"""

from dataclasses import dataclass, field
from functools import partial
from itertools import product
from random import Random
from typing import ClassVar

from algorithms.common.data.final_answers import measure
from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.support.checks import Rule, require, within
from benchmarks.lab.chains import Chain, worked
from benchmarks.lab.task_rows import WORDINGS

KINDS = ("numbers", "sum3", "days", "months")
FORMS = ("{question} Let us think step by step.", "{question} Think step by step.",
         "{question} Now think step by step.", "{question}\nLet us think step by step.")
TUNING = 0.25                   # of the questions that nothing is trained on; the others are evaluated


@dataclass
class SolutionsData:
    """Questions of some kinds with their answers, and worked solutions to a few of them.

    demonstrations: questions, in one of their forms, whose solution is shown; every question is a prompt in each form.
    """

    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    demonstrations: int = 64

    in_trial: ClassVar[dict[str, int]] = {"demonstrations": 8}

    def __post_init__(self):
        require(self, "data", kinds=Rule(lambda kinds: bool(kinds) and set(kinds) <= set(KINDS),
                                         f"some of {', '.join(KINDS)}"))
        most = sum(len(worked(kind)[0]) for kind in self.kinds)
        require(self, "data", demonstrations=within(f"[1, {most}]", f"a whole number from 1 to {most}"))

    def load(self, seed: int) -> DataSets:
        """The named sets; the seed draws which solutions are shown, and the order of prompts. Every question of tuning
        and evaluation is asked once, in a form of its own."""
        random = Random(f"solutions/{seed}")
        asked = [(kind, chain) for kind in self.kinds for chain in worked(kind)[0]]
        shown = random.sample(asked, self.demonstrations)
        prompts = [_record(kind, chain, form, []) for (kind, chain), form in product(asked, FORMS)]
        tuning, evaluation = self._others()
        empty = Records.from_list([])
        sets = {"demonstrations": [_solved(kind, chain, random) for kind, chain in shown],
                "prompts": random.sample(prompts, len(prompts)), "tuning": tuning, "evaluation": evaluation}
        count = sum(map(len, sets.values()))
        report = LoadReport(read=count, kept=count)
        for kind in self.kinds:
            report.sources[kind] = {name: sum(one.meta["kind"] == kind for one in of) for name, of in sets.items()}
        return DataSets(preferences=empty, heldout=empty, report=report, measure=partial(measure, by="kind"),
                        **{name: Records.from_list(records) for name, records in sets.items()})

    def _others(self) -> tuple[list[Record], list[Record]]:
        """Tuning and evaluation, the same for all seeds; shuffled, so that the first of them are of all kinds."""
        sides: tuple[list, list] = ([], [])
        for kind in self.kinds:
            chains = worked(kind)[1]
            cut = round(TUNING * len(chains))
            for side, part in zip(sides, (chains[:cut], chains[cut:])):
                side += [_solved(kind, chain, Random(f"solutions/{kind}/{chain.asked}")) for chain in part]
        for side, name in zip(sides, ("tuning", "evaluation")):
            Random(f"solutions/{name}").shuffle(side)
        return sides


def _solved(kind: str, chain: Chain, random: Random) -> Record:
    return _record(kind, chain, random.choice(FORMS), [f" {chain.steps} So the answer is {chain.answer}."])


def _record(kind: str, chain: Chain, form: str, responses: list[str]) -> Record:
    question = WORDINGS[kind].format(**chain.parts)
    return Record(form.format(question=question), responses, None, {"kind": kind, "answer": chain.answer})
