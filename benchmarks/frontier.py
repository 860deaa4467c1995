"""Reward against KL: methods at equal KL, and how they over-optimise (the page of `experiment=frontier`).

A method's frontier in a seed is one line: from (0, 0), the start, straight through all points that were measured of it,
by their distance √KL. None is left out, so none is chosen by the rewards that are compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from algorithms.common.evaluation.inference.claims import Answer, Claim, Finding, examine
from algorithms.common.evaluation.inference.curves import (
    SAMPLED,
    TRAINED,
    Curve,
    Frontier,
    FrontierDifference,
    along,
    over_optimisation,
)
from algorithms.common.evaluation.inference.intervals import Estimate, Matrix, mean
from algorithms.common.evaluation.inference.wording import about, finding, listed, number

from .aggregation import shared_prompts
from .comparison_tables import Member
from .curve_parts import answered, estimated, markdown, of_losses, of_trials, write_page
from .members import members_of
from .results_read import ReportError, Result
from .tables import interval

GAINS = ("reward/gold_minus_sft", "reward/gold_minus_base")
MEASURED, BOUND, BEST = "kl/exact", "kl/bound@", "reward/gold@"
_DRAWN = 40     # points of a line in the picture


@dataclass(frozen=True)
class Point:
    """What was measured of one setting of a method, at one time of its training."""

    told: str
    distance: NDArray   # (S,) √KL to the start
    reward: NDArray     # (S, P) gold less the start's


@dataclass(frozen=True)
class Method:
    """All that was measured of a method, in the same seeds."""

    name: str
    seeds: tuple[int, ...]
    points: list[Point]
    bounded: bool       # distances are best-of-n's bound, the same in every seed, and not measured

    @property
    def frontier(self) -> Frontier:
        distance, reward = (np.stack([getattr(one, name) for one in self.points], 1) for name in ("distance", "reward"))
        try:
            return Frontier(distance, reward)
        except ValueError as error:
            raise ReportError(f"{self.name}: found {len(self.points)} points of which {error}; expected settings that "
                              "differ; fix: leave one of the two out") from error

    def over_optimisation(self) -> Curve | None:
        """α, β and the peak of Gao et al.; None for one seed, or one point."""
        if len(self.seeds) < 2 or len(self.points) < 2:
            return None
        drawn = self.frontier
        return over_optimisation(drawn.distance, drawn.reward.mean(-1), SAMPLED if self.bounded else TRAINED)


def methods(results: Sequence[Result]) -> list[Method]:
    """What runs measured of each method, on the seeds that every setting has. ReportError where that is nothing."""
    members = [member for member in members_of(results) if member.runs]
    runs = [run for member in members for run in member.runs]
    gain = next((name for name in GAINS if runs and all(name in run.evaluation for run in runs)), None)
    if gain is None:
        raise ReportError(f"{GAINS[0]}: found runs without it; expected finished runs on data whose true reward is "
                          "known")
    seeds = [seed for seed in dict.fromkeys(run.seed for run in runs)
             if all(seed in member.row.seeds for member in members)]
    if not seeds:
        raise ReportError("found no seed that all settings have; expected one or more; fix: the same command goes on "
                          "from what is kept")
    shared = shared_prompts(gain, runs)
    if shared.nested:
        raise ReportError("found seeds with prompts of their own; expected the same prompts in every seed")
    found: dict[str, list[Member]] = {}
    for member in members:
        found.setdefault(member.row.algorithm, []).append(member)
    made = []
    for name, settings in found.items():
        points = [point for member in settings for point in _points(member, seeds, gain, shared.by_seed)]
        if points:
            made.append(Method(name, tuple(seeds), points, any(_bounds(member.runs[0]) for member in settings)))
    return made


def _bounds(run: Result) -> list[str]:
    """The n above 1 of best-of-n's curve, as the figures' names have them."""
    ns = [name.removeprefix(BOUND) for name in run.evaluation if name.startswith(BOUND)]
    return sorted((n for n in ns if n != "1"), key=int)


def _points(member: Member, seeds: Sequence[int], gain: str, prompts: Mapping) -> Iterator[Point]:
    runs = sorted((run for run in member.runs if run.seed in seeds), key=lambda run: seeds.index(run.seed))
    settings = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in member.row.settings.items())
    if ns := _bounds(runs[0]):
        for n in ns:
            distance = [np.sqrt(run.evaluation[f"{BOUND}{n}"].estimate.mean) for run in runs]
            reward = [_values(run.evaluation, f"{BEST}{n}", prompts[run.seed])
                      - _values(run.before, "reward/gold", prompts[run.seed]) for run in runs]
            yield Point(f"best of {n}", np.array(distance), np.array(reward))
    elif all(MEASURED in run.evaluation for run in runs):
        distance = [np.sqrt(max(run.evaluation[MEASURED].estimate.mean, 0)) for run in runs]
        yield Point(settings, np.array(distance), np.array([_values(run.evaluation, gain, prompts[run.seed])
                                                            for run in runs]))


def _values(figures: Mapping, name: str, prompts: Sequence[str]) -> NDArray:
    cells = figures[name].cells.loc[prompts]
    return (cells["numerator"] / cells["denominator"]).to_numpy()


def dominance(at: Sequence[Finding], everywhere: FrontierDifference, margin: float = 0.0) -> Answer:
    """What is said to "the first frontier dominates": it is higher by more than the margin at all points of
    `everywhere`, each by itself (Berger 1982); it does not where it is not at one of the declared distances, corrected
    for their number."""
    if everywhere.differences[0].seeds < 2:
        return Answer.UNDECIDED
    if all(one.low > margin for one in everywhere.differences):
        return Answer.REPRODUCED
    if all(one.high < 0 for one in everywhere.differences):
        return Answer.OPPOSITE
    refuted = any(one.answer in (Answer.NOT_REPRODUCED, Answer.OPPOSITE) for one in at)
    return Answer.NOT_REPRODUCED if refuted else Answer.UNDECIDED


@dataclass
class FrontierPage:
    """The claim, declared before its runs: `better`'s frontier dominates `worse`'s."""

    source: str
    claim: str
    declared: str
    better: str
    worse: str
    parts: list[float]      # of the common range of √KL
    points: int             # evenly spaced in that range
    margin: float           # of gold reward
    alpha: float

    def write(self, results: Sequence[Result], folder: Path) -> str:
        """frontier.md and frontier.svg; returns the first words."""
        found = {method.name: method for method in methods(results)}
        for name in (self.better, self.worse):
            if name not in found:
                raise ReportError(f"{name}: found no points of it; expected some of {self.better} and of {self.worse}")
        first, second = found[self.better].frontier, found[self.worse].frontier
        at = self.findings(first, second)
        everywhere = along(first, second, self.points, 1 - self.alpha)
        words = self._words(at, everywhere, results)
        sections = [self._equal(at), self._points(found.values()), self._fits(found.values()),
                    self._declaration(everywhere)]
        write_page(folder, "frontier", "Reward against KL", "reward against √KL", words, sections,
                   _picture(list(found.values())), results)
        return words

    def findings(self, first: Frontier, second: Frontier) -> dict[float, Finding]:
        """√KL → what the runs say there to "the first is higher by more than the margin", one of all parts."""
        reach = min(first.reach, second.reach)
        claim = Claim(self.better, self.worse, self.margin, len(self.parts), self.alpha)
        return {part * reach: examine(claim, Matrix.of(first.at(part * reach)), Matrix.of(second.at(part * reach)))
                for part in self.parts}

    def _words(self, at: Mapping[float, Finding], everywhere: FrontierDifference, results: Sequence[Result]) -> str:
        answer = dominance(list(at.values()), everywhere, self.margin)
        both = [one.difference for one in at.values()]
        said = [*of_trials(results), answered(f"{self.claim} ({self.source})", answer, both[0].seeds),
                *of_losses(results)]
        if any(one.low > 0 for one in both) and any(one.high < 0 for one in both):
            said.append("Which of the two is higher depends on the KL.")
        told = listed([f"{interval(one.difference)} at √KL {number(round(distance, 2))}"
                       for distance, one in at.items()])
        level = 100 * (1 - self.alpha / len(at))
        said.append(f"Gold reward of {self.better} less {self.worse}'s at equal KL: {told} (intervals of {level:.1f} "
                    "%, which hold together).")
        if answer is Answer.UNDECIDED and both[0].seeds > 1:
            said += [finding(one, f"{self.better} is above {self.worse} at √KL {number(round(distance, 2))}")
                     for distance, one in at.items() if one.answer is Answer.UNDECIDED]
        return " ".join(said)

    def _equal(self, at: Mapping[float, Finding]) -> str:
        rows = [[number(round(distance, 3)), number(round(distance**2, 3)), interval(one.difference), one.answer.value,
                 "" if one.smallest_shown is None else about(one.smallest_shown),
                 "" if one.seeds_needed is None else str(one.seeds_needed)] for distance, one in at.items()]
        header = ["√KL", "KL, nats", f"{self.better} − {self.worse}, gold", f"{self.better} higher",
                  "would have been seen", "seeds to decide"]
        return f"## At equal KL\n\n{markdown(header, rows)}"

    def _points(self, found: Sequence[Method]) -> str:
        rows = [[method.name, point.told, number(round(float(point.distance.mean()), 3)),
                 estimated(mean(Matrix.of(point.reward)))] for method in found for point in method.points]
        return ("## All points\n\nGold reward is less the start's, with its 95 % interval for new seeds and new "
                "prompts; √KL is the mean over seeds.\n\n"
                + markdown(["method", "setting", "√KL", "gold − start"], rows))

    def _fits(self, found: Sequence[Method]) -> str:
        rows = []
        for method in found:
            if curve := method.over_optimisation():
                peak = "not reached" if curve.peak is None else estimated(curve.peak)
                form = "d(α − βd)" if method.bounded else "d(α − β ln d)"
                rows.append([method.name, form, estimated(curve.alpha), estimated(curve.beta), peak])
        if not rows:
            return "## Over-optimisation\n\nOne seed says nothing about it."
        return ("## Over-optimisation\n\nReward by distance d = √KL as Gao, Schulman and Hilton (2022, arXiv "
                "2210.10760) write it, one fit a seed over all its points, with 95 % intervals over seeds, on these "
                "prompts. d of the highest reward is printed only where every seed has four distances, one of them "
                "beyond it.\n\n"
                + markdown(["method", "gold − start", "α", "β", "d of the highest"], rows))

    def _declaration(self, everywhere: FrontierDifference) -> str:
        higher = sum(one.low > self.margin for one in everywhere.differences)
        lower = sum(one.high < 0 for one in everywhere.differences)
        parts = listed([number(part) for part in self.parts])
        return (
            f"## What was declared\n\nOn {self.declared}, before the runs: {self.claim} ({self.source}). Figure: gold "
            f"reward less the start's; what is higher is so by more than the margin, {number(self.margin)}. A method's "
            "frontier in a seed is the straight lines from (0, 0) through all its measured (√KL, reward) points, never "
            "beyond the last; the range is what both methods reach in every seed. Reproduced: "
            f"{self.better} is higher at all {self.points} evenly spaced distances, each {100 * (1 - self.alpha):g} % "
            "interval by itself (Berger 1982). The opposite: it is lower at all of them. Not reproduced: at one of the "
            f"declared {parts} of the range the interval is below the margin, at α = {number(self.alpha)} divided by "
            f"their number. Else undecided. Found: higher at {higher}, lower at {lower} of "
            f"{len(everywhere.differences)}.\n\n"
            "Intervals are for new seeds and new prompts, interpolated prompt by prompt; the noise of the measured KL "
            "is in none of them. KL is exact over the vocabulary at every sampled state, of the policy as it is "
            "sampled from the start at the same temperature; best-of-n's is its upper bound ln n − (n − 1)/n.")


def _picture(found: Sequence[Method]) -> str:
    from .page.alone import curves  # what draws takes a second to import

    lines, points = [], []
    for method in found:
        drawn = method.frontier
        for distance in np.linspace(0, drawn.reach, _DRAWN + 1)[1:]:
            lines.append(_drawn(method.name, distance, mean(Matrix.of(drawn.at(distance)))))
        points += [_drawn(method.name, float(point.distance.mean()), mean(Matrix.of(point.reward)))
                   for point in method.points]
    return curves(lines, points, [method.name for method in found],
                  "√KL to the start, square root of nats per response", "gold reward less the start's")


def _drawn(row: str, x: float, found: Estimate) -> dict[str, float | str]:
    return {"row": row, "x": float(x), "y": found.mean, "low": found.low, "high": found.high}
