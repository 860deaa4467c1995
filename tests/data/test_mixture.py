"""Mixtures of data sources: quotas worked by hand, drawing, no prompt on two sides, what is counted."""

import functools
import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from algorithms.common.data.records import DataSets, FileData, Record, Records
from algorithms.common.data.records.mixing import quotas
from algorithms.common.data.records.mixture import MeasureByOrigin, Mixture, largest_total
from algorithms.common.data.records.told import LoadReport
from algorithms.common.runs.settings import build
from algorithms.common.support.errors import ConfigError, DataError
from command_line import composed, invoke


@dataclass
class Given:
    """A source whose sets are given as lists."""

    preferences: list = field(default_factory=list)
    demonstrations: list = field(default_factory=list)
    prompts: list = field(default_factory=list)
    evaluation: list = field(default_factory=list)
    heldout: list = field(default_factory=list)
    tuning: list = field(default_factory=list)
    choices: list | None = None
    gold: object = None
    measure: object = None
    report: LoadReport = field(default_factory=LoadReport)

    def load(self, seed: int) -> DataSets:
        sets = {name: Records.from_list(getattr(self, name)) for name in
                ("preferences", "demonstrations", "prompts", "evaluation", "heldout", "tuning")}
        choices = None if self.choices is None else Records.from_list(self.choices)
        return DataSets(**sets, choices=choices, gold=self.gold, measure=self.measure, report=self.report)


def pairs(name, count, **meta):
    return [Record(f"{name} {i}", ["good", "bad"], [1.0, 0.0], dict(meta)) for i in range(count)]


def mixture(total=None, **sources):
    """mixture(a=(weight, source), …)"""
    return Mixture({name: {"weight": weight, "data": data} for name, (weight, data) in sources.items()}, total)


def origins(records):
    return Counter(record.meta["origin"] for record in records)


# How many of each


@pytest.mark.parametrize("weights, total, expected", [
    ([1, 3], 13, [3, 10]),              # 3.25 and 9.75: the larger remainder is rounded up
    ([1, 1, 1], 10, [4, 3, 3]),         # equal remainders: the earlier
    ([0.1, 0.2, 0.7], 10, [1, 2, 7]),   # as decimals these are whole
    ([0.5, 0], 3, [3, 0]),
    ([1, 2], 0, [0, 0]),
])
def test_quotas_are_exact(weights, total, expected):
    assert quotas(weights, total) == expected


@pytest.mark.parametrize("weights", [[0, 0], [-1, 2], []])
def test_quotas_of_nothing(weights):
    with pytest.raises(ValueError):
        quotas(weights, 3)


@pytest.mark.parametrize("weights, sizes, expected", [
    ([1, 3], [6, 10], 13),              # 6 / ¼ = 24, 10 / ¾ = 13⅓
    ([1, 1], [5, 9], 10),
    ([0.1, 0.2], [1, 2], 3),            # in floating point 0.1 + 0.2 is not 0.3
    ([2], [7], 7),
])
def test_the_largest_total_repeats_no_source(weights, sizes, expected):
    assert largest_total(weights, sizes) == expected
    assert all(count <= size for count, size in zip(quotas(weights, expected), sizes, strict=True))


# Drawing


def test_every_training_set_is_mixed_by_the_weights():
    a = Given(preferences=pairs("a", 6), prompts=[Record(f"a? {i}", []) for i in range(2)])
    b = Given(preferences=pairs("b", 10), demonstrations=[Record(f"b! {i}", ["x"]) for i in range(5)],
              prompts=[Record(f"b? {i}", []) for i in range(40)])
    data = mixture(a=(1, a), b=(3, b)).load(0)
    assert origins(data.preferences) == {"a": 3, "b": 10}
    assert origins(data.prompts) == {"a": 2, "b": 6}, "2 / ¼ = 8"
    assert origins(data.demonstrations) == {"b": 5}, "a has none: b gives them all"
    assert data.report.sources["a"] | {"preferences": 3, "preferences_available": 6, "drawn": 5, "repeated": 0} == \
        data.report.sources["a"]
    for name in ("preferences", "demonstrations", "prompts"):
        assert sum(counts[name] for counts in data.report.sources.values()) == len(getattr(data, name))
        contents = [record.key for record in getattr(data, name)]
        assert len(set(contents)) == len(contents), "drawn without replacement"


