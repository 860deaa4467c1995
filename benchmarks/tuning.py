"""Fair tuning (`task=tune`): each method is given as many trials, and pays for them.

    {folder}/trials/METHOD/     a sweep over the method's declared space, judged on tuning prompts
    {folder}/runs/METHOD/       its best settings with every seed, on the prompts that are reported
    {folder}/report.html, …     of the runs; each is charged what its method's trials that ended took

Trials are proposed by Hydra's Optuna sweeper where it is installed, else drawn from the space by the seed. They have a
seed that no reported run has. Where the data's truth is known, it chooses; else an auditor does that learned from one
half of the comparisons set aside, and another, of the other half, reports. All sweeps go through the launcher that is
asked for.
"""

import importlib.util
import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from algorithms.common.runs import jobs, launching, results
from algorithms.common.runs.settings import build
from algorithms.common.support.checks import at_least, one_of, require, within
from algorithms.common.support.errors import ConfigError

from . import report
from .costs import OWN as ITS_OWN
from .costs import own_parts
from .printed import print_table
from .results_read import TRIALS, collect
from .sweeps import check_alone, passed_on, sweep

log = logging.getLogger(__name__)
SWEEPERS = ("optuna", "random")
SPENT = ("seconds", "tokens_trained", "tokens_sampled", "reward_queries", "money")  # of a cost, that add up
LENGTHS = ("recipe.steps", "recipe.epochs")
OWN = ("task", "tune.", "algorithm", "seed", "auditor_half", "eval.split")  # of the sweeps themselves


@dataclass
class Tuning:
    """What is tried, declared before it is."""

    methods: list[str]
    space: dict[str, dict[str, Any]]  # of each method: key → a range as Hydra writes it, tag(log, interval(0.01, 1))
    trials: int = 8  # of each method
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of the reported runs
    seed: int = 1000  # of the trials and of what proposes them
    direction: str = "maximize"
    sweeper: str | None = None  # optuna or random; null: optuna where it is installed
    at_once: int = 1  # trials that are proposed, and given to the launcher, together
    stop_after: float | None = None  # share of a training after which the worse trials are stopped; null: none is
    keep: float = 0.5  # share of the trials that go on from there
    in_trial: ClassVar[dict[str, int]] = {"trials": 2, "seeds": 1}

    def __post_init__(self):
        require(self, "tune", trials=at_least(1), at_once=at_least(1), sweeper=one_of(SWEEPERS).or_null(),
                direction=one_of(("maximize", "minimize")),
                stop_after=within("(0, 1)").or_null(), keep=within("(0, 1)"))
        if self.seed in self.seeds:
            raise ConfigError(f"tune.seed: found {self.seed}, which tune.seeds has too; expected a seed of the trials' "
                              f"own; fix: tune.seed={max(self.seeds) + 1000}")
        if not self.methods:
            raise ConfigError("tune.methods: found none; expected some; fix: tune.methods=[dpo,rrhf]")
        for method in self.methods:
            if self.space.get(method) is None:
                raise ConfigError(f"tune.space.{method}: found none; expected what is tried; fix: "
                                  f"'+tune.space.{method}={{recipe.lr: \"tag(log, interval(1e-4, 1e-2))\"}}'")
            for key, text in self.space[method].items():
                if key.startswith("algorithm.needs") or not key.startswith(("algorithm.", "recipe.")):
                    raise ConfigError(f"tune.space.{method}: found {key}; expected keys of the method and its recipe "
                                      "alone: what it stands on is shared, and paid for once; fix: leave it out")
                if self.stop_after and key in LENGTHS:
                    raise ConfigError(f"tune.space.{method}: found {key}, and tune.stop_after; expected one of them: "
                                      "after a share of other lengths trials are not alike; fix: tune.stop_after=null")
                sampled(f"tune.space.{method}.{key}", text, random.Random(0))


