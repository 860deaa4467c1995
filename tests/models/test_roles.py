"""Roles on one base: each test is a way in which adapters compute something else without an error."""

import copy
import hashlib
from functools import partial

import pytest
import torch
from torch import nn

from algorithms.common.data.batches import collate
from algorithms.common.logprobs import chunked_token_logprobs
from algorithms.common.models import precision
from algorithms.common.models import role as role_module
from algorithms.common.models import roles as roles_module
from algorithms.common.models.families import head_logits
from algorithms.common.models.model import (
    Lora,
    ModelConfig,
    Models,
    disable_dropout,
    load_base,
    model_digest,
    shared_rows_refusal,
)
from algorithms.common.support.checkout import project
from algorithms.common.support.errors import ConfigError
from row_setup import examples, randomise, values_and_gradients

BOTH = pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None], ids=["lora", "full"])


def flags(models):
    return {name: [p.requires_grad for p in models.role(name).parameters().values()] for name in models.roles.names()}


def digest(tensors) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def four_roles(models, checkpointing_like=None):
    models.add_role("policy", trainable=True, seed=1)
    models.add_role("reference", trainable=False, like="policy")
    models.add_role("reward", trainable=False, seed=2)
    models.add_role("value", trainable=True, like="reward")
    return models


def loss(models, role, batch):
    values = models.role(role).token_logprobs(batch)
    return (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum()


def gradients(models, role):
    return {key: p.grad.clone() for key, p in models.role(role).parameters().items()}


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
def test_merged_computes_the_same_and_gives_the_base_back(make_models, lora):
    models = four_roles(make_models(lora=lora))
    randomise(models)
    before = dict(models.roles.module.named_parameters())
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        with models.roles.use("policy"):
            wanted = models.roles.module(ids).logits
        with models.roles.use("value"), models.roles.merged("policy"):
            torch.testing.assert_close(models.roles.module(ids).logits, wanted, atol=1e-5, rtol=0)
        with models.roles.merged("base"):
            assert lora is None or not torch.allclose(models.roles.module(ids).logits, wanted, atol=1e-3)
    with pytest.raises(RuntimeError, match="inside"), models.roles.merged("policy"):
        raise RuntimeError("inside")
    assert models.roles.current == "base"
    after = dict(models.roles.module.named_parameters())
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)
    with torch.no_grad(), models.roles.use("policy"):  # the adapters compute again, not what stood in for them
        assert torch.equal(models.roles.module(ids).logits, wanted)
    with pytest.raises(KeyError, match="polcy"), models.roles.merged("polcy"):
        pass


def test_no_role_computes_while_another_is_merged(make_models):
    """It would be the merged one, or the sum of both, without an error."""
    models = four_roles(make_models())
    randomise(models)
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad(), models.roles.use("value"):
        wanted = models.roles.module(ids).logits
    for other in ("value", "base", "policy"):
        for switch in (models.roles.use, models.roles.merged):
            with models.roles.merged("policy"), pytest.raises(RuntimeError, match="'policy' merged"), switch(other):
                pass
    with torch.no_grad(), models.roles.use("value"):
        assert torch.equal(models.roles.module(ids).logits, wanted)


def layers_that_add(models, name):
    """How many of PEFT's layers add something of their own while a role computes as ``merged``."""
    with torch.no_grad(), models.roles.merged(name):
        return sum(layer.forward != layer.base_layer.forward for layer in models.roles._layers)


def test_merged_where_the_sum_is_exact_alone(make_models, monkeypatch):
    models = four_roles(make_models())
    assert layers_that_add(models, "policy") == 0
    models.roles._layers[0].lora_bias["policy"] = True  # more than a product is added
    assert layers_that_add(models, "policy") == len(models.roles._layers)
    models.roles._layers[0].lora_bias["policy"] = False
    models.roles.module.to(torch.bfloat16)
    assert layers_that_add(models, "policy") == len(models.roles._layers)


def test_merged_takes_no_more_than_its_share_of_memory(make_models, monkeypatch):
    models = four_roles(make_models())
    size = sum(layer.base_layer.weight.nbytes for layer in models.roles._layers)
    monkeypatch.setattr(roles_module, "MERGED_MOST", size)
    assert layers_that_add(models, "policy") == 0
    monkeypatch.setattr(roles_module, "MERGED_MOST", size - 1)
    assert layers_that_add(models, "policy") == len(models.roles._layers)


