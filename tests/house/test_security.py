"""No file runs code: pickles are not read wherever they lie, and a model's own code only where it is trusted."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from algorithms.common.models.export import frozen_role, save_role
from algorithms.common.models.model import Lora, ModelConfig, Models, load_base, load_tokenizer
from algorithms.common.rewards.classifier import Classifier
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from command_line import MICRO, invoke

PICKLES = ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt",
           "rng_state.pth",
           "scaler.pt", "value_head.bin", "model.pt", "model.pkl", "tokenizer.pkl")
CPU = torch.device("cpu")


class Payload:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (self.mark, "executed")


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that is there once planted code has run."""
    return tmp_path / "executed"


@pytest.fixture
def plant(mark):
    """plant(folder): pickles that would write the mark, under every name that some library reads."""
    payload = pickle.dumps(Payload(mark))
    pickle.loads(payload)
    assert mark.exists(), "the payload works"
    mark.unlink()

    def put(folder: Path) -> None:
        for name in PICKLES:
            (folder / name).write_bytes(payload)

    return put


@pytest.fixture
def base(tmp_path, tokenizer) -> Path:
    """The folder of a random small Llama."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, intermediate_size=64,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def settings(folder: Path, **options) -> ModelConfig:
    return ModelConfig(str(folder), precision="fp32", max_length=64, max_prompt_length=32, lora=Lora(r=4, alpha=8),
                       **options)


# Pickles


def test_a_models_pickles_are_not_read(base, plant, mark):
    plant(base)
    load_tokenizer(settings(base))
    load_base(settings(base), CPU)
    (base / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="model.name: .*model.safetensors.*convert .bin weights to safetensors"):
        load_base(settings(base), CPU)
    told = (base / "config.json").read_text()
    (base / "config.json").write_text(told.replace("ForCausalLM", "ForSequenceClassification"))
    with pytest.raises(ConfigError, match="reward.name: .*safetensors"):
        Classifier(str(base), label=0, max_length=16)._load(CPU)
    assert not mark.exists()


def test_an_adapters_pickles_are_not_read(base, tmp_path, plant, mark):
    models, folder = Models(settings(base), "no", CPU), tmp_path / "adapter"
    folder.mkdir()
    models.add_role("policy", trainable=True, seed=0)
    save_role(models, "policy", folder)
    plant(folder)
    frozen_role(models, "reference", folder)
    options = [f"adapter={folder}", f"model.name={base}", "model.precision=fp32", "model.max_length=64",
               "model.max_prompt_length=32"]
    merged = invoke("task=merge", *options, f"hydra.run.dir={tmp_path / 'merge'}")
    assert merged.status == 0, merged.err
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="adapter: found no adapter_model.safetensors"):
        frozen_role(models, "other", folder)
    for task in ("merge", "chat"):
        refused = invoke(f"task={task}", *options, f"hydra.run.dir={tmp_path / task}")
        assert refused.status == 2 and "in safetensors (pickles such as .bin are not read)" in refused.err
    assert not mark.exists()


def test_pickles_in_a_kept_stage_make_it_be_built_again(tmp_path, plant, mark, caplog):
    store, built = Store(tmp_path / "stages"), []

    def build(target: Path, work: Path) -> None:
        built.append(1)
        (target / "fit.json").write_text("{}")

    entry = store.get("trained", {"a": 1}, build)
    plant(entry)
    entry = store.get("trained", {"a": 1}, build)
    assert [path.name for path in sorted(entry.iterdir())] == ["fit.json", "manifest.json"]
    assert len(built) == 2 and "not in the manifest" in caplog.text and not mark.exists()


# Code beside the weights


def with_code(folder: Path, mark: Path, kind: str) -> Path:
    """Code of its own for everything that can be loaded from the folder; importing it writes the mark."""
    (folder / "own_code.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        f"Path({str(mark)!r}).write_text('executed')\n"
        f"class Config(LlamaConfig):\n    model_type = {kind!r}\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n")
    classes = {"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model",
               "AutoModelForSequenceClassification": "own_code.Model"}
    for name, told in (("config.json", {"model_type": kind, "auto_map": classes}),
                       ("tokenizer_config.json", {"tokenizer_class": "Tokenizer",
                                                  "auto_map": {"AutoTokenizer": ["own_code.Tokenizer"] * 2}})):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    return folder


def test_code_of_a_models_own_is_refused(base, mark, tmp_path):
    folder = with_code(base, mark, "own")
    for load in (load_tokenizer, lambda config: load_base(config, CPU)):
        with pytest.raises(ConfigError, match="model.trust_remote_code=true"):
            load(settings(folder))
    with pytest.raises(ConfigError, match="reward.name: .*custom code"):
        Classifier(str(folder))._load(CPU)
    refused = invoke("algorithm=sft", *MICRO, f"model.name={folder}", "model.precision=fp32",
                     f"stages.folder={tmp_path / 'stages'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert refused.status == 2 and "model.trust_remote_code=true" in refused.err and "Traceback" not in refused.err
    assert not mark.exists()


def test_code_beside_a_known_model_is_left_alone(base, mark):
    """Many hub models bring code that transformers has by now: its own is used."""
    shutil.copy(base / "tokenizer_config.json", base / "kept.json")
    folder = with_code(base, mark, "llama")
    (base / "kept.json").replace(base / "tokenizer_config.json")
    load_tokenizer(settings(folder))
    assert type(load_base(settings(folder), CPU)) is LlamaForCausalLM and not mark.exists()


def test_the_same_code_runs_where_it_is_trusted(base, mark, tmp_path, monkeypatch):
    """Otherwise the tests above would say nothing."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    model = load_base(settings(with_code(base, mark, "own"), trust_remote_code=True), CPU)
    assert type(model).__name__ == "Model" and mark.exists()
