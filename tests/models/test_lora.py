"""The project's product for LoRA equals PEFT's: outputs and gradients, few tokens and many; PEFT computes the rest."""

import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn

from algorithms.common.models.lora import replace_forward

FEW, MANY = (7, 2), (3, 5)  # 14 and 15 tokens: merging pays from 24 · 40 / (24 + 40) = 15 on


def pair(bias=False, dtype=torch.float32, **settings):
    """PEFT's layer, and the same that computes here."""
    torch.manual_seed(0)
    base = nn.Linear(24, 40, bias=bias, dtype=dtype).requires_grad_(False)
    theirs = Linear(base, "policy", config=LoraConfig(r=4, lora_alpha=12, **settings), r=4, lora_alpha=12)
    nn.init.normal_(theirs.lora_B["policy"].weight)
    ours = copy.deepcopy(theirs)
    replace_forward(ours)
    return theirs, ours


def answers(one, shape, dtype=torch.float32):
    """The output, and the gradients of the input and of the adapter."""
    x = torch.randn(*shape, 24, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = one(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
    own = {key: p.grad for key, p in one.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **own}


def assert_near(found, wanted):
    for key, value in wanted.items():
        assert (found[key] - value).norm() <= 1e-6 * value.norm(), key


def calls(one):
    """How often PEFT's own adapter is called from here on."""
    found = []
    for part in one.lora_A.values():
        part.register_forward_hook(lambda *_: found.append(1))
    return found


@pytest.mark.parametrize("shape", [FEW, MANY, (60,), (), (1, 1), (2, 5, 20)])
@pytest.mark.parametrize("settings", [dict(), dict(bias=True), dict(use_rslora=True)], ids=str)
def test_equals_peft(shape, settings):
    theirs, ours = pair(**settings)
    called = calls(ours)
    wanted, found = answers(theirs, shape), answers(ours, shape)
    assert not called and found.keys() == wanted.keys() and len(found) == 4
    assert_near(found, wanted)
    with torch.no_grad():  # the same numbers without a graph
        x = torch.randn(*shape, 24)
        assert torch.equal(ours(x), torch.enable_grad()(ours)(x).detach())


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 5)])
def test_no_tokens(shape):
    theirs, ours = pair()
    found, wanted = answers(ours, shape), answers(theirs, shape)
    assert found["y"].shape == (*shape, 40) and found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("shape, merges", [(FEW, False), (MANY, True)])
def test_merges_where_that_takes_fewer_products(monkeypatch, shape, merges):
    _, ours = pair()
    made, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *parts, **more: made.append(1) or addmm(*parts, **more))
    ours(torch.ones(*shape, 24))
    assert bool(made) == merges


def test_inputs_in_another_order_of_memory():
    theirs, ours = pair()
    x = torch.randn(24, 7, 3).permute(2, 1, 0)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[:, ::2]), theirs(x[:, ::2]))


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


@pytest.mark.parametrize("frozen", [("lora_A", "lora_B"), ("lora_A",), ("lora_B",)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_does(frozen):
    theirs, ours = pair()
    for one in (theirs, ours):
        for part in frozen:
            getattr(one, part).requires_grad_(False)
    found, wanted = answers(ours, MANY), answers(theirs, MANY)
    assert found.keys() == wanted.keys() and len(found) == 4 - len(frozen)
    assert_near(found, wanted)
    ours.requires_grad_(False)
    assert not ours(torch.ones(2, 24)).requires_grad


def test_inputs_without_a_gradient():
    _, ours = pair()
    ours(torch.ones(2, 24)).sum().backward()
    assert ours.lora_A["policy"].weight.grad.abs().sum() > 0 and ours.lora_B["policy"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_an_edit_before_the_backward_pass_is_an_error(part):
    _, ours = pair()
    y = ours(torch.ones(2, 24, requires_grad=True))
    with torch.no_grad():
        getattr(ours, part)["policy"].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


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


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_base_that_learns_is_computed_by_peft(part):
    _, ours = pair(bias=True)
    getattr(ours.base_layer, part).requires_grad_(True)
    ours(torch.ones(MANY + (24,))).sum().backward()
    assert getattr(ours.base_layer, part).grad.abs().sum() > 0


class Packed(nn.Parameter):
    """Stands for a quantised weight in an nn.Linear, which may say that it is float32."""


def test_a_weight_of_another_class_is_computed_by_peft():
    _, ours = pair()
    ours.base_layer.weight = Packed(ours.base_layer.weight.detach(), requires_grad=False)
    called = calls(ours)
    ours(torch.ones(3, 24))
    assert called


def test_peft_computes_adapters_in_bf16():
    theirs, ours = pair()
    for one in (theirs, ours):
        one.lora_A.bfloat16()
        one.lora_B.bfloat16()
    assert torch.equal(ours(torch.ones(3, 24)), theirs(torch.ones(3, 24)))


def test_peft_computes_under_autocast():
    theirs, ours = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(torch.ones(3, 24)), theirs(torch.ones(3, 24)))


def test_peft_computes_several_adapters_and_one_for_each_row():
    theirs, ours = pair()
    x = torch.ones(3, 24)
    for one in (theirs, ours):
        one.update_layer("value", 4, lora_alpha=12, config=LoraConfig(r=4, lora_alpha=12))
        nn.init.ones_(one.lora_A["value"].weight)
        nn.init.ones_(one.lora_B["value"].weight)
    by_row = [one.eval()(x, adapter_names=["policy", "value", "__base__"]) for one in (theirs, ours)]
    assert torch.equal(*by_row) and not torch.equal(by_row[0][0], by_row[0][1])
    for one in (theirs, ours):
        one._active_adapter = ["policy", "value"]
    assert torch.equal(ours(x), theirs(x))


def test_an_adapter_that_the_layer_does_not_have_adds_nothing():
    _, ours = pair()
    ours._active_adapter = ["another"]
    assert torch.equal(ours(torch.ones(3, 24)), ours.base_layer(torch.ones(3, 24)))


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
