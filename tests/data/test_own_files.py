"""Files of their own for demonstrations, comparisons, prompts and evaluation; no evaluated prompt is trained on."""

import json

import pytest

from algorithms.common.data.records import FileData
from algorithms.common.support.errors import ConfigError, DataError
from column_setup import write


def compared(*names, folder, file="pairs.jsonl"):
    return write(folder, [{"prompt": f"{n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in names], file)


def answered(*names, folder, file="answers.jsonl"):
    return write(folder, [{"prompt": f"{n}?", "response": f"answer {n}"} for n in names], file)


def bare(*names, folder, file="prompts.jsonl"):
    return write(folder, [{"prompt": f"{n}?"} for n in names], file)


def asked(records):
    return sorted(record.prompt for record in records)


def names(*values):
    return sorted(f"{n}?" for n in values)


def test_each_set_is_read_from_its_own_file(tmp_path):
    data = FileData(path=answered("a", "b", folder=tmp_path), comparisons_path=compared("b", "c", folder=tmp_path),
                    prompts_path=bare("d", "e", folder=tmp_path),
                    evaluation_path=compared("v", "w", folder=tmp_path, file="test.jsonl")).load(0)
    assert asked(data.demonstrations) == names("a", "b") and asked(data.preferences) == names("b", "c")
    assert asked(data.prompts) == names("d", "e")
    assert asked(data.evaluation) == asked(data.heldout) == names("v", "w")
    assert [record.responses for record in data.evaluation] == [["good v"], ["good w"]]
    assert data.report.kinds == {"demonstration": 2, "pair": 4, "prompt": 2} and data.report.read == 8
    assert data.report.own_files["evaluation"] == str(tmp_path / "test.jsonl")
    assert set(data.report.layouts) == {str(path) for path in tmp_path.glob("*.jsonl")}


def test_what_has_no_file_is_made_of_the_rest(tmp_path):
    data = FileData(path=compared(*range(20), folder=tmp_path), heldout=0.1,
                    demonstrations_path=answered("a", "b", folder=tmp_path)).load(0)
    held = asked(data.heldout)
    assert asked(data.evaluation) == held and len(held) == 2
    assert set(asked(data.demonstrations)) == {"a?", "b?"} - set(held)
    assert not set(asked(data.prompts)) & set(held), "a split over all files"
    assert len(asked(data.prompts)) == 20


def test_comparisons_alone_are_demonstrations_and_prompts_too(tmp_path):
    data = FileData(comparisons_path=compared("a", "b", folder=tmp_path), prompts_path=bare("c", folder=tmp_path),
                    heldout=0).load(0)
    assert [record.responses for record in data.demonstrations] == [["good a"], ["good b"]]
    assert asked(data.prompts) == ["c?"]


def test_comparisons_of_another_sets_file_reach_no_set_of_comparisons(tmp_path):
    own = [f"a{i}" for i in range(20)]
    answers = compared(*own, folder=tmp_path, file="answers.jsonl")
    data = FileData(comparisons_path=compared(*range(20), folder=tmp_path), demonstrations_path=answers, audit=0.5,
                    heldout=0.2).load(0)
    comparisons = set(names(*range(20)))
    for records in (data.preferences, data.heldout, data.audit):
        assert len(records) and set(asked(records)) <= comparisons
    assert set(asked(data.demonstrations)) <= set(names(*own)) and set(asked(data.evaluation)) - comparisons
    assert len(data.audit) == len(data.preferences), "half of the comparisons, whatever else the run reads"
    alone = FileData(demonstrations_path=answers, heldout=0.2, audit=0.5).load(0)
    assert not len(alone.preferences) and not len(alone.heldout) and alone.audit is None
    assert len(alone.demonstrations) == 16 and len(alone.evaluation) == 4


def test_evaluated_prompts_are_left_out_of_training_counted_and_said(tmp_path, caplog):
    data = FileData(path=compared("a", "b", "c", folder=tmp_path),
                    demonstrations_path=answered("c", "d", folder=tmp_path),
                    evaluation_path=bare("c", "b", "x", folder=tmp_path, file="test.jsonl"), heldout=0).load(0)
    assert asked(data.preferences) == ["a?"] and asked(data.demonstrations) == ["d?"]
    assert asked(data.prompts) == names("a", "d") and asked(data.evaluation) == names("b", "c", "x")
    assert data.report.dropped == {"prompt evaluated": 3} and data.report.kept == 5
    assert data.report.kinds == {"pair": 1, "demonstration": 1, "prompt": 3} and data.report.strict_pairs == 1
    assert data.report.lines["prompt evaluated"][0] == f"{tmp_path}/pairs.jsonl:2"
    assert "left out 3 records, whose prompts are evaluated" in caplog.text


def test_bare_evaluation_prompts_leave_a_share_of_the_comparisons_held_out(tmp_path):
    data = FileData(path=compared(*range(20), folder=tmp_path), heldout=0.2,
                    evaluation_path=bare("x", folder=tmp_path)).load(0)
    assert asked(data.evaluation) == ["x?"] and len(data.heldout) == 4 and len(data.preferences) == 16


def test_a_file_is_read_in_its_own_way(tmp_path):
    options = {"columns": {"prompt": "q", "response": "a"}, "chat": True}
    data = FileData(path=compared("a", folder=tmp_path), heldout=0, reading={"demonstrations": options},
                    demonstrations_path=write(tmp_path, "q;a\nx;y\n", "a.csv"), delimiter=None)
    with pytest.raises(DataError, match="the one column 'q;a'(.|\n)*in the file for demonstrations: .*data.reading"):
        data.load(0)
    options["delimiter"] = ";"
    (record,) = data.load(0).demonstrations
    assert (record.prompt, record.responses) == ([{"role": "user", "content": "x"}], ["y"])


@pytest.mark.parametrize("reading, told", [
    ({"demonstrations": {}}, "data.reading.demonstrations: found no file of its own .*data.demonstrations_path=FILE"),
    ({"prompts": {"heldout": 1}}, "data.reading.prompts.heldout: found no such option; expected one of format")])
def test_readings_of_nothing_are_refused(tmp_path, reading, told):
    with pytest.raises(ConfigError, match=told):
        FileData(path="a.jsonl", prompts_path="b.jsonl", reading=reading)


def saved(folder, **splits):
    import datasets

    parts = {name: datasets.Dataset.from_list([{"prompt": f"{n}?", "chosen": "x", "rejected": "y"} for n in rows])
             for name, rows in splits.items()}
    datasets.DatasetDict(parts).save_to_disk(folder)
    return str(folder)


def test_the_test_split_of_a_saved_dataset_is_evaluated(tmp_path, caplog):
    path = saved(tmp_path / "d", train="abcd", test="dxy", other="z")
    with caplog.at_level("INFO"):
        data = FileData(path=path).load(0)
    assert asked(data.evaluation) == asked(data.heldout) == names(*"dxy") and asked(data.preferences) == names(*"abc")
    assert f"evaluation: from {path} (test) alone" in caplog.text
    assert {record.meta["source"] for record in data.evaluation} == {f"{path}/test"}
    data = FileData(path=path, evaluation_split=None, heldout=0.25).load(0)
    assert len(data.evaluation) == 1 and len(data.preferences) == 3
    assert asked(FileData(path=path, evaluation_split="other").load(0).evaluation) == ["z?"]
    assert asked(FileData(path=path, split="test", heldout=0).load(0).preferences) == names(*"dxy")
    own = bare("v", folder=tmp_path)
    assert asked(FileData(path=path, evaluation_path=own, heldout=0).load(0).evaluation) == ["v?"]
    with pytest.raises(DataError, match="found the splits train, test, other; expected one named nothing"):
        FileData(path=path, evaluation_split="nothing").load(0)


def test_the_test_files_of_a_folder_are_evaluated(tmp_path):
    compared("a", "b", folder=tmp_path, file="train-00000-of-00001.jsonl")
    compared("t", folder=tmp_path, file="test-00000-of-00001.jsonl")
    data = FileData(path=str(tmp_path)).load(0)
    assert asked(data.preferences) == names("a", "b") and asked(data.evaluation) == ["t?"]


def test_the_split_of_a_hub_dataset_is_evaluated_where_it_is_named(tmp_path, monkeypatch):
    asked_for = []

    def load(name, subset, split, **options):
        asked_for.append(split)
        return [{"prompt": f"{split} {n}?", "chosen": "x", "rejected": "y"} for n in range(3)]

    monkeypatch.setattr("datasets.load_dataset", load)
    assert len(FileData(name="some/set", split="train_prefs", evaluation_split="test_prefs").load(0).evaluation) == 3
    FileData(name="some/set").load(0)
    assert asked_for == ["train_prefs", "test_prefs", "train"]


def test_the_options_compose(tmp_path):
    from command_line import invoke

    compared(*range(6), folder=tmp_path)
    bare("x", folder=tmp_path, file="p.jsonl")
    ended = invoke("task=inspect", "data=file", f"data.path={tmp_path}/pairs.jsonl",
                   f"data.evaluation_path={tmp_path}/p.jsonl", "+data.reading.evaluation.chat=true",
                   f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    report = json.loads(next((tmp_path / "run").glob("*.json")).read_text())
    assert report["sets"]["evaluation"] == 1 and report["own_files"] == {"evaluation": f"{tmp_path}/p.jsonl"}
