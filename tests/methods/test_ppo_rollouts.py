"""PPO's rollouts: how they are drawn, where they end, what is read of them."""

import pytest
import torch
from torch.nn.functional import log_softmax

from algorithms.common.data.records import Record
from algorithms.common.support.errors import ConfigError
from ppo_setup import make, ppo
from training_setup import randomize


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
