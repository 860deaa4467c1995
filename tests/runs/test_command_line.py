"""What is said of a command line that Hydra refuses, and that its fix works: choices of a user's own, paths with any
characters, the home folder, folders that cannot be written to."""

import json
import re
import shlex
import tomllib

import pytest
from omegaconf import OmegaConf

from algorithms.common.runs import overrides
from algorithms.common.runs.overrides import explain_overrides, ordered, overruled
from algorithms.common.runs.settings import at_home, build
from command_line import CONF, ROOT, composed, invoke
from few import few

ROWS = "".join(json.dumps({"prompt": f"question {i}", "chosen": "yes", "rejected": "no"}) + "\n" for i in range(4))


@pytest.fixture
def own(tmp_path):
    """A folder of choices of a user's own, for --config-dir."""
    (tmp_path / "pairs.jsonl").write_text(ROWS)
    files = {"data/mine": f"defaults: [file, _self_]\npath: {tmp_path}/pairs.jsonl\n",
             "data/late": "defaults: [file, override /scale@_global_: lab, _self_]\n",
             "algorithm/mine": "defaults: [dpo, _self_]\nbeta: 0.3\n",
             "recipe/house/dpo": "defaults: [/recipe/lab/dpo, _self_]\n",
             "experiment/large": "# @package _global_\n"
                                 "defaults: [override /scale@_global_: qlora, override /data: mine]\n",
             "experiment/small": "# @package _global_\ndefaults: [override /scale@_global_: lab]\n",
             "experiment/wrong": "# @package _global_\ndefaults: [override /scale: qlora]\n"}
    for name, text in files.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "conf"


