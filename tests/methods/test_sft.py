"""Supervised fine-tuning: the token mean, what is masked, and packing that changes no number."""

from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from algorithms.common.data.batches import collate
from algorithms.common.data.records import DataSets, LoadReport, Records, data_view
from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example
from algorithms.common.logprobs import token_logprobs
from algorithms.common.training.loop import run_losses
from algorithms.sft import SFT, with_prompt
from training_setup import EOS, examples, make_context, randomize

# Two sequences of five tokens over a vocabulary of three; −100 is not learned. logits[:, i] predicts token i + 1.
LOGITS = tensor([[[1, 0, -1], [.5, .5, 0], [2, -1, 0], [0, 0, 0], [9, 0, 0]],
                 [[0, 1, 2], [1, 1, 1], [-1, 0, 3], [.2, .1, 0], [0, 9, 0]]])
LABELS = tensor([[-100, -100, 1, 2, -100], [-100, 0, 2, 1, 1]])


def aligned(labels: torch.Tensor = LABELS) -> tuple[torch.Tensor, torch.Tensor]:
    mask = labels[:, 1:] != -100
    return labels[:, 1:].clamp_min(0), mask


class Stub:
    """A role whose log-probabilities come from the logits above, one response per record."""

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor = LABELS):
        targets, self.mask = aligned(labels)
        self.values = token_logprobs(logits[:, :-1], targets) * self.mask

    def models(self):
        return SimpleNamespace(policy=SimpleNamespace(token_logprobs=lambda batch: self.values.unsqueeze(1)))

    def batch(self):
        return SimpleNamespace(mask=self.mask.unsqueeze(1))


def token_mean(logits: torch.Tensor, labels: torch.Tensor = LABELS) -> torch.Tensor:
    stub = Stub(logits, labels)
    term = SFT().loss(stub.models(), stub.batch()).terms["policy"]
    assert term.per == "tokens" and term.coefficient == 1.0
    return term.sum / stub.mask.sum()


def test_token_mean():
    """Six targets: 0.9580 + 2.1698 + 2.4076 + 1.0986 + 3.0659 + 1.1019 = 10.8019; a sixth of it is 1.8003."""
    assert token_mean(LOGITS).item() == pytest.approx(1.800319, abs=1e-5)
    stub = Stub(LOGITS)
    metrics = SFT().loss(stub.models(), stub.batch()).metrics
    by_token = [-0.958020, -2.169846, -2.407606, -1.098612, -3.065884, -1.101943]
    assert metrics["logps/token"].tolist() == pytest.approx(by_token, abs=1e-5)


def test_what_is_masked_matters():
    prompt_too = LABELS.clone()
    prompt_too[0] = tensor([-100, 2, 1, 2, -100])
    assert token_mean(LOGITS, prompt_too).item() == pytest.approx(1.887074, abs=1e-5)
    no_end = LABELS.clone()
    no_end[1, -1] = -100
    assert token_mean(LOGITS, no_end).item() == pytest.approx(1.939994, abs=1e-5)


def test_gradient_of_the_token_mean():
    logits = LOGITS.clone().requires_grad_()
    token_mean(logits).backward()
    torch.testing.assert_close(logits.grad[0, :3], tensor([[0, 0, 0], [0.063942, -0.102725, 0.038783],
                                                           [0.140632, 0.007002, -0.147634]]), atol=1e-5, rtol=0)
    assert not logits.grad[0, 0].any(), "exactly 0 where nothing is learned"


