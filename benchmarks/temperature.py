"""Methods at other sampling temperatures, against one opponent (the page of `experiment=temperature`).

Answers are compared with the data's own, which no temperature changes, by the gold reward. The KL to the start is that
of the two as they are sampled, both at the same temperature. At 0 both always give one answer, and where these differ
it is infinite: there is none. What can be told at every temperature is how unlikely the answers are to the start as it
samples at 1, −log π(y|x); at 0 that is the KL of always giving this answer from the start as it samples at 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from algorithms.common.evaluation.inference.claims import Claim, Finding, examine
from algorithms.common.evaluation.inference.intervals import MEAN, SHARE, Estimate, Matrix, mean
from algorithms.common.evaluation.inference.wording import finding, number

from .aggregation import Shared, estimate, matrix, shared_prompts
from .curve_parts import estimated, markdown, of_losses, of_trials, write_page
from .results_read import ReportError, Result
from .tables import interval

WINS, GOLD, KL = "win_rate_data/gold", "reward/gold", "kl/exact"


def by_temperature(results: Sequence[Result]) -> dict[str, dict[float, list[Result]]]:
    """Method → temperature → its runs, of the seeds that all of these have; and what they started from, by its name.

    The start stands first. ReportError where no seed is left, where one has a method at a temperature twice, or where
    gold is not known.
    """
    found: dict[str, dict[float, dict[int, Result]]] = {}
    for run in (one for one in results if one.status == "complete"):
        if WINS not in run.evaluation:
            raise ReportError(f"{run.folder}: found no {WINS}; expected data whose true reward is known, with answers "
                              "of its own")
        at = found.setdefault(run.algorithm, {}).setdefault(_temperature(run), {})
        if run.seed in at:
            raise ReportError(f"{run.folder}: found {run.algorithm} with seed {run.seed} at temperature "
                              f"{_temperature(run):g}, as in {at[run.seed].folder}; expected it once")
        at[run.seed] = run
        if run.start and run.before:
            began = replace(run, algorithm=run.start[0], evaluation=run.before)
            found.setdefault(run.start[0], {}).setdefault(_temperature(run), {}).setdefault(run.seed, began)
    groups = [at for method in found.values() for at in method.values()]
    seeds = [seed for seed in dict.fromkeys(seed for at in groups for seed in at) if all(seed in at for at in groups)]
    if not seeds:
        raise ReportError("found no seed that every method has at every temperature; expected one or more; fix: the "
                          "same command goes on from what is kept")
    starts = {run.start[0] for at in groups for run in at.values() if run.start}
    return {method: {one: [found[method][one][seed] for seed in seeds] for one in sorted(found[method])}
            for method in sorted(found, key=lambda method: (method not in starts, method))}


def _temperature(run: Result) -> float:
    try:
        return float(run.raw["config"]["eval"]["sampling"]["temperature"])
    except (KeyError, TypeError, ValueError):
        raise ReportError(f"{run.folder}: found no config.eval.sampling.temperature; expected what a run "
                          "writes") from None


def robustness(wins: Mapping[tuple[str, float], Matrix], better: str, worse: str, cold: float, hot: float
               ) -> tuple[Matrix, Matrix]:
    """What each of two methods' win rates loses from `cold` to `hot`, of the worse first: (S, P) each.

    The claim that the better one loses less is that the first exceeds the second.
    """
    lost = [Matrix.of(_shares(wins[name, cold]) - _shares(wins[name, hot])) for name in (worse, better)]
    return lost[0], lost[1]


def _shares(found: Matrix):
    return found.numerator / found.denominator


@dataclass
class TemperaturePage:
    """The claims, declared before their runs: `better` loses less from `cold` to `hot`, and is better at `cold`."""

    source: str
    claims: dict[str, str]      # robust, better: in words
    declared: str
    better: str
    worse: str
    cold: float
    hot: float
    margins: dict[str, float]   # robust, better: of win rates
    alpha: float                # of both together

    def write(self, results: Sequence[Result], folder: Path) -> str:
        """temperature.md and temperature.svg; returns the first words."""
        found = by_temperature(results)
        for name in (self.better, self.worse):
            if lacking := [one for one in (self.cold, self.hot) if one not in found.get(name, {})]:
                raise ReportError(f"{name}: found no runs at temperature {lacking[0]:g}; expected {self.better} and "
                                  f"{self.worse} at {self.cold:g} and {self.hot:g}")
        runs = [run for method in found.values() for at in method.values() for run in at]
        shared = {name: shared_prompts(name, runs) for name in (WINS, GOLD)}
        answers = self.findings(found, shared[WINS])
        words = self._words(answers, results)
        write_page(folder, "temperature", "Sampling temperature", "win rate against temperature", words,
                   [self._claims(answers), _table(found, shared), self._declaration()],
                   _picture(found, shared[WINS]), results)
        return words

    def findings(self, found: Mapping[str, Mapping[float, Sequence[Result]]], shared: Shared) -> dict[str, Finding]:
        """By the claims' names."""
        wins = {(name, at): matrix(WINS, found[name][at], shared)
                for name in (self.better, self.worse) for at in (self.cold, self.hot)}
        sides = {"robust": (self.worse, self.better, MEAN,
                            robustness(wins, self.better, self.worse, self.cold, self.hot)),
                 "better": (self.better, self.worse, SHARE,     # two shares: an interval that is never without width
                            (wins[self.better, self.cold], wins[self.worse, self.cold]))}
        return {name: examine(Claim(above, below, self.margins[name], len(self.claims), self.alpha), *both, kind)
                for name, (above, below, kind, both) in sides.items()}

    def _words(self, answers: Mapping[str, Finding], results: Sequence[Result]) -> str:
        said = of_trials(results)
        for name, one in answers.items():
            claim = f"{self.claims[name]} by more than {number(self.margins[name])} ({self.source})"
            said.append(f"{finding(one, claim)} Found: {interval(one.difference)}.")
        return " ".join([*said, *of_losses(results)])

    def _claims(self, answers: Mapping[str, Finding]) -> str:
        level = 100 * (1 - self.alpha / len(answers))
        rows = [[self.claims[name], number(self.margins[name]), interval(one.difference), one.answer.value]
                for name, one in answers.items()]
        return ("## The claims\n\n" + markdown(["claim", "margin", f"found, {level:g} % interval", "answer"], rows))

    def _declaration(self) -> str:
        claims = "; ".join(f"{text}, by more than {number(self.margins[name])}" for name, text in self.claims.items())
        each = f"{number(self.alpha)}/{len(self.claims)}"
        return (
            f"## What was declared\n\nOn {self.declared}, before the runs ({self.source}): {claims}. Figure: the share "
            "of prompts at which an answer has more gold reward than the data's own, ties half. Each interval has "
            f"level 1 − {each}, for the claims stand together, and is for new seeds and new prompts. Reproduced: the "
            "interval lies above the margin. Not reproduced: below it; the opposite: below 0. Else undecided.\n\n"
            "Training is the same at every temperature. KL is exact over the vocabulary at every sampled state, of the "
            "policy at the temperature that it is sampled with from the start at the same temperature. At 0 both give "
            "one answer each, and where these differ it is infinite, so none is printed. −log π(y|x) of the answers "
            "under the start at temperature 1, nats per answer, is there at every temperature: at 0 it is the KL of "
            "always giving this answer from the start as it samples at 1.")


