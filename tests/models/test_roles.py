"""Roles on one base: each test is a way in which adapters compute something else without an error."""

import pytest
import torch
from torch import nn

from algorithms.common.data.batches import collate
from algorithms.common.models.model import Lora
from role_setup import BOTH, flags, four_roles, loss
from row_setup import examples, randomise, values_and_gradients

# ---- the switch

@BOTH
def test_switching_leaves_requires_grad_alone(make_models, lora):
    models = four_roles(make_models(lora=lora))
    before = flags(models)
    assert {name: set(values) for name, values in before.items()} == {
        "policy": {True}, "reference": {False}, "reward": {False}, "value": {True}}
    with models.roles.use("reference"):
        with models.roles.use("value"):
            assert flags(models) == before and models.roles.current == "value"
        assert models.roles.current == "reference"
    assert flags(models) == before and models.roles.current == "base"


@BOTH
def test_the_role_is_restored_after_an_error(make_models, lora):
    models = four_roles(make_models(lora=lora))
    with pytest.raises(RuntimeError, match="inside"), models.roles.use("policy"):
        raise RuntimeError("inside")
    assert models.roles.current == "base"


@BOTH
def test_unknown_roles_raise(make_models, lora):
    """PEFT would compute the base without a word."""
    models = make_models(lora=lora)
    models.add_role("policy", trainable=True, seed=1)
    with pytest.raises(KeyError, match="polcy"), models.roles.use("polcy"):
        pass
    with pytest.raises(KeyError, match="value"):
        models.role("value")
    with pytest.raises(KeyError, match="value"):
        models.roles.remove("value")
    with pytest.raises(ValueError, match="exists already"):
        models.add_role("policy", trainable=True)
    with pytest.raises(ValueError, match="exists already"):
        models.add_role("base", trainable=True)


@BOTH
def test_each_role_computes_its_own_function(make_models, lora):
    models = four_roles(make_models(lora=lora))
    with torch.no_grad():
        for number, name in enumerate(("policy", "value")):
            for parameter in models.role(name).parameters().values():
                parameter.add_(0.05 * (number + 1))
    batch = collate(examples(2))
    answers = {name: models.role(name).token_logprobs(batch).detach() for name in ("base", *models.roles.names())}
    assert torch.equal(answers["reference"], answers["base"])  # fresh: the base's function
    assert not torch.allclose(answers["policy"], answers["base"])
    assert not torch.allclose(answers["value"], answers["policy"])


def test_adapters_are_those_of_peft_itself(make_models):
    """The switch writes two private names of PEFT; its own public switch must agree."""
    models = four_roles(make_models())
    randomise(models, "policy")
    batch = collate(examples(2), "plain")
    found = models.policy.token_logprobs(batch).detach()
    models.roles._peft.base_model.enable_adapter_layers()
    models.roles._peft.set_adapter("policy")
    with torch.no_grad():
        logits = models.roles._peft(input_ids=batch.input_ids, attention_mask=(batch.group >= 0).long()).logits
    logp = logits.log_softmax(-1).flatten(0, 1)[batch.source].gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, logp * batch.mask, atol=1e-5, rtol=0)


def test_adapters_compute_by_the_projects_own_product(make_models):
    """In float32 on a CPU, whenever roles come: PEFT's own parts are not called."""
    models = four_roles(make_models())
    called = [[] for _ in models.roles._layers]
    for layer, calls in zip(models.roles._layers, called):
        for part in layer.lora_A.values():
            part.register_forward_hook(lambda *_, calls=calls: calls.append(1))
    loss(models, "policy", collate(examples(2))).backward()
    models.reference.token_logprobs(collate(examples(2)))
    assert called and not any(called)


# ---- copies and removal

@BOTH
def test_the_policy_starts_as_the_reference_bit_for_bit(make_models, lora):
    models = make_models(lora=lora)
    models.add_role("reference", trainable=False, seed=1)
    if lora:
        randomise(models, "reference")
    models.add_role("policy", trainable=True, like="reference")
    batch = collate(examples(3))
    policy = models.policy.token_logprobs(batch)  # train(), with a graph
    assert policy.requires_grad and torch.equal(policy, models.reference.token_logprobs(batch))
    own, other = models.policy.parameters(), models.reference.parameters()
    assert list(own) == list(other) and all(torch.equal(own[key], other[key]) for key in own)
    assert not {p.data_ptr() for p in own.values()} & {p.data_ptr() for p in other.values()}