def test_the_seed_draws_and_the_order_mixes():
    sources = {"a": (1, Given(preferences=pairs("a", 50))), "b": (1, Given(preferences=pairs("b", 50)))}
    drawn = [[record.prompt for record in mixture(40, **sources).load(seed).preferences] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] and set(drawn[0]) != set(drawn[2])
    firsts = [prompt[0] for prompt in drawn[0]]
    assert firsts.count("a") == firsts.count("b") == 20
    assert {"a", "b"} == set(firsts[:10]) == set(firsts[-10:]), "not one source after the other"


def test_only_a_total_repeats_a_source_and_that_is_counted_and_said(caplog):
    data = mixture(10, a=(1, Given(preferences=pairs("a", 2))), b=(1, Given(preferences=pairs("b", 9)))).load(0)
    assert origins(data.preferences) == {"a": 5, "b": 5}
    times = Counter(record.prompt for record in data.preferences if record.meta["origin"] == "a")
    assert sorted(times.values()) == [2, 3], "no record a third time before all were there twice"
    assert data.report.sources["a"]["repeated"] == 3 and data.report.sources["b"]["repeated"] == 0
    assert "preferences: a repeats 3 of its 2 records to give 5 (data.total=10)" in caplog.text


def test_a_source_of_weight_0_is_only_evaluated():
    a = Given(preferences=pairs("a", 4), evaluation=[Record("held a", [])])
    b = Given(preferences=pairs("b", 3), evaluation=[Record("held b", [])])
    data = mixture(a=(0, a), b=(1, b)).load(0)
    assert origins(data.preferences) == {"b": 3} and origins(data.evaluation) == {"a": 1, "b": 1}
    assert data.report.sources["a"]["drawn"] == 0


# What is held out


def test_held_out_sets_are_united_one_of_each_source_in_turn():
    a = Given(evaluation=[Record(f"a {i}", ["x"]) for i in range(3)], heldout=pairs("a", 3), tuning=[Record("ta", [])])
    b = Given(evaluation=[Record("b 0", ["x"])], heldout=pairs("b", 1))
    data = mixture(a=(1, a), b=(99, b)).load(0)
    assert [record.prompt for record in data.evaluation] == ["a 0", "b 0", "a 1", "a 2"]
    assert origins(data.heldout) == {"a": 3, "b": 1} and origins(data.tuning) == {"a": 1}
    assert data.report.sources["a"]["evaluation"] == 3 and data.report.sources["b"]["heldout"] == 1


def test_a_prompt_held_out_in_one_source_is_in_no_training_set_of_another(caplog):
    """Four ways to hold a prompt out; the messages form of a prompt is the same prompt."""
    held = Given(evaluation=[Record("a 0", [])], heldout=pairs("a", 2), tuning=[Record("a 2", [])],
                 choices=[Record([{"role": "user", "content": "a 3"}], ["x", "y"], [1.0, 0.0])])
    rows = [Record(f"a {i}", ["good", "bad"], [1.0, 0.0], {"source": "f.jsonl", "line": i + 1}) for i in range(6)]
    train = Given(preferences=rows, demonstrations=[Record(row.prompt, ["good"], None, row.meta) for row in rows],
                  prompts=[Record(row.prompt, [], None, row.meta) for row in rows],
                  report=LoadReport(read=7, kept=6, dropped={"null": 1}, kinds={"pair": 6}, strict_pairs=6))
    data = mixture(held=(0, held), train=(1, train)).load(0)
    for name in ("preferences", "demonstrations", "prompts"):
        assert sorted(record.prompt for record in getattr(data, name)) == ["a 4", "a 5"], name
    report = data.report
    assert report.dropped == {"null": 1, "prompt held out elsewhere": 4}, "a line of the file counts once"
    assert report.lines["prompt held out elsewhere"] == [f"f.jsonl:{line}" for line in (1, 2, 3, 4)]
    assert (report.read, report.kept, report.strict_pairs, report.kinds) == (7, 2, 2, {"pair": 2})
    assert report.sources["train"]["held_out_elsewhere"] == 4 and report.sources["held"]["held_out_elsewhere"] == 0
    assert "train: left out 4 records" in caplog.text
    assert train.report.kept == 6, "the source's own report stays as it was"


def test_a_conversation_held_out_in_one_source_is_not_continued_in_another():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"},
             {"role": "user", "content": "b"}]
    held = Given(heldout=[Record(turns, ["x", "y"], [1.0, 0.0])])
    train = Given(prompts=[Record("a", []), Record("b", []), Record(turns[:1], [])])
    assert [record.prompt for record in mixture(held=(0, held), train=(1, train)).load(0).prompts] == ["b"]


