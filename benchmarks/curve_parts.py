"""What the pages of `task=curves` share: Markdown, what was lost, what the runs were made with."""

from collections.abc import Sequence
from pathlib import Path

from algorithms.common.evaluation.inference.claims import Answer
from algorithms.common.evaluation.inference.intervals import Estimate

from .report import TRIAL
from .results_read import Result
from .tables import interval, plain


def write_page(folder: Path, name: str, title: str, shown: str, words: str, sections: Sequence[str], picture: str,
               results: Sequence[Result]) -> None:
    """{name}.md: words, picture, sections, what was lost and what the runs were made with; and {name}.svg.

    `shown` says what the picture shows.
    """
    text = "\n\n".join([f"# {title}", words, f"![{shown}]({name}.svg)", *sections, _losses(results), _origins(results)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.svg").write_text(picture, encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


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


def _losses(results: Sequence[Result]) -> str:
    """Which runs have no figures, and why."""
    lost = [one for one in results if one.status != "complete"]
    told = [f"{one.algorithm}, seed {one.seed}, {one.folder.name}: {plain(one.error or '')}" for one in lost]
    return f"Without figures: {'; '.join(told)}." if lost else "All runs finished."


def _origins(results: Sequence[Result]) -> str:
    commits, devices = (sorted({getattr(one, name) for one in results} - {None}) for name in ("commit", "device"))
    seeds = sorted({one.seed for one in results if one.seed is not None})
    return (f"Seeds {', '.join(map(str, seeds))}; commit {', '.join(commits)}; device {', '.join(devices)}; made "
            "again from the runs' files by `python -m benchmarks.curves FOLDER`.\n")
