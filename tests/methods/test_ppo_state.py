"""What PPO keeps between batches, and that it goes on where it was killed."""

from contextlib import nullcontext

import pytest
import torch

from algorithms.common.algorithm import Meter
from algorithms.common.support.errors import ConfigError
from algorithms.common.training.loop import evaluate_loss, fit
from few import few
from ppo_setup import Killed, make, ppo, role_bytes
from training_setup import lines

STATEFUL = {"kl_target": 0.5, "kl_horizon": 20.0, "score_scaling": "normalize"}


def test_a_controller_that_could_not_steer(make_models, tmp_path):
    with pytest.raises(ConfigError, match="algorithm.kl_target: found 6.0 with algorithm.kl_coef=0"):
        ppo(kl_target=6.0, kl_coef=0.0)
    refused = pytest.raises(ConfigError, match="algorithm.kl_horizon: found 0.8; expected more than a fifth")
    for horizon, ends in ((0.8, refused), (0.81, nullcontext())):
        algorithm = ppo(kl_target=1e-3, kl_horizon=horizon)
        with ends:
            algorithm.fit(make(make_models, tmp_path / str(horizon), algorithm))


def test_the_controller_steers_and_is_kept(make_models, tmp_path):
    algorithm = ppo(**STATEFUL, kl_coef=0.2)
    context = make(make_models, tmp_path, algorithm)
    fit(algorithm, context)
    coefs = [line["kl/coef"] for line in lines(context.target)]
    assert coefs[0] == 0.2 and len(set(coefs)) == 4
    kl = lines(context.target)[0]["kl/k1"]
    assert coefs[1] == pytest.approx(0.2 * (1 + max(-0.2, min(0.2, kl / 0.5 - 1)) * 4 / 20))
    state, other = algorithm.state_dict(), ppo(**STATEFUL)
    other.load_state_dict(state)
    assert other.state_dict() == state and state["scores"]["count"] == 16 and state["kl_coef"] not in coefs


def test_held_out_prompts_move_no_state(make_models, tmp_path):
    algorithm = ppo(**STATEFUL)
    context = make(make_models, tmp_path, algorithm)
    context.heldout, context.heldout_records = context.examples[:3], context.records[:3]
    before = algorithm.state_dict()
    watched = evaluate_loss(algorithm, context)
    assert abs(watched["eval/policy/ratio_max"] - 1) <= 1e-5
    assert {"eval/reward/proxy", "eval/kl/k1", "eval/eos_rate", "eval/length/mean"} <= watched.keys()
    assert all(isinstance(value, (int, float)) for value in watched.values())
    assert algorithm.state_dict() == before
    assert vars(context.meter) == vars(Meter()), "what is only watched is free of charge"


def train(make_models, folder, every: int, die=None):
    """Train in models of its own; ``die``: ("score" | "columns" | "loss", at which call of it)."""
    algorithm = ppo(**STATEFUL)
    context = make(make_models, folder, algorithm, trainer={"checkpoint_every": every, "micro_batch_size": 1})
    if die is None:
        fit(algorithm, context)
        return (lines(context.target), role_bytes(context.models, "policy", "value"), algorithm.state_dict(),
                vars(context.meter))
    where, at = die
    target, name = {"score": (context, "reward"), "loss": (algorithm, "_value_loss"),
                    "columns": (context.models, "collate")}[where]
    function, calls = getattr(target, name), []

    def dies(*given, **named):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return function(*given, **named)

    setattr(target, name, dies)
    with pytest.raises(Killed):
        fit(algorithm, context)


DEATHS = [("score", 3), ("columns", 27), ("loss", 15), ("score", 1), ("columns", 2), ("columns", 42), ("loss", 3),
          ("loss", 30)]


@pytest.mark.parametrize("every, deaths", few([(1, DEATHS[:1]), (3, DEATHS[2:3]), (1, DEATHS[1:]),
                                               (3, DEATHS[:2] + DEATHS[3:])], [0, 1]))
def test_killed_in_a_rollout_or_an_inner_epoch(make_models, tmp_path, every, deaths):
    """4 steps of 4 rollouts, 2 epochs of 2 minibatches of 2 micro-batches: the same metrics, weights and state, to the
    bit.
    """
    whole = train(make_models, tmp_path / "whole", every=50)
    for die in deaths:
        folder = tmp_path / f"{die[0]}-{die[1]}"
        train(make_models, folder, every, die)
        torch.manual_seed(7)
        assert train(make_models, folder, every) == whole, die


def test_a_second_run_of_the_same_object_starts_anew(make_models, tmp_path):
    algorithm, found = ppo(**STATEFUL), []
    for name in ("one", "two"):
        context = make(make_models, tmp_path / name, algorithm)
        algorithm.fit(context)  # by way of the algorithm, as a stage does
        found.append(lines(context.target))
    assert found[0] == found[1]