@pytest.fixture
def inspected(tmp_path):
    """``task=inspect`` with more overrides, in folders of this test."""

    def run(*overrides: str):
        return invoke("task=inspect", f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages", *overrides)

    return run


def one_message(ended) -> str:
    """The message, which is one line and a refusal."""
    assert ended.status == 2 and "Traceback" not in ended.err, ended.err
    (line,) = ended.err.splitlines()
    assert re.fullmatch(r"\S.*: found .+; expected .+; fix: .+", line), line
    return line


# Choices of a user's own


def test_choices_of_ones_own_are_known(own, inspected):
    assert inspected("--config-dir", str(own), "data=mine", "algorithm=mine", "recipe=lab/dpo").status == 0
    assert inspected(f"hydra.searchpath=[file://{own}]", "data=mine").status == 0


def test_a_choice_of_no_class_is_one_message_whose_fix_works(own, inspected):
    (own / "data/bare.yaml").write_text(f"path: {own.parent}/pairs.jsonl\n")
    told = one_message(inspected("--config-dir", str(own), "data=bare"))
    assert told.startswith("data: found settings without _target_;")
    (own / "data/bare.yaml").write_text(f"defaults: [file, _self_]\npath: {own.parent}/pairs.jsonl\n")
    assert inspected("--config-dir", str(own), "data=bare").status == 0


def test_a_choice_in_a_folder_of_ones_own_is_one_message_whose_fix_works(own, inspected):
    (own / "data/set").mkdir()
    text = f"defaults: [%s, _self_]\npath: {own.parent}/pairs.jsonl\n"
    (own / "data/set/mine.yaml").write_text(text % "/data/file")
    told = one_message(inspected("--config-dir", str(own), "data=set/mine"))
    assert told.startswith("data: found all settings under data.data,")
    assert told.endswith("fix: /data/CHOICE@_here_ in its defaults")
    (own / "data/set/mine.yaml").write_text(text % "/data/file@_here_")
    assert inspected("--config-dir", str(own), "data=set/mine").status == 0


@pytest.mark.parametrize("text, line", [("defaults: [file, _self_\nheldout: 0.2\n", 2), ("path:\tx\n", 1),
                                        ("path: a\nlimit: 3\npath: b\n", 3), ("path: 'x\n", 2)])
def test_a_file_that_is_no_yaml_is_one_message(own, inspected, text, line):
    (own / "data/broken.yaml").write_text(text)
    told = one_message(inspected("--config-dir", str(own), "data=broken"))
    assert told.startswith(f"{own}/data/broken.yaml:{line}: found what YAML cannot read (")


@pytest.mark.parametrize("given, told", [
    ("hydra/launcher.n_jobs=2", "hydra/launcher.n_jobs: found a key that Hydra cannot read; expected .*"
                                "; fix: hydra.launcher.n_jobs=2"),
    ("data/file.limit=3", "data/file.limit: found a key .*; fix: data.file.limit=3"),
    ("=3", "=3: found no key that can be read; expected KEY=VALUE; fix: KEY=VALUE")])
def test_a_key_that_cannot_be_read_is_told_as_that(given, told):
    (message,) = explain_overrides([given], str(CONF))
    assert re.fullmatch(told, message)


def test_a_key_of_settings_that_have_none(inspected):
    assert inspected("hydra.launcher.n_jobs=2").err.startswith(
        "hydra.launcher.n_jobs: found no such key; expected none in hydra.launcher")


@pytest.mark.parametrize("overrides, told", few([
    (["data=mine", "algorithm.betta=1"], "algorithm.betta: found no such key; did you mean beta? expected one of"),
    (["data=mine", "algorithm=dppo"],
     "algorithm: found 'dppo'; did you mean ppo? expected one of best_of_n, cpo, dpo,"),
    (["data=mine", "data.pathh=x"], "data.pathh: found no such key; did you mean path? expected one of audit, chat, "),
    (["data=mine", "+model.x=1", "model.x=2", "seeed=1"], "seeed: found no such key"),
    (["algorithm=mine"], "recipe/lab: found no choice mine, which another choice asks for; expected recipe/lab/"),
    (["experiment=wrong"], "experiment/wrong: found an override of scale, and no such group in the defaults; expected "
                           "scale@_global_; fix: override /scale@_global_: CHOICE"),
    (["recipe/mien=dpo"], "recipe/mien: found no such group; expected one of recipe/house, recipe/lab,"),
    (["+recipe/mien=dpo"], "+recipe/mien: found no such group; expected one of recipe/house, recipe/lab,"),
    (["data=late"], "data/late: found an override of scale@_global_, which is decided before this file is read;"),
    (["hydra/launcher=nonexistent"], "hydra/launcher: found 'nonexistent'; expected one of basic"),
    (["hydra/lancher=basic"], "hydra/lancher: found no such group; expected one of hydra/env, "),
    (["hydra.fooo=1"], "hydra.fooo: found no such key; expected one of callbacks, "),
    (["+data@data.sources.x.data=nothing"], "+data@data.sources.x.data: found 'nothing'; expected one of alpaca, ")],
    [0, 1, 4, 5, 6, 7, 8]))
@pytest.mark.parametrize("by", few(["--config-dir", "hydra.searchpath"], ["--config-dir"]))
def test_what_is_wrong_is_said_with_them(own, overrides, told, by):
    where = ["--config-dir", str(own)] if by == "--config-dir" else [f"hydra.searchpath=[file://{own}]"]
    ended = invoke(*where, *overrides, "task=inspect")
    assert ended.status == 2 and ended.err.startswith(told) and len(ended.err.splitlines()) == 1, ended.err


@pytest.mark.parametrize("given, told", [
    ("scale=qlora", "scale: found an override of scale, and no such group in the defaults; expected scale@_global_;"),
    ("+scale=qlora", "+scale: found qlora, which nothing reads beside scale@_global_=lab;"),
    ("+scale@x=qlora", "+scale@x: found qlora, which nothing reads beside scale@_global_=lab;"),
    ("+data=people", "+data: found a second choice of a group that has one;"),
    ("+recipe=qlora/dpo", "+recipe: found a second choice of a group that has one;")])
def test_a_group_that_is_added_or_named_wrongly_is_refused_and_the_fix_works(given, told, tmp_path):
    message = one_message(invoke(given, f"hydra.run.dir={tmp_path}"))
    assert message.startswith(told)
    fixed = message.partition("; fix: ")[2]
    group, _, choice = fixed.partition("=")
    assert composed(fixed, hydra=True).hydra.runtime.choices[group] == choice == given.partition("=")[2]


@pytest.mark.parametrize("given, told", [
    ("+hydra/foo=bar", "+hydra/foo: found no such group; expected one of hydra/env, hydra/help, "),
    ("+foo/bar=baz", "+foo/bar: found no such group; expected one of those that --help lists;"),
    ("+algorithm/dppo=x", "+algorithm/dppo: found no such group; ")])
def test_a_group_that_there_is_not_cannot_be_added(given, told, tmp_path):
    assert one_message(invoke(given, f"hydra.run.dir={tmp_path}")).startswith(told)


@pytest.mark.parametrize("given, extra", [("hydra/launcher=joblib", "launchers"), ("hydra/launcher=ray", "ray"),
                                          ("hydra/sweeper=optuna", "launchers")])
def test_a_plugin_that_is_not_installed_is_named_with_what_installs_it(monkeypatch, given, extra):
    group, _, choice = given.partition("=")
    plain = overrides._Search.choices
    monkeypatch.setattr(overrides._Search, "choices", lambda self, name: [
        one for one in plain(self, name) if (name, one) != (group, choice)])
    (told,) = explain_overrides(["-m", "algorithm=dpo,sft", given, "hydra.launcher.n_jobs=2"], str(CONF))
    assert told.startswith(f"{group}: found '{choice}', which is not installed; expected one of basic")
    assert f"; fix: pip install -e '.[{extra}]'" in told
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]