def test_likelihood_of_the_response_alone(make_models):
    """Against transformers' own logits: prompt masked, the end token learned."""
    models = make_models()
    models.add_role("policy", trainable=True, seed=0)
    randomize(models, "policy")
    example = Example([7, 8, 9], [[10, 11, EOS]], [True], None, "one")
    with models.roles.use("policy"):
        logits = models.roles.module(tensor([[7, 8, 9, 10, 11, EOS]])).logits[0].detach()
    def loss(one: Example) -> float:
        return SFT().loss(models, models.collate([one])).terms["policy"].sum.item()

    by_hand = -sum(logits[at].log_softmax(-1)[token] for at, token in ((2, 10), (3, 11), (4, EOS)))
    assert loss(example) == pytest.approx(by_hand.item(), rel=1e-5)

    whole = -sum(logits[at].log_softmax(-1)[token] for at, token in ((0, 8), (1, 9), (2, 10), (3, 11), (4, EOS)))
    learned = with_prompt(example)
    assert (learned.prompt, learned.responses) == ([7], [[8, 9, 10, 11, EOS]]) and learned.key != example.key
    assert loss(learned) == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_train_on_prompt(make_models, tmp_path, train_on_prompt):
    models = make_models()
    models.add_role("policy", trainable=True, seed=0)
    data = examples(6)
    experience = SFT(train_on_prompt=train_on_prompt).experience(make_context(models, tmp_path, data), data)
    learned = sum(len(example.responses[0]) + (len(example.prompt) - 1 if train_on_prompt else 0) for example in data)
    assert experience.counts(list(range(6)))["tokens"] == learned
    assert int(experience.select(list(range(6))).mask.sum()) == learned


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packing_changes_no_number(make_models, tmp_path, attention):
    models = make_models(attention=attention)
    models.add_role("policy", trainable=True, seed=0)
    randomize(models, "policy")
    data = examples(12)
    found = {}
    for packing in (False, True):
        algorithm = SFT(packing=packing)
        context = make_context(models, tmp_path, data, micro_batch_size=12)
        experience = algorithm.experience(context, data)
        values = run_losses(algorithm, context, experience, list(range(12)), train=True)
        gradients = {key: parameter.grad.clone() for key, parameter in models.policy.parameters().items()}
        for parameter in models.policy.parameters().values():
            parameter.grad = None
        rows = len(experience.select(list(range(12))).input_ids)
        found[packing] = values, gradients, rows
    (plain, plain_gradients, plain_rows), (packed, packed_gradients, packed_rows) = found[False], found[True]
    assert packed_rows < plain_rows == 12
    assert packed == pytest.approx(plain, rel=1e-5)
    for key, gradient in plain_gradients.items():
        torch.testing.assert_close(packed_gradients[key], gradient, atol=1e-6, rtol=1e-4)


def test_packed_examples_do_not_see_one_another(make_models):
    """Another text in one example leaves the others' log-probabilities as they are, to the bit."""
    models = make_models()
    models.add_role("policy", trainable=False, seed=0)
    randomize(models, "policy", scale=0.3)
    data = examples(6)
    changed = list(data)
    prompt, (response,) = data[2].prompt, data[2].responses
    changed[2] = Example([t + 1 for t in prompt], [[t + 1 for t in response]], [True], None, "changed")
    before, after = (models.policy.token_logprobs(collate(one, "shared", pack_to=64)) for one in (data, changed))
    assert not torch.equal(before[2], after[2])
    others = [0, 1, 3, 4, 5]
    assert torch.equal(before[others], after[others])


def test_views():
    """Demonstrations, or the better responses of the comparisons: Preferred-FT."""
    preferences = Records.from_list([Record("p1", ["worse", "better"], [0.0, 1.0]),
                                     Record("p2", ["best", "bad"], [3.0, -1.0])])
    shown = Records.from_list([Record("p3", ["shown"])])
    none = Records.from_list([])
    data = DataSets(preferences=preferences, demonstrations=shown, prompts=none, evaluation=none, heldout=none,
                    tuning=none, report=LoadReport())
    train, _ = data_view(data, SFT().view)
    assert [record.responses for record in train] == [["shown"]]
    train, _ = data_view(data, SFT(view="preferred").view)
    assert [(record.prompt, record.responses) for record in train] == [("p1", ["better"]), ("p2", ["best"])]
