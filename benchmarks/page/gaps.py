"""What a table leaves open, for a reader who would take a blank for a zero and silence for certainty."""

from collections.abc import Iterator, Sequence

from algorithms.common.evaluation.inference.comparisons import Verdict
from algorithms.common.evaluation.inference.wording import listed, named

from ..comparison_tables import Member
from ..tables import Row, Table, title

PAIRS = 6       # that are named; more are counted
_JUDGES = ("reward/gold", "score/", "win_rate/")    # what says how good an answer is


def gaps(table: Table, members: Sequence[Member]) -> list[str]:
    """Sentences; the last ones hold for every table."""
    return [*_of_answers(table), *_of_pairs(table), *_of_seeds(members), *_of_rows(table, members), *_of_costs(table),
            *_of_settings(members), "Other models, other data, more or longer training: nothing here was measured of "
            "them."]


def _of_answers(table: Table) -> Iterator[str]:
    if not any(name.startswith(_JUDGES) for name in table.metrics):
        yield "How good the answers are: no gold reward, judge or auditor scored them."
    elif "reward/gold" not in table.metrics:
        yield "The true quality of the answers: what scored them is a judge's or an auditor's opinion."


def _of_pairs(table: Table) -> Iterator[str]:
    """Pairs without a verdict, with what would bring one."""
    open_ = sorted((row for row in table.pairs if row.pair.verdict in (Verdict.UNDECIDED, Verdict.SEEN_ALONE)),
                   key=lambda row: row.pair.adjusted)
    for row in open_[:PAIRS]:
        settled = f" To settle it: {row.settled}." if row.settled else ""
        yield f"Which of {row.pair.first} and {row.pair.second} is better: {row.finding}.{settled}"
    if len(open_) > PAIRS:
        yield f"Which is better in {len(open_) - PAIRS:,} more pairs; table.csv has them."


def _of_seeds(members: Sequence[Member]) -> Iterator[str]:
    if one := [member.label for member in members if len(member.runs) == 1]:
        whose = "every method" if len(one) == len([member for member in members if member.runs]) else named(one)
        yield f"How much another seed would change of {whose}: each was trained once."


def _of_rows(table: Table, members: Sequence[Member]) -> Iterator[str]:
    if without := [member.label for member in members if not member.runs]:
        yield f"Anything of {named(without)}: no run finished."
    finished = [member.row for member in members if member.runs]
    lacking: dict[str, list[str]] = {}
    for name in table.shown:
        if rows := _without(finished, name):
            lacking.setdefault(named(rows), []).append(title(name)[0])
    for rows, figures in lacking.items():
        yield f"{listed(figures)} of {rows}: not measured."


def _without(rows: Sequence[Row], figure: str) -> list[str]:
    """Rows without a figure that others have, where only few lack it: figures of one kind of method are none of
    another's."""
    missing = [row.label for row in rows if figure not in row.estimates]
    return missing if 0 < len(missing) <= len(rows) / 3 else []


def _of_costs(table: Table) -> Iterator[str]:
    rows = [row for row in table.rows if row.seeds and not row.start]
    if missing := [row.label for row in rows if "seconds" not in row.costs]:
        yield f"How many seconds {named(missing)} took: not measured."
    if rows and not any("money" in row.costs for row in rows):
        yield "The price in money: budget.price_per_hour was not given."


def _of_settings(members: Sequence[Member]) -> Iterator[str]:
    finished = [member for member in members if member.runs]
    if untuned := [member.label for member in finished if not any("tuning" in run.raw for run in member.runs)]:
        whose = "any method" if len(untuned) == len(finished) else named(untuned)
        yield (f"How good {whose} would be at other settings: each row stands for the settings it ran with "
               "(experiment=tune looks for better ones, and charges the search).")