def sampled(where: str, text: Any, chance: random.Random) -> Any:
    """One value of a range as Hydra writes it. ConfigError for what is none."""
    try:
        value = OverridesParser.create().parse_override(f"x={text}").value()
    except HydraException:
        value = None
    if isinstance(value, ChoiceSweep):
        return chance.choice(value.list)
    if isinstance(value, RangeSweep):
        return chance.choice(list(value.range()))
    if isinstance(value, IntervalSweep):
        low, high = float(value.start), float(value.end)
        if "log" in value.tags:
            if not 0 < low <= high:
                raise ConfigError(f"{where}: found {text!r}; expected bounds above 0, the lower first, where a range "
                                  f"is in logarithms; fix: tag(log, interval({high / 100 if high > 0 else 0.01:g}, "
                                  f"{high if high > 0 else 1:g})), or leave out tag(log, …)")
            return math.exp(chance.uniform(math.log(low), math.log(high)))
        drawn = chance.uniform(low, high)
        return round(drawn) if isinstance(value.start, int) and isinstance(value.end, int) else drawn
    raise ConfigError(f"{where}: found {text!r}; expected a range as Hydra writes it; fix: interval(0.1, 1), "
                      "tag(log, interval(0.01, 1)), choice(1, 2) or range(1, 5)")


@dataclass(frozen=True)
class Trial:
    """A trial that came to its end."""

    value: float | None  # of the objective; None: it has no such figure, or no finite one
    settings: dict[str, Any]  # key of the space → value
    identity: str  # of the trained stage, seeds apart
    seed: int
    cost: dict[str, float]  # of its own stage, without those it stands on


def run(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Tune every method, run the best of each with all seeds, report."""
    if config.get("tune") is None:
        raise ConfigError("tune: found no choice of what is tried; expected one, as conf/tune/lab.yaml; fix: tune=lab")
    tuning: Tuning = build(config, ("tune",))["tune"]
    state = HydraConfig.get()
    check_alone(state, "tune", "tune.space")
    jobs.check_figure(config.objective, others=True)
    common = passed_on(overrides, state.overrides.hydra, OWN)
    (folder / "trials").mkdir(exist_ok=True)
    (folder / "trials" / TRIALS).write_text("{}", encoding="utf-8")  # these are no rows of a table
    stopped, lost = None, []
    try:
        for method in tuning.methods:
            if not tuning.space[method]:  # as it is, and nothing to charge
                sweep(reported(tuning, method, {}), common, folder / "runs" / method)
                continue
            tried, full = _tried(tuning, method, common, folder / "trials" / method, config.objective)
            if not full:
                lost.append(method)
                log.error("%s: %s", method, without_best(tuning, config.objective, tried))
                continue
            best = ranked(full, tuning.direction)[0]
            log.info("%s: best of %d trials: %s (%.4g)", method, tuning.trials, best.settings, best.value)
            try:
                sweep(reported(tuning, method, best.settings), common, folder / "runs" / method)
            finally:    # a sweep that was stopped has rows too
                for path in sorted((folder / "runs" / method).glob("*/result.json")):
                    charge(path, tried, {"trials": tuning.trials, "full": len(full), "best": best.value})
    except KeyboardInterrupt as stop:
        stopped = stop
    found = collect([folder / "runs"]) if (folder / "runs").is_dir() else []
    if found:
        print_table(report.publish(found, folder))
        log.info("the report is %s", folder / "report.html")
    report.exit_code = 1 if lost or any(one.status == "failed" for one in found) else 0
    if stopped:
        raise KeyboardInterrupt("tuning was stopped; the same command goes on from what is kept") from stopped


def without_best(tuning: Tuning, objective: str | None, tried: Sequence[Trial]) -> str:
    """Why none of a method's trials is the best."""
    if tried:
        return (f"{len(tried)} of {tuning.trials} trials ended, none of which has a finite "
                f"{objective or ' or '.join(jobs.OBJECTIVES)} (objective), so it has no row")
    return f"none of {tuning.trials} trials came to its end, so it has no row"


def _tried(tuning: Tuning, method: str, common: Sequence[str], folder: Path, objective: str | None
           ) -> tuple[list[Trial], list[Trial]]:
    """All trials of a method that came to their end, and those trained in full that have the objective."""
    space = tuning.space[method]
    if tuning.stop_after is None:
        sweep(search(tuning, method, folder), common, folder)
        tried = trials(folder, space, objective)
        return tried, valued(tried)
    short, long = folder / "short", folder / "full"
    sweep([*search(tuning, method, short), shortened(tuning, method, common)], common, short)
    tried = trials(short, space, objective)
    kept = ranked(valued(tried), tuning.direction)
    kept = kept[:math.ceil(tuning.keep * len(kept))]
    if kept:
        sweep([*_judged(tuning, method), *drawn([trial.settings for trial in kept], long)], common, long)
    full = trials(long, space, objective) if kept else []
    return [*tried, *full], valued(full)


def shortened(tuning: Tuning, method: str, common: Sequence[str]) -> str:
    """The override that trains for the first share only."""
    recipe = compose("config", [*(one for one in common if not one.lstrip("+").startswith("hydra")),
                                f"algorithm={method}"]).recipe
    if recipe.steps is not None:
        return f"recipe.steps={max(1, round(recipe.steps * tuning.stop_after))}"
    return f"recipe.epochs={recipe.epochs * tuning.stop_after}"


def _judged(tuning: Tuning, method: str) -> list[str]:
    return [f"algorithm={method}", f"seed={tuning.seed}", "eval.split=tuning", "auditor_half=first"]


def search(tuning: Tuning, method: str, folder: Path) -> list[str]:
    """What makes a sweep of a method's trials."""
    given = _judged(tuning, method)
    space = tuning.space[method]
    if (tuning.sweeper or ("optuna" if importlib.util.find_spec("optuna") else "random")) == "optuna":
        sampler = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", f"hydra.sweeper.sampler.seed={tuning.seed}",
                   f"hydra.sweeper.direction={tuning.direction}", f"hydra.sweeper.n_trials={tuning.trials}",
                   f"hydra.sweeper.n_jobs={tuning.at_once}", "hydra.sweeper.max_failure_rate=1.0"]
        return [*given, *sampler, *(f"{key}={text}" for key, text in space.items())]
    chance = random.Random(f"{tuning.seed} {method}")
    return [*given, *drawn([{key: sampled(key, text, chance) for key, text in space.items()}
                            for _ in range(tuning.trials)], folder)]