def test_every_record_that_one_row_made_is_counted():
    """A row with ten pairs of one prompt, of which demonstrations and a prompt are made; another row stays."""
    rows = [Record(f"a {line}", [f"good {n}", "bad"], [1.0, 0.0], {"source": "f.jsonl", "line": line})
            for line in (1, 2) for n in range(10)]
    train = Given(preferences=rows,
                  demonstrations=[Record(row.prompt, row.responses[:1], None, row.meta) for row in rows],
                  prompts=[Record(row.prompt, [], None, row.meta) for row in rows[::10]],
                  report=LoadReport(read=2, kept=20, kinds={"pair": 20}, strict_pairs=20,
                                    fallbacks={"demonstrations": "preferred responses", "prompts": "prompts of all"}))
    report = mixture(held=(0, Given(evaluation=[Record("a 1", [])])), train=(1, train)).load(0).report
    assert report.dropped == {"prompt held out elsewhere": 10}
    assert report.lines == {"prompt held out elsewhere": ["f.jsonl:1"]}
    assert (report.kept, report.kinds, report.strict_pairs) == (10, {"pair": 10}, 10)


def test_a_row_with_a_pair_and_a_demonstration_loses_both():
    meta = {"source": "f.jsonl", "line": 1}
    rated = Record("a", ["so"], [1.0], meta)             # lies in two sets
    train = Given(preferences=[Record("a", ["good", "bad"], [1.0, 0.0], meta), rated],
                  prompts=[Record("a", [], None, meta)], demonstrations=[Record("a", ["fine"], None, meta), rated],
                  report=LoadReport(kept=3, kinds={"pair": 1, "demonstration": 1, "scored response": 1}, strict_pairs=1,
                                    fallbacks={"prompts": "prompts of all training records"}))
    report = mixture(held=(1, Given(preferences=pairs("b", 1), evaluation=[Record("a", [])])),
                     train=(1, train)).load(0).report
    assert report.dropped == {"prompt held out elsewhere": 3} and report.kept == report.strict_pairs == 0
    assert set(report.kinds.values()) == {0}


def test_records_without_a_line_are_counted_one_by_one():
    held, train = Given(evaluation=[Record("a 0", [])]), Given(preferences=pairs("a", 1) * 2 + pairs("b", 1))
    report = mixture(held=(1, held), train=(1, train)).load(0).report
    assert report.dropped == {"prompt held out elsewhere": 2}
    assert report.lines == {"prompt held out elsewhere": ["train"]}


def test_what_a_source_holds_out_of_itself_is_its_own_affair():
    one = Given(preferences=pairs("a", 3), choices=[Record("a 0", ["x", "y"], [1.0, 0.0])])
    assert len(mixture(one=(1, one)).load(0).preferences) == 3


def test_a_prompt_that_two_sources_evaluate_stays_with_the_first():
    a = Given(evaluation=[Record("p", ["a"]), Record("p", ["also a"])], tuning=[Record("t", [])])
    b = Given(evaluation=[Record("p", ["b"]), Record("q", ["b"])], tuning=[Record(text, []) for text in "qpr"])
    data = mixture(a=(1, a), b=(1, b)).load(0)
    assert [record.responses for record in data.evaluation] == [["a"], ["b"], ["also a"]]
    assert data.report.sources["b"]["evaluated_elsewhere"] == 1
    tuned_on = sorted(record.prompt for record in data.tuning)
    assert tuned_on == ["q", "r", "t"], "tuned on nothing another source evaluates"


def test_files_as_sources_add_up(tmp_path):
    """Two halves that share 20 prompts: no prompt is on both sides, and every row is accounted for."""
    sources = {}
    for name, numbers in (("first", range(60)), ("second", range(40, 120))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"q {i}", "chosen": "yes", "rejected": "no"}) + "\n"
                                for i in numbers)
                        + '{"prompt": "q", "chosen": "", "rejected": "no"}\n')
        sources[name] = (1, FileData(str(path), on_bad_row="drop", heldout=0.5))
    data = mixture(**sources).load(0)
    held = {hash_ for name in ("evaluation", "heldout") for hash_ in getattr(data, name).prompt_hashes.tolist()}
    for name in ("preferences", "demonstrations", "prompts"):
        assert not held & set(getattr(data, name).prompt_hashes.tolist())
    report = data.report
    removed = report.dropped["prompt held out elsewhere"]
    assert removed > 0 and report.dropped["empty response"] == 2
    assert report.read == 142 == report.kept + sum(report.dropped.values())
    assert report.kept == report.strict_pairs == sum(report.kinds.values()) == 140 - removed
    for key in ("read", "kept"):
        assert sum(counts[key] for counts in report.sources.values()) == getattr(report, key)
    assert report.fallbacks["demonstrations"] == "first: preferred responses; second: preferred responses"
    assert set(report.layouts) == {str(tmp_path / f"{name}.jsonl") for name in sources}
    evaluated = data.evaluation.prompt_hashes.tolist()
    assert len(evaluated) == len(set(evaluated))


