"""KTO by hand, its reference point, and its loss on a model."""

import json
import math

import pytest
import torch

from algorithms.common.data.template import Example
from algorithms.common.support.errors import ConfigError
from algorithms.kto import KTO, Minibatch, kto_loss, mismatched
from command_line import invoke
from training_setup import EOS, examples, lines, make_context, moved_apart


def test_by_hand():
    """β = 0.1, z = 0.2: 1 − σ(0.28) = 0.430454 where u = 3 is desirable; 1 − σ(0.12) = 0.470036 where −1 is not."""
    found = kto_loss(torch.tensor([3.0, -1.0]), torch.tensor([True, False]), 0.2, beta=0.1)
    assert found.tolist() == pytest.approx([0.430454, 0.470036], abs=1e-6)
    weighed = kto_loss(torch.tensor([3.0, -1.0]), torch.tensor([True, False]), 0.2, beta=0.1, desirable_weight=2.0,
                       undesirable_weight=3.0)
    assert weighed.tolist() == pytest.approx([2 * 0.430454, 3 * 0.470036], abs=1e-6)


def test_gradient():
    """∂L/∂u = −λ_D β σ′ where desirable, λ_U β σ′ where not; at u = z, σ′ = ¼."""
    ratios = torch.tensor([0.2, 0.2], requires_grad=True)
    kto_loss(ratios, torch.tensor([True, False]), 0.2, beta=0.1, desirable_weight=2.0).sum().backward()
    assert ratios.grad.tolist() == pytest.approx([-0.05, 0.025])


@pytest.fixture
def models(make_models):
    return moved_apart(make_models())


def rated(count: int = 4) -> list[Example]:
    """Single ratings, every other one good."""
    return [Example(one.prompt, one.responses, one.finished, [float(index % 2)], one.record)
            for index, one in enumerate(examples(count))]


def test_every_response_stands_after_the_next_prompt(models):
    first, second = (Example([n], [[n + 5, EOS], [n + 6, EOS]], [True] * 2, [1.0, 0.0], f"{n}") for n in (11, 12))
    found = mismatched(models, [first, second])
    assert [(one.prompt, one.responses[0][0]) for one in found] == [([11], 17), ([11], 18), ([12], 16), ([12], 17)]
    assert not mismatched(models, [first]), "a record alone has no other prompt"
    assert not mismatched(models, [first, first])


@pytest.mark.parametrize("size", [1, 4])
def test_the_reference_point_is_the_whole_batches(models, tmp_path, size):
    """The mean log-ratio of mismatched responses, one after another, whatever the micro-batches."""
    data, sums = rated(), []
    for index, one in enumerate(data):
        batch = models.collate([Example(one.prompt, data[index - 1].responses, [True], None, "")])
        sums.append((models.policy.response_logprobs(batch) - models.reference.response_logprobs(batch)).item())
    assert sum(sums) > 0, "or the next line says nothing"
    point = KTO().experience(make_context(models, tmp_path, data, micro_batch_size=size), data).point
    assert point == pytest.approx(sum(sums) / 4, rel=1e-4)


def test_the_reference_point_is_not_negative(models, tmp_path, monkeypatch):
    monkeypatch.setattr("algorithms.kto.columns", lambda *_: [torch.full((4, 1, 3), -1.0), torch.zeros(4, 1, 3)])
    data = rated()
    assert KTO().experience(make_context(models, tmp_path, data), data).point == 0
    monkeypatch.setattr("algorithms.kto.columns", lambda *_: [torch.full((4, 1, 3), 1.0), torch.zeros(4, 1, 3)])
    assert KTO().experience(make_context(models, tmp_path, data), data).point == 3


def test_loss_on_a_model(models):
    data = rated() + [Example([9, 8], [[7, EOS], [6, 5, EOS]], [True] * 2, [2.0, -1.0], "pair")]
    batch = models.collate(data)
    terms, metrics = KTO(beta=0.3, threshold=0.5, undesirable_weight=2.0).loss(models, Minibatch(batch, 0.1))
    ratios = (models.policy.response_logprobs(batch) - models.reference.response_logprobs(batch)).detach()
    singles, pair = ratios[:4, 0], ratios[4]
    good, bad = torch.cat([singles[1::2], pair[:1]]), torch.cat([singles[::2], pair[1:]])
    expected = (1 - torch.sigmoid(0.3 * (good - 0.1))).sum() + 2 * (1 - torch.sigmoid(-0.3 * (bad - 0.1))).sum()
    torch.testing.assert_close(terms["policy"].sum.detach(), expected)
    assert terms["policy"].per == "responses"
    torch.testing.assert_close(metrics["rewards/chosen"].sort().values, (0.3 * good).sort().values)
    assert metrics["labels/desirable"].mean() == 0.5
    torch.testing.assert_close(KTO(beta=0.3).score(models, batch)[4].detach(), 0.3 * pair)


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"threshold": math.nan}, {"desirable_weight": -1.0},
                                     {"undesirable_weight": math.inf}])
def test_what_it_refuses(options):
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(options))}: found .*; expected"):
        KTO(**options)


def test_thumbs_alone_train(tmp_path):
    """Rows of one response with true or false, and nothing else."""
    file = tmp_path / "thumbs.jsonl"
    rows = [{"question": f"film {index} was", "reply": " good" * (1 + index % 3), "liked": index % 3 > 0}
            for index in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ended = invoke("algorithm=kto", "data=file", f"data.path={file}",
                   "data.columns={prompt: question, response: reply, label: liked}", "recipe.steps=2",
                   "recipe.batch_size=6", "algorithm.needs.reference.recipe.steps=1", "eval.prompts=2", "eval.pairs=2",
                   "eval.sampling.max_new_tokens=4", "trainer.progress=false", "trainer.mixed_precision=no",
                   f"stages.folder={tmp_path / 'stages'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.status == 0, ended.err
    line = lines(tmp_path / "run")[0]
    assert line["loss/policy"] == pytest.approx(0.5, abs=1e-5), "σ(0): training starts at the reference, z = 0"
    assert line["labels/desirable"] * 6 == pytest.approx(round(line["labels/desirable"] * 6)), "six responses, no more"
