"""The nine chain-of-thought sets of the Flan collection: tiny files in their form, and the real ones where they are."""

import gzip
from functools import cache
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from algorithms.common.data.instructions import InstructionData
from algorithms.common.data.instructions.task_file import TaskRow, ask, read_task
from algorithms.common.data.instructions.task_records import task_record
from algorithms.common.data.records.readers import Source
from algorithms.common.support.errors import ConfigError, DataError
from command_line import composed, invoke

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks/flan_cot"
NINE = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
REAL = {"strategyqa": (2061, ""), "creak": (6915, ".gz"), "sensemaking": (6070, ".gz"), "ecqa": (7112, ".gz")}
ROWS = {    # written for this test in the files' form: question, answer, rationale
    "aqua": [r"A pen costs 2 and a book 3. What do both cost?\nOptions:\n(A) 4\n(B) 5" + "\t(B)\t2 + 3 = 5."],
    "creak": [r'"A cube has six sides."\nIs the above claim true?\nOptions:\n- yes\n- no'
              + "\tyes\tEvery cube has six faces.",
              "Yes or no: is ice cold?\tyes\tIce is frozen water."],
    "ecqa": [r"Where does one sleep?\nOptions:\n- bed\n- oven\n- lake" + "\tbed\tPeople sleep in beds."],
    "esnli": [r'Premise: "A man runs."\nHypothesis: "A man moves."\nDoes it follow?\nOptions:\n- yes\n- no'
              + "\tyes\tWho runs moves."],
    "gsm8k": ["Tom has 3 pens and buys 4. How many has he?\t7\tHe has 3 + 4 = 7 pens."],
    "qasc": [r"What melts ice?\nOptions:\n- (A) heat\n- (B) shade" + "\t(A)\tHeat melts solids. Ice is a solid."],
    "qed": [r"Oslo is the capital of Norway.\nWhat is the capital of Norway?" + "\tOslo\tThe first sentence says so."],
    "sensemaking": [r'Which one is odd?\nOptions:\n- Sentence A: "I eat soup."\n- Sentence B: "I eat stones."\n'
                    + "\tSentence B\tStones are hard."],
    "strategyqa": ['Could a "cat" drive?\tno\tCats cannot reach pedals.'],
}


@cache
def flan_cot() -> dict:
    """data=flan_cot, as the command line composes it."""
    return OmegaConf.to_container(composed("data=flan_cot").data)


def preset(**options) -> InstructionData:
    return instantiate({**flan_cot(), **options}, _convert_="all")


def kept(name: str, path) -> list[TaskRow]:
    file = read_task(str(FOLDER / f"{name}.yaml"))
    rows = []
    for raw in file.open(str(path))[0]:
        record = file.record(raw.value)
        record.meta.update(source=str(path), line=raw.line)
        rows.append(TaskRow.of(record))
    return rows


# ---- the task files


def test_the_preset_names_the_nine_and_not_the_generic_one():
    assert [Path(path).stem for path in flan_cot()["tasks"]] == list(NINE)
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted([*NINE, "generic"])


@pytest.mark.parametrize("name", [*NINE, "generic"])
def test_every_task_has_templates_enough_and_all_different(name):
    file = read_task(str(FOLDER / f"{name}.yaml"))
    assert len(file.templates) + len(file.inverted) >= 10 and 1 <= len(file.inverted) <= 3
    assert len(file.cot) >= 5 and len(file.unseen) >= 2
    inputs = [pattern.input for _, pattern in file.patterns]
    assert len(set(inputs)) == len(inputs)
    assert (file.header, file.quoting, file.unescape) == (False, False, True)
    assert file.file == (None if name == "generic" else f"{name}_train.tsv")
    for key, pattern in file.patterns:
        assert "answer" not in pattern.shown or key == "inverted", "no prompt tells its answer"
        assert "rationale" not in pattern.shown or key == "inverted"


