"""Libraries' notices to programmers are not shown; the user's own, and what says that something is wrong, are."""

import io
import sys
import warnings

import pytest

from algorithms.common.support.quiet import quieten
from command_line import invoke, run_python


def shown(category, module) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        quieten()
        warnings.warn_explicit("told", category, "file.py", 1, module=module)
    return bool(caught)


@pytest.mark.parametrize("category, module, expected", [
    (FutureWarning, "transformers.modeling_utils", False), (FutureWarning, "peft", False),
    (DeprecationWarning, "torch.utils.checkpoint", False), (FutureWarning, "trl.trainer.dpo_trainer", False),
     (FutureWarning, "my_reward", True),
    (FutureWarning, "algorithms.dpo", True), (FutureWarning, "torchmetrics.text", True),
    (UserWarning, "transformers.modeling_utils", True), (RuntimeWarning, "torch.nn", True)])
def test_only_libraries_notices_of_what_they_rename_are_silent(category, module, expected, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    assert shown(category, module) is expected
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    assert shown(category, module), "asked for by python -W"


@pytest.mark.parametrize("progress, terminal", [(True, True), (True, False), (False, True)])
def test_libraries_show_bars_where_a_run_does(progress, terminal, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("io.StringIO", type("Stream", (io.StringIO,), {"isatty": lambda stream: terminal}))
    monkeypatch.setattr("algorithms.common.support.quiet.without_bars", lambda: called.append(True))
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4)
    invoke("task=inspect", "data=file", f"data.path={tmp_path}/pairs.jsonl",
           f"trainer.progress={str(progress).lower()}", f"hydra.run.dir={tmp_path}/out",
           f"stages.folder={tmp_path}/stages")
    assert called == [True] * (not (progress and terminal))


@pytest.mark.parametrize("first, shown", [("without_bars()", "False"), ("None", "True")])
def test_without_bars_transformers_shows_none_of_what_it_loads(first, shown):
    ended = run_python("-c", f"from algorithms.common.support.quiet import without_bars; {first}; "
                             "from transformers.utils import logging; print(logging.is_progress_bar_enabled())")
    assert ended.out.strip() == shown, ended.err
