"""Bases that cannot be trained are refused by their config and tokenizer: one message, before any weights load."""

import json
import os

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from algorithms.common.models import model as models
from algorithms.common.models.families import check_causal, position_limit
from algorithms.common.models.model import (
    ModelConfig,
    load_base,
    load_config,
    load_tokenizer,
)
from algorithms.common.support.errors import ConfigError
from command_line import MICRO, invoke
from few import few

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}
LLAMA = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 128}
T5 = {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_kv": 16, "d_ff": 128}
BART = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}


@pytest.fixture
def folder(tmp_path, tokenizer):
    """folder(kind, class, **options): a base without weights, and the lab's tokenizer."""

    def make(kind="LlamaConfig", name="LlamaForCausalLM", **options):
        config = getattr(transformers, kind)(**{"vocab_size": 1536, **(options or LLAMA)})
        config.architectures = [name]
        config.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*given):
        raise AssertionError("weights were to be loaded")

    monkeypatch.setattr(models, "load_base", refuse)


def command(name, tmp_path, *more):
    options = [one for one in MICRO if not one.startswith("model.")]
    return invoke("algorithm=sft", *options, "model=hub", f"model.name={name}", "model.precision=fp32",
                  "model.max_length=128", "model.max_prompt_length=64", *more, f"stages.folder={tmp_path}/stages",
                  f"hydra.run.dir={tmp_path}/run")


def refused(ended) -> str:
    """Its one message."""
    assert ended.status == 2 and len(ended.err.splitlines()) == 1, ended.err
    assert "; expected " in ended.err and "; fix: " in ended.err
    return ended.err


@pytest.mark.parametrize("kind, name, options, reason", few([
    ("T5Config", "T5ForConditionalGeneration", T5, "an encoder-decoder"),
    ("BartConfig", "BartForConditionalGeneration", BART, "an encoder-decoder"),
    ("BertConfig", "BertForMaskedLM", SMALL, "an encoder that reads in both directions"),
    ("DistilBertConfig", "DistilBertForMaskedLM", {"dim": 64, "n_layers": 2, "n_heads": 4}, "which has no causal form"),
    ("LlamaConfig", "LlamaForSequenceClassification", LLAMA, "whose output predicts no next token")], [0, 4]))
def test_other_architectures_are_named(folder, tmp_path, no_weights, kind, name, options, reason):
    base = folder(kind, name, **options)
    message = refused(command(base, tmp_path))
    assert message.startswith(f"model.name: found {base}, a {name} (") and f"), {reason}; expected a causal" in message


@pytest.mark.parametrize("kind, options, named", [
    ("LlamaConfig", {}, None), ("LlamaConfig", {}, ["LLaMAForCausalLM"]), ("GPT2Config", {}, ["GPT2LMHeadModel"]),
    ("GPTNeoXConfig", {}, ["GPTNeoXForCausalLM"]), ("BertConfig", {"is_decoder": True}, ["BertLMHeadModel"]),
    ("Gemma3Config", {}, ["Gemma3ForConditionalGeneration"]), ("T5GemmaConfig", {"is_encoder_decoder": False}, None)])
def test_causal_models_are_not_refused(kind, options, named):
    config = getattr(transformers, kind)(**options)
    config.architectures = named
    if kind == "T5GemmaConfig":
        config.auto_map = {"AutoModelForCausalLM": "own.Model"}  # code of its own, which says so
    check_causal(config, "x")


def test_more_tokens_than_rows_are_refused_and_fewer_are_not(folder, tmp_path, no_weights, tokenizer):
    base = folder(**LLAMA, vocab_size=len(tokenizer))
    own = AutoTokenizer.from_pretrained(base)
    own.add_tokens(["<tool>", "<note>"])
    own.save_pretrained(base)
    message = refused(command(base, tmp_path))
    assert f"found a tokenizer of {len(own)} tokens for an embedding of {len(own) - 2} rows in {base}" in message
    assert "(without a row: '<tool>', '<note>')" in message
    model = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(base))
    model.resize_token_embeddings(len(own))  # the fix
    model.save_pretrained(base)
    settings = ModelConfig(str(base), precision="fp32", max_length=64, max_prompt_length=32)
    assert len(load_tokenizer(settings)) == len(own)
    model.resize_token_embeddings(len(own) + 100)
    model.save_pretrained(base)
    load_tokenizer(settings)


