"""The pages of docs/ name what exists: every method and its keys here, and the arguments of TRL beside them."""

import dataclasses
import re

import pytest
from omegaconf import OmegaConf

from algorithms.common.data.records import FileData
from command_line import ROOT, choices, composed

METHODS, FROM_TRL = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("methods", "from_trl"))


def rows(text: str) -> list[list[str]]:
    """The cells of all tables' lines, heads left out."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    heads = ("TRL", "TRL, peft", "method")
    return [cells for cells in lines if not set(cells[0]) <= set("-") and cells[0] not in heads]


def keys(text: str) -> list[str]:
    """Keys of the command line that stand in code, without their values."""
    groups = "algorithm|recipe|trainer|model|eval|data|hydra"
    return [key.split("=")[0] for key in re.findall(rf"`((?:{groups})\.[^`]+)`", text)]


def missing(found: list[str], *overrides: str) -> list[str]:
    config = composed(*overrides)
    absent = object()
    return [key for key in found if not key.startswith("hydra.")
            and OmegaConf.select(config, key, default=absent, throw_on_missing=False) is absent]


def test_every_method_has_a_row_with_keys_that_it_has():
    table = {name: cells for cells in rows(METHODS) for name in re.findall(r"`(\w+)`", cells[1])}
    assert not set(choices("algorithm")) ^ set(table)
    for name, cells in table.items():
        shared = {key for other, one in table.items() if one is cells and other != name for key in keys(cells[5])}
        lost = missing(keys(cells[5]), f"algorithm={name}")
        assert not [key for key in lost if key not in shared], name


def test_every_key_beside_an_argument_of_trl_exists():
    choice = {"algorithm.packing": "sft", "algorithm.train_on_prompt": "sft", "algorithm.turns": "sft",
              "algorithm.desirable_weight": "kto", "algorithm.undesirable_weight": "kto",
              "algorithm.centering": "reward_model", "algorithm.samples": "grpo", "algorithm.clip": "grpo",
              "algorithm.temperature": "grpo", "algorithm.max_new_tokens": "grpo"}
    found = [key for cells in rows(FROM_TRL) for key in keys(cells[1])]
    assert len(found) > 30
    for key in found:
        assert not missing([key], f"algorithm={choice.get(key, 'dpo')}", "model=hub", "model.name=x/y"), key


def test_every_argument_of_trl_exists_there():
    trl = pytest.importorskip("trl")
    from peft import LoraConfig

    kinds = (trl.DPOConfig, trl.SFTConfig, trl.KTOConfig, trl.GRPOConfig, trl.RewardConfig, LoraConfig)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"reward_funcs"}  # GRPOTrainer's
    named = [name for cells in rows(FROM_TRL) for name in re.findall(r"`(\w+)`", cells[0])]
    assert len(named) > 30 and set(named) <= known


def test_the_forms_of_a_file_are_read_as_the_page_says(tmp_path):
    kinds = {"a comparison": "pair", "the same, as transcripts": "pair", "the same, with a winner (or `tie`)": "pair",
             "a ranking": "ranking", "a thumb": "scored response", "a demonstration": "demonstration",
             "a prompt": "prompt"}
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\{.*\})` \| ([^|]+) \| ", page, re.MULTILINE)
    assert [told for _, told in rows] == list(kinds)
    for line, told in rows:
        (tmp_path / "rows.jsonl").write_text(line + "\n")
        assert FileData(path=str(tmp_path / "rows.jsonl")).records()[1].kinds == {kinds[told]: 1}
