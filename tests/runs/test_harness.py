"""task=harness: lm-evaluation-harness's accuracy is our own of the same options; its figures beside the start's."""

import importlib.util
import json
import shutil

import pandas as pd
import pytest
import torch

from algorithms.common.data.records import Record, Records
from algorithms.common.evaluation.choices import rank_options
from algorithms.common.runs import harness
from algorithms.common.runs.harness import HarnessConfig, figures
from algorithms.common.support.errors import ConfigError
from benchmarks.report import publish
from benchmarks.results_read import ReportError, collect
from command_line import MICRO_DPO, invoke
from report_runs import figure, known, result, save

needs_extra = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None,
                                 reason="lm-evaluation-harness (the extra harness) is not installed")
TASK = """task: mood
dataset_path: json
dataset_kwargs:
  data_files: {test: mood.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{options}}"
doc_to_target: right
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WORDS = [f"I found the {what} {how}. The staff was" for what in ("food", "room", "film", "plot")
         for how in ("good", "awful", "plain")]
OPTIONS = [" great", " bad", " plain"]


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of a task of twelve questions, and a cache of its own."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mood.yaml").write_text(TASK)
    rows = [{"prompt": prompt, "options": OPTIONS, "right": place % 3} for place, prompt in enumerate(WORDS)]
    (folder / "mood.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return str(folder)


@needs_extra
def test_its_accuracy_is_our_own_of_the_same_options(make_models, tasks):
    """Of two adapters on one base, which pick different options."""
    models = make_models()
    records = Records.from_list([Record(prompt, OPTIONS, [float(k == place % 3) for k in range(3)])
                                 for place, prompt in enumerate(WORDS)])
    asked = HarnessConfig(["mood"], tasks)
    asked.check()
    right = {}
    for role, seed in (("one", 1), ("two", 2)):
        models.add_role(role, trainable=False, seed=seed)
        with torch.no_grad():
            draw = torch.Generator().manual_seed(seed)
            for parameter in models.role(role).parameters().values():
                parameter.add_(torch.randn(parameter.shape, generator=draw))
        ours = rank_options(models, role, records, 4)["correct"]
        found = figures(asked.ask(models, role, 4))["harness/mood.acc"]
        right[role] = found.rows.set_index("prompt_id")["numerator"].to_dict()
        assert right[role] == {str(place): value for place, value in enumerate(ours)}
        assert (found.kind, found.unit) == ("share", "documents")
    assert right["one"] != right["two"] and models.roles.current == "base"


@needs_extra
def test_a_limit_and_a_chat_template_are_passed_on(make_models, tasks):
    models = make_models()
    models.alias("policy", "base")
    models.template.tokenizer.chat_template = "{% for turn in messages %}<{{ turn.content }}>{% endfor %}"
    found = HarnessConfig(["mood"], tasks, chat=True, limit=3).ask(models, "policy", 4)
    samples = found["samples"]["mood"]
    assert len(samples) == 3 and all("<" + sample["doc"]["prompt"] + ">" in str(sample["arguments"])
                                     for sample in samples)
    plain = HarnessConfig(["mood"], tasks, limit=1).ask(models, "policy", 4)["samples"]["mood"]
    assert "<" not in str(plain[0]["arguments"])


@needs_extra
@pytest.mark.parametrize("config, told", [
    ({"tasks": ["mod"]}, "harness.tasks: found mod, which is no task of .*; expected some of mood; fix: "),
    ({"tasks": []}, "harness.tasks: found none; .*; fix: "),
    ({"tasks": ["mood"], "include_path": "nowhere"}, "harness.include_path: found no folder nowhere"),
    ({"tasks": ["lost"]}, "harness.tasks: found lost, which could not be read .*; fix: dataset_path: json")])
def test_what_cannot_be_asked_is_refused(tasks, config, told):
    with open(f"{tasks}/lost.yaml" if "lost" in config["tasks"] else "/dev/null", "w") as file:
        file.write(TASK.replace("mood", "lost"))
    with pytest.raises(ConfigError, match=told):
        HarnessConfig(**{"include_path": tasks, **config}).check()


def test_without_the_extra_one_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    ended = invoke("task=harness", "harness.tasks=[mood]", f"runs={tmp_path}", f"hydra.run.dir={tmp_path}/h")
    assert ended.status == 2 and ended.err == (
        "task: found harness, and lm-evaluation-harness is not installed; expected the extra harness; "
        "fix: pip install -e '.[harness]' -c constraints.txt\n")


def test_figures_are_the_metrics_that_are_means_over_documents():
    samples = [{"doc_id": 0, "filter": "none", "acc": 1.0, "f1": 0.5, "ppl": 2.0, "brier": 0.5},
               {"doc_id": 1, "filter": "none", "acc": 0.0, "f1": 1.0, "ppl": 8.0, "brier": 0.0},
               {"doc_id": 0, "filter": "strict", "acc": 1.0}, {"doc_id": 1, "filter": "strict", "acc": 1.0}]
    found = figures({"samples": {"t": samples}, "results": {"t": {
        "alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A", "f1,none": 0.75, "ppl,none": 4.0,
        "brier,none": 0.25, "acc,strict": 1.0}}, "higher_is_better": {"t": {"acc": True, "brier": False}}})
    assert {name: (one.kind, one.rows["numerator"].tolist()) for name, one in found.items()} == {
        "harness/t.acc": ("share", [1, 0]), "harness/t.f1": ("mean", [0.5, 1]),
        "harness/t.acc.strict": ("share", [1, 1])}, "ppl is no mean: the harness has 4, the mean is 5"


@needs_extra
def test_finished_runs_are_asked_beside_their_start_and_a_merged_model_answers_alike(tmp_path, tasks):
    common = [f"stages.folder={tmp_path}/stages", "trainer.mixed_precision=no"]
    ended = invoke(*MICRO_DPO, *common, "recipe.lr=0.1", f"hydra.run.dir={tmp_path}/sweep/0")
    assert ended.status == 0, ended.err
    asking = ["task=harness", "harness.tasks=[mood]", f"harness.include_path={tasks}", *common]
    ended = invoke(*asking, f"runs={tmp_path}/sweep", f"hydra.run.dir={tmp_path}/asked")
    assert ended.status == 0, ended.err
    assert "dpo, seed 0" in ended.out and "start (sft)" in ended.out and "harness/mood.acc" in ended.out
    told = json.loads((tmp_path / "sweep/0/harness.json").read_text())
    assert told["start"]["kind"] == "sft" and told["versions"]["lm_eval"] and told["asked"]["tasks"] == ["mood"]
    assert told["harness"]["configs"]["mood"]["doc_to_text"] == "{{prompt}}"
    assert {"harness/mood.acc"} == set(told["evaluation"]) == set(told["start"]["evaluation"])
    table = publish(collect([tmp_path / "sweep"]), tmp_path / "report")
    assert [row.label for row in table.rows] == ["sft, start", "dpo"]
    assert all("harness/mood.acc" in row.estimates for row in table.rows)
    assert "harness (mood.acc)" in (tmp_path / "report/table.md").read_text()

    ended = invoke("task=merge", f"adapter={tmp_path}/sweep/0", *common, f"hydra.run.dir={tmp_path}/merging")
    assert ended.status == 0, ended.err
    ended = invoke(*asking, f"adapter={tmp_path}/merging/merged", f"hydra.run.dir={tmp_path}/alone")
    assert ended.status == 0 and "start (base)" in ended.out, ended.err
    rows = [pd.read_parquet(tmp_path / name / "harness.parquet") for name in ("sweep/0", "alone")]
    assert rows[0].equals(rows[1]) and len(rows[0]) == 12

    shutil.rmtree(tmp_path / "stages")
    ended = invoke(*asking, f"runs={tmp_path}/sweep", f"hydra.run.dir={tmp_path}/again")
    assert ended.status == 0 and "is neither among these runs nor a kept stage" in ended.out + ended.err
    assert json.loads((tmp_path / "sweep/0/harness.json").read_text())["start"]["evaluation"] == {}


def test_a_table_reads_what_it_found_and_refuses_a_torn_file(tmp_path):
    folder = save(tmp_path, result("sft"), result("dpo"))
    accuracy = figure([1, 0, 1], "share", unit="documents")
    told = known(2 / 3, 0.2, 0.9, "share", 3, "documents")
    (folder / "1/harness.json").write_text(json.dumps(
        {"evaluation": {"harness/t.acc": told}, "start": {"kind": "base", "evaluation": {}}}))
    accuracy["cells"].assign(figure="harness/t.acc").to_parquet(folder / "1/harness.parquet")
    runs = collect([folder])
    assert runs[1].evaluation["harness/t.acc"].estimate.n == 3 and "harness/t.acc" not in runs[0].evaluation
    (folder / "1/harness.json").write_text("{")
    with pytest.raises(ReportError, match="harness.json: found no strict JSON"):
        collect([folder])
