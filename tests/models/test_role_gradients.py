"""Gradients of roles, whatever computes in between; and a base's own dropout, which is off."""

import copy
from functools import partial

import pytest
import torch

from algorithms.common.data.batches import collate
from algorithms.common.logprobs import chunked_token_logprobs
from algorithms.common.models import role as role_module
from algorithms.common.models.families import head_logits
from algorithms.common.models.model import Lora, ModelConfig, Models, disable_dropout
from role_setup import BOTH, digest, four_roles, gradients, loss
from row_setup import examples, randomise

# ---- between and around the roles

@BOTH
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_role_used_between_forward_and_backward_changes_nothing(make_models, lora, checkpointing):
    batch = collate(examples(2))
    truth = None
    for between in ((), ("value",), ("reference",), ("base",), ("reward", "value", "reference")):
        models = four_roles(make_models(lora=lora, gradient_checkpointing=checkpointing))
        for role in ("policy", "value") if lora else ():
            randomise(models, role)
        objective = loss(models, "policy", batch)
        for name in between:
            models.role(name).token_logprobs(batch)
        if between[-1:] != ("base",) and between:
            models.roles.use(between[-1]).__enter__()  # still on when backward() runs
        objective.backward()
        found = gradients(models, "policy")
        assert all(p.grad is None for name in ("value", "reference", "reward")
                   for p in models.role(name).parameters().values())
        truth = truth or found
        assert all(torch.equal(found[key], truth[key]) for key in truth)
    assert max(g.abs().max() for g in truth.values()) > 0


@BOTH
def test_one_backward_of_two_roles_under_checkpointing(make_models, lora):
    batch, truth = collate(examples(2)), {}
    for checkpointing in (False, True):
        models = four_roles(make_models(lora=lora, gradient_checkpointing=checkpointing))
        if lora:
            randomise(models, "policy"), randomise(models, "value")
        if not checkpointing:
            for role in ("policy", "value"):
                loss(models, role, batch).backward()
                truth[role] = gradients(models, role)
        else:
            (loss(models, "policy", batch) + loss(models, "value", batch)).backward()
            for role in ("policy", "value"):
                found = gradients(models, role)
                assert all(torch.allclose(found[key], truth[role][key], atol=1e-6, rtol=1e-5) for key in found)


def test_lora_dropout_survives_a_frozen_forward_under_checkpointing(make_models):
    """A frozen role's forward sets eval(); the recomputation must drop what the forward dropped."""
    batch, found = collate(examples(2)), []
    for checkpointing, between in ((False, False), (True, False), (True, True)):
        models = four_roles(make_models(lora=Lora(r=4, alpha=8, dropout=0.5), gradient_checkpointing=checkpointing))
        randomise(models)
        torch.manual_seed(3)
        objective = loss(models, "policy", batch)
        if between:
            models.reference.token_logprobs(batch)
            assert not models.roles.module.training
        objective.backward()
        assert models.roles.module.training != between  # left as it was found
        found.append(gradients(models, "policy"))
    for other in found[1:]:
        assert all(torch.allclose(other[key], found[0][key], atol=1e-6, rtol=1e-5) for key in found[0])


ON_THE_HEAD = Lora(r=4, alpha=8, target_modules=["q_proj", "lm_head"])


@pytest.mark.parametrize("chunk", [512, 5])
def test_an_adapter_on_the_head_learns(make_models, monkeypatch, chunk):
    monkeypatch.setattr(role_module, "chunked_token_logprobs", partial(chunked_token_logprobs, chunk=chunk))
    models = make_models(lora=ON_THE_HEAD)
    models.add_role("policy", trainable=True, seed=1)
    randomise(models, "policy")
    models.policy.token_logprobs(models.collate(examples(3))).sum().backward()
    learned = models.policy.parameters()
    assert any("lm_head" in name for name in learned)
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in learned.values())


