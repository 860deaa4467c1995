"""The figures of an evaluation, each made of rows by prompt, and each with its interval for this trained model.

What cannot be measured is absent, not zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..algorithm import Algorithm
from ..data.records.words import units
from ..figures import COLUMNS, Apart, Figure, Known
from .choices import choice_figures
from .evaluate import Evaluation
from .inference.intervals import MEAN, PERPLEXITY, SHARE, Estimate, Matrix
from .inference.resampling import bootstrap, calibration_error

LEAST_RESAMPLED = 20  # prompts from which resampling them tells how much the figure varies: of one it never does
KINDS = {"mean": MEAN, "share": SHARE, "perplexity": PERPLEXITY}
SCORES = {"gold": "reward/gold", "proxy": "reward/proxy", "auditor": "score/auditor"}  # columns of samples: figures
# By which answers win, the first that there is: the proxy is what some methods learned to please, and says so
JUDGES = {"gold": ("win_rate", "win_rate_data/gold"), "proxy": ("proxy_win_rate", "proxy_win_rate/data")}


# Frames of negative log-likelihoods: figure: frame, what a row of it is of
LIKELY = {"perplexity/heldout": ("likelihood", "demonstrations"), "perplexity/texts": ("texts", "texts")}


class Against(NamedTuple):
    """How the figures are called that compare with a start."""

    less: str
    wins: str


TRAINED, BASE = Against("_minus_sft", "/sft"), Against("_minus_base", "/base")


def figures(algorithm: Algorithm, result: Evaluation, start: Evaluation | None, against: Against = TRAINED
            ) -> dict[str, Figure | Known]:
    """By name. start: the same evaluation of what training started from; against: whether that was trained."""
    found: list[Figure | Known] = []
    if len(result.samples):
        picked = result.samples[result.samples["picked"]].reset_index(drop=True)
        before = None if start is None else start.samples[start.samples["picked"]]
        found += _sample_figures(picked, before, against, result.likelihood)
        for figure in algorithm.figures(result.samples, picked):
            found.append(_resampled(figure) if isinstance(figure, Apart) else figure)
    if len(result.measured):
        found += _measured_figures(result.measured, None if start is None else start.measured, against)
    if len(result.choices):
        found += choice_figures(result.choices)
    for name, (frame, unit) in LIKELY.items():
        before = None if start is None else getattr(start, frame)
        found += _likelihood_figures(name, getattr(result, frame), before, against, unit)
    if len(result.pairs):
        found += _pair_figures(result.pairs)
    return {figure.name: figure for figure in found}


def _resampled(figure: Apart) -> Known:
    values = np.asarray(figure.values, dtype=np.float64)[:, None]  # (P, 1)
    found = bootstrap(values, lambda sums: sums[:, 0] / len(values), figure.unit)
    return Known(figure.name, found.mean, found.low, found.high, found.n, "resampled", found.unit)


def estimate(figure: Figure | Known) -> Estimate | None:
    """With its interval of 95 % for this trained model and other prompts; None where a single row has none."""
    if isinstance(figure, Known):
        return Estimate(figure.mean, figure.low, figure.high, figure.n, figure.unit, seeds=1)
    if len(figure.rows) < 2 and figure.kind != "share":
        return None
    matrix = Matrix(*(figure.rows[[name]].to_numpy().T for name in ("numerator", "denominator")), figure.unit)  # (1, P)
    return KINDS[figure.kind].estimate(matrix, 0.95)


def estimates(found: dict[str, Figure | Known]) -> dict[str, Estimate]:
    """Of those that have an interval."""
    return {name: one for name, figure in found.items() if (one := estimate(figure)) is not None}


def figure_rows(found: Iterable[Figure | Known]) -> pd.DataFrame:
    """``figure, prompt_id, numerator, denominator``: the rows of all figures that have some."""
    none = pd.DataFrame({"figure": pd.Series(dtype=str), **{name: pd.Series(dtype=str if name == "prompt_id" else float)
                                                            for name in COLUMNS}})
    some = [one.rows.assign(figure=one.name) for one in found if isinstance(one, Figure)]
    return (pd.concat(some, ignore_index=True) if some else none)[list(none)]


def metrics(algorithm: Algorithm, result: Evaluation, start: Evaluation | None, against: Against = TRAINED
            ) -> dict[str, Estimate]:
    """Figures by name with their intervals."""
    return estimates(figures(algorithm, result, start, against))


def _by_origin(name: str, frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The name with the whole frame, and where the data is a mixture ``name/<origin>`` with each of its parts."""
    parts = list(frame.groupby("origin")) if "origin" in frame else []
    return [(name, frame), *((f"{name}/{origin}", part) for origin, part in parts if len(parts) > 1)]


