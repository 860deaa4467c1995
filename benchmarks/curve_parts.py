"""What the pages of `task=curves` share: Markdown, what was lost, what the runs were made with."""

from collections.abc import Sequence

from algorithms.common.evaluation.inference.claims import Answer
from algorithms.common.evaluation.inference.intervals import Estimate

from .report import TRIAL
from .results_read import Result
from .tables import interval, plain


def heading(title: str, words: str, picture: str, shown: str) -> str:
    """The page's beginning."""
    return f"# {title}\n\n{words}\n\n![{shown}]({picture})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column begins at the left, the others end at the right."""
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def estimated(found: Estimate | None) -> str:
    return "" if found is None else interval(found)


def answered(claim: str, answer: Answer, seeds: int) -> str:
    """A sentence."""
    told = "not reproduced: the opposite was found" if answer is Answer.OPPOSITE else answer.value
    return f"That {claim} is {told}{': one seed says nothing about methods' if seeds == 1 else ''}."


def of_trials(results: Sequence[Result]) -> list[str]:
    """That nothing is said, where runs were trials."""
    return [TRIAL] if any(one.trial for one in results) else []


def of_losses(results: Sequence[Result]) -> list[str]:
    """That runs have no figures: what is left may be a choice."""
    lost = sum(one.status != "complete" for one in results)
    return [f"{lost} of {len(results)} runs have no figures, and their seeds or settings are left out."] if lost else []


def losses(results: Sequence[Result]) -> str:
    """Which runs have no figures, and why."""
    lost = [one for one in results if one.status != "complete"]
    told = [f"{one.algorithm}, seed {one.seed}, {one.folder.name}: {plain(one.error or '')}" for one in lost]
    return f"Without figures: {'; '.join(told)}." if lost else "All runs finished."


def origins(results: Sequence[Result]) -> str:
    commits, devices = (sorted({getattr(one, name) for one in results} - {None}) for name in ("commit", "device"))
    seeds = sorted({one.seed for one in results if one.seed is not None})
    return (f"Seeds {', '.join(map(str, seeds))}; commit {', '.join(commits)}; device {', '.join(devices)}; made "
            "again from the runs' files by `python -m benchmarks.curves FOLDER`.\n")