def test_templates_are_not_shared_between_tasks():
    """But for the plainest forms."""
    seen: dict[str, list[str]] = {}
    for name in NINE:
        for key, pattern in read_task(str(FOLDER / f"{name}.yaml")).patterns:
            seen.setdefault(pattern.input, []).append(name)
    assert {text for text, names in seen.items() if len(names) > 1} <= {"{question}\nAnswer:"}


@pytest.mark.parametrize("name", NINE)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_each_of_the_nine_is_read_and_rendered(tmp_path, name, ending):
    path = tmp_path / f"{name}_train.tsv{ending}"
    lines = ROWS[name] + [line.replace("\t", " Again?\t", 1) for line in ROWS[name]]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if ending else data)
    loaded = preset(path=str(tmp_path), heldout=0.0, examples=10, cot_examples=10, inverted=0.2).load(0)
    assert loaded.report.sources == {name: {"read": len(lines), "train": len(lines), "heldout": 0, "drawn": 20,
                                            "cot": 10,
                                            "inverted": 2, **_direct(loaded.report.sources[name])}}
    question, answer, rationale = ROWS[name][0].split("\t")
    question = question.replace("\\n", "\n")
    row = kept(name, path)[0]
    assert dict(row.values) == {"question": question, "answer": answer, "rationale": rationale}
    file = read_task(str(FOLDER / f"{name}.yaml"))
    for _, pattern in file.patterns:
        prompt, target = ask(pattern, row)
        assert "\\n" not in prompt + target and "{" not in prompt + target
    prompt, target = ask(file.cot[0], row)
    assert question.strip() in prompt and target == f"{rationale} So the answer is {answer}."
    record = task_record(file, row, prompt, [target], "cot", False, answer=row.answer, answer_after=file.answer_after)
    assert loaded.measure(record, record.responses[0], True)["accuracy/cot"] == 1


def _direct(counts: dict) -> dict:
    """Direct prompts count as options or plain: eight in all."""
    direct = {key: counts[key] for key in ("options", "plain") if key in counts}
    assert sum(direct.values()) == 8
    return direct


def test_all_nine_together_and_any_file_alone(tmp_path):
    for name in NINE:
        (tmp_path / f"{name}_train.tsv").write_text("\n".join(ROWS[name]) + "\n", encoding="utf-8")
    data = preset(path=str(tmp_path), heldout=0.0, heldout_clusters=["math"], cot_examples=14).load(0)
    assert {record.meta["task"] for record in data.evaluation} == {"aqua", "gsm8k"}
    assert set(data.report.sources) == set(NINE)
    assert {record.meta["cluster"] for record in data.demonstrations} == {
        "fact_checking", "commonsense", "inference", "science", "reading", "multi_hop"}
    alone = preset(path=str(tmp_path / "qed_train.tsv"), heldout=0.0).load(0)
    assert set(alone.report.sources) == {"qed"}


def test_a_folder_or_file_without_any_of_them_is_refused_with_their_names(tmp_path):
    (tmp_path / "mine.tsv").write_text("\n".join(ROWS["gsm8k"]), encoding="utf-8")
    names = ", ".join(f"{name}_train.tsv" for name in NINE)
    with pytest.raises(ConfigError) as caught:
        preset(path=str(tmp_path)).load(0)
    assert f"expected some of {names}, each also .gz" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        preset(path=str(tmp_path / "mine.tsv")).load(0)
    assert names in str(caught.value) and "name a task YAML of your own in data.tasks" in str(caught.value)
    generic = preset(tasks=["benchmarks/flan_cot/generic.yaml"], path=str(tmp_path / "mine.tsv"), cot_examples=3,
                     heldout=0.0).load(0)
    assert generic.report.read == 1 and generic.report.sources["generic"]["cot"] == 3


