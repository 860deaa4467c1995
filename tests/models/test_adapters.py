"""Adapters from a folder compute what PEFT computes with them, apart and merged, or are refused by name."""

import json
import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from algorithms.common.data.template import Template
from algorithms.common.models.adapters import SavedLora, merge
from algorithms.common.models.export import frozen_role, save_role
from algorithms.common.models.model import Lora, ModelConfig, Models, load_config
from algorithms.common.runs.hand_over import hand_over
from algorithms.common.runs.tasks import adapter_of
from algorithms.common.support.errors import ConfigError
from command_line import composed, invoke
from family_setup import FAMILIES, config_of

VOCABULARY = 1525
LLAMA = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": VOCABULARY}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY, "bos_token_id": 0,
        "eos_token_id": 0}
MIXTRAL = {**LLAMA, "num_local_experts": 4}
CPU = torch.device("cpu")


@pytest.fixture
def save_base(tmp_path, tokenizer):
    """save_base(kind, **options): the folder of a random base with its tokenizer."""

    def save(kind: str = "LlamaConfig", **options):
        torch.manual_seed(0)
        config = getattr(transformers, kind)(**(options or LLAMA))
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return save


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def quiet(make, *given, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*given, **options)


def by_peft(base, folder, **options):
    """An adapter that PEFT itself made and saved, every weight of it random."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    model = quiet(get_peft_model, plain(base), LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    quiet(model.save_pretrained, folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model(torch.arange(5, 23).view(2, 9)).logits


def adapted(base, folder):
    return logits(quiet(PeftModel.from_pretrained, plain(base), str(folder)).eval())


def settings(base, lora, **options):
    return ModelConfig(str(base), precision="fp32", lora=lora, max_length=64, max_prompt_length=32, attention="eager",
                       gradient_checkpointing=False, **options)


def as_role(base, folder):
    models = Models(settings(base, SavedLora(folder=str(folder))), "no", CPU)
    frozen_role(models, "policy", folder)
    with models.roles.use("policy"):
        return logits(models.roles.module)


KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 32}},
    "rank_pattern": {"rank_pattern": {"v_proj": 2}},
    "dora": {"use_dora": True},
    "bias of its own": {"lora_bias": True},
    "one layer": {"layers_to_transform": [1]},
    "all but one": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "a parameter": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    "rslora on the output layer": {"target_modules": ["lm_head"], "use_rslora": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_role_computes_what_peft_does(save_base, tmp_path, options):
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter", **options)
    wanted = adapted(base, folder)
    assert (wanted - logits(plain(base))).abs().max() > 0.01
    torch.testing.assert_close(as_role(base, folder), wanted, atol=1e-5, rtol=1e-5)
    if "lora_bias" in options:
        with pytest.raises(ConfigError, match="adapter: .*which PEFT cannot merge .*bias"):
            merge(plain(base), folder)
    else:
        torch.testing.assert_close(logits(merge(plain(base), folder)), wanted, atol=1e-4, rtol=1e-4)


def test_experts_that_were_trained_here_come_back(save_base, tmp_path):
    """PEFT splits and renames what "all-linear" finds in fused experts; two roles are over the same base."""
    base = save_base("MixtralConfig", **MIXTRAL)
    models = quiet(Models, settings(base, Lora(r=4, alpha=8)), "no", CPU)
    quiet(models.add_role, "reference", trainable=False, seed=1)
    quiet(models.add_role, "policy", trainable=True, like="reference", seed=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in models.policy.parameters().values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    (tmp_path / "run").mkdir()
    save_role(models, "policy", tmp_path / "run")
    with models.roles.use("policy"):
        trained = logits(models.roles.module)
    assert any("experts" in key for key in models.policy.parameters())
    torch.testing.assert_close(quiet(as_role, base, tmp_path / "run"), trained, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adapted(base, tmp_path / "run"), trained, atol=1e-5, rtol=1e-5)
    merged = quiet(merge, plain(base), tmp_path / "run")
    torch.testing.assert_close(logits(merged), trained, atol=1e-4, rtol=1e-4)


# ---- refused by name

BESIDE = {
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trainable_token_indices": {"trainable_token_indices": [5, 6]},
    "bias": {"bias": "lora_only"},
    "init_lora_weights": {"init_lora_weights": "pissa"},
}


@pytest.mark.parametrize("key", BESIDE)
def test_weights_beside_the_adapters_are_no_role_but_merge(save_base, tmp_path, key):
    """The fix that the message names works: the merged model computes what the adapter does."""
    base = save_base("Qwen2Config", **LLAMA)
    folder = by_peft(base, tmp_path / "adapter", **BESIDE[key])
    told = rf"adapter: found {key}=.*fix: task=merge adapter={folder} model.name={base}, and"
    with pytest.raises(ConfigError, match=told):
        as_role(base, folder)
    merged = quiet(merge, plain(base), folder)
    torch.testing.assert_close(logits(merged), adapted(base, folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("key, value, told", [
    ("peft_type", "IA3", "found peft_type=IA3 in .*; expected LORA"),
    ("task_type", "SEQ_CLS", "found task_type=SEQ_CLS in .*; expected CAUSAL_LM"),
    ("alora_invocation_tokens", [1, 2], r"found alora_invocation_tokens=\[1, 2\]"),
    ("of_a_later_peft", {"scale": 3}, r'found of_a_later_peft=\{"scale": 3\}')])
def test_what_nobody_here_computes_is_refused(save_base, tmp_path, key, value, told):
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    for load in (as_role, lambda base, folder: merge(plain(base), folder)):
        with pytest.raises(ConfigError, match=f"adapter: {told}"):
            load(base, folder)


def test_an_adapted_embedding_of_another_base_is_refused(save_base, tmp_path):
    """PEFT saves the embedding beside its adapter, and would put it in place of the base's."""
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    other = plain(base)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    other.save_pretrained(base)
    with pytest.raises(ConfigError, match="do not fit .*unexpected.*embed_tokens"):
        as_role(base, folder)


