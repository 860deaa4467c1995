"""What is edited between two runs is computed anew, and nothing else: code, helpers of users' functions, libraries."""

import ast
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import sys

import pytest

from algorithms.common.runs.settings import build
from algorithms.common.support import provenance
from algorithms.common.support.store import Store
from command_line import MICRO, composed, invoke
from few import few
from stage_setup import RECIPE, TRAINER, make_bench, on_sft


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stages")


@pytest.fixture
def made(monkeypatch):
    """What was trained or evaluated anew since it was asked last."""
    found: list[str] = []
    get = Store.get

    def counted(self, kind, description, build, *more):
        def told(target, work):
            kind_of = description.get("algorithm", {}).get("class", "").removeprefix("algorithms.")
            found.append(f"{kind} {kind_of}".strip())
            build(target, work)

        return get(self, kind, description, told, *more)

    monkeypatch.setattr(Store, "get", counted)

    def ask() -> list[str]:
        told, found[:] = list(found), []
        return told

    return ask


@pytest.fixture
def edit(monkeypatch):
    """Reads the project's code as a process does that starts after an edit: one text for another, or one at the end."""
    def edited(file: str | None = None, before: str = "", after: str = "") -> None:
        sources = provenance.Sources()
        if file is not None:
            (path,) = [path for path in sources._local if path.as_posix().endswith(f"/{file}")]
            text = sources._bytes[path].decode()
            assert before in text
            sources._bytes[path] = (text.replace(before, after, 1) if before else text + after).encode()
        monkeypatch.setattr(provenance, "SOURCES", sources)

    return edited


def run(store: Store, **changed) -> None:
    make_bench(Store(store.folder), **changed).evaluate(on_sft(), RECIPE, "dpo")


ALL = ["trained sft.SFT", "trained dpo.DPO", "reference_logprobs", "evaluation"]
CODE = ("", "\nEDITED = 1\n")  # at the end of a file
EDITS = {
    "the loss": ("algorithms/dpo.py", "(1 - label_smoothing)", "(2 - label_smoothing)",
                 ["trained dpo.DPO", "evaluation"]),
    "its documentation": ("algorithms/dpo.py", '"""', '"""To be read: ', []),
    "a comment": ("training/loop.py", "", "\n# to be read\n", []),
    "another method": ("algorithms/ppo.py", *CODE, []),
    "the loop": ("training/loop.py", *CODE, [*ALL[:2], "evaluation"]),
    "the models": ("models/model.py", *CODE, ALL),
    "the evaluation": ("evaluate.py", *CODE, ["evaluation"]),
    "sampling": ("models/sampling.py", *CODE, ["trained dpo.DPO", "evaluation"]),  # the file has online DPO, too
    "what loads the model": ("runs/material.py", *CODE, [*ALL[:2], "evaluation"]),
    "a reader": ("readers.py", *CODE, []),
    "the store": ("store.py", *CODE, []),
    "what a run writes": ("results.py", *CODE, []),
    "the model card": ("hand_over.py", *CODE, []),
    "tables": ("benchmarks/tables.py", *CODE, []),
    "nothing": (None, "", "", []),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with a DPO run."""
    store = Store(tmp_path_factory.mktemp("kept"))
    run(store)
    return store.folder


@pytest.mark.parametrize("what", few(EDITS, ["the loss", "a comment", "another method", "the loop", "the evaluation",
                                            "what loads the model", "nothing"]))
def test_what_an_edit_makes_anew(kept, tmp_path, made, edit, what):
    file, before, after, expected = EDITS[what]
    shutil.copytree(kept, tmp_path / "stages")
    edit(file, before, after)
    run(Store(tmp_path / "stages"))
    assert sorted(made()) == sorted(expected)


@pytest.mark.parametrize("what", ["a tracker", "progress", "checkpoints", "a library"])
def test_what_else_makes_anew(kept, tmp_path, made, monkeypatch, request, what):
    """Progress, trackers and the spacing of checkpoints do not; the libraries that compute do."""
    shutil.copytree(kept, tmp_path / "stages")
    changed = {"a tracker": {"trackers": ["tensorboard"]}, "progress": {"progress": True},
               "checkpoints": {"checkpoint_every": 7}}
    if what == "a library":
        other, version = {"transformers": "5.17.1"}, importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda name: other.get(name) or version(name))
    provenance.versions.cache_clear()  # as in another process
    request.addfinalizer(provenance.versions.cache_clear)
    run(Store(tmp_path / "stages"), trainer=dataclasses.replace(TRAINER, **changed.get(what, {})), run_folder=tmp_path)
    assert sorted(made()) == (sorted(ALL) if what == "a library" else [])


def test_what_was_edited_after_a_sweep_began_is_kept_under_the_code_that_runs(tmp_path, monkeypatch, edit):
    """The first job imports a function that a later one is the first to score with."""
    monkeypatch.syspath_prepend(tmp_path)
    edit()
    helper = tmp_path / "my_helper.py"
    helper.write_text("def measure(response): return 1.0\n")
    (tmp_path / "my_reward.py").write_text("def score(prompts, responses):\n    from my_helper import measure\n"
                                           "    return list(map(measure, responses))\n")
    config = composed("reward=function", "reward.function._target_=my_reward.score")
    build(config, ("reward",))
    before = hashlib.sha256(ast.dump(ast.parse(helper.read_text())).encode()).hexdigest()[:16]
    helper.write_text("def measure(response): return 2.0\n")
    assert provenance.code_of(build(config, ("reward",))["reward"])["my_helper"] == before


@pytest.mark.slow
def test_a_users_helper_is_edited(tmp_path, monkeypatch, edit):
    """From the command line: the reward function's own file stays as it is, what it imports is edited."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_reward.py").write_text("from my_helper import measure\n\n\ndef score(prompts, responses):\n"
                                           "    return [measure(response) for response in responses]\n")

    def proxy(helper: str) -> tuple[float, str]:
        (tmp_path / "my_helper.py").write_text(helper)
        for name in ("my_reward", "my_helper"):  # as in a process of its own
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        edit()
        ended = invoke("algorithm=ppo", "algorithm.critic=policy", "algorithm.max_new_tokens=4", "reward=function",
                       "reward.function._target_=my_reward.score", *MICRO, "algorithm.needs.reference=null",
                       f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run")
        assert ended.status == 0, ended.err
        result = json.loads((tmp_path / "run/result.json").read_text())
        return result["evaluation"]["reward/proxy"]["mean"], ended.out + ended.err

    first, told = proxy("def measure(r):\n    return 1.0 + len(r)\n")
    assert first >= 1 and "kept stage" not in told
    same, told = proxy("def measure(r):  # characters\n    return 1.0 + len(r)\n")
    assert same == first and "ppo: kept stage trained-" in told and "evaluation of ppo: kept stage evaluation-" in told
    other, told = proxy("def measure(r):\n    return -1.0 - len(r)\n")
    assert other <= -1 and "ppo: stage trained-" in told
    assert next(line for line in told.splitlines() if "made anew" in line).endswith(": code of my_helper")