def _table(found: Mapping[str, Mapping[float, Sequence[Result]]], shared: Mapping[str, Shared]) -> str:
    rows = []
    for method, temperatures in found.items():
        for at, runs in temperatures.items():
            measured = all(KL in run.evaluation for run in runs)
            kl = estimate(KL, runs, shared_prompts(KL, runs)) if measured else None
            rows.append([method, number(at), interval(estimate(WINS, runs, shared[WINS])),
                         interval(estimate(GOLD, runs, shared[GOLD])), estimated(kl), estimated(_unlikeliness(runs))])
    header = ["method", "temperature", "win rate against the data's answers", "gold", "KL at this temperature, nats",
              "−log π(y|x) of the start, nats"]
    return ("## All temperatures\n\nWith 95 % intervals for new seeds and new prompts, each by itself.\n\n"
            + markdown(header, rows))


def _unlikeliness(runs: Sequence[Result]) -> Estimate | None:
    """−log π(y|x) of the answers under the start at temperature 1; None where no run tells it."""
    if any(run.evaluation is run.before or not (run.folder / "samples.parquet").is_file() for run in runs):
        return None
    means = []
    for run in runs:
        frame = pd.read_parquet(run.folder / "samples.parquet", columns=["prompt_id", "picked", "logprob_reference"])
        means.append(-frame[frame["picked"]].groupby("prompt_id")["logprob_reference"].mean().astype(float))
    whole = pd.concat(means, axis=1, join="inner").dropna()
    return mean(Matrix.of(whole.to_numpy().T)) if len(whole) > 1 else None


def _picture(found: Mapping[str, Mapping[float, Sequence[Result]]], shared: Shared) -> str:
    from .page.alone import curves  # what draws takes a second to import

    points = [{"row": method, "x": at, "y": one.mean, "low": one.low, "high": one.high}
              for method, temperatures in found.items() for at, runs in temperatures.items()
              for one in [estimate(WINS, runs, shared)]]
    return curves(points, points, list(found), "sampling temperature; 0: greedy", "win rate against the data's answers")