def test_merged_leaves_the_other_half_of_a_tied_pair(make_models):
    models = make_models(lora=Lora(r=4, alpha=8, target_modules=["lm_head"]))
    models.roles.module.config.tie_word_embeddings = True
    models.roles.module.tie_weights()
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    inputs, outputs = models.roles.module.get_input_embeddings(), models.roles.module.get_output_embeddings().base_layer
    before = inputs.weight.clone()
    assert inputs.weight is outputs.weight
    with models.roles.merged("policy"):
        assert torch.equal(inputs.weight, before) and not torch.equal(outputs.weight, before)
    assert inputs.weight is outputs.weight


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


# ---- gradients

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


# ---- noise

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


# ---- 4-bit

@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("nf4"), 64)


def save_llama(folder, hidden):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=1525, hidden_size=hidden, num_hidden_layers=2, intermediate_size=128,
                                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
                     ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(project() / "benchmarks/lab/reviews").save_pretrained(folder)
    return folder


def nf4(folder, mixed="auto", **options):
    settings = {"max_length": 64, "max_prompt_length": 32, "lora": Lora(r=4, alpha=8), **options}
    models = Models(ModelConfig(name=str(folder), precision="nf4", **settings), mixed, torch.device("cpu"))
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    return models


def four_bit_layers(models):
    from bitsandbytes.nn import Linear4bit

    return [module for module in models.roles.module.modules() if isinstance(module, Linear4bit)]


def test_nf4_layers_compute_in_the_stated_type_and_are_not_repacked(nf4_folder):
    models = nf4(nf4_folder)
    layers = four_bit_layers(models)
    assert len(layers) == 14  # all but embeddings and output
    compute = torch.bfloat16 if precision.cpu_has_bf16() else torch.float32
    for layer in layers:
        assert layer.compute_dtype == compute and layer.support_avx512bf16_for_cpu is False
        assert layer.weight.quant_type == "nf4" and layer.weight.quant_state.nested  # double quantisation
        assert layer.weight.dtype == torch.uint8


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nf4_gradients_are_the_same_after_a_forward_without_grad(nf4_folder, checkpointing):
    """Loading already runs one; that nothing was repacked by it is what the dequantised weights below say."""
    models = nf4(nf4_folder, gradient_checkpointing=checkpointing)
    batch = collate(examples(2))
    before = values_and_gradients(models, batch)
    with torch.no_grad():
        models.policy.token_logprobs(batch)
        models.role("base").token_logprobs(batch)
    after = values_and_gradients(models, batch)
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])
    assert sum(g.norm() ** 2 for g in before[1].values()) > 1e-4


def test_nf4_gradients_are_those_of_the_dequantised_weights(nf4_folder, monkeypatch):
    """The oracle: the same rounded numbers in fp32 Linear layers."""
    import bitsandbytes.functional as bnb
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)  # fp32 arithmetic: nothing else differs
    models = nf4(nf4_folder)
    batch = collate(examples(2), "plain")
    found = values_and_gradients(models, batch)
    for name, module in list(models.roles.module.named_modules()):
        if isinstance(module, Linear4bit):
            linear = nn.Linear(module.in_features, module.out_features, bias=False).requires_grad_(False)
            linear.weight.copy_(bnb.dequantize_4bit(module.weight.data, module.weight.quant_state))
            models.roles.module.get_submodule(name.removesuffix(".base_layer")).base_layer = linear
    assert not four_bit_layers(models)
    wanted = values_and_gradients(models, batch)
    torch.testing.assert_close(found[0], wanted[0], atol=1e-4, rtol=0)
    for key in wanted[1]:
        torch.testing.assert_close(found[1][key], wanted[1][key], atol=1e-4, rtol=1e-3)


def test_nf4_needs_inputs_in_multiples_of_64(tmp_path):
    with pytest.raises(ConfigError, match="48 inputs; expected a multiple of 64"):
        nf4(save_llama(tmp_path, 48))


def test_nf4_keeps_the_memory_it_has_and_upcasts_nothing(nf4_folder, monkeypatch):
    """peft.prepare_model_for_kbit_training would turn every other weight (embeddings, norms, output) into fp32."""
    import peft

    def never(*args, **kwargs):
        raise AssertionError("prepare_model_for_kbit_training was called")

    monkeypatch.setattr(peft, "prepare_model_for_kbit_training", never)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    models = nf4(nf4_folder)
    others = {p.dtype
              for key, p in models.roles.module.named_parameters() if "lora_" not in key and p.is_floating_point()}
    assert others == {torch.bfloat16}
    assert {p.dtype for p in models.policy.parameters().values()} == {torch.float32}  # adapters learn in fp32


# ---- precision and loading