# ---- merging

PAIRS = {
    "output": ["lm_head"], "input": ["embed_tokens"], "both": ["lm_head", "embed_tokens"], "neither": ["q_proj"],
}


@pytest.mark.parametrize("half", PAIRS)
@pytest.mark.parametrize("kind, options", [("LlamaConfig", LLAMA), ("GPT2Config", GPT2)])
def test_half_of_a_tied_pair_merges_alone(save_base, tmp_path, half, kind, options):
    names = {"embed_tokens": "wte", "q_proj": "c_attn"} if kind == "GPT2Config" else {}
    base = save_base(kind, **options, tie_word_embeddings=True)
    folder = by_peft(base, tmp_path / "adapter", target_modules=[names.get(name, name) for name in PAIRS[half]])
    merged = quiet(merge, plain(base), folder)
    wanted = adapted(base, folder)
    torch.testing.assert_close(logits(merged), wanted, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = plain(tmp_path / "merged")
    torch.testing.assert_close(logits(again), wanted, atol=1e-4, rtol=1e-4)
    assert again.config.tie_word_embeddings == (half == "neither")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_output_layer_merges_and_its_config_takes_two_end_tokens(tmp_path, tokenizer, name, tied):
    config = config_of(name)
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    (head,) = {key.rsplit(".")[-1] for key, module in model.named_modules() if module is model.get_output_embeddings()}
    model.save_pretrained(tmp_path / "base")
    folder = by_peft(tmp_path / "base", tmp_path / "adapter", target_modules=[head])
    quiet(merge, plain(tmp_path / "base"), folder).save_pretrained(tmp_path / "merged")
    template = Template(tokenizer)
    template.stop_ids = [2, 3]
    hand_over(template, tmp_path / "merged")
    again = plain(tmp_path / "merged")
    torch.testing.assert_close(logits(again), adapted(tmp_path / "base", folder), atol=1e-4, rtol=1e-4)
    assert again.generation_config.eos_token_id == [2, 3]


@pytest.mark.parametrize("options", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [5, 6]},
                                     {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
                                     {"target_modules": ["lm_head"], "trainable_token_indices": [5, 7]},
                                     {"target_modules": r"(.*\.)?lm_head", "use_rslora": True,
                                      "trainable_token_indices": {"embed_tokens": [5, 7]}}], ids=str)
