"""Responses to one prompt are scored in one row, and as they are alone."""

import random

import pytest
import torch

from algorithms.common.data.template import Example
from algorithms.common.rewards.together import TOGETHER, of_responses


@pytest.fixture(scope="module", params=["shared", "plain"])
def models(make_models, request):
    made = make_models(rows=request.param)
    made.add_role("reward", True)
    made.role("reward").add_scalar_head()
    with torch.no_grad():
        for number, parameter in enumerate(made.role("reward").parameters().values()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    return made


def drawn(counts: list[int]) -> list[Example]:
    """So many responses to each of some prompts, in no order."""
    draw = random.Random(0)
    examples = []
    for number, count in enumerate(counts):
        prompt = [draw.randrange(3, 200) for _ in range(3 + 2 * number)]
        examples += [Example(prompt, [[draw.randrange(3, 200) for _ in range(draw.randrange(1, 12))]],
                             [draw.random() < 0.5], None, f"{number}") for _ in range(count)]
    draw.shuffle(examples)
    return examples


@pytest.mark.parametrize("most", [1, 3, 8, 32])
def test_scores_are_those_of_responses_alone(models, most, monkeypatch):
    examples = drawn([1, 2, 19, 4, 8])
    role, passes = models.role("reward"), []
    with torch.no_grad():
        alone = [role.final_outputs(models.collate([one]))[0, 0, 0].item() for one in examples]
        collate = models.collate
        monkeypatch.setattr(models, "collate", lambda part: passes.append(part) or collate(part))
        found = of_responses(models, examples, most, lambda batch: role.final_outputs(batch).squeeze(-1))
    assert found == pytest.approx(alone, abs=1e-5)
    assert len(set(found)) == len(found)
    sizes = [[len(one.responses) for one in part] for part in passes]
    assert max(map(sum, sizes)) <= most and sum(map(sum, sizes)) == len(examples)
    size = 1 if models.layout == "plain" else min(most, TOGETHER)
    assert max(map(max, sizes)) == size
    assert sum(map(len, sizes)) == sum(-(-count // size) for count in (1, 2, 19, 4, 8)), "as few rows as can be"


def test_one_response_to_each_prompt_is_passed_as_it_was(models, monkeypatch):
    examples, collate, passes = drawn([1] * 9), models.collate, []
    monkeypatch.setattr(models, "collate", lambda part: passes.append(part) or collate(part))
    role = models.role("reward")
    with torch.no_grad():
        of_responses(models, examples, 4, lambda batch: role.final_outputs(batch).squeeze(-1))
    assert passes == [[examples[place] for place in part] for part in models.passes([e.length for e in examples], 4)]
    assert of_responses(models, [], 4, lambda batch: role.final_outputs(batch).squeeze(-1)) == []
