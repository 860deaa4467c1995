"""Prompts that settings are chosen on: a share of any file's, by their hash, in no training set and not reported."""

import json

import pytest
from test_audit import file, prompts, trained_on

from algorithms.common.data.records import FileData
from algorithms.common.data.records.mixture import Mixture
from algorithms.common.data.refusals.data import RefusalData
from algorithms.common.evaluation.evaluate import EvalConfig, evaluated_prompts
from algorithms.common.support.errors import ConfigError


def test_a_share_of_the_prompts_is_for_tuning_and_trained_on_by_nothing(tmp_path):
    path = file(tmp_path, 60, each=2)
    plain, data = FileData(path).load(0), FileData(path, tuning=0.25).load(1)
    assert not len(plain.tuning) and plain.report.to_dict() == data.report.to_dict()
    tuned, held = prompts(data.tuning), prompts(data.heldout, data.evaluation)
    assert len(tuned) == len(data.tuning) == 14, "round(.25 · 54): a prompt once, however many compare it"
    assert held == prompts(plain.heldout), "what is reported stays as it is"
    assert not tuned & trained_on(data) and not tuned & held and tuned | trained_on(data) == trained_on(plain)
    assert all(record.responses == ["good 0"] for record in data.tuning), "with the preferred answer"
    assert tuned < prompts(FileData(path, tuning=0.5).load(0).tuning), "a larger share extends the smaller one"
    assert prompts(evaluated_prompts(data, EvalConfig(split="tuning"))) == tuned


def test_the_auditor_s_prompts_are_others(tmp_path):
    data = FileData(file(tmp_path, 60), tuning=0.25, audit=0.25).load(0)
    assert len(data.tuning) == 14 and len(data.audit) == 10, "a quarter of the 40 that are left"
    assert not prompts(data.audit) & prompts(data.tuning) and not prompts(data.audit, data.tuning) & trained_on(data)


def test_a_mixture_tunes_on_what_its_sources_set_aside(tmp_path):
    (tmp_path / "other").mkdir()
    parts = {"a": FileData(file(tmp_path, 30), tuning=0.2), "b": FileData(file(tmp_path / "other", 20))}
    data = Mixture({name: {"data": part} for name, part in parts.items()}).load(0)
    assert prompts(data.tuning) <= prompts(parts["a"].load(0).tuning) and len(data.tuning)
    assert not prompts(data.tuning) & trained_on(data)


def test_questions_are_set_aside_of_each_kind(tmp_path):
    rows = [{"question": f"question {i}?", "answer": f"answer {i}" if i % 2 else None, "invented": f"no {i}"}
            for i in range(40)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain, data = RefusalData(str(path)).load(0), RefusalData(str(path), tuning=0.25).load(0)
    kinds = [record.meta["kind"] for record in data.tuning]
    assert kinds.count("answerable") == kinds.count("unanswerable") == 4, "round(.25 · 18) of each"
    assert prompts(data.evaluation) == prompts(plain.evaluation) and not len(plain.tuning)
    assert not prompts(data.tuning) & (trained_on(data) | prompts(data.heldout, data.evaluation))
    assert prompts(data.tuning) | trained_on(data) == trained_on(plain)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_no_share_is_refused(tmp_path, share):
    with pytest.raises(ConfigError, match=f"data.tuning: found {share}; expected a share from 0 up to"):
        FileData(file(tmp_path, 4), tuning=share).load(0)
