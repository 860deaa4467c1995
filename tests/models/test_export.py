"""What a run leaves behind can be read back bit for bit, by this project and by the libraries people use."""

import json

import pytest
import torch
from safetensors.torch import load_file

from algorithms.common.data.batches import collate
from algorithms.common.models.export import frozen_role, load_role, role_digest, save_role, weights_file
from algorithms.common.models.model import Lora
from algorithms.common.runs.beside import Finished
from algorithms.common.runs.hand_over import export, merged_card, model_card
from algorithms.common.support.errors import ConfigError
from role_setup import BOTH
from row_setup import examples, randomise


def trained(make_models, lora=Lora(r=4, alpha=8)):
    """A policy that is no longer its base."""
    models = make_models(lora=lora)
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    if lora is None:
        with torch.no_grad():
            for parameter in models.policy.parameters().values():
                parameter.add_(0.01)
    return models


@BOTH
def test_round_trip_is_bit_equal(make_models, tmp_path, lora):
    models = trained(make_models, lora)
    save_role(models, "policy", tmp_path)
    again = make_models(lora=lora)
    role = frozen_role(again, "reference", tmp_path)
    own, other = models.policy.parameters(), role.parameters()
    assert list(own) == list(other) and all(torch.equal(own[key], other[key]) for key in own)
    assert not any(p.requires_grad for p in other.values())
    batch = collate(examples(2))
    assert torch.equal(models.policy.token_logprobs(batch), role.token_logprobs(batch))
    assert not torch.equal(again.role("base").token_logprobs(batch), role.token_logprobs(batch))


