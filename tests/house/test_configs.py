"""Every configuration composes, means what its class means, and a wrong one stops before anything is loaded."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from algorithms.common.algorithm import Algorithm
from algorithms.common.evaluation.verdicts import ORDERS, Comparison, Judge
from algorithms.common.models.model import Lora
from algorithms.common.recipe import Recipe
from algorithms.common.runs.overrides import explain_overrides
from algorithms.common.runs.settings import TOP, build, settings
from algorithms.common.support.errors import ConfigError
from command_line import CONF, GROUPS, choices, composed, composed_alone, invoke, job_overrides, objects_of, run_python
from few import few

ALGORITHMS, SCALES = choices("algorithm"), choices("scale")
TRAIN_NOTHING = {"best_of_n"}
OPTIONAL_GROUPS = ("experiment", "debug")
COMPLETE = {"model.name": "some/model", "data.path": "some.jsonl", "reward.name": "some/classifier",
            # what only a user can know
            "reward.model.name": "some/model", "reward.function._target_": "textwrap.dedent",
            "judge.model.name": "some/model", "judge.model": "some/model", "labels.judge.model.name": "some/model",
            "reward.run": "outputs/some", "reward.sources.safety.run": "outputs/some"}
PLACES = {"scale": "scale@_global_", "votes": "+votes@data.votes"}  # of groups that are no key of the config


def complete(*overrides: str) -> DictConfig:
    """A composed config with a model and a file where the user must name them."""
    config = composed(*overrides)
    given = [f"{key}={value}" for key, value in COMPLETE.items()
             if key in OmegaConf.missing_keys(config) or key == "data.path" and config.data.get("path", "") is None]
    return composed(*overrides, *given)


def override(group: str, choice: str) -> str:
    return f"{PLACES.get(group, group)}={choice}"


def objects(node, path=""):
    """(path, node) of everything below a node that has a ``_target_`` dataclass."""
    if isinstance(node, DictConfig):
        made = "_target_" in node and not node.get("_partial_")
        if made and dataclasses.is_dataclass(kind := get_class(node._target_)):
            yield path, node, kind
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from objects(node[key], f"{path}.{key}".lstrip("."))
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from objects(item, f"{path}[{index}]")


def inherited(path: Path) -> list[Path]:
    """The files that a YAML builds on, as a preset does on one of its group and a recipe on one of its scale."""
    named = [item for item in OmegaConf.load(path).get("defaults", []) if isinstance(item, str) and item != "_self_"]
    return [CONF / f"{item.removesuffix('@_here_')[1:]}.yaml" if item.startswith("/") else
            path.with_name(f"{item}.yaml") for item in named]


def node_of(group: str, choice: str) -> DictConfig:
    return (composed_alone(group, choice) if group in ("data", "recipe", "trainer", "votes")
            else composed(override(group, choice))[group.split("/")[0]])


# Everything composes


EVERY_CHOICE = [(group, choice) for group in GROUPS if group not in ("task", "experiment") for choice in choices(group)]


def preset(group: str, choice: str) -> bool:
    """Its values are composed alone below or, for data, beside its rows; the whole run around them takes longer."""
    return group == "recipe" or group == "data" and bool(inherited(CONF / "data" / f"{choice}.yaml"))


@pytest.mark.parametrize("group, choice", [
    pytest.param(*item, marks=[pytest.mark.slow] if preset(*item) else []) for item in EVERY_CHOICE])
def test_every_choice_of_every_group_composes_and_becomes_objects(group, choice):
    on = ["data=file"] if group == "votes" else []
    chosen = settings(complete(*on, override(group, choice)))
    assert isinstance(chosen.algorithm, Algorithm)


@pytest.mark.parametrize("algorithm", few(ALGORITHMS, range(0, len(ALGORITHMS), 4)))
@pytest.mark.parametrize("scale", SCALES)
def test_every_algorithm_has_a_recipe_at_each_scale(algorithm, scale):
    config = complete(f"algorithm={algorithm}", f"scale@_global_={scale}")
    recipe = composed("recipe=" + ("untrained" if algorithm in TRAIN_NOTHING else f"{scale}/{algorithm}")).recipe
    assert config.recipe == recipe and settings(config).recipe == instantiate(recipe, _convert_="all")


def test_every_recipe_belongs_to_an_algorithm_and_a_scale():
    trained = set(ALGORITHMS) - TRAIN_NOTHING
    of_scales = {f"{scale}/{name}" for scale in SCALES for name in {"default", *trained}}
    assert set(choices("recipe")) == {"untrained", *of_scales}


@pytest.mark.parametrize("choice", choices("recipe"))
def test_a_recipe_says_only_what_differs_from_what_it_builds_on(choice):
    path = CONF / "recipe" / f"{choice}.yaml"
    own = {key: value for key, value in OmegaConf.load(path).items() if key != "defaults"}
    for file in inherited(path):
        beneath = composed(f"recipe={file.relative_to(CONF / 'recipe').with_suffix('')}").recipe
        assert {key for key, value in own.items() if beneath[key] == value} == set()
    assert inherited(path) or choice.endswith("/default")


def test_a_recipe_chosen_by_hand_counts_for_what_trains_nothing_too():
    assert composed("algorithm=best_of_n", "recipe=lab/ppo", "recipe.steps=3").recipe.steps == 3
    assert composed("algorithm=best_of_n", "model=hub").recipe == composed("recipe=untrained").recipe


def test_the_hub_model_brings_its_scale_and_its_evaluation():
    config = complete("model=hub", "algorithm=sft")
    assert config.recipe == composed("recipe=qlora/sft").recipe != composed("recipe=lab/sft").recipe
    assert config.eval == OmegaConf.load(CONF / "eval/qlora.yaml")
    chosen = complete("model=hub", "scale@_global_=lab", "algorithm=sft")
    assert chosen.recipe == composed("recipe=lab/sft").recipe


@pytest.mark.parametrize("judge", choices("judge"))
def test_every_judge_is_built_with_what_it_is_asked(judge, monkeypatch):
    monkeypatch.setattr("algorithms.common.evaluation.verdicts.local.model_digest", lambda config: "0" * 64)
    parts = build(complete(f"judge={judge}"), ("judge", "verdicts"))
    assert isinstance(parts["judge"], Judge) and parts["judge"].name and "/" not in parts["judge"].name
    assert set(parts["judge"].orders) <= set(ORDERS) and parts["verdicts"] == Comparison()


@pytest.mark.parametrize("task", choices("task"))
def test_every_task_is_a_function_of_config_name_folder_and_overrides(task):
    from inspect import signature

    from hydra.utils import get_method

    function = get_method(composed(f"task={task}").task._target_)
    assert list(signature(function).parameters) == ["config", "name", "folder", "overrides"]


EXPERIMENTS = choices("experiment")


@cache
def algorithm_of(job: tuple[str, ...]) -> type:
    return type(settings(complete(*job)).algorithm)


MORE = [pytest.param(more, id=" ".join(more), marks=[pytest.mark.slow] if slow else []) for more, slow in (
    ([], False), (["seed=0,1", "hydra.mode=MULTIRUN"], False), (["hydra.mode=RUN"], False),
    (["algorithm=sft", "hydra.mode=RUN"], False), (["algorithm=dpo"], True), (["algorithm=sft"], True),
    (["debug=verbose"], True))]


def of_one_method(experiment: str) -> bool:
    """Whether it has settings of its method, as a published recipe does: another has no such keys (test_published)."""
    return "algorithm" in OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")


@pytest.mark.parametrize("experiment, more", [
    pytest.param(experiment, *more.values, id=f"{experiment}-{more.id}", marks=more.marks)
    for experiment in EXPERIMENTS for more in MORE if "algorithm=" not in more.id or not of_one_method(experiment)])
def test_every_job_of_every_experiment_becomes_objects(experiment, more):
    jobs = job_overrides(f"experiment={experiment}", *more)
    algorithms = []
    for job in jobs:
        algorithms.append(algorithm_of(tuple(objects_of(job))))
        for item in more:
            if item.startswith("algorithm="):
                asked = get_class(composed(item).algorithm._target_)
                assert asked is algorithms[-1], "the command line has the last word"
    if "seed=0,1" in more:
        assert len(jobs) % 2 == 0 and len({tuple(job) for job in jobs}) == len(jobs)
    if "hydra.mode=RUN" in more:
        assert len(jobs) == 1


def test_the_comparison_is_one_job_per_algorithm_of_its_list():
    named = [next(item for item in job if item.startswith("algorithm=")) for job in job_overrides("experiment=compare")]
    assert len(set(named)) == len(named) > 1
    assert len(job_overrides("experiment=compare", "seed=0,1,2")) == 3 * len(named)
    assert len(job_overrides("experiment=compare", "algorithm=dpo")) == 1


# YAML and class agree


EVERY_FILE = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name not in ("experiment", "debug", "scale")
              and path.name != "config.yaml"]


@pytest.mark.parametrize("group, choice", [item for item in EVERY_CHOICE if item[0] not in ("debug", "scale")])
def test_a_yaml_lists_exactly_the_fields_of_its_class(group, choice):
    found = list(objects(node_of(group, choice), group.split("/")[0]))
    assert found
    for path, node, kind in found:
        assert set(node) - {"_target_"} == {f.name for f in dataclasses.fields(kind) if f.init}, path


def default_of(field: dataclasses.Field):
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def as_default(value, default):
    """A YAML value in the form of the class's default: nested objects are made."""
    if dataclasses.is_dataclass(default):
        return instantiate(value, _convert_="all")
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


