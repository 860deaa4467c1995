"""``python run.py task=judge runs=FOLDER judge=…``: verdicts on finished runs' answers, kept beside them, and their
table."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from algorithms.common.evaluation.verdicts import FILE, append, finished_runs, read
from algorithms.common.evaluation.verdicts.scorer import ScorerJudge
from algorithms.common.runs.judging import Court, as_run, check_gold
from algorithms.common.runs.settings import build
from algorithms.common.runs.tasks import store_of
from algorithms.common.support.errors import ConfigError, UserError

log = logging.getLogger(__name__)


def judge(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Asks for the verdicts that the folder lacks, and prints the table of all that it has."""
    from .results_read import ReportError, collect
    from .verdict_tables import verdict_table

    if config.runs is None or config.get("judge") is None:
        key, expected, value = (("runs", "the folder of finished runs", "multirun/…") if config.runs is None else
                                ("judge", "a judge", "local judge.model.name=FOLDER"))
        raise ConfigError(f"{key}: found none; expected {expected}; fix: {key}={value}")
    parts = build(config, ("judge", "verdicts", "stages"))
    parts["judge"].check()
    target = Path(config.runs)
    runs = finished_runs(target)
    pairs = parts["verdicts"].pairs(runs)
    try:
        results = collect([target])
    except ReportError as error:
        raise UserError(str(error)) from error
    if isinstance(parts["judge"], ScorerJudge) and not any(one.lstrip("+~").startswith("data") for one in overrides):
        check_gold(parts["judge"].source, any("reward/gold" in result.evaluation for result in results))
    kept = read(target / FILE)
    court = Court(as_run(config, target / runs[0].name, overrides), store_of(parts["stages"]), folder,
                  {run.name: run.seed for run in runs})
    parts["judge"].check_kept(kept, court)
    done = {verdict.asked for verdict in kept if parts["judge"].answered(verdict)}
    open_pairs = [pair for pair in pairs if not parts["judge"].asks(pair) <= done]
    log.info("%s: %d pairs of answers, %d of them judged before", parts["judge"].name, len(pairs),
             len(pairs) - len(open_pairs))
    try:
        for found in parts["judge"].verdicts(open_pairs, court):
            append(target / FILE, [verdict for verdict in found if verdict.asked not in done], once=True)
    finally:  # also where the judge gave up: what it said is kept
        if sys.exc_info()[0] is None or read(target / FILE):
            print(f"\n{verdict_table(read(target / FILE), results, target)}\n\nverdicts: {target / FILE}")
