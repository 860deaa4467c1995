"""Is the auditor to be believed? On runs whose gold reward is known, what it says of them beside what is true.

    python -m benchmarks.auditor FOLDER…
    python -m benchmarks.auditor FOLDER… --alarm-in 'ppo (kl_coef=0)'

Two rows of a seed are a case where their difference in gold, for these trained models, excludes 0. The auditor decides
it rightly where its own difference has the sign of gold's. With ``--alarm-in`` the exit status is 1 unless the alarm of
over-optimisation sounds in every run of the rows named there, and in no other run.

Judges that were trained on other comparisons and judged the same answers afterwards (``task=judge judge=auditor
judge.called=…``) stand below it in one table: of fewer labels, of annotators with a bias.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from algorithms.common.evaluation.inference.intervals import Estimate
from algorithms.common.evaluation.inference.shares import wilson
from algorithms.common.evaluation.verdicts import FILE, read
from algorithms.common.evaluation.verdicts.belief import Belief, beliefs
from algorithms.common.evaluation.verdicts.standing import standing

from .audited import ACCURACY, JUDGES, SCORE, accuracy, judges, parted
from .command_line import in_words, over_folders
from .comparison_tables import Member
from .gold_pairs import GOLD, Decided, decided, less
from .members import members_of
from .printed import aligned
from .results_read import ReportError, Result, collect
from .tables import interval, plain
from .verdict_figures import with_verdicts


@dataclass(frozen=True)
class Case:
    """Two trained models of one seed: first − second, by gold and by the auditor."""

    seed: int
    first: str
    second: str
    gold: Estimate
    auditor: Estimate
    able: bool      # whether that seed's auditor can judge

    @property
    def agrees(self) -> bool:
        return self.gold.mean * self.auditor.mean > 0

    @property
    def decided(self) -> bool:
        """Whether the auditor's own interval excludes 0."""
        return self.auditor.excludes_zero


def cases(members: Sequence[Member], score: str = SCORE) -> list[Case]:
    """All pairs of rows in each seed that gold decides, of runs that have a judge's score."""
    return _scored(decided(members), score)


def _scored(pairs: Iterable[Decided], score: str) -> list[Case]:
    """Those of the pairs whose runs have the score."""
    return [Case(first.seed, *labels, gold, less(first.evaluation[score].cells, second.evaluation[score].cells),
                 judges([first]) and judges([second]))
            for labels, first, second, gold in pairs if all(score in run.evaluation for run in (first, second))]


def agreement(found: Sequence[Case]) -> str:
    """How many of the cases the auditor decides as gold does."""
    if not found:
        return "no case"
    sure, (count, share) = [case for case in found if case.decided], _right(found)
    return f"{count} ({share}); where its own interval excludes 0: {sum(case.agrees for case in sure)} of {len(sure)}"


@dataclass(frozen=True)
class Judged:
    """A judge that was trained and judged finished runs, beside gold."""

    name: str
    believed: dict[int, Belief]     # by seed
    cases: list[Case]               # that gold decides and the judge judged
    unable: int                     # cases that gold decides, of seeds whose judge says that it cannot judge

    def row(self) -> list[tuple[str, str]]:
        """Name; labels; the held-out agreement in the mean of the seeds, from the lowest to the highest; of the cases,
        how many it decides as gold does; the same where its own interval excludes 0; cases it leaves undecided by
        saying that it cannot judge."""
        told = list(self.believed.values())
        labels = " ".join(f"{count:,}" for count in sorted({one.labels for one in told}))
        means = [one.mean for one in told]
        agrees = (f"{sum(means) / len(means):.3f}", f"{min(means):.3f} … {max(means):.3f}")
        sure = [case for case in self.cases if case.decided]
        return [(self.name, ""), (labels, ""), agrees, _right(self.cases), _right(sure), (str(self.unable), "")]


def _right(found: Sequence[Case]) -> tuple[str, str]:
    if not found:
        return "no case", ""
    right = sum(case.agrees for case in found)
    low, high = wilson(right / len(found), len(found), 0.05)
    return f"{right} of {len(found)}", f"{right / len(found):.1%} [{low:.1%}, {high:.1%}]"