# Gold, choices and measures


def some_gold(prompts, responses, finished):
    return [1.0] * len(prompts)


def test_gold_is_kept_only_where_all_sources_have_the_same(caplog):
    def load(*golds):
        return mixture(**{f"s{i}": (1, Given(gold=gold)) for i, gold in enumerate(golds)}).load(0).gold

    assert load(some_gold, some_gold) is some_gold
    assert not caplog.text.count("gold")
    assert load(some_gold, None) is None and "gold: the sources differ" in caplog.text
    assert load(some_gold, functools.partial(some_gold)) is None
    assert load(None, None) is None and caplog.text.count("gold") == 2


def question(text, **meta):
    return Record(text, ["a", "b", "c"], [1.0, 0.0, 0.0], meta)


def test_choices_are_united_and_measures_go_to_their_source():
    seen = []

    def measured(record, response, finished):
        seen.append(record.meta)
        return {"accuracy/cot": float(response == "right")}

    a = Given(evaluation=[Record("a", [], None, {"origin": "city", "task": "city"})],
              choices=[question("ca", groups=["g"])],
              measure=measured)
    b = Given(evaluation=[Record("b", [])])
    data = mixture(a=(1, a), b=(1, b)).load(0)
    assert [record.meta for record in data.choices] == [{"groups": ["g"], "origin": "a"}]
    first, second = data.evaluation
    assert first.meta["origin"] == "a" and data.measure == MeasureByOrigin({"a": measured})
    assert data.measure(first, "right", True) == {"accuracy/cot": 1.0} and data.measure(second, "right", True) == {}
    assert seen == [{"origin": "city", "task": "city"}], "the source sees its record as it was"
    assert mixture(b=(1, b)).load(0).measure is None and mixture(b=(1, b)).load(0).choices is None


def test_a_mixture_may_be_a_source():
    def measured(record, response, finished):
        return {record.meta["origin"]: 1.0}

    evaluation = [Record("e", [], None, {"origin": "x"})]
    inner = mixture(city=(1, Given(preferences=pairs("a", 3), evaluation=evaluation, measure=measured)))
    data = mixture(outer=(1, inner), b=(1, Given(preferences=pairs("b", 3)))).load(0)
    (record,) = data.evaluation
    assert record.meta["origin"] == "outer" and data.measure(record, "", True) == {"x": 1.0}
    assert origins(data.preferences) == {"outer": 3, "b": 3}
    assert data.report.sources["outer/city"]["preferences"] == 3


# Configuration


FILES = "algorithms.common.data.records.FileData"


def entry(**keys):
    return {"data": {"_target_": "test_mixture.Given"}, **keys}


@pytest.mark.parametrize("sources, message", [
    ({"a": {"weight": 1.0}}, "data.sources.a.data: found none; expected a data source's config"),
    ({"a": entry(weigth=1.0)}, "data.sources.a.weigth: found no such key; expected one of data, weight"),
    ({"a": entry(weight=-1)}, "data.sources.a.weight: found -1; expected a number from 0"),
    ({"a": entry(weight="2")}, "data.sources.a.weight: found '2'"),
    ({"a": entry(weight=True)}, "data.sources.a.weight: found True"),
    ({"a": {"data": {"path": "x"}}}, "data.sources.a.data: found \"{'path': 'x'}\"; expected a data source's config"),
    ({"a": 3}, "data.sources.a: found 3; expected"),
    ({"a": entry(weight=0)}, "data.sources: found the weight 0 for every source"),
    ({"a": {"data": {"_target_": FILES}}}, "data.sources.a.data.path: found neither it nor data.name"),
    ({"a": {"data": {"_target_": FILES, "pth": "x"}}}, "data.sources.a.data.pth: found no such key"),
])
def test_a_wrong_source_is_refused(sources, message):
    config = composed("data=mixture")
    config.data.sources = sources
    with pytest.raises(ConfigError) as caught:
        build(config, ("data",))
    assert str(caught.value).startswith(message)