@pytest.mark.slow
def test_the_command_line_inspects_a_folder(tmp_path):
    (tmp_path / "gsm8k_train.tsv").write_text("".join(f"{i}+1?\t{i + 1}\tCount on.\n" for i in range(50)),
                                              encoding="utf-8")
    ended = invoke("task=inspect", "data=flan_cot", f"data.path={tmp_path}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    ended = invoke("task=inspect", "data=flan_cot", f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages")
    assert ended.status == 2 and ended.err.startswith("data.path: found null, and beside"), ended.err


# ---- the real files


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_whole_and_unaltered(shared_data, name):
    count, ending = REAL[name]
    path = shared_data / f"flan-cot/{name}_train.tsv{ending}"
    with (gzip.open if ending else open)(path, "rb") as file:
        lines = file.read().decode().split("\n")[:-1]
    rows = kept(name, path)
    assert len(rows) == len(lines) == count
    for number, (row, line) in enumerate(zip(rows, lines), 1):
        fields = [field.replace("\\n", "\n") for field in line.split("\t")]
        assert (row.line, [row.values[key] for key in ("question", "answer", "rationale")]) == (number, fields)
    if name == "creak":
        quoted = [row for row in rows if row.values["question"].startswith('"')]
        assert sum(line.startswith('"') for line in lines) == len(quoted) == 975
        with pytest.raises(DataError, match="set data.quoting=false"):
            list(Source(str(path), header=False, quoting=True))


@pytest.mark.slow
def test_the_four_real_files_make_one_mixture(shared_data):
    data = preset(path=str(shared_data / "flan-cot"), heldout_clusters=["multi_hop"], examples=300, cot_examples=300,
                  few_shot=0.1, cot_few_shot=0.1, evaluation=20).load(0)
    assert data.report.read == data.report.kept == 22_158 and not data.report.dropped and data.report.duplicates == 1
    read = {name: counts["read"] for name, counts in data.report.sources.items()}
    assert read == {name: count for name, (count, _) in REAL.items()}
    assert len(data.demonstrations) == 600
    trained = {name: counts["drawn"] for name, counts in data.report.sources.items()}
    assert trained == {"creak": 200, "ecqa": 200, "sensemaking": 200, "strategyqa": 0}
    assert {record.meta["task"] for record in data.choices} == {"creak", "sensemaking", "strategyqa"}
    assert not set(data.prompts.prompt_hashes) & set(data.evaluation.prompt_hashes)
    listed = [record for record in data.demonstrations if "OPTIONS:" in record.prompt]
    assert not listed, "questions that list their options get no second list"


BAD = {"an empty answer": ("Is it so?\t\tBecause.", "c1: found no text"),
       "an empty rationale": ("Is it so?\tyes\t ", "c2: found no text"),
       "a missing field": ("Is it so?\tyes", "row: found 2 fields; expected 3")}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_put_into_a_real_file_is_named_by_path_and_line(shared_data, tmp_path, name, bad):
    _, ending = REAL[name]
    opened = gzip.open if ending else open
    with opened(shared_data / f"flan-cot/{name}_train.tsv{ending}", "rb") as file:
        lines = file.read().split(b"\n")[:60]
    line, message = BAD[bad]
    lines.insert(40, line.encode())
    path = tmp_path / f"{name}_train.tsv{ending}"
    with opened(path, "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
    with pytest.raises(DataError) as caught:
        preset(path=str(tmp_path)).load(0)
    assert str(caught.value).startswith(f"{path}:41: {message}")


@pytest.mark.parametrize("name", ["creak", "sensemaking", "strategyqa"])
def test_an_answer_outside_the_options_is_bad_too(tmp_path, name):
    path = tmp_path / f"{name}_train.tsv"
    path.write_text("\n".join([*ROWS[name], "Is it?\tmaybe\tWho knows."]) + "\n", encoding="utf-8")
    line = len(ROWS[name]) + 1
    with pytest.raises(DataError, match=f":{line}: options: found 'maybe'; expected one of"):
        preset(path=str(tmp_path)).load(0)
    report = preset(path=str(tmp_path), on_bad_row="drop", heldout=0.0).load(0).report
    assert report.dropped == {"answer not among the options": 1}