DEFAULTS = [("algorithm", choice) for choice in ALGORITHMS]
DEFAULTS += [("data", choice) for choice in choices("data") if not inherited(CONF / "data" / f"{choice}.yaml")]
DEFAULTS += [("trainer", "default"), ("eval", "default"), ("judge", "openai"), ("judge", "local")]
OWN = {"flan_cot": ["cot_examples"]}  # a preset of a class that another file holds with its defaults


@pytest.mark.parametrize("group, choice", DEFAULTS)
def test_a_yaml_has_the_defaults_of_its_class(group, choice):
    node = node_of(group, choice)
    kind = get_class(node._target_)
    for f in dataclasses.fields(kind):
        default = default_of(f)
        # needs is composition
        if f.init and f.name not in ("needs", *OWN.get(choice, ())) and default is not dataclasses.MISSING:
            assert as_default(node[f.name], default) == default, f"{group}/{choice}.yaml: {f.name}"


@pytest.mark.parametrize("choice", choices("model"))
def test_lora_has_its_defaults_in_every_model(choice):
    node = composed(f"model={choice}").model
    if node.lora is not None:
        assert instantiate(node.lora, _convert_="all") == Lora()


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_of_a_group_names_its_class_or_builds_on_one_that_does(path):
    files = [path]
    while not any("_target_" in OmegaConf.load(file) for file in files):
        files = [one for file in files for one in inherited(file)]
        assert files


