"""What tables say and cover, by simulation, through the functions a table calls: `pytest -m slow`. Fixed seeds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from algorithms.common.evaluation.inference.intervals import Estimate
from benchmarks.report import table
from benchmarks.results_read import Figure, Result

pytestmark = pytest.mark.slow


def in_memory(values, truth=None):
    """Runs of methods, gold (methods, seeds, prompts), and which answers ended, without files."""
    prompts, runs = pd.Index([f"p{index}" for index in range(values.shape[-1])]), []
    anything = Estimate(0.0, 0.0, 0.0, len(prompts), "prompts", 1)
    for name, seeds in zip("abcdefgh", values):
        for seed, gold in enumerate(seeds):
            parts = {"reward/gold": ("mean", gold)}
            if truth is not None:
                parts["eos_rate"] = ("share", (gold < truth) * 1.0)
            evaluation = {key: Figure(anything, kind, pd.DataFrame({"numerator": one, "denominator": 1.0}, prompts))
                          for key, (kind, one) in parts.items()}
            runs.append(Result(Path(name), "complete", name, seed, {}, evaluation=evaluation))
    return runs


@pytest.mark.parametrize("seeds", [3, 5])
def test_tables_of_four_equal_methods_seldom_mislead_and_their_intervals_cover(seeds):
    rng = np.random.default_rng(seeds)
    ends, share = 2.0, stats.norm.cdf(2.0 / np.sqrt(0.15**2 + 2 * 0.3**2 + 1.3**2))
    misled, gold, ended, pairs, tables = 0, [], [], [], 400
    for _ in range(tables):
        values = (rng.normal(0, 0.3, 96) + rng.normal(0, 0.15, (4, seeds, 1)) + rng.normal(0, 0.3, (4, 1, 96))
                  + rng.normal(0, 1.3, (4, seeds, 96)))
        found = table(in_memory(values, ends))
        misled += "better than" in found.words or found.best is not None
        gold += [row.estimates["reward/gold"].low <= 0 <= row.estimates["reward/gold"].high for row in found.rows]
        ended += [row.estimates["eos_rate"].low <= share <= row.estimates["eos_rate"].high for row in found.rows]
        pairs += [not pair.difference.excludes_zero for pair in found.pairs]
    assert misled / tables <= 0.05
    covered = [np.mean(one) for one in (gold, ended, pairs)]
    assert min(covered) >= 0.935, covered


def test_one_seed_of_equal_trained_models_seldom_misleads():
    rng = np.random.default_rng(0)
    misled, tables = 0, 400
    for _ in range(tables):
        values = rng.normal(0, 0.3, 96) + rng.normal(0, 0.3, (4, 1, 96)) + rng.normal(0, 1.3, (4, 1, 96))
        found = table(in_memory(values))
        misled += "better than" in found.words
        assert found.best is None
    assert misled / tables <= 0.06
