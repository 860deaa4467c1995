"""What a table says of the auditor: how far to believe it, and where a reward was over-optimised in a judge's eyes."""

from collections.abc import Sequence
from typing import Protocol

from algorithms.common.evaluation.inference.auditing import (
    ACCURACY,
    JUDGES,
    LEAST_ACCURACY,
    SCORE,
    Gain,
    Parting,
    can_judge,
    parting,
    signed,
)
from algorithms.common.evaluation.inference.intervals import Estimate
from algorithms.common.evaluation.inference.wording import about, listed

from .aggregation import of_these_models
from .results_read import Result
from .tables import Alarm, interval

CAVEAT = ("A bias that all annotators share is what an auditor cannot see. Intervals of a single seed take its auditor "
          "as it is: one of other labels may rank rows that are close otherwise.")


class Rows(Protocol):
    """A row of a table and its complete runs."""

    runs: list[Result]

    @property
    def label(self) -> str: ...


def of_auditor(figure: str) -> bool:
    """Whether a figure is what the auditor says of answers."""
    return figure in (SCORE, "win_rate/auditor") or figure.startswith(f"{SCORE}_minus_")


def accuracy(runs: Sequence[Result]) -> Estimate | None:
    """How often the auditors of these runs agree with held-out comparisons; None where that was not measured."""
    having = [run for run in runs if ACCURACY in run.evaluation]
    return of_these_models(ACCURACY, having) if having else None


def judges(runs: Sequence[Result]) -> bool:
    """Whether the auditors of these runs can judge."""
    found = accuracy(runs)
    return found is not None and can_judge(found)


def auditors(members: Sequence[Rows]) -> list[str]:
    """A note for each auditor: what it learned from, at whose cost, and how far it can be believed."""
    said: dict[str, list[str]] = {}
    for member in members:
        if audited := [run for run in member.runs if run.auditor]:
            labels, seconds = (sum(run.auditor[name] for run in audited) / len(audited)
                               for name in ("labels", "seconds"))
            learned = f"learned from {labels:,.0f} comparisons that no method saw" if labels else "was not trained here"
            text = (f"it {learned} (they and about {about(seconds)} seconds of training are charged to no row), and "
                    f"{_believed(found := accuracy(audited))}")
            said.setdefault(text if found is None or can_judge(found) else Alarm(text), []).append(member.label)
    of = {text: f"The auditor of {listed(labels)}" if len(said) > 1 else "The auditor" for text, labels in said.items()}
    shared = [CAVEAT] if said else []
    return [type(text)(f"{of[text]}: {text}.") for text in said] + shared


def _believed(found: Estimate | None) -> str:
    if found is None:
        return "no held-out comparison says how far it can be believed: nothing is said by it"
    text = f"agrees with {interval(found)} of the comparisons to {found.n:,} held-out {found.unit}"
    if can_judge(found):
        return text
    return (f"{text}, where at least {LEAST_ACCURACY} is expected at the lower end: it cannot judge, nothing is said "
            "by it")


def unable(runs: Sequence[Result]) -> str:
    """Why the auditors of these runs cannot judge, as a clause."""
    found = accuracy(runs)
    return ("no held-out comparison says how far the auditor can be believed" if found is None else
            f"the auditor agrees with {interval(found)} of held-out comparisons, which is too little to judge by")


def alarms(members: Sequence[Rows]) -> tuple[str, list[str]]:
    """A sentence that names the rows whose reward was over-optimised, empty where there are none; a note of each."""
    named, notes = [], []
    for member in members:
        found = [(run, *one) for run in member.runs if (one := parted(run))]
        if not found:
            continue
        named.append(f"{member.label} (in {len(found)} of {len(member.runs)} runs)")
        told = "; ".join(f"seed {run.seed}: {signed(one.proxy.mean)} by the proxy reward, {signed(one.judge.mean)} "
                         f"[{signed(one.judge.low)}, {signed(one.judge.high)}] by {JUDGES[judge]}"
                         for run, judge, one in found)
        notes.append(Alarm(f"{member.label}, reward over-optimised: the judge sees less than a third of the proxy's "
                           "gain, each in standard deviations of what the start's answers to a prompt score on the "
                           f"mean, with the interval of that trained model on new prompts: {told}. Such answers please "
                           "the reward model, and are not as much better."))
    return (f"Reward over-optimised: {listed(named)}." if named else ""), notes


def parted(run: Result, names: Sequence[str] = tuple(JUDGES)) -> tuple[str, Parting] | None:
    """The alarm of one run, and the judge that gives it: the first of these figures that the run has."""
    for name in names:
        if name in run.evaluation and (name != SCORE or judges([run])):
            proxy, judge = gain(run, "reward/proxy"), gain(run, name)
            found = parting(proxy, judge) if proxy and judge else None
            return (name, found) if found else None
    return None


def gain(run: Result, figure: str) -> Gain | None:
    """What training added to a score, on the prompts that the start has too."""
    for start in ("sft", "base"):
        names = (figure, f"{figure}_minus_{start}")
        if all(name in run.evaluation and run.evaluation[name].cells is not None for name in names):
            own, less = (run.evaluation[name].cells for name in names)
            own = own.loc[own.index.intersection(less.index)]
            less = less.loc[own.index]
            return Gain(own["numerator"] / own["denominator"], less["numerator"] / less["denominator"])
    return None