def test_candidates_are_decoded_as_many_at_once_as_the_evaluation():
    config = complete("model=hub", "algorithm=rrhf")
    assert config.algorithm.candidates.sources.own.batch_size == config.eval.sampling.batch_size == 32
    assert complete("algorithm=rrhf", "eval.sampling.batch_size=7").algorithm.candidates.sources.own.batch_size == 7


# Wrong keys and values


def refused(*overrides: str) -> str:
    """Values are set as Hydra reads them, in one composition of the same choices."""
    read = OverridesParser.create().parse_overrides(list(overrides))
    config = composed(*(one.input_line for one in read if one.key_or_group in GROUPS))
    with open_dict(config):
        for one in read:
            if one.key_or_group not in GROUPS:
                OmegaConf.update(config, one.key_or_group, one.value(), force_add=one.is_add())
    with pytest.raises(ConfigError) as caught:
        settings(config)
    return str(caught.value)


@pytest.mark.parametrize("override, message", [
    ("+algorithm.foo=1", "algorithm.foo: found no such key; expected one of beta, label_smoothing, "
     "length_normalized, needs, sft_coef, soft_labels, view"),
    ("+recipe.learning_rate=1", "recipe.learning_rate: found no such key; expected one of batch_size, betas"),
    ("+lr=1", "lr: found no such key; expected one of adapter, algorithm, auditor"),
    ("+sede=1", "sede: found no such key; did you mean seed? expected one of adapter"),
    ("+algorithm.betta=.1", "algorithm.betta: found no such key; did you mean beta? expected one of beta"),
    ("+data.preferenses=1", "data.preferenses: found no such key; did you mean preferences? expected one of audit"),
    ("algorithm.beta=abc", "algorithm.beta: found 'abc' (str); expected float"),
    ("algorithm.beta=-1", "algorithm.beta: found -1; expected"),
    ("algorithm.beta=nan", "algorithm.beta: found nan; expected a finite number"),
    ("algorithm.beta=true", "algorithm.beta: found True (bool); expected float"),
    ("algorithm.beta=null", "algorithm.beta: found None (NoneType); expected float"),
    ("algorithm.beta=[0.1]", "algorithm.beta: found [0.1] (list); expected float"),
    ("algorithm.needs.reference.recipe.lr=0", "algorithm.needs.reference.recipe.lr: found 0; expected"),
    ("algorithm.needs.reference.algorithm.packing=3",
     "algorithm.needs.reference.algorithm.packing: found 3 (int); expected bool"),
    ("+algorithm.needs.reference.algorithm.x=3", "algorithm.needs.reference.algorithm.x: found no such key"),
    ("algorithm._target_=algorithms.dpo.DPPO",
     "algorithm._target_: found 'algorithms.dpo.DPPO', which cannot be imported"),
    ("model.precision=int3", "model.precision: found 'int3'; expected one of nf4, bf16, fp32"),
    ("model.lora=true", "model.lora: found True (bool); expected Lora or null"),
    ("model.lora.target_modules=3", "model.lora.target_modules: found 3 (int); expected str or list[str]"),
    ("model.lora.r=0", "model.lora.r: found 0; expected"),
    ("model.lora.dropout=1.5", "model.lora.dropout: found 1.5; expected"),
    ("model.max_length=10.5", "model.max_length: found 10.5 (float); expected int"),
    ("model.max_prompt_length=9999", "model.max_prompt_length: found 9999; expected"),
    ("model.name=null", "model.name: found None (NoneType); expected str"),
    ("recipe.lr=0", "recipe.lr: found 0; expected"),
    ("recipe.lr=inf", "recipe.lr: found inf; expected a finite number"),
    ("recipe.schedule=step", "recipe.schedule: found 'step'; expected one of linear, cosine, constant"),
    ("recipe.betas=[0.9,nan]", "recipe.betas[1]: found nan; expected a finite number"),
    ("recipe.betas=[0.9]", "recipe.betas: found [0.9]; expected two numbers"),
    ("eval.prompts=0", "eval.prompts: found 0; expected at least 1"),
    ("eval.sampling.top_p=0", "eval.sampling.top_p: found 0; expected"),
    ("trainer.optimizer=sgd", "trainer.optimizer: found 'sgd'; expected adamw or paged_adamw_8bit"),
    ("trainer.trackers=[visdom]", "trainer.trackers: found ['visdom']; expected some of tensorboard, wandb"),
    ("budget.equal=luck", "budget.equal: found 'luck'; expected"),
    ("stages.folder=3", "stages.folder: found 3 (int); expected str or null"),
    ("seed=x", "seed: found 'x'; expected a whole number"),
    ("seed=-1", "seed: found -1; expected a whole number"),
    ("seed=1.5", "seed: found 1.5; expected a whole number"),
    ("seed=true", "seed: found True; expected a whole number"),
    ("data=file", "data.path: found neither it nor data.name; expected one of them"),
    ("data.preferences=${oc.env:NO_SUCH_VARIABLE}", "data.preferences: found ${…} that leads nowhere (Environment "
                                                    "variable 'NO_SUCH_VARIABLE' not found); expected the name"),
    ("adapter=outputs/1", "adapter: found 'outputs/1'; expected null where a run trains"),
    ("beside=outputs/1", "beside: found 'outputs/1'; expected null where a run trains; fix: task=chat"),
    ("model=hub", "model.name: found no value; expected str; fix: model.name=…"),
])
def test_a_wrong_key_or_value_is_refused_with_what_is_allowed(override, message):
    assert refused(override).startswith(message)


