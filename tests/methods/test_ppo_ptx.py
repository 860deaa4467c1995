"""PPO-ptx: rollouts and demonstrations in one step, cut into micro-batches and gone on with."""

import pytest
import torch

from algorithms.common.data.records import Record
from algorithms.common.recipe import Recipe
from algorithms.common.support.errors import DataError
from algorithms.common.training.loop import fit, run_losses
from ppo_setup import DEMONSTRATIONS, Killed, gradients, make, ppo, role_bytes, scorer, with_ptx
from training_setup import lines


def test_ptx_adds_the_likelihood_of_demonstrations(make_models, tmp_path):
    """InstructGPT eq. 2: the gradient is PPO's and γ times that of −mean log π over the demonstrations' tokens."""
    plain = ppo()
    context = make(make_models, tmp_path / "plain", plain, trainer={"micro_batch_size": 3})
    values = run_losses(plain, context, plain.experience(context, context.examples), list(range(8)), train=True)
    expected = gradients(context.models, "policy")
    for parameter in context.models.policy.parameters().values():
        parameter.grad = None
    recipe = Recipe(lr=1e-3, batch_size=8, steps=1)
    algorithm, other = with_ptx(make_models, tmp_path / "ptx", recipe, {"micro_batch_size": 3})
    rollouts = algorithm.experience(other, other.examples)
    total = tokens = 0
    for example in rollouts.demonstrations.examples:  # one by one, by the plain model's own forward pass
        logprobs = context.models.policy.token_logprobs(context.models.collate([example]))
        total, tokens = total - logprobs.sum(), tokens + len(example.responses[0])
    (0.5 * total / tokens).backward()
    found = run_losses(algorithm, other, rollouts, list(range(8)), train=True)
    assert found["loss/ptx"] == pytest.approx(0.5 * total.item() / tokens, rel=1e-5)
    assert found["loss/policy"] == pytest.approx(values["loss/policy"], abs=1e-6) and "loss/ptx" not in values
    for key, gradient in gradients(other.models, "policy").items():
        total = expected[key] + context.models.policy.parameters()[key].grad
        torch.testing.assert_close(gradient, total, atol=1e-6, rtol=1e-4)


def test_demonstrations_that_cannot_be_tokenised_are_told_before_the_first_step(make_models, tmp_path):
    algorithm, context = with_ptx(make_models, tmp_path)
    end = context.models.template.tokenizer.decode(context.models.template.stop_ids[:1])
    context.data.demonstrations = [*DEMONSTRATIONS, Record("we rated", [f" fine{end} fine"], None, {})]
    asked = []
    context.reward = lambda responses: asked.append(1) or scorer(responses)
    with pytest.raises(DataError, match="found the end token"):
        algorithm.fit(context)
    assert not asked


def test_ptx_walks_through_all_demonstrations(make_models, tmp_path):
    algorithm, context = with_ptx(make_models, tmp_path)
    seen = []
    for context.step in range(3):
        rollouts = algorithm.experience(context, context.examples[:4])
        assert len(rollouts.demonstrations) == len(rollouts) == 4
        seen += [example.record for example in rollouts.demonstrations.examples]
        own = [example.length for example in rollouts.examples]
        beside = [example.length for example in rollouts.demonstrations.examples]
        assert rollouts.lengths() == [a + b for a, b in zip(own, beside)], "tokens trained on, for the table's cost"
    assert sorted(seen) == sorted(2 * [record.key for record in DEMONSTRATIONS])
    with torch.no_grad():
        watched = algorithm.experience(context, context.examples)
        assert "demonstrated" not in watched.counts([0]), "what is only watched learns nothing"


def test_ptx_is_cut_into_micro_batches_and_goes_on_where_it_was(make_models, tmp_path):
    found = []
    for micro in (1, 8):
        recipe = Recipe(lr=1e-3, batch_size=8, steps=2, inner_epochs=2, minibatch_size=4)
        algorithm, context = with_ptx(make_models, tmp_path / str(micro), recipe, {"micro_batch_size": micro},
                                      rollout_batch_size=8)
        fit(algorithm, context)
        found.append(lines(context.target))
    for one, other in zip(*found):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-5) and one["loss/ptx"] > 0
    trained = []
    for die in (False, True):
        folder = tmp_path / f"killed-{die}"
        algorithm, context = with_ptx(make_models, folder, trainer={"checkpoint_every": 1})
        if die:
            scores, calls = context.reward, []

            def dies(responses):
                calls.append(1)
                if len(calls) == 3:
                    raise Killed
                return scores(responses)

            context.reward = dies
            with pytest.raises(Killed):
                fit(algorithm, context)
            algorithm, context = with_ptx(make_models, folder, trainer={"checkpoint_every": 1})
        fit(algorithm, context)
        trained.append((lines(context.target), role_bytes(context.models, "policy", "value")))
    assert trained[0] == trained[1]
