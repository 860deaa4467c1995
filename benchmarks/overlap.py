"""Do overlap with the data's answers, perplexity and length rank methods as the true reward does?

    python -m benchmarks.overlap FOLDER…

Reads finished runs with samples.parquet and references.parquet whose gold reward is known; needs the extra overlap. A
case is two rows of a seed whose difference in gold, for these trained models, excludes 0. A measure ranks it rightly
where its own difference has the sign of gold's; no difference counts half. Beside it the same of single answers: two of
one model to one prompt. Pairs of a seed share models and pairs of a prompt its difficulty, so that intervals are for
new seeds of these methods, and for new prompts, each of which counts as one.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from algorithms.common.evaluation.inference.intervals import SHARE, Estimate, Matrix
from algorithms.common.evaluation.overlap import BLEU, ROUGE, check_installed, scored
from algorithms.common.evaluation.verdicts.pairings import AGAIN, REFERENCES
from algorithms.common.evaluation.verdicts.records import DATA

from .command_line import in_words, over_folders
from .comparison_tables import Member
from .gold_pairs import GOLD, decided, less
from .members import members_of
from .printed import aligned
from .results_read import ReportError, Result, collect
from .tables import interval

PERPLEXITY, LENGTH, AUDITOR = "perplexity/heldout", "length/mean", "score/auditor"
# What ranks: in words, and the sign of what is better by it
MEASURES = {ROUGE: ("ROUGE-L", 1), BLEU: ("BLEU", 1), PERPLEXITY: ("held-out perplexity (lower is better)", -1),
            LENGTH: ("length (longer is better)", 1), AUDITOR: ("the auditor", 1)}


@dataclass(frozen=True)
class Case:
    """Two trained models of one seed: first − second, by gold and by each measure that both have."""

    seed: int
    first: str
    second: str
    gold: Estimate
    measures: Mapping[str, Estimate]

    def right(self, name: str) -> float:
        """1 where the measure ranks them as gold does, 0 where otherwise, ½ where it sees no difference at all."""
        return (1 + np.sign(self.gold.mean) * np.sign(self.measures[name].mean) * MEASURES[name][1]) / 2


@dataclass(frozen=True)
class Measured:
    """A run's answers with ROUGE and BLEU, and numerators and denominators by prompt of each measure."""

    answers: pd.DataFrame
    cells: Mapping[str, pd.DataFrame]

    @classmethod
    def of(cls, run: Result) -> "Measured":
        """ReportError where the data's answers are not beside the run."""
        file = run.folder / REFERENCES
        if not file.is_file():
            raise ReportError(f"{file}: found no such file; expected the data's answers beside the run; {AGAIN}")
        references = pd.read_parquet(file)
        of_data = references[references["side"] == DATA].set_index("prompt_id")["response"].to_dict()
        answers = scored(pd.read_parquet(run.folder / "samples.parquet"), of_data)
        cells = {name: one.cells for name, one in run.evaluation.items() if name in MEASURES}
        for name in (ROUGE, BLEU):
            by_prompt = answers.groupby("prompt_id")[name]
            cells[name] = pd.DataFrame({"numerator": by_prompt.sum(), "denominator": by_prompt.count().astype(float)})
        return cls(answers, cells)


def cases(members: Sequence[Member], measured: Mapping[Path, Measured]) -> list[Case]:
    """All pairs of rows in each seed that gold decides. measured: by the folder of a run."""
    found = []
    for labels, first, second, gold in decided(members):
        own, minus = (measured[run.folder].cells for run in (first, second))
        both = {name: less(own[name], minus[name]) for name in MEASURES if name in own and name in minus}
        found.append(Case(first.seed, *labels, gold, both))
    return found


def share(values: pd.DataFrame, unit: str) -> Estimate | None:
    """Of ``right`` among all, its interval for other ``by``, of which there are several; None where there is none."""
    of = values.groupby("by")["right"]
    sums = (np.asarray(one, dtype=float)[None] for one in (of.sum(), of.count()))
    return SHARE.estimate(Matrix(*sums, unit), 0.95) if len(values) else None


def of_cases(found: Sequence[Case], name: str) -> Estimate | None:
    rows = [(case.seed, case.right(name)) for case in found if name in case.measures]
    return share(pd.DataFrame(rows, columns=["by", "right"]), "seeds")


def of_answers(measured: Sequence[Measured], name: str) -> Estimate | None:
    """How often, of two answers of one model to one prompt that gold does not value alike, the one with more of it is
    the better."""
    rows, column = [], {LENGTH: "length", AUDITOR: "auditor"}.get(name, name)
    for answers in (one.answers for one in measured if column in one.answers):
        for prompt, part in answers.groupby("prompt_id"):
            for (gold, value), (other_gold, other) in combinations(zip(part["gold"], part[column]), 2):
                if gold != other_gold:
                    rows.append((prompt, (1 + np.sign(gold - other_gold) * np.sign(value - other)) / 2))
    return share(pd.DataFrame(rows, columns=["by", "right"]), "prompts")


def page(members: Sequence[Member]) -> str:
    """What is printed: each measure's shares, and for each pair of rows in how many seeds a measure agrees."""
    measured = {run.folder: Measured.of(run) for member in members for run in member.runs}
    found = cases(members, measured)
    seeds = sorted({case.seed for case in found})
    rows = []
    for name, (words, _) in MEASURES.items():
        sure = [case for case in found if name in case.measures and case.measures[name].excludes_zero]
        pairs, single = of_cases(found, name), of_answers(list(measured.values()), name)
        if pairs is not None:
            cells = [interval(pairs), f"{sum(case.right(name) for case in sure):g} of {len(sure)}",
                     "" if single is None else interval(single)]
            rows.append([(words,), *((cell,) for cell in cells)])
    head = ["measure", "pairs of methods", "where its interval excludes 0", "answers to one prompt"]
    lines = [f"Ranked as gold does: {len(found)} pairs of rows in a seed that gold decides (seeds "
             f"{' '.join(map(str, seeds))}), and pairs of one model's answers to one prompt.", "", aligned(head, rows)]
    lines += ["", "Pairs of methods (better by gold first), and in how many of their seeds each measure agrees:", ""]
    by_pair: dict[tuple[str, str], list[Case]] = {}
    for case in found:
        order = (case.first, case.second) if case.gold.mean > 0 else (case.second, case.first)
        by_pair.setdefault(order, []).append(case)
    present = [name for name in MEASURES if any(name in case.measures for case in found)]
    rows = [[(" over ".join(pair),), *((f"{sum(case.right(name) for case in of if name in case.measures):g} of "
                                        f"{sum(name in case.measures for case in of)}",) for name in present)]
            for pair, of in by_pair.items()]
    lines.append(aligned(["pair", *(MEASURES[name][0].partition(" (")[0] for name in present)], rows))
    return "\n".join(lines)


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    options = over_folders("overlap", "Overlap with the data's answers beside gold.").parse_args(arguments)
    check_installed()
    members = [member for member in members_of(collect(options.folders)) if member.having(GOLD)]
    if not members:
        raise ReportError(f"{', '.join(options.folders)}: found no finished run with {GOLD}; expected some whose true "
                          "reward is known")
    print(page(members))
    return 0


if __name__ == "__main__":
    sys.exit(main())