def test_more_positions_than_there_are_are_refused(folder, tmp_path, no_weights):
    base = folder()
    message = refused(command(base, tmp_path, "model.max_length=129"))
    assert message.startswith("model.max_length: found 129; expected at most 128, the positions ")
    message = refused(command(base, tmp_path, "model.max_length=256", "model.max_prompt_length=128"))
    assert message.rstrip().endswith("; fix: model.max_length=128 model.max_prompt_length=64")
    load_config(ModelConfig(str(base), max_length=128, max_prompt_length=64))  # the fix


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.parametrize("kind, options, limit", [
    ("GPT2Config", {"n_positions": 77}, 77),
    ("GPTJConfig", {"n_positions": 77}, 77),
    ("OPTConfig", {"max_position_embeddings": 77}, 77),
    ("BloomConfig", {}, None),
    ("MptConfig", {}, None),
    ("FalconConfig", {"alibi": True}, None),
    ("FalconConfig", {"max_position_embeddings": 77}, 77),
    ("XLNetConfig", {}, None),
    ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, 200),
    ("LlamaConfig", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, 200),
    ("LlamaConfig", {"rope_parameters": YARN}, 400),
    ("LlamaConfig", {"rope_parameters": {**YARN, "original_max_position_embeddings": 25}}, 100),  # stated stretched
    ("LlamaConfig", {"rope_parameters": {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                         "original_max_position_embeddings": 50}}, 100),
    ("Gemma3TextConfig", {"max_position_embeddings": 77}, 77)])
def test_positions_by_config(kind, options, limit):
    given = {"max_position_embeddings": 100, **options} if kind == "LlamaConfig" else options
    assert position_limit(getattr(transformers, kind)(**given)) == limit


# ---- where a base is looked for

@pytest.mark.parametrize("name", few(["./nowhere", "~/nowhere-at-all", "a b", "../nowhere", "/no/where",
                                      "outputs/2026/merged"], [0, 1, 2]))
def test_a_path_to_nothing_is_no_hub_id(tmp_path, no_weights, name):
    message = refused(command(f"'{name}'", tmp_path))
    assert message.startswith(f"model.name: found '{os.path.expanduser(name)}', and no such folder; expected the "
                              f"folder")
    assert "hf auth" not in message


def test_a_misspelt_folder_beside_others_gets_no_advice_about_the_hub(tmp_path, no_weights, monkeypatch):
    for name in ("merged", "adapter"):
        (tmp_path / "models" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("models/mergd", "benchmarks/lab2"):  # below this folder, and below the project's
        message = refused(command(name, tmp_path))
        assert message.startswith(f"model.name: found '{name}' (")
        assert message.rstrip().endswith("; fix: correct the path")
        assert "no such folder" in message and "hf auth" not in message
    assert "(models has adapter, merged)" in refused(command("models/mergd", tmp_path))
    assert "hf auth" in refused(command("nobody/nothing", tmp_path))


def test_a_file_is_no_model_and_its_folder_is_named(tmp_path, no_weights):
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = refused(command(tmp_path / "model.safetensors", tmp_path))
    assert message.startswith(f"model.name: found the file '{tmp_path}/model.safetensors'; expected the folder")
    assert message.rstrip().endswith(f"; fix: model.name={tmp_path}")


def test_an_adapters_folder_is_to_be_merged_first(tmp_path, no_weights):
    (tmp_path / "adapter_config.json").write_text("{}")
    message = refused(command(tmp_path, tmp_path))
    assert f"found the adapter in {tmp_path}; expected a whole model; fix: task=merge adapter={tmp_path}" in message


def test_a_folder_that_cannot_be_loaded_gets_no_advice_about_the_hub(folder, tmp_path):
    base = folder()
    message = refused(command(base, tmp_path))  # it has no weights
    assert message.startswith(f"model.name: found the folder '{base}', which could not be loaded")
    assert "hf auth" not in message


def test_a_home_folder_is_found(folder, monkeypatch, tmp_path):
    base = folder()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ModelConfig("~/base").folder() == str(base.resolve())


def test_weights_that_are_not_there_are_not_made_up(folder, tmp_path):
    """Transformers would draw them, with no more than a warning."""
    base = folder()
    config = transformers.AutoConfig.from_pretrained(base)
    transformers.LlamaForSequenceClassification(config).save_pretrained(base)
    told = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**told, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ConfigError, match="model.name: found no weights for lm_head.weight in .*would be random"):
        load_base(ModelConfig(str(base), precision="fp32"), torch.device("cpu"))
