"""PPO-ptx: rollouts and demonstrations in one step, cut into micro-batches and gone on with."""


import pytest
import torch
from torch.nn.functional import log_softmax

from algorithms.common.data.records import Record
from algorithms.common.recipe import Recipe
from algorithms.common.support.errors import ConfigError, DataError
from algorithms.common.training.loop import fit, run_losses
from ppo_setup import DEMONSTRATIONS, Killed, gradients, make, ppo, role_bytes, scorer, with_ptx
from training_setup import lines, randomize


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


def test_log_probabilities_are_those_of_the_sampling_temperature(make_models, tmp_path):
    found = {}
    for temperature in (1.0, 0.5):
        algorithm = ppo(temperature=temperature)
        context = make(make_models, tmp_path, algorithm, count=2)
        randomize(context.models, "policy", seed=8)
        rollouts = algorithm.experience(context, context.examples)
        found[temperature] = rollouts.figures["kl/k1"]
        for row, example in enumerate(rollouts.examples):
            ids = torch.tensor([example.prompt + example.responses[0]])
            with torch.no_grad(), context.models.roles.use("policy"):
                logits = context.models.roles.module(input_ids=ids).logits[0, len(example.prompt) - 1:-1] / temperature
            expected = log_softmax(logits, -1).gather(1, torch.tensor(example.responses[0]).unsqueeze(1))[:, 0]
            torch.testing.assert_close(rollouts.logprobs[row, 0, :len(expected)], expected, atol=1e-5, rtol=1e-5)
    assert found[1.0] != found[0.5]


def test_how_many_are_decoded_together_changes_no_rollout(make_models, tmp_path):
    found = []
    for size in (1, 3, 8, None):
        algorithm = ppo(rollout_batch_size=size)
        context = make(make_models, tmp_path, algorithm)
        found.append([example.responses[0] for example in algorithm.experience(context, context.examples).examples])
    assert all(other == found[0] for other in found[1:])


def test_rollouts_differ_from_step_to_step_and_between_equal_prompts(make_models, tmp_path):
    algorithm = ppo()
    context = make(make_models, tmp_path, algorithm)
    twice = [context.examples[0], context.examples[0]]
    draws = []
    for step in (0, 1, 0):
        context.step = step
        draws.append([example.responses[0] for example in algorithm.experience(context, twice).examples])
    assert draws[0] == draws[2] != draws[1] and draws[0][0] != draws[0][1]
    assert max(len(one) for draw in draws for one in draw) <= 6


def test_responses_end_at_the_end_token_and_are_scored_so(make_models, tmp_path):
    seen = []
    algorithm = ppo(max_new_tokens=12)
    context = make(make_models, tmp_path, algorithm, score=lambda rs: seen.extend(rs) or [1.0] * len(rs))
    rollouts = algorithm.experience(context, context.examples)
    stop = set(context.models.template.stop_ids)
    assert len(seen) == 8 and any(r.finished for r in seen)
    masks = rollouts.select(list(range(8))).batch.mask
    for response, example, record, mask in zip(seen, rollouts.examples, context.records, masks):
        assert response.prompt == record.prompt and response.record == record.key
        assert response.ids == example.responses[0]
        assert not stop & set(response.ids[:-1]) and (response.ids[-1] in stop) == response.finished
        assert response.finished or len(response.ids) == 12
        assert mask.sum() == len(response.ids)
    assert rollouts.figures["eos_rate"] == sum(r.finished for r in seen) / 8


def test_long_prompts_leave_room(make_models, tmp_path):
    algorithm = ppo(max_new_tokens=40)  # of 64
    context = make(make_models, tmp_path, algorithm)
    context.records = [Record("word " * 60, [], None, {})]
    rollouts = algorithm.experience(context, [context.models.tokenize(context.records[0])])
    assert len(rollouts.examples[0].prompt) <= 24
    with pytest.raises(ConfigError, match="max_new_tokens: found 64"):
        ppo(max_new_tokens=64).experience(context, context.examples[:1])