@BOTH
def test_removing_a_role_leaves_the_others_as_they_were(make_models, lora):
    models = four_roles(make_models(lora=lora))
    randomise(models, "policy") if lora else None
    batch = collate(examples(2))
    before = models.policy.token_logprobs(batch).detach()
    models.roles.use("reference").__enter__()  # PEFT's own removal of the active adapter turns another one on
    models.roles.remove("reference")
    assert models.roles.current == "base" and "reference" not in models.roles.names()
    expected = {"policy": {True}, "reward": {False}, "value": {True}}
    assert {name: set(values) for name, values in flags(models).items()} == expected
    assert torch.equal(models.policy.token_logprobs(batch), before)


@BOTH
def test_roles_can_be_cleared_and_made_again(make_models, lora):
    models = four_roles(make_models(lora=lora))
    batch = collate(examples(2))
    base = models.role("base").token_logprobs(batch)
    for _ in range(2):
        models.clear_roles()
        assert models.roles.names() == [] and torch.equal(models.role("base").token_logprobs(batch), base)
        four_roles(models)
        assert set(flags(models)["policy"]) == {True} and set(flags(models)["reference"]) == {False}
        values, gradient = values_and_gradients(models, batch)
        assert any(g.abs().max() > 0 for g in gradient.values())


def test_fresh_adapters_come_from_their_seed_alone(make_models):
    torch.manual_seed(5)
    first = make_models().add_role("policy", trainable=True, seed=1).parameters()
    torch.manual_seed(6)
    state = torch.get_rng_state()
    models = make_models()
    torch.set_rng_state(state)
    second = models.add_role("policy", trainable=True, seed=1).parameters()
    assert torch.equal(torch.get_rng_state(), state)  # the run's own stream was not touched
    other = make_models().add_role("policy", trainable=True, seed=2).parameters()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_module_named_like_a_role_is_not_taken_for_it():
    """BERT-like models have modules called "value"; the role "value" must not catch the policy's weights in them."""
    from peft import LoraConfig

    from algorithms.common.models.roles import AdapterRoles

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.policy = nn.Linear(4, 4), nn.Linear(4, 4)

    roles = AdapterRoles(nn.ModuleDict({"block": Block()}), LoraConfig(r=2, target_modules=["value", "policy"]))
    roles.add("policy", trainable=True)
    roles.add("value", trainable=False)
    for name, learns in (("policy", True), ("value", False)):
        found = roles.named_parameters(name)
        assert sorted(found) == [f"block.{module}.lora_{side}.weight" for module in ("policy", "value")
                                 for side in "AB"]
        assert {p.requires_grad for p in found.values()} == {learns}
    mine = {id(p) for p in roles.named_parameters("policy").values()}
    assert not mine & {id(p) for p in roles.named_parameters("value").values()}


def test_adapted_embeddings_belong_to_the_role(make_models):
    models = make_models(lora=Lora(r=4, alpha=8, target_modules=["q_proj", "embed_tokens"]))
    role = models.add_role("policy", trainable=True, seed=1)
    assert {"model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"} <= set(role.parameters())
    assert all(p.requires_grad for p in role.parameters().values())


def test_full_fine_tuning_copies(make_models):
    models = make_models(lora=None)
    models.add_role("policy", trainable=True)
    models.add_role("reference", trainable=False, like="policy")
    pointers = [{p.data_ptr() for p in module.parameters()} for module in models.roles._copies.values()]
    assert len(pointers) == 3 and not pointers[0] & pointers[1] and not pointers[1] & pointers[2]


def test_an_alias_answers_as_its_role_and_stays_frozen(make_models):
    models = make_models()
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    alias = models.alias("reference", "policy")
    batch = collate(examples(2))
    answer = alias.token_logprobs(batch)
    assert not answer.requires_grad and torch.equal(answer, models.policy.token_logprobs(batch))
