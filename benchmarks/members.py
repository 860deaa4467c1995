"""Runs → rows: by algorithm, and by the overrides that make its runs different things."""

from collections.abc import Iterator, Sequence

from algorithms.common.evaluation.inference.wording import listed

from .comparison_tables import Member
from .results_read import STOPPED, UNBEGUN, ReportError, Result, marks
from .tables import Row


def members_of(results: Sequence[Result]) -> list[Member]:
    """Runs by algorithm and setting; the same seed twice is no second seed, so that such runs are rows of their own."""
    varying = _varying(results)
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.algorithm, _settings(result, varying)), []).append(result)
    own = {algorithm: frozenset(_own(results, algorithm)) for algorithm, _ in groups}
    members = [member for (algorithm, settings), group in groups.items()
               for member in _of_setting(algorithm, dict(settings), own[algorithm], group)]
    if len({member.label for member in members}) < len(members):
        raise ReportError("found rows named alike; expected names that differ; fix: make a table of fewer folders")
    return members


def _of_setting(algorithm: str, settings: dict[str, str], own: frozenset[str], runs: Sequence[Result]
                ) -> Iterator[Member]:
    """The runs of one algorithm and setting: a row of all seeds, or where a seed is there twice one of each run; and
    where runs failed, they are told in a row without a name of its own."""
    complete = sorted((run for run in runs if run.status == "complete"), key=lambda run: run.seed)
    lost = [run for run in runs if run.status == "failed"]
    if len({run.seed for run in complete}) < len(complete):
        for run, name in zip(complete, _folder_names(complete)):
            yield Member(Row(algorithm, dict(settings), (run.seed,), name, unnamed=own), [run])
        complete = []
    if complete or lost:
        row = Row(algorithm, settings, tuple(run.seed for run in complete), unnamed=own)
        row.diverged = sum(run.diverged for run in lost)
        row.stopped, row.unbegun = (sum(run.stopped == how for run in lost) for how in (STOPPED, UNBEGUN))
        row.failed = len(lost) - row.diverged - row.stopped - row.unbegun
        row.errors = [f"{origin(run)}: {run.error}" for run in lost]
        yield Member(row, complete, lost)


def _folder_names(runs: Sequence[Result]) -> list[str]:
    """A name for each run: its folder's, or the whole path where two folders have the same."""
    names = [run.folder.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _varying(results: Sequence[Result]) -> list[str]:
    """Overrides that differ between runs and make them different things; absent is a value of its own."""
    keys = dict.fromkeys(key for result in results for key in result.overrides)
    return [key for key in keys if len({result.overrides.get(key) for result in results}) > 1
            and key not in ("seed", "algorithm", "debug") and not key.startswith(("hydra.", "stages.", "report."))]


def _own(results: Sequence[Result], algorithm: str) -> dict[str, str]:
    """The method's own settings and its recipe's that all of an algorithm's runs were given alike, and others not."""
    runs = [result.overrides for result in results if result.algorithm == algorithm]
    return {key: value for key, value in runs[0].items()
            if key.startswith(("algorithm.", "recipe.")) and not key.startswith("algorithm.needs")
            and all(run.get(key) == value for run in runs)
            and any(result.overrides.get(key) != value for result in results)}


def own_settings(results: Sequence[Result]) -> list[str]:
    """A note of what names no row, since all of one method's runs have it and others not."""
    found = {name: _own(results, name) for name in dict.fromkeys(result.algorithm for result in results)}
    told = "; ".join(f"{name} {listed([f'{key}={_short(value)}' for key, value in own.items()])}"
                     for name, own in found.items() if own)
    return [f"Settings that not all methods were given: {told}."] if told else []


def _short(value: str) -> str:
    """A whole number as it is, another one to four digits."""
    try:
        return value if float(value).is_integer() else f"{float(value):.4g}"
    except ValueError:
        return value


def _settings(result: Result, varying: Sequence[str]) -> tuple[tuple[str, str], ...]:
    told = {key: result.overrides[key] for key in varying if key in result.overrides}
    return tuple([*told.items(), *marks(result).items()])


def origin(result: Result) -> str:
    return result.folder.name if result.seed is None else f"seed {result.seed}"