@pytest.mark.parametrize("target_modules, learns", [(["q_proj"], False), (["q_proj", "lm_head"], True)])
def test_a_head_that_does_not_learn_is_computed_once(make_models, monkeypatch, target_modules, learns):
    models, asked = make_models(lora=Lora(r=4, alpha=8, target_modules=target_modules)), []
    models.add_role("policy", trainable=True, seed=1)
    monkeypatch.setattr(role_module, "chunked_token_logprobs", partial(chunked_token_logprobs, chunk=5))
    monkeypatch.setattr(role_module, "head_logits", lambda *given: asked.append(1) or head_logits(*given))
    batch = models.collate(examples(3))
    models.policy.token_logprobs(batch).sum().backward()
    chunks = -(-int(batch.mask.sum()) // 5)
    assert chunks > 1 and len(asked) == chunks * (1 + learns)


@pytest.mark.parametrize("lora", [ON_THE_HEAD, None], ids=["lora", "full"])
def test_chunks_of_the_head_are_made_again_under_their_own_role(make_models, monkeypatch, lora):
    batch, found = collate(examples(3)), []
    for chunk in (512, 5):
        monkeypatch.setattr(role_module, "chunked_token_logprobs", partial(chunked_token_logprobs, chunk=chunk))
        models = four_roles(make_models(lora=lora))
        if lora:
            randomise(models, "policy"), randomise(models, "value")
        objective = loss(models, "policy", batch)
        with models.roles.use("value"):
            objective.backward()
        found.append(gradients(models, "policy"))
        assert all(p.grad is None for p in models.role("value").parameters().values())
    assert all(torch.allclose(found[1][key], found[0][key], atol=1e-5, rtol=1e-4) for key in found[0])


@BOTH
def test_frozen_roles_build_no_graph_and_never_change(make_models, lora):
    models = four_roles(make_models(lora=lora))
    batch = collate(examples(3))
    for name in ("base", "reference", "reward"):
        assert not models.role(name).token_logprobs(batch).requires_grad
    base = [p for key, p in models._roles["base"].models.roles.module.named_parameters() if "lora_" not in key]
    frozen = [p for name in ("reference", "reward") for p in models.role(name).parameters().values()] + base
    before, learns = digest(frozen), digest(models.policy.parameters().values())
    for step in range(3):
        for name in ("policy", "value"):
            parameters = list(models.role(name).parameters().values())
            optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
            models.reference.token_logprobs(batch)
            loss(models, name, batch).backward()
            assert all(p.grad is not None for p in parameters)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert digest(frozen) == before and digest(models.policy.parameters().values()) != learns
    assert all(p.grad is None for p in frozen)


# ---- a base's own dropout and jitter

def dropping(name):
    import transformers

    common = {"vocab_size": 1525, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if name == "gpt2":
        return transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.1, embd_pdrop=0.1,
                                       attn_pdrop=0.1, **common)
    if name == "opt":
        return transformers.OPTConfig(hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4,
                                      dropout=0.1,
                                      attention_dropout=0.1, layerdrop=0.3, word_embed_proj_dim=32,
                                      max_position_embeddings=64,
                                      **common)
    return transformers.MixtralConfig(hidden_size=32, num_hidden_layers=2, intermediate_size=64, num_attention_heads=4,
                                      num_key_value_heads=2, router_jitter_noise=0.5, attention_dropout=0.1,
                                      num_local_experts=4, **common)


@pytest.mark.parametrize("name", ["gpt2", "opt", "mixtral"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_bases_own_dropout_is_off_in_train(tokenizer, name, attention):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(dropping(name), attn_implementation=attention)
    ids = torch.randint(5, 1000, (2, 12))
    noisy = [copy.deepcopy(base).train()(ids).logits for _ in range(2)]
    assert not torch.equal(*noisy)  # else this test could not fail
    models = Models(ModelConfig(name=name, precision="fp32", attention=attention, lora=Lora(r=2), max_length=32,
                                max_prompt_length=16), "no", base=base, tokenizer=tokenizer)
    models.add_role("policy", trainable=True, seed=1)
    batch = models.collate(examples(2))
    learning = [models.policy.token_logprobs(batch) for _ in range(3)]
    assert learning[0].requires_grad and all(torch.equal(learning[0], other) for other in learning[1:])
    with torch.no_grad():
        torch.testing.assert_close(models.policy.token_logprobs(batch), learning[0], atol=1e-5, rtol=0)


def test_disable_dropout_touches_nothing_else():
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(dropping("mixtral"))
    before = {name: dict(vars(module)) for name, module in base.named_modules()}
    disable_dropout(base)
    changed = {key for name, module in base.named_modules() for key, value in vars(module).items()
               if isinstance(value, float) and value != before[name][key]}
    assert changed == {"attention_dropout", "jitter_noise"}
