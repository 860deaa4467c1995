"""Shared fixtures: no network, a random tiny Llama, the lab's tokenizer."""

import gc
import os
import signal
import sys
from dataclasses import replace
from functools import cache

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # they share the cores
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))

from pathlib import Path

import pytest

from composing import keep_compositions


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config) -> None:
    """Several processes (`-n 2`) each begin with a part of the files, since a file's tests share what they set up."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_configure(config) -> None:
    """The suite is the same on every machine: it sees a GPU only in `pytest -m gpu`."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background is deaf to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_compositions()


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def imported():
    """How many modules there were when the garbage collector was last told to leave them alone."""
    gc.set_threshold(10_000, 20, 20)  # a test makes hundreds of thousands of objects and hardly any garbage
    return [0]


@pytest.fixture(scope="session", autouse=True)
def sources_parsed_once():
    """A test that edits code reads all of the project's as a new process does; what is in a file is parsed once."""
    from algorithms.common.support import provenance

    once = cache(provenance.parsed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "parsed", lambda *given: replace(once(*given)))
        yield


@pytest.fixture(autouse=True)
def libraries_are_no_garbage(imported):
    """Benches collect garbage between models: without this they search every imported library each time."""
    if len(sys.modules) > imported[0]:
        imported[0] = len(sys.modules)
        gc.freeze()


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory):
    """What a test imports from a folder of its own is unknown to the next, which may have a module of the same name."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Records are kept here, never in the user's cache folder."""
    from algorithms.common.data.records import set_cache_folder

    set_cache_folder(tmp_path_factory.mktemp("records"))


@pytest.fixture(autouse=True)
def data_cache(session_cache):
    """A run of the command line chooses another folder for them; the next test has this one again."""
    from algorithms.common.data.records import cache_folder, set_cache_folder

    before = cache_folder()
    yield
    set_cache_folder(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data beside the checkout; tests that need it are skipped elsewhere."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the shared data samples are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "benchmarks/lab/reviews")


@pytest.fixture(scope="session")
def make_models(tokenizer):
    """Models over a random Llama in fp32: make_models(attention="sdpa", lora=None, …)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from algorithms.common.models.model import Lora, ModelConfig, Models

    def make(seed: int = 0, lora: Lora | None = Lora(r=4, alpha=8), positions: int = 256, **options) -> Models:
        settings = {"precision": "fp32", "attention": "eager", "gradient_checkpointing": False, "max_length": 64,
                    "max_prompt_length": 32, **options}
        config = ModelConfig(name="random-llama", lora=lora, **settings)
        torch.manual_seed(seed)
        base = LlamaForCausalLM._from_config(
            LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, intermediate_size=64,
                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions),
            attn_implementation=config.attention).eval()
        return Models(config, mixed_precision="no", base=base, tokenizer=tokenizer)

    return make