def test_a_wrong_total_and_no_source_are_refused():
    with pytest.raises(ConfigError, match=r"data.total: found 0; expected at least 1"):
        mixture(0, a=(1, Given()))
    with pytest.raises(ConfigError,
                       match=r"data.sources: found none; expected at least one; fix: '\+data.sources.NAME="):
        Mixture().load(0)


def test_what_is_wrong_in_a_source_says_which(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "a"}\n')
    with pytest.raises(DataError) as caught:
        mixture(hh=(1, FileData(str(tmp_path / "a.jsonl")))).load(0)
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl:1: ")
    assert str(caught.value).endswith("(in the source hh: its keys data.… are data.sources.hh.data.… here)")


def test_on_the_command_line_sources_are_written_out_or_taken_from_the_group(tmp_path):
    file = "{_target_: algorithms.common.data.records.FileData, path: hh.jsonl}"
    written = f"+data.sources.hh={{weight: 2.0, data: {file}}}"
    parts = build(composed("data=mixture", written,
                           "+data@data.sources.lab.data=reviews", "data.sources.lab.data.preferences=64",
                           "+data@data.sources.more.data=file", "data.sources.more.data.path=x.jsonl",
                           "+data.sources.more.weight=0.5", "data.total=99"), ("data",))
    made = parts["data"]
    assert made.weights == {"hh": 2.0, "lab": 1.0, "more": 0.5} and made.total == 99
    assert made.sources["hh"]["data"] == FileData("hh.jsonl") and made.sources["more"]["data"] == FileData("x.jsonl")
    assert made.sources["lab"]["data"].preferences == 64


@pytest.mark.slow
def test_a_mixture_is_inspected(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q {i}", "chosen": "yes", "rejected": "no"}) + "\n"
                            for i in range(30)))
    ended = invoke("task=inspect", "data=mixture", "+data@data.sources.own.data=file",
                   f"data.sources.own.data.path={path}",
                   "+data@data.sources.lab.data=reviews", "+data.sources.lab.weight=3", "data.total=40",
                   f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    report = json.loads((tmp_path / "run/data.json").read_text())
    assert report["sources"]["own"]["preferences"] == 10 and report["sources"]["lab"]["preferences"] == 30
    assert report["sets"]["preferences"] == 40


def test_records_stream_through_a_mixture():
    """Sources larger than a stored batch, drawn in part, come whole and in their own order."""
    size = 5000
    data = mixture(a=(1, Given(preferences=pairs("a", size))), b=(2, Given(preferences=pairs("b", size)))).load(3)
    assert origins(data.preferences) == {"a": 2500, "b": 5000}
    numbers = [int(record.prompt[2:]) for record in data.preferences if record.meta["origin"] == "b"]
    assert np.array_equal(numbers, np.arange(size))


def test_a_source_of_weight_0_is_evaluated_on_its_own_evaluation_where_it_has_one(tmp_path):
    for name, count in (("a", 20), ("b", 20), ("test", 3)):
        (tmp_path / f"{name}.jsonl").write_text("".join(
            f'{{"prompt": "{name}{i}", "chosen": "x", "rejected": "y"}}\n' for i in range(count)))
    own = FileData(path=str(tmp_path / "b.jsonl"), evaluation_path=str(tmp_path / "test.jsonl"))
    mixed = Mixture({"a": {"data": FileData(path=str(tmp_path / "a.jsonl"), heldout=0.0)},
                     "b": {"data": own, "weight": 0}}).load(0)
    assert {record.prompt for record in mixed.evaluation} == {"test0", "test1", "test2"}
    assert {record.prompt[0] for record in mixed.preferences} == {"a"}


def test_a_source_of_weight_0_is_evaluated_whole_in_a_mixture_within_one_too(tmp_path):
    paths = {name: tmp_path / f"{name}.jsonl" for name in "abc"}
    for name, path in paths.items():
        path.write_text("".join(f'{{"prompt": "{name}{i}", "chosen": "x", "rejected": "y"}}\n' for i in range(20)))
    data = {name: FileData(path=str(path)) for name, path in paths.items()}
    inner = Mixture({"b": {"data": data["b"]}, "c": {"data": data["c"]}})
    mixed = Mixture({"a": {"data": data["a"]}, "rest": {"data": inner, "weight": 0}}).load(0)
    evaluated = sorted(record.prompt for record in mixed.evaluation)
    assert evaluated[-40:] == sorted(f"{name}{i}" for name in "bc" for i in range(20)) and len(evaluated) == 42
    assert {record.prompt[0] for record in mixed.preferences} == {"a"} and len(mixed.preferences) == 18
    assert len(mixed.heldout) == 42 and data["b"].heldout == 0.1
