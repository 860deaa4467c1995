"""What is set aside for the auditor: by prompt, from no method's eyes, and none where it would be too little."""

import dataclasses
import json
from pathlib import Path

import pytest

from algorithms.common.data.records import DataSets, FileData, LoadReport, Records
from algorithms.common.data.records.mixture import Mixture
from algorithms.common.data.records.record import Record
from algorithms.common.rewards.sources import Function
from algorithms.common.support.errors import ConfigError
from benchmarks.lab.reviews_data import ReviewsData

TRAINING = ("preferences", "demonstrations", "prompts")


def file(folder: Path, comparisons: int, demonstrations: int = 0, each: int = 1) -> str:
    """Comparisons, ``each`` of a prompt, and single responses to the same prompts."""
    rows = [{"prompt": f"prompt {i}", "chosen": f"good {j}", "rejected": f"bad {j}"}
            for i in range(comparisons) for j in range(each)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "pairs.jsonl")


def prompts(*sets: Records | None) -> set[str]:
    return {record.prompt for records in sets if records is not None for record in records}


def trained_on(data: DataSets) -> set[str]:
    return prompts(*(getattr(data, name) for name in TRAINING))


def test_a_share_of_the_prompts_is_set_aside_and_trained_on_by_nothing(tmp_path):
    path = file(tmp_path, 60, each=2)
    plain, data = FileData(path, audit=0.0).load(0), FileData(path, audit=0.25).load(1)
    assert plain.audit is None and len(plain.preferences) == 108  # of 54 prompts that are not held out
    aside, held = prompts(data.audit), prompts(data.heldout, data.evaluation)
    assert len(data.audit) == 28 and len(aside) == 14, "round(.25 · 54), each with both of its comparisons"
    assert not aside & trained_on(data) and not aside & held and not held & trained_on(data)
    assert aside | trained_on(data) == trained_on(plain) and held == prompts(plain.heldout), "held out as without it"
    more = FileData(path, audit=0.5).load(0)
    assert aside < prompts(more.audit), "a larger share extends the smaller one"


def test_single_responses_to_a_prompt_that_is_set_aside_go_with_it(tmp_path):
    rows = [{"prompt": f"prompt {i}", "response": "shown"} for i in range(40)]
    rows += [{"prompt": f"prompt {i}", "responses": ["good", "bad"], "scores": [1, 0]} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    to_record = {"mapper": lambda row: Record(row["prompt"],
                                              [row["response"]] if "response" in row else row["responses"],
                                              row.get("scores"))}
    data = FileData(str(tmp_path / "rows.jsonl"), audit=0.5, heldout=0.0, **to_record).load(0)
    assert len(data.audit) == 15 and not prompts(data.audit) & trained_on(data)
    assert all(len(record.responses) == 2 for record in data.audit)
    assert len(data.demonstrations) == 40 - 15, "prompts that nobody compared are all trained on"


@pytest.mark.parametrize("count, aside", [(540, 0), (570, 103)])
def test_by_default_a_fifth_where_that_is_a_hundred_comparisons(tmp_path, caplog, count, aside):
    data = FileData(file(tmp_path, count)).load(0)  # .9 · 540 · .2 = 97; .9 · 570 · .2 = 102.6
    assert [text for text in caplog.messages if text.startswith("no auditor")] == [] if aside else [
        "no auditor: a fifth would be 97 comparisons, fewer than 100; without another judge nothing but what methods "
        "learn from will score answers; fix: data.audit=0.3"]
    assert (0 if data.audit is None else len(data.audit)) == aside
    assert len(data.preferences) == round(0.9 * count) - aside


@pytest.mark.parametrize("settings", [{"audit": 0.3}, {"audit": 0.0}, {"gold": Function(len)}])
def test_no_auditor_is_missed_where_one_was_named_or_the_truth_is_known(tmp_path, caplog, settings):
    data = FileData(file(tmp_path, 40), **settings).load(0)  # round(.3 · 36) = 11
    assert (0 if data.audit is None else len(data.audit)) == (11 if settings.get("audit") else 0)
    assert "no auditor" not in caplog.text


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ConfigError, match=r"data\.audit: found .*; expected a share from 0"):
        FileData("x.jsonl", audit=share)


def test_data_without_comparisons_sets_nothing_aside(tmp_path):
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps({"prompt": f"p {i}", "response": "r"}) + "\n"
                                                  for i in range(1000)), encoding="utf-8")
    data = FileData(str(tmp_path / "shown.jsonl"), audit=0.5).load(0)
    assert data.audit is None and len(data.demonstrations) == 900


@dataclasses.dataclass
class Given:
    data: DataSets

    def load(self, seed: int) -> DataSets:
        return self.data


def test_a_mixture_unites_what_its_sources_set_aside_and_trains_on_none_of_it():
    def source(mark: str, preferences: list[str], audit: list[str] | None, heldout: list[str] = ()) -> Given:
        def compared(names):
            return Records.from_list([Record(name, [f"{mark} good", f"{mark} bad"], [1.0, 0.0]) for name in names])

        none = Records.from_list([])
        return Given(DataSets(compared(preferences), none, none, evaluation=none, heldout=compared(heldout),
                              tuning=none,
                              report=LoadReport(), audit=None if audit is None else compared(audit)))

    sources = {"a": source("a", ["1", "2", "3"], ["4", "5"]), "b": source("b", ["4", "6"], None, ["5"]),
               "c": source("c", ["7"], ["8"])}
    data = Mixture({name: {"data": one} for name, one in sources.items()}, total=6).load(0)
    assert prompts(data.audit) == {"4", "8"}, "what another source holds out measures the auditor"
    assert "4" not in prompts(data.preferences) and {"1", "6", "7"} <= prompts(data.preferences)
    assert {record.meta["origin"] for record in data.audit} == {"a", "c"}
    without = Mixture({"b": {"data": sources["b"]}}).load(0)
    assert without.audit is None


def test_the_lab_sets_aside_further_comparisons_and_none_by_default():
    plain, data, more = (ReviewsData(**sizes).load(0) for sizes in ({}, {"audit": 64}, {"audit": 1024}))
    assert plain.audit is None and len(data.audit) == 64 and len(more.audit) == 1024
    for name in (*TRAINING, "heldout", "evaluation", "tuning"):
        assert getattr(data, name).fingerprint == getattr(plain, name).fingerprint, "what methods learn from stays"
    assert not prompts(more.audit) & (trained_on(more) | prompts(more.heldout, more.evaluation, more.tuning))
    assert prompts(data.audit) < prompts(more.audit)
    assert data.report.read == plain.report.read + 64
    assert data.audit.fingerprint != ReviewsData(audit=64).load(1).audit.fingerprint, "the seed draws its labels"


@pytest.mark.parametrize("sizes, told",
                         [({"audit": 1026}, "from 0 to 1024"), ({"audit": 3}, "an even number up to 1024"),
                                         ({"audit": -2}, "from 0 to 1024")])
def test_the_lab_refuses_what_it_has_not(sizes, told):
    with pytest.raises(ConfigError, match=rf"data\.audit: found .*; expected .*{told}"):
        ReviewsData(**sizes).load(0)
