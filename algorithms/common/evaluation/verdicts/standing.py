"""Which verdicts are about the answers that runs have: one made again may answer otherwise than when it was judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from .pairings import REFERENCES, read_frame
from .records import DATA, START, Verdict

_Answers = dict[tuple[str, int], str]   # by prompt and sample


@dataclass(frozen=True)
class Standing:
    """The verdicts of a file, parted."""

    verdicts: list[Verdict]     # of answers that the runs have, or of runs that tell no answers
    stale: Mapping[str, int]    # by judge, how many are of others

    def told(self, judge: str) -> list[str]:
        """What must be said of a judge's verdicts; empty where all stand."""
        count = self.stale.get(judge, 0)
        of = "1 verdict is" if count == 1 else f"{count:,} verdicts are"
        return [f"{judge}: {of} of answers that the runs no longer have, and not counted; judge again, and only what "
                "is new is asked."] if count else []


def standing(verdicts: Iterable[Verdict], folder: str | Path) -> Standing:
    """Parts the verdicts of a folder by the answers that its runs have left there."""
    folder, stands, stale = Path(folder), [], Counter()

    @cache
    def answers(run: str) -> _Answers | None:
        frame = _frame(folder / run / "samples.parquet")
        return None if frame is None else _by_prompt(frame[frame["picked"]] if "picked" in frame else frame)

    @cache
    def references(run: str) -> dict[str, _Answers] | None:
        frame = _frame(folder / run / REFERENCES)
        return None if frame is None else {side: _by_prompt(rows) for side, rows in frame.groupby("side")}

    for one in verdicts:
        own = answers(one.left)
        if one.right in (START, DATA):
            sides = references(one.left)
            other = None if sides is None else sides.get(one.right, {})
        else:
            other = answers(one.right)
        place, first = (one.prompt_id, one.sample), (one.prompt_id, 0)
        if own is not None and own.get(place) != one.left_response or \
                other is not None and other.get(place, other.get(first)) != one.right_response:
            stale[one.judge] += 1
        else:
            stands.append(one)
    return Standing(stands, stale)


def _frame(path: Path) -> pd.DataFrame | None:
    return read_frame(path) if path.is_file() else None


def _by_prompt(frame: pd.DataFrame) -> _Answers:
    if not len(frame):
        return {}
    return dict(zip(zip(frame["prompt_id"], frame["sample"].astype(int)), frame["response"]))
