"""What the files of the methods say of their papers and defaults, held to the code."""

import dataclasses
import importlib
import re

import pytest

from algorithms.common.algorithm import Algorithm
from algorithms.common.data.instructions import data as instructions
from command_line import ROOT, composed

METHODS = sorted(path.stem for path in (ROOT / "algorithms").glob("*.py") if path.name != "__init__.py")
DEFAULT = re.compile(r"``(\w+)``,\s+(off|-?[\d.]+)\s+by\s+default")
OFF = (False, 0, None)


def head(name: str) -> str:
    return importlib.import_module(f"algorithms.{name}").__doc__


def defaults(name: str) -> dict[str, set]:
    """Option → its defaults in the module's own classes."""
    module, found = importlib.import_module(f"algorithms.{name}"), {}
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, Algorithm) and kind.__module__ == module.__name__:
            for field in dataclasses.fields(kind):
                if field.default is not dataclasses.MISSING:
                    found.setdefault(field.name, set()).add(field.default)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_head_says_what_it_keeps_changes_and_drops_of_which_paper(name):
    text = head(name)
    assert re.findall(r"^(Keeps|Changes|Drops) +\S", text, re.MULTILINE) == ["Keeps", "Changes", "Drops"]
    assert re.search(r"arXiv \d{4}\.\d{5}", text.split("Keeps")[0]), "the paper stands before them"


@pytest.mark.parametrize("name, option, told",
                         [(name, *match) for name in METHODS for match in DEFAULT.findall(head(name))])
def test_a_default_that_a_head_names_is_the_default(name, option, told):
    assert option in defaults(name), f"{name} has no option {option}"
    (default,) = defaults(name)[option]
    assert default in OFF if told == "off" else default == float(told)


def test_the_heads_name_defaults():
    named = {(name, option) for name in METHODS for option, _ in DEFAULT.findall(head(name))}
    assert {("reward_model", "centering"), ("reward_model", "margin"), ("ppo", "score_clip"), ("ppo", "ptx_coef"),
            ("dpo", "label_smoothing"), ("sft", "packing"), ("sft", "train_on_prompt")} <= named


@pytest.mark.parametrize("name", METHODS)
def test_what_is_done_to_scores_by_default_stands_in_the_head(name):
    """All policy gradients here do it, and none of their papers."""
    on = {option for option in ("score_clip", "missing_eos_penalty") for default in defaults(name).get(option, ())
          if default not in OFF}
    assert on <= set(re.findall(r"``(\w+)``", head(name)))


def test_the_epochs_over_a_batch_of_rollouts_are_those_of_the_recipes():
    (told,) = re.findall(r"``inner_epochs`` of the recipe \((\d+);", head("ppo"))
    recipes = [composed("algorithm=ppo", f"scale@_global_={scale}").recipe for scale in ("lab", "qlora")]
    assert {recipe.inner_epochs for recipe in recipes} == {int(told)}


def test_the_share_of_inverted_prompts_is_the_one_told():
    (told,) = re.findall(r"the default of (\d+) % this project's own", instructions.__doc__)
    assert instructions.InstructionData(tasks=None).inverted == int(told) / 100