def test_peft_finds_the_adapter_on_top_of_the_folder(make_models, tmp_path):
    from peft import PeftModel

    models = trained(make_models)
    models.add_role("value", trainable=True, seed=2)  # another role in the same base must not come along
    save_role(models, "policy", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert not [key for key in load_file(tmp_path / "adapter_model.safetensors") if "policy" in key or "value" in key]
    settings = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["inference_mode"] is True and settings["task_type"] == "CAUSAL_LM"
    plain = PeftModel.from_pretrained(make_models().roles.module, str(tmp_path)).eval()
    ids = torch.randint(5, 1000, (2, 12))
    with torch.no_grad(), models.roles.use("policy"):
        torch.testing.assert_close(plain(ids).logits, models.roles.module.eval()(ids).logits, atol=1e-5, rtol=0)
    assert not models.roles.peft_config("policy").inference_mode  # saving does not edit the role's own config


def test_adapted_embeddings_come_along(make_models, tmp_path):
    """PEFT keeps them as parameters, not as modules: their names end with the adapter's."""
    from peft import PeftModel

    models = trained(make_models, Lora(r=4, alpha=8, target_modules=["q_proj", "embed_tokens"]))
    with torch.no_grad():
        models.policy.parameters()["model.embed_tokens.lora_embedding_A"].normal_(std=0.1)
        models.policy.parameters()["model.embed_tokens.lora_embedding_B"].normal_(std=0.1)
    save_role(models, "policy", tmp_path)
    plain = PeftModel.from_pretrained(make_models().roles.module, str(tmp_path)).eval()
    ids = torch.randint(5, 1000, (2, 12))
    with torch.no_grad(), models.roles.use("policy"):
        torch.testing.assert_close(plain(ids).logits, models.roles.module.eval()(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_full_fine_tuning_is_a_plain_model(make_models, tmp_path, tied):
    from transformers import AutoModelForCausalLM

    models = make_models(lora=None)
    if tied:
        models.roles.module.config.tie_word_embeddings = True
        models.roles.module.tie_weights()
    models.add_role("policy", trainable=True)
    with torch.no_grad():
        for parameter in models.policy.parameters().values():
            parameter.add_(0.01)
    save_role(models, "policy", tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.randint(5, 1000, (2, 12))
    with torch.no_grad(), models.roles.use("policy"):
        assert torch.equal(plain(ids).logits, models.roles.module.eval()(ids).logits)
    load_role(models, "policy", tmp_path)  # and back, tied or not


def test_a_family_whose_files_name_weights_otherwise_comes_back(tokenizer, tmp_path):
    """transformers writes GPT-NeoX's output layer under another name than the class has for it."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from algorithms.common.models.model import ModelConfig, Models

    def made(seed):
        torch.manual_seed(seed)
        base = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1,
                                                num_attention_heads=4, intermediate_size=48)).eval()
        config = ModelConfig("neox", lora=None, precision="fp32", attention="eager", gradient_checkpointing=False,
                             max_length=64, max_prompt_length=32)
        return Models(config, mixed_precision="no", base=base, tokenizer=tokenizer)

    first, other = made(0), made(1)
    first.add_role("policy", trainable=True)
    save_role(first, "policy", tmp_path)
    role = frozen_role(other, "policy", tmp_path)
    own, found = first.policy.parameters(), role.parameters()
    assert own.keys() == found.keys() and all(torch.equal(own[key], found[key]) for key in own)


@BOTH
def test_loading_touches_no_other_role(make_models, tmp_path, lora):
    models = trained(make_models, lora)
    save_role(models, "policy", tmp_path)
    again = make_models(lora=lora)
    again.add_role("policy", trainable=True, seed=3)
    again.add_role("value", trainable=True, like="policy")
    before = {key: p.detach().clone() for key, p in again.role("value").parameters().items()}
    load_role(again, "policy", tmp_path)
    assert all(torch.equal(before[key], p) for key, p in again.role("value").parameters().items())
    assert all(p.requires_grad for p in again.policy.parameters().values())


def test_no_folder_means_the_base(make_models):
    models = make_models()
    role = frozen_role(models, "reference", None)
    batch = collate(examples(2))
    assert torch.equal(role.token_logprobs(batch), models.role("base").token_logprobs(batch))


def test_identity_is_content(make_models, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        models = make_models()
        models.add_role("policy", trainable=True, seed=seed)
        (tmp_path / name).mkdir()
        save_role(models, "policy", tmp_path / name)
    first, second, third = (role_digest(tmp_path / name) for name in "abc")
    assert first == second != third


# ---- wrong folders

def test_a_folder_without_weights_is_refused(make_models, tmp_path):
    with pytest.raises(ConfigError, match="adapter: found no"):
        weights_file(tmp_path)
    models = trained(make_models)
    missing = (tmp_path / "missing", "adapter: found .*, and no such folder")
    for folder, told in ((tmp_path, "adapter: found no"), missing):
        with pytest.raises(ConfigError, match=told):
            load_role(models, "policy", folder)


@pytest.mark.parametrize("other, word", [
    (Lora(r=8, alpha=8), "r = 4, here 8"),  # copy_ would raise a RuntimeError
    (Lora(r=4, alpha=16), "lora_alpha = 8, here 16"),  # would load, and be another model
    (Lora(r=4, alpha=8, target_modules=["q_proj"]), "unexpected"),
    (None, "model.lora"),
])
def test_other_lora_settings_are_refused(make_models, tmp_path, other, word):
    save_role(trained(make_models), "policy", tmp_path)
    models = make_models(lora=other)
    models.add_role("policy", trainable=True, seed=1)
    before = {key: p.detach().clone() for key, p in models.policy.parameters().items()}
    with pytest.raises(ConfigError, match=word):
        load_role(models, "policy", tmp_path)
    assert all(torch.equal(before[key], p) for key, p in models.policy.parameters().items())


def test_rank_one_does_not_broadcast_into_another_rank(make_models, tmp_path):
    save_role(trained(make_models, Lora(r=1, alpha=8)), "policy", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"r": 1', '"r": 4'), encoding="utf-8")  # an edited file
    with pytest.raises(ConfigError, match=r"expected \(4, 32\)"):
        load_role(trained(make_models), "policy", tmp_path)


def test_a_whole_model_is_no_adapter(make_models, tmp_path):
    save_role(trained(make_models, None), "policy", tmp_path)
    with pytest.raises(ConfigError, match="expected a LoRA adapter"):
        load_role(trained(make_models), "policy", tmp_path)


# ---- the exported folder

def test_export_puts_weights_and_card_on_top(make_models, tmp_path):
    stage, folder = tmp_path / "stage", tmp_path / "run" / "deep"
    stage.mkdir()
    models = trained(make_models)
    save_role(models, "policy", stage)
    (stage / "metrics.jsonl").write_text("{}\n")
    (stage / "evaluation").mkdir()
    export(stage, folder, "# card", models.template)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "README.md", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json"}
    again = make_models()
    batch = collate(examples(2))
    assert torch.equal(frozen_role(again, "policy", folder).token_logprobs(batch), models.policy.token_logprobs(batch))


def card(**options):
    gold = {"mean": 0.51234, "low": 0.4, "high": 0.6, "n": 256}
    before = {"reward/gold": {**gold, "mean": 0.25}}
    ended = Finished("dpo", {"reward/gold": gold, "win_rate/sft": gold}, "sft", before, [])
    settings = {"base": "org/model", "at": "org/model", "cite": "Rafailov et al. 2023",
                "data": {"source": "pairs.jsonl", "seed": 0},
                "run": ended, "peft": True, "answers": True, **options}
    return model_card(**settings)


def test_the_card_says_what_was_measured():
    text = card()
    assert text.startswith('---\nbase_model: "org/model"\nlibrary_name: peft\ntags: [alignment, dpo]\n---\n')
    assert "| metric | mean | 95% interval | start (sft) | 95% interval | n |" in text
    assert "| reward/gold | 0.5123 | 0.4 … 0.6 | 0.25 | 0.4 … 0.6 | 256 |" in text and "- source: pairs.jsonl" in text
    assert "| win_rate/sft | 0.5123 | 0.4 … 0.6 |  |  | 256 |" in text, "which the start has not"
    assert "## Answers" not in text
    assert "library_name" not in card(peft=False)
    assert "from_pretrained" in text and "from_pretrained" not in card(answers=False)
    assert "vllm serve org/model --enable-lora" in text and "vllm serve .\n" in card(peft=False)
    assert "vllm serve /models/base --enable-lora" in card(at="/models/base"), "where its name is no hub id"


def test_a_merge_s_card_tells_of_its_adapter(tmp_path):
    bare = merged_card("org/model", tmp_path, "bf16")
    assert bare.startswith('---\nbase_model: "org/model"\ntags: [alignment]\n---\n') and "in bf16." in bare
    (tmp_path / "README.md").write_text(card(), encoding="utf-8")
    text = merged_card("org/model", tmp_path, "bf16")
    assert "# dpo on org/model" in text and "| reward/gold | 0.5123 |" in text and text.count("---\n") == 2
    assert "AutoModelForCausalLM" in text and "peft" not in text and text.count("## Use") == 1


def test_the_card_holds_neither_markup_nor_passwords():
    text = card(base='x"\n<script>alert(1)</script>',
                data={"source": "https://me:secret@host/pairs.jsonl\n# title <img src=x>"})
    assert "secret" not in text and "https://***@host/pairs.jsonl" in text
    assert "<script" not in text and "<img" not in text and "\n# title" not in text
    front = text.split("---\n")[1]
    assert len(front.splitlines()) == 3  # a name cannot add a key
