"""debug=trial: whatever is asked for in small, and never taken for a run."""

import dataclasses
import json
import re

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from algorithms.common.runs.settings import settings
from algorithms.common.runs.trial import shrink
from benchmarks.report import table
from benchmarks.results_read import collect
from command_line import ROOT, choices, composed, invoke
from report_runs import GOLD, method, save

SMALL = ["model.lora.r=4", "trainer.progress=false"]


def shrunk(*overrides):
    config = composed(*overrides)
    shrink(config)
    return config


def objects(node):
    """Every node below that a class is made of, with the class."""
    if isinstance(node, DictConfig):
        if node.get("_target_") and not node.get("_partial_"):
            yield node, get_object(node._target_)
        for key in node:
            yield from objects(node._get_node(key))
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from objects(node._get_node(index))


@pytest.mark.parametrize("algorithm", choices("algorithm"))
def test_every_stage_of_every_algorithm_shrinks_to_settings_that_can_be_run(algorithm):
    chosen = settings(shrunk(f"algorithm={algorithm}", "debug=trial"))
    assert chosen.trial and (chosen.eval.prompts, chosen.eval.pairs, chosen.eval.sampling.max_new_tokens) == (8, 16, 16)
    recipes, waiting = [chosen.recipe], [chosen.algorithm, chosen.reward, chosen.auditor]
    while waiting:
        one = waiting.pop()
        needs = one.needs() if callable(one.needs) else one.needs
        for need in needs.values():
            recipes.append(need.recipe)
            waiting.append(need.algorithm)
    assert len(recipes) > 2 and {recipe.steps for recipe in recipes[1:]} == {2}
    assert max(recipe.batch_size for recipe in recipes) == 4


def test_what_is_smaller_already_stays_and_what_is_not_set_becomes_so_much():
    config = shrunk("eval.prompts=3", "recipe.steps=1", "data=file", "data.path=x.jsonl", "debug=trial")
    assert (config.eval.prompts, config.recipe.steps, config.recipe.batch_size) == (3, 1, 4)
    assert (config.data.limit, config.data.audit) == (256, 0.2)
    assert shrunk("data=file", "data.path=x", "data.limit=9").data.limit == 9
    assert shrunk("data=file", "data.path=x", "data.audit=0").data.audit == 0, "none, where none is wanted"
    assert shrunk("algorithm=ppo").algorithm.max_new_tokens == 16, "also what it takes from another key"
    assert list(shrunk("data=tasks", "model=tiny_tasks").data.study.clusters) == ["qa"]
    assert shrunk("data=mixture").data.total == 256


def test_what_cannot_be_read_is_left_for_its_own_check():
    config = shrunk("algorithm._target_=no.such.Class", "recipe.steps=abc", "algorithm.beta=0.3")
    assert config.recipe.steps == "abc" and config.algorithm.beta == 0.3


# those of other names are one of these with other settings
SOURCES = [name for name in choices("data")
           if re.search("^_target_:", (ROOT / f"conf/data/{name}.yaml").read_text(), re.MULTILINE)]


@pytest.mark.parametrize("name", SOURCES)
def test_every_data_source_shrinks(name):
    before, after = composed(f"data={name}").data, shrunk(f"data={name}").data
    assert before != after, "in_trial of the source's class, or of one that it is made of, says how"


@pytest.mark.parametrize("overrides", [[f"algorithm={name}"] for name in choices("algorithm")]
                         + [[f"data={name}"] for name in SOURCES])
def test_a_class_shrinks_its_own_fields_alone(overrides):
    for node, kind in objects(composed(*overrides)):
        if dataclasses.is_dataclass(kind):
            assert set(getattr(kind, "in_trial", {})) <= {field.name for field in dataclasses.fields(kind)}, kind


def test_the_smoke_experiment_takes_any_data_and_leaves_a_trial(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": "no"}) + "\n"
                            for i in range(40)))
    ended = invoke("experiment=smoke", "algorithm=dpo", "data=file", f"data.path={path}", *SMALL,
                   f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["auditor"]["labels"] == 7, "round(.2 · 36): the auditor is tried, too"
    assert result["trial"] is True and result["config"]["recipe"]["steps"] == 2
    assert "its figures say nothing of the method" in ended.out
    assert "\n- trial: every stage takes a few steps" in (tmp_path / "run/README.md").read_text()
    (run,) = collect([tmp_path / "run"])
    made = table([run])
    assert made.words.startswith("A trial: ") and made.rows[-1].label == "dpo (debug=trial)"
    assert all("debug=trial" in row.label for row in made.rows), "its start, too"


def test_a_trial_is_marked_beside_a_full_run_and_is_no_further_seed_of_it(tmp_path):
    full, tried = method("dpo", GOLD, seeds=[0, 1, 2]), method("dpo", [[9, 9, 9, 9]], seeds=[3], trial=True)
    made = table(collect([save(tmp_path, *full, *tried)]))
    assert [(row.label, row.runs) for row in made.rows] == [("dpo", "3"), ("dpo (debug=trial)", "1")]
    assert made.words.startswith("A trial: ")
    assert not table(collect([save(tmp_path / "full", *full)])).words.startswith("A trial")


def test_trial_is_true_or_false():
    from algorithms.common.support.errors import ConfigError

    with pytest.raises(ConfigError, match="trial: found 3; expected true or false"):
        settings(composed("trial=3"))