def test_a_missing_value_that_has_a_default_in_its_class_is_refused_too():
    assert refused("data=file", "data.path=???").startswith("data.path: found no value; expected one; fix: data.path=…")


def test_building_leaves_the_config_as_it_is(monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", "somewhere")
    config = composed("stages.folder=${oc.env:SOME_FOLDER}")
    assert settings(config).stages.folder == "somewhere"
    assert OmegaConf.to_container(config.stages, resolve=False)["folder"] == "${oc.env:SOME_FOLDER}"


# What Hydra refuses to compose is said with what there is


@pytest.mark.parametrize("overrides, messages", [
    (["algorithm.betta=1"], ["algorithm.betta: found no such key; did you mean beta? expected one of beta, "
                             "label_smoothing, length_normalized, needs, sft_coef, soft_labels, view"]),
    (["algorithm=dppo"], [f"algorithm: found 'dppo'; did you mean ppo? expected one of {', '.join(ALGORITHMS)}"]),
    (["algorithm=null"], [f"algorithm: found 'null'; expected one of {', '.join(ALGORITHMS)}"]),
    (["recipe=lab/nothing"], [f"recipe: found 'lab/nothing'; expected one of {', '.join(choices('recipe'))}"]),
    (["experiment=nothing"], [f"experiment: found 'nothing'; expected one of {', '.join(choices('experiment'))}"]),
    (["algorithm.needs.reference.recipe.step=1"],
     ["algorithm.needs.reference.recipe.step: found no such key; did you mean steps? expected one of "
                                                   + ", ".join(sorted(f.name for f in dataclasses.fields(Recipe)))]),
    (["algorithm.beta.x=1"], ["algorithm.beta.x: found no such key; algorithm.beta is a single value"]),
    (["algoritm=dpo"],
     ["algoritm: found no such key; did you mean algorithm? expected one of "
      + ", ".join(sorted({*TOP} - {"judge", "labels", "tune", "curves"}))]),
    (["data=fil"], [f"data: found 'fil'; did you mean file? expected one of {', '.join(choices('data'))}"]),
    (["experiment=compar"],
     [f"experiment: found 'compar'; did you mean compare? expected one of {', '.join(choices('experiment'))}"]),
    (["judge.model=x"], ["judge.model: found no judge chosen; expected one of " + ", ".join(choices("judge")) +
                         f"; fix: judge={choices('judge')[0]}"]),
    (["labels.soft=false"], ["labels.soft: found no labels chosen; expected one of judge; fix: labels=judge"]),
    (["-m", "algorithm=dpo,sft", "algorithm.beta=0.1"],
     ["algorithm.beta: found no such key; expected one of needs, packing, "
                                                         "train_on_prompt, turns, view (with algorithm=sft)"]),
    (["-m", "algorithm=dpo,dppo"],
     [f"algorithm: found 'dppo'; did you mean ppo? expected one of {', '.join(ALGORITHMS)}"]),
])
def test_overrides_are_explained(overrides, messages):
    assert explain_overrides(overrides, str(CONF)) == messages


@pytest.mark.parametrize("overrides", [["data.path=x.jsonl"], ["data=people", "data.path=x.jsonl"]])
def test_a_key_of_files_is_said_to_need_them(overrides):
    (told,) = explain_overrides(overrides, str(CONF))
    assert told.startswith("data.path: found no such key;") and told.endswith("; fix: data=file data.path=…")
    assert explain_overrides(["data=file", "data.path=x.jsonl"], str(CONF)) == []
    assert "data=file" not in explain_overrides(["data.pth=x.jsonl"], str(CONF))[0]


@pytest.mark.parametrize("override, first", [
    ("algorithm=sft,dpo", "-m for a run of each"), ("seed=0,1", "-m for a run of each"),
    ("recipe.lr=1e-3,1e-4", "-m for a run of each"), ("data.path=a,b", "'data.path=\"a,b\"' for one text")])
def test_several_values_for_one_run_are_said_to_be_what_they_rather_are_first(override, first):
    (told,) = explain_overrides([override], str(CONF), ValueError(f"Ambiguous value for argument '{override}'"))
    assert ", for one run; expected one; fix: " + first in told


@pytest.mark.parametrize("overrides", [
    *few([[f"experiment={choice}"] for choice in EXPERIMENTS], [0]), ["debug=verbose", "seed=3"],
    ["model=hub", "model.name=a/b", "data=file", "data.path=x.jsonl"], ["recipe=qlora/sft", "recipe.lr=1"],
    ["scale@_global_=qlora"], ["+model.extra=1", "~data.tuning", "hydra.run.dir=x"],
    ["-m", "algorithm=dpo,ipo", "algorithm.beta=0.1,0.2"],
])
def test_nothing_is_said_of_overrides_that_are_right(overrides):
    assert explain_overrides(overrides, str(CONF)) == []


BAD_LINES = {
    "algorithm.betta=1": "algorithm.betta: found no such key",
    "algorithm=dppo": "algorithm: found 'dppo'",
    "algorithm.beta=[": "algorithm.beta: found '[', which Hydra cannot read as it stands",
    "hydra.mode=FOO": "hydra.mode: found what Hydra refuses: Error merging override hydra.mode=FOO: Invalid value",
    "+algorithm.beta=1": "command line: found what Hydra refuses: Could not append to config.",
    "hydra/launcher=nonexistent": "hydra/launcher: found 'nonexistent'; expected one of basic",
    "--multirun --run": "command line: found what Hydra refuses: Only one of --run, --multirun,",
    "--nothing=1": "--nothing=1: found no such option",
    "--config-dir nowhere data=mine": "--config-dir: found no folder nowhere; expected",
    "+algorithm.foo=1": "algorithm.foo: found no such key",
    "algorithm.beta=-1": "algorithm.beta: found -1",
    "model.precision=int3": "model.precision: found 'int3'",
    "seed=x": "seed: found 'x'",
    "data=file": "data.path: found neither",
    "data.preferences=3": "data.preferences: found 3",
    "task=merge": "adapter: found None",
    "task=chat adapter=5": "adapter: found 5; expected the folder",
    "task=chat beside=nowhere": "beside: found nowhere, and no such folder",
    "task=merge adapter=nowhere": "adapter: found nowhere, and no such folder",
}


BEFORE = ("algorithm.betta=1", "hydra.mode=FOO", "--nothing=1", "algorithm.beta=-1", "data=file", "task=merge")


@pytest.mark.parametrize("lines", few([list(BEFORE), [line for line in BAD_LINES if line not in BEFORE]], [0]), ids=len)
def test_a_wrong_command_line_ends_with_one_message_and_status_2_before_weights_are_loaded(tmp_path, lines):
    """All in one fresh process, where no other test has imported what loads models."""
    script = tmp_path / "lines.py"
    script.write_text(
        "import json, os, sys\n"
        "from composing import keep_compositions\n"
        "from command_line import invoke\n"
        "keep_compositions()\n"
        "lines, folder = json.loads(sys.argv[1]), sys.argv[2]\n"
        "ended = [invoke(*line.split(), f'hydra.run.dir={folder}/run', f'stages.folder={folder}/stages')\n"
        "         for line in lines]\n"
        "loaded = [name for name in ('transformers.modeling_utils', 'peft.peft_model') if name in sys.modules]\n"
        "print(json.dumps([loaded, [[one.status, one.err] for one in ended]]))\n")
    done = run_python(str(script), json.dumps(list(lines)), str(tmp_path),
                      PYTHONPATH=f"{CONF.parent}:{CONF.parent / 'tests'}")
    assert done.status == 0, done.err
    loaded, ended = json.loads(done.out.splitlines()[-1])
    assert not loaded
    for line, (status, err) in zip(lines, ended, strict=True):
        assert status == 2, line
        message = BAD_LINES[line]
        assert err.startswith(message) and err.count("found") <= 1, f"{line}: {err}"
        assert "Traceback" not in err and len(err.splitlines()) == 1, f"{line}: {err}"


def test_data_of_the_wrong_kind_stops_inspection(tmp_path):
    ended = invoke("task=inspect", "data=file", "data.path=nowhere.jsonl", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/stages")
    assert ended.status == 2 and ended.err.startswith("nowhere.jsonl") and len(ended.err.splitlines()) == 1