def test_a_choice_of_ones_own_in_a_sweep(own):
    told = explain_overrides(["--config-dir", str(own), "-m", "algorithm=mine,dpo", "data=mine,nothing"], str(CONF))
    assert len(told) == 1 and told[0].startswith("data: found 'nothing'; expected one of alpaca, ")


def test_an_experiment_decides_over_a_model_and_the_command_line_over_both(own):
    path = f"hydra.searchpath=[file://{own}]"
    assert composed(path, "experiment=large").recipe.lr == composed("scale@_global_=qlora").recipe.lr
    assert composed(path, "experiment=small", "model=hub").recipe.lr == composed().recipe.lr
    assert composed(path, "experiment=large", "scale@_global_=lab").recipe.lr == composed().recipe.lr


@pytest.mark.parametrize("overrides, told", few([
    (["experiment=small", "model=hub", "model.name=MODEL"],
     "scale@_global_: found qlora in model/hub and lab in experiment/small, which counts; expected one of them; "
     "fix: scale@_global_=lab or scale@_global_=qlora"),
    (["data=late", "data.path=PATH", "model=hub", "model.name=MODEL"],
     "scale@_global_: found lab in data/late and qlora in model/hub, which counts;"),
    (["experiment=large", "model=hub", "model.name=MODEL"], None),
    (["experiment=small", "model=hub", "model.name=MODEL", "scale@_global_=qlora"], None),
    (["experiment=qlora_single_gpu", "data=mine"], None)], [0, 2]))
def test_an_override_that_does_not_count_is_told(own, inspected, overrides, told):
    ended = inspected("--config-dir", str(own), *(
        item.replace("PATH", f"{own}/../pairs.jsonl").replace("MODEL", f"{ROOT}/benchmarks/lab/reviews")
        for item in overrides))
    assert ended.status == 0, ended.err
    assert told in ended.out if told else "which counts" not in ended.out


def test_no_choice_of_the_project_is_overruled_by_another():
    folders = [CONF]
    for path in CONF.glob("*/*.yaml"):
        choices = {path.parent.name: path.stem}
        assert not overruled(choices, folders, []), path


# Paths

NAMES = ["a=b.jsonl", "a b.jsonl", "a,b.jsonl", "a[b].jsonl", "[a].jsonl", "a(b).jsonl", "a{b}.jsonl", "{a}.jsonl",
         "a'b.jsonl", 'a"b.jsonl', "ä€☃.jsonl", "a#b.jsonl", "a&b;c!.jsonl", "~a.jsonl", "a~.jsonl", "$b.jsonl",
         "a\\'b.jsonl", "a*?.jsonl", "null", "1e3"]


@pytest.mark.parametrize("name", few(NAMES, ["a=b.jsonl", "a,b.jsonl", "{a}.jsonl", 'a"b.jsonl', "ä€☃.jsonl", "1e3"]))
def test_a_path_of_any_characters_is_read_or_its_fix_is(name, tmp_path, inspected):
    (tmp_path / name).write_text(ROWS)
    override, more = f"data.path={tmp_path}/{name}", ["data=file", "data.format=jsonl"]
    ended = inspected(*more, override)
    if ended.status:
        message = one_message(ended)
        assert message.startswith("data.path: found ")
        ended = inspected(*more, shlex.split(message.partition("; fix: ")[2])[0])
    assert ended.status == 0 and "read 4 rows" in ended.out, ended.err


@pytest.mark.parametrize("key, value, fixed", [
    ("data.path", "[a=b.jsonl,c d.jsonl]", ["a=b.jsonl", "c d.jsonl"]),
    ("data.columns", "{prompt: my?query, response: re=ply}", {"prompt": "my?query", "response": "re=ply"}),
    ("stages.folder", "a=b", "a=b"), ("model.chat_template", "a=b", "a=b"), ("adapter", "out=1", "out=1")])
def test_the_fix_keeps_what_was_meant(key, value, fixed):
    (message,) = explain_overrides(["data=file", f"{key}={value}"], str(CONF))
    (override,) = shlex.split(message.partition("; fix: ")[2])
    found = OmegaConf.select(composed("data=file", override), key)
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == fixed


def test_the_jobs_of_a_sweep_keep_their_commas(tmp_path):
    values = "a=1.jsonl,b.jsonl"
    (message,) = explain_overrides(["-m", "data=file", f"data.path={values}"], str(CONF))
    assert shlex.split(message.partition("; fix: ")[2]) == ['data.path="a=1.jsonl",b.jsonl']