def _measured_figures(frame: pd.DataFrame, start: pd.DataFrame | None, against: Against) -> list[Figure]:
    """By name, a share where all values are 0 or 1; and ``<name>_minus_sft`` (``_minus_base``) on the prompts that the
    start has too."""
    found = []
    for name, part in frame.groupby("figure", sort=False):
        kind = "share" if part["value"].isin((0, 1)).all() else "mean"
        figure = Figure.of(name, part["prompt_id"], part["value"], kind=kind)
        found.append(figure)
        if start is not None and len(start):
            before = start[start["figure"] == name]
            difference = figure.less(Figure.of(name, before["prompt_id"], before["value"]), name + against.less)
            found += [difference] if len(difference.rows) else []
    return found


def _likelihood_figures(name: str, frame: pd.DataFrame, start: pd.DataFrame | None, against: Against, unit: str
                        ) -> list[Figure]:
    """The perplexity, and ``<name>_minus_sft`` (``_minus_base``): the logarithm of its ratio to the start's on the
    texts that both have, Σ (nll − the start's) / Σ tokens, in nats per token. Above 0: less likely than at the start.
    """
    found = [Figure.of(one, part["prompt_id"], part["nll"], part["tokens"], "perplexity", unit)
             for one, part in _by_origin(name, frame) if len(part)]
    if found and start is not None and len(start):
        rows = found[0].rows
        before = Figure.of(name, start["prompt_id"], start["nll"], start["tokens"]).rows
        both = rows.merge(before, on=["prompt_id", "denominator"], suffixes=("", "_before"))
        difference = Figure.of(name + against.less, both["prompt_id"], both["numerator"] - both["numerator_before"],
                               both["denominator"], unit=unit)
        found += [difference] if len(both) else []
    return found


def _sample_figures(
    frame: pd.DataFrame, start: pd.DataFrame | None, against: Against, shown: pd.DataFrame
) -> list[Figure]:
    """Of the answers to each prompt, one row of both frames an answer; shown: what the data answers, with its scores.

    reward/gold, reward/proxy, score/auditor: scores; ``_minus_sft`` (``_minus_base``): less the start's on the same
    prompts, so the difference of two rows as printed. win_rate/…: see ``_win_rates``. kl/k1, kl/exact: the columns of
    ``divergence``, nats. length/mean: tokens. eos_rate: share of the answers that end by themselves.
    """
    prompts, found = frame["prompt_id"], []
    for column, name in SCORES.items():
        if _scored(frame, column):
            found += [_mean_score(label, part, column) for label, part in _by_origin(name, frame)]
            if _scored(start, column):
                whole = _mean_score(name, frame, column)
                found.append(whole.less(_mean_score(name, start, column), name + against.less))
    found += _win_rates(frame, start, against, shown)
    if _scored(frame, "auditor") and _scored(start, "auditor"):
        found.append(wins("win_rate/auditor", frame, start, "auditor"))
    for name in ("k1", "exact"):
        if frame[f"kl_{name}"].notna().all():
            found.append(Figure.of(f"kl/{name}", prompts, frame[f"kl_{name}"]))
    found.append(Figure.of("length/mean", prompts, frame["length"]))
    found.append(Figure.of("eos_rate", prompts, frame["finished"], kind="share"))
    distinct = pd.Series([distinct_2(text) for text in frame["response"]], dtype=float)
    if (there := distinct.notna()).any():
        found.append(Figure.of("distinct_2", prompts[there], distinct[there], kind="share"))
    return found


