"""What ``task=judge`` prints: the judge itself, then every row against its start, the data and the others."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from algorithms.common.evaluation.inference.intervals import Estimate, Matrix, share
from algorithms.common.evaluation.inference.judging import length_controlled, strengths
from algorithms.common.evaluation.verdicts.belief import beliefs
from algorithms.common.evaluation.verdicts.pairings import name_of
from algorithms.common.evaluation.verdicts.rates import Quality, outcomes, quality
from algorithms.common.evaluation.verdicts.records import DATA, START, Verdict
from algorithms.common.evaluation.verdicts.standing import standing

from .comparison_tables import Member
from .members import members_of
from .printed import aligned
from .results_read import Result
from .tables import plain
from .verdict_figures import by_seed

SIDES = {START: "against what training began with", DATA: "against the answers that the data prefers"}
_AT_LEAST = 2   # prompts: a single one has no interval


def verdict_table(verdicts: Sequence[Verdict], results: Sequence[Result], folder: str | Path) -> str:
    """All that the verdicts of a folder say of its runs, judge by judge, as text."""
    folder = Path(folder)
    members = [member for member in members_of(results) if member.runs]
    names = {name_of(run.folder, folder): run for member in members for run in member.runs}
    found = standing(verdicts, folder)
    believed = beliefs(found.verdicts)
    parts = ["\n".join(told for judge in found.stale for told in found.told(judge))] if found.stale else []
    for judge, rows in outcomes(found.verdicts).groupby("judge", sort=False):
        told_of = quality(rows)
        told = by_seed(believed.get(judge, {}), {name: run.seed for name, run in names.items()})
        parts.append("\n".join([_of_judge(told_of), *(f"  {one}" for one in told)]))
        if not told_of.judges:
            continue
        rows = rows[rows["left"].isin(names)]
        for side, told in SIDES.items():
            if lines := [_row(member, rows[rows["right"] == side], folder) for member in members
                         if rows[rows["right"] == side]["left"].isin(_names(member, folder)).any()]:
                header = [told, "win rate", "at equal length", "longer by", "no verdict", "on"]
                parts.append(aligned(header, lines, texts=1))
        parts += _round_robin(rows[rows["right"].isin(names)], members, folder)
    return plain_lines("\n\n".join([*parts, NOTE])) if parts else "No verdicts."


NOTE = ("Win rates: ties half, a change of mind with the order is a tie; 95 % intervals for new prompts, and new seeds "
        "where a row has several.\nAt equal length: Dubois et al. 2024, without difficulty of instructions; longer by: "
        "characters in the mean.")


def plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def _of_judge(told: Quality) -> str:
    parts = [f"no verdict {_percent(told.unread)}"]
    if told.consistent is not None:
        parts = [f"the orders agree {_percent(told.consistent)}", f"first position {_percent(told.first)}", *parts]
    if told.same is not None:
        parts.insert(1, f"same answer in both {_percent(told.same)}")
    lines = [f"{told.judge}, {told.pairs:,} pairs: {'; '.join(parts)}"]
    return "\n".join([*lines, f"{told.judge} is {told.verdict}."] if told.verdict else lines)


def _percent(one: Estimate) -> str:
    return f"{100 * one.mean:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _names(member: Member, folder: Path) -> list[str]:
    return [name_of(run.folder, folder) for run in member.runs]


def _row(member: Member, rows: pd.DataFrame, folder: Path) -> list[tuple[str, ...]]:
    runs = [run for run in _names(member, folder) if (rows["left"] == run).any()]
    own = rows[rows["left"].isin(runs)]
    read = own[own["win"].notna()]
    unread = share(_cells(own.assign(value=own["win"].isna().astype(float)), runs))
    label = (member.label, "")
    lost = (f"{100 * unread.mean:.1f} %", f"[{100 * unread.low:.1f}, {100 * unread.high:.1f}]")
    if any(not (read["left"] == run).any() for run in runs):
        return [label, ("", ""), ("", ""), ("", ""), lost, ("no verdict in some run", "")]
    wins, longer = _cells(read.assign(value=read["win"]), runs), _cells(read.assign(value=read["longer"]), runs)
    rate = share(wins)
    on = f"{rate.n:,} prompts" + (f" × {rate.seeds} seeds" if rate.seeds > 1 else "")
    return [label, _figure(rate), _at_equal_length(wins, longer), (f"{longer.squares().mean:+.0f}", ""), lost, (on, "")]


def _cells(rows: pd.DataFrame, runs: Sequence[str]) -> Matrix:
    """(seeds, prompts): sums and counts of `value`, on the prompts that some run has."""
    prompts = pd.Index(rows["prompt_id"].unique())
    parts = [rows[rows["left"] == run].groupby("prompt_id")["value"] for run in runs]
    sums, counts = (np.stack([getattr(part, of)().reindex(prompts, fill_value=0) for part in parts])
                    for of in ("sum", "count"))
    return Matrix(sums, counts)


def _at_equal_length(wins: Matrix, longer: Matrix) -> tuple[str, str]:
    there = (wins.denominator > 0).all(0)
    if there.sum() < _AT_LEAST:
        return "", ""
    rate, length = (one.numerator[:, there] / one.denominator[:, there] for one in (wins, longer))
    try:
        return _figure(length_controlled(rate, length).win_rate)
    except ValueError:  # equal length is outside the data
        return "none is", "of equal length"


def _figure(one: Estimate) -> tuple[str, str]:
    return f"{one.mean:.3f}", f"[{one.low:.3f}, {one.high:.3f}]"


def _round_robin(rows: pd.DataFrame, members: Sequence[Member], folder: Path) -> Iterator[str]:
    """Strengths of the rows that were all judged against one another, on the seeds that all have."""
    by_seed = [{run.seed: name_of(run.folder, folder) for run in member.runs} for member in members]
    wins = {(left, right): part.set_index("prompt_id")["win"].dropna()
            for (left, right), part in rows.groupby(["left", "right"])}
    judged = [place for place, names in enumerate(by_seed)
              if any({left, right} & set(names.values()) for left, right in wins)]
    if len(judged) < 2:
        return
    seeds = [seed for seed in by_seed[judged[0]] if all(seed in by_seed[place] for place in judged)]
    pairs: dict[tuple[str, str], list[pd.Series]] = {}
    for one, other in combinations(judged, 2):
        found = [_oriented(wins, by_seed[one][seed], by_seed[other][seed]) for seed in seeds]
        if all(series is not None for series in found) and found:
            pairs[members[one].label, members[other].label] = found
    labels = [members[place].label for place in judged]
    everywhere = [series.index for of_pair in pairs.values() for series in of_pair]
    common = everywhere[0] if everywhere else pd.Index([])
    for index in everywhere[1:]:
        common = common.intersection(index)
    if len(pairs) < len(judged) * (len(judged) - 1) // 2 or len(common) < _AT_LEAST:
        yield ("round robin: no strengths; expected verdicts of every two rows on common seeds and prompts; found them "
               f"for {len(pairs)} pairs of rows, on {len(common)} prompts.")
        return
    found = strengths({names: np.stack([series.loc[common].to_numpy() for series in of_pair])
                       for names, of_pair in pairs.items()}, labels)
    lines = [[(label, ""), _figure(one.log_ratio), _figure(one.preferred)] for label, one in found.items()]
    seeds_told = f" × {len(seeds)} seeds" if len(seeds) > 1 else ""
    yield aligned([f"round robin, beside {labels[0]}", "log strength", "share won, ties apart"], lines)
    yield (f"Strengths: Bradley-Terry with ties (Davidson 1970), {len(common):,} prompts{seeds_told} with a verdict on "
           "every pair, first answers.")


def _oriented(wins: dict[tuple[str, str], pd.Series], one: str, other: str) -> pd.Series | None:
    if (one, other) in wins:
        return wins[one, other]
    return 1 - wins[other, one] if (other, one) in wins else None