def test_autocast_follows_the_hardware(monkeypatch, make_models):
    cpu = torch.device("cpu")
    for able, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda: able)
        assert precision.autocast_dtype("auto", cpu) is expected
        assert precision.autocast_dtype("bf16", cpu) is torch.bfloat16 and precision.autocast_dtype("no", cpu) is None


def gpu(monkeypatch, generation: int) -> torch.device:
    """What torch says of bf16 on an NVIDIA GPU of that generation: all emulate it, from 8 (Ampere) on they have it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation or generation >= 8)
    return torch.device("cuda")


@pytest.mark.parametrize("generation, expected", [(7, None), (8, torch.bfloat16)])
def test_a_gpu_that_would_emulate_bf16_does_not_compute_in_it(monkeypatch, generation, expected):
    assert precision.autocast_dtype("auto", gpu(monkeypatch, generation)) is expected


@pytest.mark.parametrize("generation, weights, compute", [
    (8, "nf4", torch.bfloat16), (7, "nf4", torch.float32), (7, "bf16", None), (8, "fp32", None)])
def test_a_base_is_loaded_straight_onto_the_gpu(monkeypatch, generation, weights, compute):
    import transformers

    class Loaded(Exception):
        pass

    def from_pretrained(name, **options):
        raise Loaded(options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(Loaded) as told:
        load_base(ModelConfig(name="some/model", precision=weights), gpu(monkeypatch, generation))
    options = told.value.args[0]
    assert options["device_map"] == {"": 0}
    assert options["dtype"] == {"nf4": compute, "bf16": torch.bfloat16, "fp32": torch.float32}[weights]
    quantised = options["quantization_config"]
    assert (quantised and quantised.bnb_4bit_compute_dtype) == compute


def test_bf16_needs_the_right_vector_unit(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert precision.cpu_has_bf16() is False  # AVX2: torch would emulate it


def test_a_processor_without_bf16_loads_4_bit_with_fp32_arithmetic(monkeypatch, nf4_folder):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    models = nf4(nf4_folder)
    assert models.autocast_dtype is None
    assert {layer.compute_dtype for layer in four_bit_layers(models)} == {torch.float32}
    assert models.policy.token_logprobs(collate(examples(2))).isfinite().all()


def test_what_cannot_be_loaded_names_the_key(tmp_path):
    for name in ("no/such-model", str(tmp_path)):
        with pytest.raises(ConfigError, match="model.name"):
            load_base(ModelConfig(name=name, precision="fp32"), torch.device("cpu"))


def test_a_hub_id_that_cannot_be_read_names_the_key():
    with pytest.raises(ConfigError,
                       match="model.name: found 'nosuch/model', which could not be loaded .*hf auth login"):
        model_digest(ModelConfig(name="nosuch/model"))


def test_pickled_weights_are_refused(tmp_path):
    folder = save_llama(tmp_path, 64)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_base(ModelConfig(name=str(folder), precision="fp32"), torch.device("cpu"))


@pytest.mark.parametrize("key, value",
                         [("precision", "int8"), ("attention", "flash"), ("rows", "fast"), ("keep", "middle"),
                                        ("max_prompt_length", 1024), ("max_prompt_length", 0)])
def test_model_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"model.{key}"):
        ModelConfig(name="x", **{key: value})


def test_a_chat_template_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="model.chat_template: found no file .*none.jinja; expected a Jinja file"):
        ModelConfig(name="x", chat_template=str(tmp_path / "none.jinja"))


def test_a_prompt_is_cut_so_that_prompt_and_answer_fit(make_models):
    models = make_models()  # max_length 64, max_prompt_length 32
    long = "the film was good " * 40
    assert len(models.prompt_ids(long, 8)) == 32 and len(models.prompt_ids(long, 40)) == 24
    short = "the film was good"
    assert models.prompt_ids(short, 8) == models.template.prompt_ids(short)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        models.prompt_ids(short, 64)


def test_more_positions_than_the_model_has_are_refused(make_models):
    assert make_models(max_length=256).config.max_length == 256
    with pytest.raises(ConfigError, match="model.max_length: found 257; expected at most 256"):
        make_models(max_length=257)


def test_layers_that_are_not_there_are_named(make_models):
    with pytest.raises(ConfigError, match="model.lora: found.*qproj"):
        make_models(lora=Lora(target_modules=["qproj"])).add_role("policy", trainable=True)


def test_shared_rows_can_be_asked_for_only_where_they_are_exact(make_models):
    assert make_models(rows="plain").layout == "plain" and make_models(rows="shared").layout == "shared"
    assert shared_rows_refusal(make_models().hf_config) is None
