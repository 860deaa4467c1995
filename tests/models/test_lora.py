"""LoRA's own product equals PEFT's: outputs and gradients, with few and with many tokens; PEFT computes the rest."""

import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn

from algorithms.common.models.lora import compute_here

FEW, MANY = (2, 1), (3, 40)  # rows and tokens: below and above what merging pays for in a layer of 24 × 40


def layer(bias=False, dtype=torch.float32, name="policy", **settings):
    torch.manual_seed(0)
    base = nn.Linear(24, 40, bias=bias, dtype=dtype).requires_grad_(False)
    made = Linear(base, name, config=LoraConfig(r=4, lora_alpha=12, **settings), r=4, lora_alpha=12)
    nn.init.normal_(made.lora_B[name].weight)
    return made


def pair(**settings):
    """PEFT's layer, and the same that computes here."""
    theirs = layer(**settings)
    ours = copy.deepcopy(theirs)
    compute_here(ours)
    return theirs, ours


def answers(one, shape, dtype=torch.float32, **more):
    """The output, and the gradients of the input and of the adapter."""
    x = torch.randn(*shape, 24, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = one(x, **more)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
    own = {key: p.grad for key, p in one.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **own}


def calls(one):
    """How often PEFT's own adapter is called from here on."""
    found = []
    for part in one.lora_A.values():
        part.register_forward_hook(lambda *_: found.append(1))
    return found


@pytest.mark.parametrize("shape", [FEW, MANY, (60,)])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_peft(shape, bias):
    theirs, ours = pair(bias=bias)
    called = calls(ours)
    wanted, found = answers(theirs, shape), answers(ours, shape)
    assert not called and found.keys() == wanted.keys() and len(found) == 4
    for key, value in wanted.items():
        assert (found[key] - value).norm() <= 1e-6 * value.norm(), key
    with torch.no_grad():  # the same numbers without a graph
        x = torch.randn(*shape, 24)
        assert torch.equal(ours(x), ours(x.clone().requires_grad_()))
        assert torch.equal(ours(x), torch.enable_grad()(ours)(x).detach())


def test_a_hand_worked_layer():
    """W = 0, b = 1, A = (1 … 24), B = 2 in all 40 rows, α/r = 3: y = 1 + 6 Σ i x_i."""
    _, ours = pair(bias=True)
    with torch.no_grad():
        for parameter, value in ((ours.base_layer.weight, 0.0), (ours.base_layer.bias, 1.0),
                                 (ours.lora_A["policy"].weight, 0.0), (ours.lora_B["policy"].weight, 2.0)):
            parameter.fill_(value)
        ours.lora_A["policy"].weight[0] = torch.arange(1.0, 25)
    for shape in (FEW, MANY):
        torch.testing.assert_close(ours(torch.ones(*shape, 24)), torch.full((*shape, 40), 1 + 6 * 300.0))


def test_gradients_of_the_frozen_and_of_inputs_without_one():
    _, ours = pair()
    ours.requires_grad_(False)
    assert answers(ours, MANY).keys() == {"y", "x"}
    _, ours = pair()
    ours(torch.ones(2, 24)).sum().backward()
    assert ours.lora_A["policy"].weight.grad is not None


def test_a_second_derivative_is_refused():
    _, ours = pair()
    x = torch.ones(2, 24, requires_grad=True)
    first, = torch.autograd.grad(ours(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("settings", [dict(lora_dropout=0.5), dict(use_dora=True), dict(lora_bias=True, bias=True),
                                      dict(dtype=torch.bfloat16)], ids=str)
def test_peft_computes_the_rest(settings):
    theirs, ours = pair(**settings)
    dtype = settings.get("dtype", torch.float32)
    torch.manual_seed(2)
    wanted = answers(theirs, MANY, dtype)
    torch.manual_seed(2)
    torch.testing.assert_close(answers(ours, MANY, dtype), wanted, atol=0, rtol=0)


def test_peft_computes_under_autocast_and_with_several_adapters():
    theirs, ours = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(torch.ones(3, 24)), theirs(torch.ones(3, 24)))
    for one in (theirs, ours):
        one.update_layer("value", 4, lora_alpha=12, config=LoraConfig(r=4, lora_alpha=12))
        nn.init.ones_(one.lora_A["value"].weight)
        nn.init.ones_(one.lora_B["value"].weight)
        one._active_adapter = ["policy", "value"]
    assert torch.equal(ours(torch.ones(3, 24)), theirs(torch.ones(3, 24)))


def test_dropout_that_is_off_costs_nothing():
    _, ours = pair(lora_dropout=0.5)
    called = calls(ours.eval())
    ours(torch.ones(3, 24))
    assert not called
    ours.train()(torch.ones(3, 24))
    assert called


def test_off_and_merged_adapters_add_nothing():
    theirs, ours = pair()
    x = torch.ones(3, 24)
    for one in (theirs, ours):
        one._disable_adapters = True
    assert torch.equal(ours(x), ours.base_layer(x)) and torch.equal(ours(x), theirs(x))
    for one in (theirs, ours):
        one._disable_adapters = False
        one.merge()
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours(x), ours.base_layer(x))