def _win_rates(frame: pd.DataFrame, start: pd.DataFrame | None, against: Against, shown: pd.DataFrame) -> list[Figure]:
    """win_rate/sft (base), win_rate_data/gold: see ``wins``; against the start's answers, which are independent draws,
    and what the data answers to the same prompts; by gold, or else, as proxy_win_rate/…, by the proxy."""
    judge = next((name for name in JUDGES if _scored(frame, name)), None)
    if judge is None:
        return []
    of_start, of_data = JUDGES[judge]
    return [wins(name, frame, other, judge) for name, other in ((of_start + against.wins, start), (of_data, shown))
            if _scored(other, judge)]


def _scored(frame: pd.DataFrame | None, column: str) -> bool:
    return frame is not None and column in frame and len(frame) > 0 and frame[column].notna().all()


def _mean_score(name: str, frame: pd.DataFrame, column: str) -> Figure:
    return Figure.of(name, frame["prompt_id"], frame[column].to_numpy(np.float64))


def wins(name: str, frame: pd.DataFrame, other: pd.DataFrame, column: str) -> Figure:
    """Per prompt the share of pairs, of all its answers in either frame, in which the first has the higher ``column``.

    Ties count half.
    """
    pairs = frame[["prompt_id", column]].merge(other[["prompt_id", column]], on="prompt_id", suffixes=("", "_other"))
    sign = np.sign(pairs[column].to_numpy(np.float64) - pairs[f"{column}_other"].to_numpy(np.float64))
    rows = Figure.of(name, pairs["prompt_id"], (sign + 1) / 2).rows
    return Figure.of(name, rows["prompt_id"], rows["numerator"] / rows["denominator"], kind="share")


def _pair_figures(frame: pd.DataFrame) -> list[Figure | Known]:
    """On held-out pairs, a prompt's together: how often the scores agree with the labels, and with gold; ties half.

    Accuracy apart by which response is longer, since a scorer may only like length. Calibration: whether the method's
    own probability that the chosen response is preferred, σ(logit), is how often it is; absent below LEAST_RESAMPLED.
    """
    sign = np.sign(frame["chosen"] - frame["rejected"])  # 1: chosen above rejected
    frame = frame.assign(hits=(sign + 1) / 2)
    longer = frame["chosen_length"] - frame["rejected_length"]
    parts = [*_by_origin("accuracy/heldout", frame), ("accuracy/chosen_longer", frame[longer > 0]),
             ("accuracy/chosen_shorter", frame[longer < 0])]
    if "gold_chosen" in frame:
        truth = np.sign(frame["gold_chosen"] - frame["gold_rejected"])
        parts.append(("accuracy/gold", frame.assign(hits=(sign * truth + 1) / 2)[truth != 0]))
    found: list[Figure | Known] = [Figure.of(name, part["prompt_id"], part["hits"], kind="share")
                                   for name, part in parts if len(part)]
    if "logit" in frame and frame["prompt_id"].nunique() >= LEAST_RESAMPLED:
        error = calibration_error(frame["logit"], frame["prompt_id"].tolist())
        found.append(Known("calibration/error", error.mean, error.low, error.high, error.n, "resampled"))
    return found


def distinct_2(text: str) -> float | None:
    """Share of distinct pairs of neighbouring units in a response; None where it has no pair. 1: no pair stands twice.

    A unit is a word between spaces, or a character of a script that is written without them (``records.words.units``).
    """
    found = units(text)
    pairs = list(zip(found, found[1:]))
    return len(set(pairs)) / len(pairs) if pairs else None
