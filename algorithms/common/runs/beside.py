"""A finished run beside what its training started from: each figure with the start's, answers to the same prompts."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..figures import Figure, Known
from ..support.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

PROMPTS = 3
LINES = 6  # of a prompt or an answer
BESIDE = "\0"  # the second column of a wide letter; printable text has none
HOLDS = "Intervals of 95 % hold for this trained model and new prompts: other seeds of the method are not covered."


class Answers(NamedTuple):
    """A prompt as the model reads it, with an answer of the start and one of the trained model."""

    prompt: str
    before: str
    own: str


@dataclass(frozen=True)
class Finished:
    """A run and its start. Figures are by name, as in result.json."""

    method: str
    figures: dict[str, dict]
    start: str  # its kind: base, or the method that trained it
    before: dict[str, dict]
    answers: list[Answers]
    remarks: list[str] = field(default_factory=list)  # what a reader of the figures must know

    def text(self, width: int) -> str:
        """For a terminal of so many columns."""
        lines = ["", self.method, *self._figure_lines()]
        lines += [line for one in self.remarks for line in ("", f"{one[0].upper()}{one[1:]}.")] + ["", HOLDS]
        if self.answers:
            lines += ["", f"The first prompts, answered by the start ({self.start}) and by this model:", "",
                      *self.answer_lines(width)]
        return "\n".join(lines)

    def line(self, name: str | None) -> str:
        """For a sweep's terminal: the figure of that name; None: no one figure says which run is better."""
        if name is None:
            return f"{self.method}: done"
        start = f" (start {self.before[name]['mean']:.4f})" if name in self.before else ""
        return f"{self.method}: {name} {' '.join(_amount(self.figures[name]).split())}{start}"

    def _figure_lines(self) -> list[str]:
        """One line a figure, with the start's where it has one."""
        shown = {name: one for name, one in self.figures.items() if "@" not in name and name.count("/") < 2}  # no parts
        beside = any(name in self.before for name in shown)
        widest = max([24, *map(len, shown)])
        lines = [f"  {'':{widest + 37}s}start ({self.start})"] if beside else []
        for name, one in shown.items():
            other = f"   {_amount(self.before[name]) if name in self.before else '':33s}" if beside else ""
            counted = "" if one["kind"] == "constant" else f"   {one['n']} {one['unit']}"
            lines.append(f"  {name:{widest}s} {_amount(one):33s}{other}{counted}".rstrip())
        return lines

    def answer_lines(self, width: int) -> list[str]:
        """Plain text of so many columns that moves no cursor; what is long is cut, prompts at their beginning."""
        lines, label = [], max(8, len(self.method))
        for one in self.answers:
            entries = [("prompt", one.prompt), ("start", one.before), (self.method, one.own)]
            lines += [f"  {head:{label}s}  {line}".rstrip() for name, text in entries
                      for head, line in _entry(name, text, max(width - label - 4, 20))]
            lines.append("")
        return lines[:-1]


def told(found: dict[str, Figure | Known]) -> dict[str, dict[str, Any]]:
    """Figures as in result.json, those that have an interval."""
    from ..evaluation.metrics import estimates

    return {name: {**one.to_dict(), "kind": found[name].kind} for name, one in estimates(found).items()}


def first_answers(samples: pd.DataFrame, start: pd.DataFrame) -> list[Answers]:
    """To the first prompts the first answer of each."""
    own, before = (one[one["picked"] & (one["sample"] == 0)].set_index("prompt_id") for one in (samples, start))
    return [Answers(row.prompt, _said(before.loc[key]), _said(row)) for key, row in own.head(PROMPTS).iterrows()
            if key in before.index]


def _said(sample: pd.Series) -> str:
    """An answer; one that its limit of tokens ended without the character that it was in, with a mark."""
    return sample["response"] if sample["finished"] else sample["response"].rstrip("\ufffd") + " …"


def _amount(one: dict) -> str:
    interval = "" if one["kind"] == "constant" else f"   [{one['low']:.4f}, {one['high']:.4f}]"
    return f"{one['mean']:9.4f}{interval}"


def _entry(label: str, text: str, room: int) -> list[tuple[str, str]]:
    """(label or nothing, line) of a text in so many columns; a prompt is cut at its beginning."""
    lines = printable(text.strip()).splitlines()
    found = [piece for line in lines for piece in _wrapped(line, room) or [""]] or [""]
    if len(found) > LINES:
        ends = label == "prompt"
        found = ["… " + found[-LINES], *found[1 - LINES:]] if ends else [*found[:LINES - 1], found[LINES - 1] + " …"]
    return list(zip([label, *[""] * (len(found) - 1)], found))


def _wrapped(line: str, room: int) -> list[str]:
    """Lines of so many columns; a Chinese, Japanese or Korean letter takes two, which a line's
    end may part."""
    columns = "".join(c + BESIDE if unicodedata.east_asian_width(c) in "WF" else c for c in line)
    return [piece.replace(BESIDE, "") for piece in textwrap.wrap(columns, room - (columns != line))]


def fenced(lines: list[str]) -> list[str]:
    """As a block of Markdown that shows text as it is, whatever it holds."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]