def judged(results: Sequence[Result], folders: Sequence[str]) -> list[Judged]:
    """Of all judges whose verdicts on these runs tell how far they can be believed, in the order of their verdicts."""
    by_run = {run.folder.resolve(): run.seed for run in results}
    believed: dict[str, dict[int, Belief]] = {}
    for path in sorted({found.resolve() for top in folders for found in Path(top).rglob(FILE)}):
        for name, of in beliefs(standing(read(path), path.parent).verdicts).items():
            for run, told in of.items():
                if (path.parent / run).resolve() in by_run:
                    believed.setdefault(name, {})[by_run[(path.parent / run).resolve()]] = told
    pairs = list(decided([member for member in members_of(with_verdicts(results, folders)) if member.runs]))
    return [Judged(name, of, _scored(pairs, f"score/{name}"),
                   sum(first.seed in of and not of[first.seed].able for _, first, _, _ in pairs))
            for name, of in believed.items()]


def judges_table(found: Sequence[Judged]) -> str:
    """One row for each."""
    header = ["judge", "labels", "held-out agreement (seeds)", "decides as gold does", "where its interval excludes 0",
              "cannot judge"]
    return aligned(header, [one.row() for one in found], texts=1)


def alarmed(members: Sequence[Member], judge: str) -> dict[str, dict[int, bool]]:
    """Row → seed → whether the alarm sounds, of runs that have the judge's figure and the proxy's."""
    return {member.label: {run.seed: parted(run, [judge]) is not None for run in member.runs
                           if f"{judge}_minus_sft" in run.evaluation and "reward/proxy_minus_sft" in run.evaluation}
            for member in members}


def broken(members: Sequence[Member], sounds: Sequence[str], judge: str = GOLD) -> list[str]:
    """Runs in which the alarm is not as it must be: in every run of the rows that are named, in no other."""
    found = alarmed(members, judge)
    if unknown := [label for label in sounds if not found.get(label)]:
        known = "; ".join(label for label, runs in found.items() if runs)
        raise ReportError(f"--alarm-in: found {unknown[0]!r}, of which no run has {judge} and a proxy reward beside "
                          f"its start's; expected some of {known}")
    return [f"{label}, seed {seed}: the alarm {'sounds' if rang else 'is silent'}" for label, runs in found.items()
            for seed, rang in runs.items() if rang != (label in sounds)]


def page(members: Sequence[Member]) -> str:
    """What is printed: the auditor's agreement with gold, all cases that it decides otherwise, and the alarms."""
    found = cases(members)
    lines = [f"The auditor decides as gold does, of the pairs of rows in a seed that gold decides: {agreement(found)}."]
    lines.append(f"Where the seed's auditor can judge: {agreement([case for case in found if case.able])}.")
    seeds = {run.seed: run for member in members for run in member.runs if ACCURACY in run.evaluation}
    lines += [f"seed {seed}: {run.auditor.get('labels', 0):,.0f} labels, agrees with {interval(told)} of held-out "
              f"comparisons" for seed, run in sorted(seeds.items()) if (told := accuracy([run]))]
    lines += [f"otherwise: seed {case.seed}, {case.first} − {case.second}: gold {interval(case.gold)}, auditor "
              f"{interval(case.auditor)}" for case in found if not case.agrees]
    for judge, words in JUDGES.items():
        for label, runs in alarmed(members, judge).items():
            if runs:
                rang = [str(seed) for seed, sounded in runs.items() if sounded]
                lines.append(f"over-optimised by {words}: {label}: {len(rang)} of {len(runs)} runs"
                             + (f" (seeds {' '.join(rang)})" if rang else ""))
    return "\n".join(map(plain, lines))


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    parser = over_folders("auditor", "The auditor beside gold.")
    parser.add_argument("--alarm-in", nargs="*", metavar="ROW", help="rows in whose runs alone the alarm must sound")
    options = parser.parse_args(arguments)
    results = collect(options.folders)
    members = [member for member in members_of(results) if member.runs]
    if not members:
        raise ReportError(f"{', '.join(options.folders)}: found no finished run; expected some with a gold reward")
    print(page(members))
    if others := judged(results, options.folders):
        print(f"\n{judges_table(others)}")
    wrong = [] if options.alarm_in is None else broken(members, options.alarm_in)
    if wrong:
        print("\n".join(map(plain, wrong)), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
