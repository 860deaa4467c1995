"""What verdicts come to: each pair's outcome over both orders, and whether the judge can be one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..inference.intervals import Estimate, Matrix, share
from ..inference.judging import both_orders
from .records import Verdict

_LEFT = {"left": 1.0, "tie": 0.5, "right": 0.0}
PAIR = ["judge", "left", "right", "prompt_id", "sample"]


def outcomes(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per judge and pair of answers: the columns PAIR, and

    win: 1 where the left answer won, ½ tie, 0; NaN without a verdict, in one of two orders too. longer: the left
    answer's length less the right one's, in characters. left_score, right_score: NaN where there are none.
    Of pairs that were asked in both orders, with a verdict in each, else NaN: consistent: whether the orders agree.
    first: what the answer shown first won. chosen: whether some order preferred an answer.
    Of a question that was answered more than once the last verdict counts, of a run's answers the last ones. Equal
    answers tie, whatever was said, and tell nothing of the judge.
    """
    pairs: dict[tuple, dict[str, Verdict]] = {}
    for one in verdicts:
        by_order = pairs.setdefault(tuple(getattr(one, name) for name in PAIR), {})
        if any(_texts(earlier) != _texts(one) for earlier in by_order.values()):
            by_order.clear()    # the run was made again, and answered otherwise
        by_order[one.order] = one
    rows = []
    for key, by_order in pairs.items():
        left, right = _texts(next(iter(by_order.values())))
        rows.append((*key, *_joined(by_order), len(left) - len(right), *_scores(by_order)))
    return pd.DataFrame(rows, columns=[*PAIR, "win", "consistent", "first", "chosen", "longer", "left_score",
                                       "right_score"])


def _texts(one: Verdict) -> tuple[str, str]:
    return one.left_response, one.right_response


def _joined(by_order: dict[str, Verdict]) -> tuple[float, float, float, float]:
    """win, consistent, first, chosen."""
    one = next(iter(by_order.values()))
    if len({*_texts(one)}) == 1:
        return 0.5, np.nan, np.nan, np.nan
    asked = [by_order[order] for order in ("left_first", "right_first") if order in by_order]
    if "both" in by_order or len(asked) == 1:
        outcome = by_order.get("both", one).outcome
        return _LEFT.get(outcome, np.nan), np.nan, np.nan, np.nan
    wins = [_LEFT.get(one.outcome, np.nan) for one in asked]
    if np.isnan(wins).any():
        return np.nan, np.nan, np.nan, np.nan
    found = both_orders(*wins)
    return float(found.wins), float(1 - found.inconsistent), float(found.first_place), float(wins != [0.5, 0.5])


def _scores(by_order: dict[str, Verdict]) -> tuple[float, float]:
    one = list(by_order.values())[-1]
    return tuple(np.nan if score is None else score for score in (one.left_score, one.right_score))


@dataclass(frozen=True)
class Quality:
    """What a judge's verdicts say of the judge."""

    judge: str
    pairs: int
    unread: Estimate                # share of pairs without a verdict
    consistent: Estimate | None     # of pairs asked in both orders: the share in which the orders agree
    first: Estimate | None          # of these: what the answer shown first won; a half of a judge that sees no order
    # of these, where some order preferred an answer: the share in which the same answer wins both. A judge that does
    # not look at the answers, however it likes places, reaches 2·p·(1 − p) ≤ ½
    same: Estimate | None

    @property
    def verdict(self) -> str:
        """In words; empty where nothing is against it."""
        if self.same is None or self.same.low > 0.5:
            return ""
        told = (f"where it prefers an answer, the same one wins in both orders in {self.same.mean:.0%} "
                f"[{self.same.low:.0%}, {self.same.high:.0%}] of pairs, and one that reads neither in up to 50%")
        if self.same.high <= 0.5 and abs(self.first.mean - 0.5) > 0.25:
            place = "first" if self.first.mean > 0.5 else "second"
            return f"no judge: it picks the answer shown {place}, whatever it says ({told})"
        return (f"no judge: {told}" if self.same.high <= 0.5 else f"not shown to be a judge: {told}")

    @property
    def judges(self) -> bool:
        """Whether it may be that its verdicts are about the answers."""
        return self.same is None or self.same.high > 0.5


def quality(found: pd.DataFrame) -> Quality:
    """Of one judge's rows of ``outcomes``, which are at least one."""
    both = found[found["consistent"].notna()]
    chosen = both[both["chosen"] == 1]
    return Quality(found["judge"].iloc[0], len(found), _share(found, found["win"].isna()),
                   _share(both, both["consistent"]), _share(both, both["first"]), _share(chosen, chosen["consistent"]))


def _share(rows: pd.DataFrame, values: pd.Series) -> Estimate | None:
    """Over prompts: what a judge says of answers to one prompt is alike."""
    if not len(rows):
        return None
    by_prompt = values.astype(float).groupby(rows["prompt_id"])
    return share(Matrix(by_prompt.sum().to_numpy()[None], by_prompt.count().to_numpy(float)[None]))
