"""Published recipes (``experiment=stackllama`` …): their settings are the published ones, what is changed is told, and
each runs from its first stage to its evaluation, in small.

A recipe is any experiment whose comment has a line "# Published:". The numbers below were taken from the papers and
scripts, not from the files that they check.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from algorithms.common.algorithm import Algorithm
from algorithms.common.data.records import FileData
from algorithms.common.models.model import ModelConfig
from algorithms.common.rewards.sources import Trained
from algorithms.common.runs.settings import settings
from algorithms.common.support.errors import ConfigError
from command_line import CONF, ROOT, choices, composed, invoke
from published_rows import LAYOUTS, write_rows

HEADS = {name: (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").partition("\ndefaults:")[0]
         for name in choices("experiment")}
RECIPES = [name for name, head in HEADS.items() if "\n# Published" in head]
START = "algorithm.needs.reference"


@dataclass(frozen=True)
class Instead:
    """A value of ours; ``published``: of what, as the file's comment writes it, None where nothing was."""

    ours: Any
    published: str | None = None


@dataclass(frozen=True)
class Qlora:
    """A learning rate for all weights that gives way to that of conf/recipe/qlora."""

    published: str


def ours(value: Any) -> Instead:
    return Instead(value)


# recipe → where → key → value; "start" is the supervised stage
TABLE: dict[str, dict[str, dict[str, Any]]] = {
    "stackllama": {
        "model.lora": {"r": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"]},
        "model": {"max_length": 1024}, "data": {"limit": ours(150_000)},
        "start.algorithm": {"packing": True, "train_on_prompt": True},
        "start.recipe": {"lr": 1e-5, "batch_size": 4 * 8, "steps": 5000, "warmup": 100 / 5000, "schedule": "cosine"},
        "reward.algorithm": {"centering": 0.0},
        "reward.recipe": {"lr": 2e-5, "batch_size": 4 * 8, "epochs": 1.0, "schedule": "linear", "warmup": 0.0,
                          "weight_decay": 1e-3},
        "algorithm": {"kl_coef": 0.2, "kl_target": 6.0, "kl_horizon": 10_000.0, "target_kl": 0.1, "gamma": 1.0,
                      "lam": 0.95, "clip": 0.2, "value_clip": 0.2, "value_coefficient": 0.1, "temperature": 1.0,
                      "score_clip": None, "missing_eos_penalty": 0.0},
        "recipe": {"lr": 1.4e-5, "value_lr": 1.4e-5, "batch_size": 8 * 8, "minibatch_size": None, "inner_epochs": 4,
                   "schedule": "constant", "steps": ours(1000)},
        "eval.sampling": {"max_new_tokens": 128}, "trainer": {"micro_batch_size": ours(2)}},
    "instructgpt": {
        "start.recipe": {"lr": Qlora("9.65e-6"), "batch_size": 32, "epochs": Instead(1.0, "16 epochs"),
                         "schedule": "cosine", "betas": [0.9, 0.95]},
        "reward.algorithm": {"view": "ranked", "centering": 0.0},
        "reward.recipe": {"lr": Qlora("9e-6"), "batch_size": 64, "epochs": 1.0, "schedule": "cosine"},
        "algorithm": {"kl_coef": 0.02, "gamma": 1.0, "clip": 0.2, "temperature": 1.0, "critic": "reward",
                      "ptx_coef": Instead(1.0, "27.8"), "score_clip": None, "missing_eos_penalty": 0.0},
        "recipe": {"lr": ours(1e-5), "value_lr": Instead(1e-5, "9e-6"), "batch_size": 512, "minibatch_size": 64,
                   "inner_epochs": 1, "steps": 256_000 // 512, "schedule": "constant", "warmup": 10 / 500,
                   "ema": 0.992},
        "eval.sampling": {"max_new_tokens": Instead(256, "1,000")}, "trainer": {"micro_batch_size": ours(2)}},
    "deepspeed_chat": {
        "model": {"max_length": ours(512), "max_prompt_length": ours(256)},
        "model.lora": {"r": 128, "alpha": ours(128)},
        "reward.algorithm": {"centering": 0.0},
        "reward.model": {"max_length": ours(512), "max_prompt_length": ours(256)},
        "reward.model.lora": {"r": 128, "alpha": ours(128)},
        "reward.recipe": {"batch_size": 64, "epochs": 1.0, "weight_decay": 0.1},
        "algorithm": {"kl_coef": 0.1, "kl_estimator": "k1", "gamma": 1.0, "lam": 0.95, "clip": 0.2, "value_clip": 0.2,
                      "value_coefficient": ours(1.0), "score_clip": 5.0, "missing_eos_penalty": 0.0, "ptx_coef": 0.0},
        "recipe": {"lr": 9.65e-6, "value_lr": 5e-6, "batch_size": 64, "minibatch_size": None, "inner_epochs": 1,
                   "epochs": 1.0, "steps": None, "schedule": "cosine", "ema": 0.992},
        "eval.sampling": {"max_new_tokens": 256}},
    "moss_rlhf": {
        "start.recipe": {"lr": Qlora("9.5e-6"), "batch_size": 1024, "epochs": 2.0, "schedule": "cosine"},
        "reward.algorithm": {"centering": 0.0},
        "reward.recipe": {"lr": Qlora("5e-6"), "batch_size": Instead(64, "4 to 128"), "epochs": 1.06, "warmup": 0.1},
        "algorithm": {"kl_coef": 0.01, "gamma": 1.0, "lam": 0.95, "clip": 0.2, "value_clip": 0.2,
                      "value_coefficient": 1.0, "score_scaling": "normalize", "score_clip": 0.8, "critic": "reward",
                      "missing_eos_penalty": 0.0, "critic_batches": ours(50), "temperature": 0.8},
        "recipe": {"lr": Qlora("5e-7"), "value_lr": Instead(3e-5, "1.5e-6"), "batch_size": 128, "minibatch_size": 32,
                   "inner_epochs": 1, "steps": 1000, "schedule": Instead("linear", "inverse square root"),
                   "warmup": 100 / 1000},
        "eval.sampling": {"max_new_tokens": 512}, "trainer": {"micro_batch_size": ours(2)}},
    "palm_rlhf": {
        "model.lora": {"r": 8, "alpha": ours(8), "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "reward.algorithm": {"bins": 5, "lowest": ours(0)},
        "algorithm": {"kl_coef": 0.0, "old_kl_coef": 0.1, "gamma": 1.0, "lam": 1.0, "value_clip": 0.4,
                      "score_clip": None, "missing_eos_penalty": 0.0, "critic": "policy"},
        "recipe": {"lr": 1e-4, "value_lr": 1e-4}},
    "rrhf_hh": {
        "model": {"max_length": 192, "max_prompt_length": 192 - 128},
        "algorithm": {"view": "ranked", "rank_weight": 1.0, "length_penalty": 1.0},
        "algorithm.candidates.sources": {"own": None},
        "algorithm.candidates.sources.beams": {"beams": 4, "groups": 4, "penalty": 1.0},
        "recipe": {"lr": Qlora("2e-5"), "batch_size": 1 * 8 * 8, "epochs": 3.0, "schedule": "linear", "warmup": 0.03},
        "eval.sampling": {"max_new_tokens": 128}},
    "wombat": {
        "model": {"max_length": 512, "max_prompt_length": ours(256)},
        "algorithm": {"view": "demonstrations", "rank_weight": 1.0, "length_penalty": 1.0},
        "algorithm.candidates.sources.own": {"count": 1},
        "algorithm.candidates.sources.base": {"count": 1, "temperature": ours(1.0), "top_p": ours(1.0)},
        "algorithm.candidates.sources.instruct": {"count": 2, "temperature": ours(1.0), "top_p": ours(1.0)},
        "algorithm.candidates.sources.base.model": {"max_length": 512, "max_prompt_length": ours(256)},
        "algorithm.candidates.sources.instruct.model": {"max_length": 512, "max_prompt_length": ours(256)},
        "recipe": {"lr": Qlora("2e-5"), "batch_size": 64, "epochs": 3.0, "schedule": "cosine", "warmup": 0.03},
        "eval.sampling": {"max_new_tokens": ours(256)}},
    "dpo_paper": {
        "model": {"max_length": 512, "max_prompt_length": 256},
        "start.algorithm": {"view": "preferred"},
        "start.recipe": {"lr": Qlora("5e-7"), "batch_size": 64, "epochs": 1.0, "schedule": "constant", "warmup": 0.08,
                         "max_grad_norm": 10.0},
        "algorithm": {"beta": 0.1, "label_smoothing": 0.0},
        "recipe": {"lr": Qlora("1e-6"), "batch_size": 64, "epochs": 1.0, "schedule": "constant", "warmup": 0.08,
                   "max_grad_norm": 10.0},
        "trainer": {"optimizer": Instead("adamw", "RMSprop")}},
    "zephyr_qlora": {
        "model": {"max_length": 1024, "max_prompt_length": 512}, "model.lora": {"r": 128, "alpha": 128},
        "data.sources.chat": {"weight": ours(99)}, "data.sources.feedback": {"weight": ours(1)},
        "start.algorithm": {"turns": "all"},
        "start.recipe": {"lr": 2e-4, "batch_size": 4 * 2, "epochs": 1.0, "schedule": "cosine", "warmup": 0.1},
        "algorithm": {"beta": 0.01},
        "recipe": {"lr": 5e-6, "batch_size": 4 * 4, "epochs": 1.0, "schedule": "cosine", "warmup": 0.1},
        "trainer": {"micro_batch_size": 4, "optimizer": Instead("paged_adamw_8bit", "paged AdamW")}},
    "llama2_rejection_sampling": {
        "model": {"max_length": Instead(1024, "4,096")},
        "start.recipe": {"lr": Qlora("2e-5"), "batch_size": 64, "epochs": 2.0, "schedule": "cosine",
                         "weight_decay": 0.1},
        "reward.algorithm": {"margin": 1.0, "centering": 0.0},
        "reward.recipe": {"lr": Qlora("1e-5"), "batch_size": Instead(64, "512 pairs"), "epochs": 1.0,
                          "schedule": "cosine", "warmup": 0.03},
        "algorithm": {"pool": "all"}, "algorithm.candidates.sources.own": {"count": 10},
        "trainer": {"micro_batch_size": ours(2)}},
    "rlaif": {
        "labels": {"soft": True}, "reward.algorithm": {"soft_labels": True, "centering": 0.0},
        "eval.sampling": {"max_new_tokens": ours(64)}},
}


def stated(recipe: str) -> dict[str, Any]:
    """Dotted key → what the table says of it."""
    return {f"{place.replace('start.', f'{START}.', 1)}.{key}": value
            for place, values in TABLE.get(recipe, {}).items() for key, value in values.items()}


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, node) of everything below, leaves too; what is written as a reference is no value of its own."""
    yield path, node
    if isinstance(node, DictConfig) and not node._is_none():
        for key in node:
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                yield from walk(node[key], f"{path}.{key}".lstrip("."))


def of_class(config: DictConfig, kind: type) -> list[str]:
    """Paths of the objects of a class."""
    return [path for path, node in walk(config) if isinstance(node, DictConfig) and node.get("_target_")
            and not node.get("_partial_") and get_object(node["_target_"]) is kind]


def test_every_recipe_has_its_numbers_here_and_a_row_in_the_docs():
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition("## Published recipes")[2]
    assert set(TABLE) == set(RECIPES) == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_its_source_and_what_it_changes(recipe):
    head = HEADS[recipe]
    assert re.search(r"arXiv \d{4}\.\d{5}|no paper", head.split("# Published")[0])
    assert "\n# Changed: " in head and head.startswith("# @package _global_\n")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_published_numbers_or_tells_of_them(recipe):
    config, told = composed(f"experiment={recipe}", hydra=True), re.sub(r"\s+#\s+", " ", HEADS[recipe])
    assert config.hydra.runtime.choices["scale@_global_"] == "qlora"
    for key, value in stated(recipe).items():
        if isinstance(value, Qlora | Instead) and value.published is not None:
            assert re.search(rf"(?<![\w.]){re.escape(value.published)}", told), f"{key}: {value.published} is not told"
        found = OmegaConf.select(config, key)
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        if isinstance(value, Qlora):
            method = {"reward.recipe.lr": "reward_model", f"{START}.recipe.lr": "sft"}.get(
                key, config.hydra.runtime.choices["algorithm"])
            assert found == composed(f"recipe=qlora/{method}").recipe.lr != float(value.published), key
        else:
            assert found == (value.ours if isinstance(value, Instead) else value), key


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_that_a_recipe_sets_is_in_its_table(recipe):
    again = ("reward.algorithm.needs", "auditor.algorithm.needs")  # the supervised stage, where others name it
    own = OmegaConf.load(CONF / "experiment" / f"{recipe}.yaml")
    numbers = {path for path, node in walk(own) if isinstance(node, int | float) and not isinstance(node, bool)
               and not path.startswith(again)}
    assert numbers <= set(stated(recipe))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_of_what_a_recipe_adds_can_be_overridden(recipe):
    """Hydra adds no keys to what is there: an object that leaves one out keeps it from the command line."""
    for path, node in walk(composed(f"experiment={recipe}")):
        if isinstance(node, DictConfig) and node.get("_target_") and not node.get("_partial_"):
            kind = get_object(node["_target_"])
            if dataclasses.is_dataclass(kind):
                fields = {field.name for field in dataclasses.fields(kind) if field.init}
                assert set(node) - {"_target_"} == fields, path


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_stages_of_a_recipe_start_at_one_supervised_stage(recipe):
    """Or it would be trained twice, and the reward model would know another policy than the one it scores."""
    chosen = settings(composed(f"experiment={recipe}"))
    assert isinstance(chosen.algorithm, Algorithm)
    start = dataclasses.asdict(chosen.algorithm.needs["reference"])
    for source in (chosen.reward, chosen.auditor):
        if type(source) is Trained:
            assert dataclasses.asdict(source.algorithm.needs["reference"]) == start


def test_another_method_does_not_take_a_recipes_settings():
    for recipe, method, key in (("dpo_paper", "sft", "beta"), ("moss_rlhf", "dpo", "kl_coef")):
        with pytest.raises(ConfigError, match=rf"^algorithm\.{key}: found no such key"):
            settings(composed(f"experiment={recipe}", f"algorithm={method}"))


# In small


def in_small(recipe: str, folder: Path) -> list[str]:
    """The recipe with the lab's model wherever it names one, and made-up rows in the layout of the data it names."""
    config = composed(f"experiment={recipe}", hydra=True)
    presets = {key.partition("@")[2] or "data": name for key, name in config.hydra.runtime.choices.items()
               if name in LAYOUTS}
    lab = ("name=benchmarks/lab/reviews", "precision=fp32", "attention=eager", "gradient_checkpointing=false")
    small = [f"{path}.{key}" for path in of_class(config, ModelConfig)
             for key in (*lab, f"max_length={min(OmegaConf.select(config, path).max_length, 1024)}")]
    rows = [f"{path}.path={write_rows(presets[path], folder)}" for path in of_class(config, FileData)]
    assert rows
    return [f"experiment={recipe}", "debug=trial", *small, *rows, "trainer.optimizer=adamw", "trainer.progress=false"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_from_its_first_stage_to_its_evaluation(tmp_path, recipe):
    ended = invoke(*in_small(recipe, tmp_path), f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    result = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    asked = composed(f"experiment={recipe}").algorithm
    shrunk = {"samples", "max_new_tokens", "generations", "critic_batches", "candidates", "needs"}
    kept = {key: value for key, value in OmegaConf.to_container(asked, resolve=False).items() if key not in shrunk}
    assert result["trial"] is True and kept.items() <= result["config"]["algorithm"].items()