def test_folders_of_any_characters(tmp_path):
    (tmp_path / "p.jsonl").write_text(ROWS)
    ended = invoke("task=inspect", "data=file", f"data.path={tmp_path}/p.jsonl", f'stages.folder="{tmp_path}/s=[1] ä"',
                   f'hydra.run.dir="{tmp_path}/o=[1], ä"')
    assert ended.status == 0, ended.err
    assert (tmp_path / "o=[1], ä/data.json").is_file() and (tmp_path / "s=[1] ä").is_dir()


@pytest.mark.parametrize("key, arguments", [("hydra.run.dir", []), ("hydra.sweep.dir", ["-m"])])
def test_the_home_folder_is_written_out_for_hydras_folders_too(key, arguments, own, tmp_path, monkeypatch):
    """Or a folder named ``~`` would be made where the command runs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ended = invoke(*arguments, "task=inspect", "--config-dir", str(own), "data=mine",
                   f"stages.folder={tmp_path}/stages", f'{key}="~/a run"')
    assert ended.status == 0, ended.err
    assert list((tmp_path / "home/a run").rglob("data.json")) and not (tmp_path / "~").exists()


def test_a_log_that_cannot_be_opened_is_one_message(inspected, own):
    told = one_message(inspected("--config-dir", str(own), "data=mine", "hydra.job.name=there/is/none"))
    assert told.startswith("hydra.run.dir: found ") and "there/is/none.log" in told


def test_the_home_folder_is_written_out(tmp_path, monkeypatch, inspected):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.jsonl").write_text(ROWS)
    message = one_message(inspected("data=file", "data.path=~/p.jsonl"))
    (fix,) = shlex.split(message.partition("; fix: ")[2])
    for override in (fix, 'data.path="~/p.jsonl"', 'data.path=["~/p.jsonl"]'):
        assert inspected("data=file", override).status == 0
    ended = inspected("data=file", 'data.path="~/p.jsonl"', 'stages.folder="~/kept"')
    assert ended.status == 0 and (tmp_path / "kept").is_dir()
    ended = invoke("task=merge", 'adapter="~/none"', f"hydra.run.dir={tmp_path}/run")
    assert one_message(ended).startswith(f"adapter: found {tmp_path}/none, and no such folder")
    for key in ("model.name", "model.chat_template"):
        config = composed(f'{key}="~/x"')
        at_home(config)
        assert OmegaConf.select(config, key) == f"{tmp_path}/x"
    (tmp_path / "x").write_text("{{ messages }}")
    config = composed('model.chat_template="~/x"')
    at_home(config)
    assert build(config, ("model",))["model"].chat_template == f"{tmp_path}/x"


# Folders that cannot be written to


@pytest.mark.parametrize("key, arguments", [("hydra.run.dir", []), ("hydra.sweep.dir", ["-m"]),
                                            ("hydra.sweep.dir", ["hydra.mode=MULTIRUN"])])
@pytest.mark.parametrize("below", few(["", "/deeper"], [0]))
def test_a_folder_that_cannot_be_made_is_one_message_and_its_fix_works(key, arguments, below, tmp_path):
    (path := tmp_path / "file.jsonl").write_text(ROWS)
    command = ["task=inspect", "data=file", f"data.path={path}", f"stages.folder={tmp_path}/s", *arguments]
    message = one_message(invoke(*command, f"{key}={path}{below}"))
    assert message.startswith(f"{key}: found {path}{below}, which cannot be made or written to (")
    fix = message.partition("; fix: ")[2].partition(",")[0]
    ended = invoke(*command, fix.replace("FOLDER", str(tmp_path / "out")))
    assert list((tmp_path / "out").rglob("data.json")), ended.err


def test_an_interpolation_that_leads_nowhere_is_one_message(inspected):
    assert one_message(inspected("data=file", "data.path=/x/${nothing}.jsonl")).startswith(
        "data.path: found ${…} that leads nowhere (Interpolation key 'nothing' not found); expected")


@pytest.mark.parametrize("given, read", [
    ("data.path=偏好.jsonl", 'data.path="偏好.jsonl"'),
    ("data.columns={prompt: 问题}", 'data.columns={prompt: "问题"}'),
    ("+reward.function.word=naïve", '+reward.function.word="naïve"'), ('data.path="偏好.jsonl"', None),
    ("data.path=pairs.jsonl", None), ("data.path=偏好(1).jsonl", None), ("data.path=偏=好.jsonl", None),
    ("data.path=偏,好", None), ("data.path", None), ("data.columns={问题: prompt}", None)])
def test_letters_of_any_script_need_no_quotes(given, read):
    assert ordered([given]) == [read or given]


def test_jobs_named_in_any_script_stay_apart():
    assert ordered(["data.path=偏.jsonl,好.jsonl", "-m"]) == ['data.path="偏.jsonl","好.jsonl"', "-m"]