def drawn(settings: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """What makes a sweep of these settings: each a choice of a group of its own, for they are no product of lists."""
    group = folder / "conf" / "drawn"
    group.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(settings):
        told = OmegaConf.create()
        for key, value in values.items():
            OmegaConf.update(told, key, value)
        (group / f"trial{number}.yaml").write_text(f"# @package _global_\n{OmegaConf.to_yaml(told)}", encoding="utf-8")
    names = ",".join(f"trial{number}" for number in range(len(settings)))  # a number alone is no choice for Hydra
    return [f"+drawn={names}", f"hydra.searchpath=[file://{(folder / 'conf').absolute()}]"]


def reported(tuning: Tuning, method: str, best: Mapping[str, Any]) -> list[str]:
    """What makes a sweep of the runs that are reported."""
    return [f"algorithm={method}", f"seed={','.join(map(str, tuning.seeds))}", "eval.split=evaluation",
            "auditor_half=second", *(f"{key}={value}" for key, value in best.items())]


def trials(folder: Path, space: Mapping[str, Any], objective: str | None) -> list[Trial]:
    """The trials that a folder's last sweep asked for and that came to their end, by their numbers."""
    found = []
    for path in (folder / str(number) / jobs.RESULT for number in launching.asked_for(folder)):
        told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if told.get("status") != "complete":
            continue
        settings = {key: OmegaConf.select(OmegaConf.create(told["config"]), key) for key in space}
        cost = {name: own_parts(told["cost"], name)[ITS_OWN] for name in SPENT if name in told["cost"]}
        value = jobs.objective(path.parent, objective)
        found.append(Trial(value, settings, told["identity"], told["seed"], cost))
    return found


def valued(tried: Sequence[Trial]) -> list[Trial]:
    """Those that have the objective."""
    return [trial for trial in tried if trial.value is not None]


def ranked(tried: Sequence[Trial], direction: str) -> list[Trial]:
    """The best first; of equal ones the first."""
    return sorted(tried, key=lambda trial: trial.value, reverse=direction == "maximize")


def charge(path: Path, tried: Sequence[Trial], about: Mapping[str, Any]) -> None:
    """Add to a run's result.json what its method's trials took, as a stage that it stands on; once."""
    told = json.loads(path.read_text(encoding="utf-8"))
    if told["status"] != "complete" or "tuning" in told:
        return
    own = (told["identity"], told["seed"])
    stages = {(trial.identity, trial.seed): trial for trial in tried}  # the same stage is trained once
    paid = [trial for stage, trial in stages.items() if stage != own]
    cost = told["cost"]
    spent = {name: sum(trial.cost.get(name, 0) for trial in paid) for name in SPENT if name in cost}
    cost["stages"]["tuning"] = {**{name: 0 for name in cost if name != "stages"}, **spent, "stages": {}}
    for name, amount in spent.items():
        cost[name] += amount
    told["tuning"] = dict(about)
    results.write_json(path, told)
