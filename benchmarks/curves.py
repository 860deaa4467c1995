"""Curves (`task=curves`): several sweeps over one store of stages, then a page of them.

    {folder}/runs/METHOD/       a sweep of one method over what is declared for it, with every seed
    {folder}/NAME.md, NAME.svg  the page: what may be said to the declared claims, tables with intervals, a picture
    {folder}/report.html, …     the table of all runs

    python -m benchmarks.curves FOLDER… --out FOLDER     makes the page again from the runs' files

What is claimed, and by which rule it is answered, stands in the configuration that the runs keep: it was declared
before them.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from algorithms.common.runs.settings import build
from algorithms.common.support.errors import ConfigError

from . import report
from .command_line import in_words, over_folders
from .results_read import ReportError, Result, collect
from .sweeps import check_alone, passed_on, sweep
from .tables import plain

log = logging.getLogger(__name__)
OWN = ("task", "algorithm", "seed")  # of the sweeps themselves
PAGES = ("benchmarks.frontier.FrontierPage", "benchmarks.temperature.TemperaturePage")  # that are made again


@dataclass
class Curves:
    """What is swept and drawn, declared before it is."""

    sweeps: dict[str, dict[str, list[Any]]]  # of each method: key → values
    seeds: list[int]
    page: Any  # `write(results, folder)` makes it, and returns its first words

    in_trial: ClassVar[dict[str, int]] = {"seeds": 1}

    def __post_init__(self):
        if not self.seeds or not self.sweeps:
            raise ConfigError(f"curves: found {len(self.sweeps)} sweeps with {len(self.seeds)} seeds; expected some of "
                              "both; fix: curves.seeds=[0,1,2]")
        for method, swept in self.sweeps.items():
            for key, values in swept.items():
                if not isinstance(values, list) or not values:
                    raise ConfigError(f"curves.sweeps.{method}.{key}: found {values!r}; expected a list of values; "
                                      f"fix: 'curves.sweeps.{method}={{{key}: [{values}]}}'")

    def swept(self, method: str) -> list[str]:
        """What makes the sweep of a method."""
        return [f"algorithm={method}", f"seed={_listed(self.seeds)}",
                *(f"{key}={_listed(values)}" for key, values in self.sweeps[method].items())]


def _listed(values: Sequence[Any]) -> str:
    return ",".join("null" if value is None else str(value) for value in values)


def run(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Run the sweeps one after another, write the table of all runs and the page."""
    if config.get("curves") is None:
        raise ConfigError("curves: found no choice of what is swept; expected one, as conf/curves/frontier.yaml; "
                          "fix: curves=frontier")
    curves: Curves = build(config, ("curves",))["curves"]
    state = HydraConfig.get()
    check_alone(state, "curves", "curves.sweeps")
    common = passed_on(overrides, state.overrides.hydra, OWN)
    stopped = None
    try:
        for method in curves.sweeps:
            sweep(curves.swept(method), common, folder / "runs" / method)
    except KeyboardInterrupt as stop:
        stopped = stop
    found = collect([folder / "runs"]) if (folder / "runs").is_dir() else []
    report.exit_code = 1 if any(one.status == "failed" for one in found) else 0
    if found:
        report.publish(found, folder)  # its pairs of all rows are too many for a terminal
        print(_page(curves.page, found, folder))
        log.info("the page and its picture are in %s, with the table of all runs: report.html", folder)
    if stopped:
        raise KeyboardInterrupt("the sweeps were stopped; the same command goes on from what is kept") from stopped


def _page(page: Any, found: Sequence[Result], folder: Path) -> str:
    """Its first words; where the runs allow no page, why."""
    try:
        return plain(page.write(found, folder))
    except ReportError as error:
        report.exit_code = 1
        return f"no page: {plain(str(error))}"


def declared(found: Sequence[Result]) -> Any:
    """The page that all these runs declared. ReportError where they declared none, or several."""
    pages = []
    for one in found:
        page = ((one.raw.get("config") or {}).get("curves") or {}).get("page")
        if page is not None and page not in pages:
            pages.append(page)
    if len(pages) != 1:
        raise ReportError(f"config.curves.page: found {len(pages)} in these runs; expected one that they all declare; "
                          "fix: give the folder of one experiment=frontier or experiment=temperature")
    if (target := pages[0].get("_target_")) not in PAGES:   # a file of results does not decide which code runs
        raise ReportError(f"config.curves.page._target_: found {target}; expected {' or '.join(PAGES)}")
    return instantiate(pages[0], _recursive_=False, _convert_="all")


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 where the folders hold nothing that makes a page."""
    parser = over_folders("curves", "The page of finished sweeps.")
    parser.add_argument("--out", help="where the page goes (default: FOLDER, if only one)")
    options = parser.parse_args(arguments)
    found = collect(options.folders)
    if options.out is None and len(options.folders) > 1:
        raise ReportError(f"--out: found none with {len(options.folders)} folders; expected where the page goes; "
                          "fix: --out FOLDER")
    print(plain(declared(found).write(found, Path(options.out or options.folders[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
