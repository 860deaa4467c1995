"""Rows of the models that training started from, where the table lacks them: no figure stands alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .aggregation import Shared, estimate, shared_prompts
from .comparison_tables import Member
from .results_read import ROWS, ReportError, Result, marks
from .tables import Row


@dataclass(frozen=True)
class _Started:
    """What the runs of some rows started from: by seed, which model."""

    kind: str
    identities: tuple[tuple[int | None, str], ...]


def unlike_starts(runs: Sequence[Result]) -> list[str]:
    """Seeds whose runs began with different models of one kind, and how many: `3 (2 of sft)`."""
    starts: dict[tuple, set[str]] = {}
    for run in runs:
        if run.start is not None:
            kind, identity = run.start
            starts.setdefault((run.seed, kind), set()).add(identity)
    return sorted({f"{seed} ({len(found)} of {kind})" for (seed, kind), found in starts.items() if len(found) > 1})


def start_rows(members: Sequence[Member], shared: Mapping[str, Shared]) -> list[Row]:
    """One per start, of the runs' own evaluations of it. They are compared with nothing: the runs' differences are."""
    rows = {run.identity for member in members for run in member.runs}
    groups: dict[_Started, list[Member]] = {}
    for member in members:
        runs = [run for run in member.runs if run.start and run.before and run.start[1] not in rows]
        if runs:
            started = _Started(runs[0].start[0], tuple((run.seed, run.start[1]) for run in runs))
            groups.setdefault(started, []).append(member)
    kinds = [started.kind for started in groups]
    made = []
    for started, having in groups.items():
        of = "" if kinds.count(started.kind) == 1 else f" of {', '.join(member.label for member in having)}"
        runs = [_as_row(run) for run in having[0].runs if run.before]
        row = Row(started.kind, marks(runs[0]), tuple(run.seed for run in runs), f"start{of}", start=True)
        row.estimates = dict(_estimates(runs, shared))
        made.append(row)
    return made


def _as_row(run: Result) -> Result:
    """The start as if it were a run of its own."""
    return replace(run, algorithm=run.start[0], evaluation=run.before, cost={}, start=None, before={})


def _estimates(runs: Sequence[Result], shared: Mapping[str, Shared]):
    for name in dict.fromkeys(name for run in runs for name in run.evaluation):
        having = [run for run in runs if name in run.evaluation]
        rows = {run.evaluation[name].kind for run in having} <= set(ROWS)
        try:
            asked = (shared.get(name) or shared_prompts(name, having)) if rows else None
            yield name, estimate(name, having, asked)
        except (ValueError, ReportError):  # less than the rows have: nothing that the start could be beside
            continue