def test_other_changes_to_a_tied_pair_merge_too(save_base, tmp_path, options):
    base = save_base(**LLAMA, tie_word_embeddings=True)
    folder = by_peft(base, tmp_path / "adapter", **options)
    merged = quiet(merge, plain(base), folder)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(plain(tmp_path / "merged")), adapted(base, folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_layers_are_those_before_the_output_layer(save_base, tied):
    base = save_base(**LLAMA, tie_word_embeddings=tied)
    models = Models(settings(base, Lora(r=4, alpha=8)), "no", CPU)
    models.add_role("policy", trainable=True, seed=1)
    names = list(models.policy.parameters())
    assert len(names) == 2 * 2 * 7 and not [name for name in names if "head" in name]


def test_merging_a_base_that_is_quantised_already_is_refused(save_base, tmp_path):
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter")
    told = json.loads((base / "config.json").read_text())
    told["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(told))
    ended = invoke("task=merge", f"adapter={folder}", f"model.name={base}", "model.max_length=64",
                   "model.max_prompt_length=32", f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 2 and ended.err.startswith(f"model.name: found {base}, whose weights are quantised already")


# ---- from the command line

@pytest.mark.parametrize("options", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 32}}], ids=str)
def test_chat_answers_as_the_merged_model_does(save_base, tmp_path, tokenizer, options):
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter", **options)
    common = [f"adapter={folder}", f"model.name={base}", "model.max_length=64", "model.max_prompt_length=32"]
    chat = invoke("task=chat", *common, "eval.sampling.max_new_tokens=8", "eval.sampling.temperature=0",
                  "trainer.mixed_precision=no", f"hydra.run.dir={tmp_path}/chat", stdin=b"the food was\n\n")
    assert chat.status == 0, chat.err
    ended = invoke("task=merge", *common, f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 0, ended.err
    assert len({path.stat().st_mode for path in (tmp_path / "out/merged").iterdir()}) == 1, "all can be read alike"
    model, own = plain(tmp_path / "out/merged"), AutoTokenizer.from_pretrained(tmp_path / "out/merged")
    ids = own("the food was", return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
    text = own.decode(answer[0, ids.shape[1]:], skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    assert text and chat.out.partition("\n> ")[2].partition("\n> ")[0] == text


def test_an_adapter_given_as_a_model_is_merged_as_the_message_says(save_base, tmp_path):
    """Lengths are no part of a merge: this base has fewer positions than model.max_length asks for."""
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="found the adapter in") as refused:
        load_config(ModelConfig(str(folder)))
    fix = str(refused.value).partition("fix: ")[2].partition(", and then")[0]
    ended = invoke(*fix.split(), f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 0, ended.err
    torch.testing.assert_close(logits(plain(tmp_path / "out/merged")), adapted(base, folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("given, told", [
    ("main", "model.revision=main; fix: model.revision=abc"), ("null", None)])
def test_the_revision_is_the_adapters(save_base, tmp_path, monkeypatch, given, told):
    """Weights of a base of another revision would be another model's."""
    base = save_base()
    folder = by_peft(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "revision": "abc"}))
    config = composed(f"adapter={folder}", f"model.name={base}", f"model.revision={given}")
    if told is None:
        assert adapter_of(config)[1].revision == "abc"
    else:
        with pytest.raises(ConfigError, match=told):
            adapter_of(config)
