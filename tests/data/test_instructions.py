"""Instruction data: who is trained on, who is held out, what the mixture draws, what is evaluated."""

import gzip
import json
import logging
import re
from collections import Counter

import pytest

from algorithms.common.data.instructions.data import EVALUATED, InstructionData
from algorithms.common.data.instructions.task_records import measure
from algorithms.common.data.records.record import Record, prompt_hash
from algorithms.common.support.errors import ConfigError, DataError
from command_line import invoke

CITIES, JOBS = ["Rome", "Oslo", "Paris", "Cairo"], ["baker", "pilot", "nurse"]
DAYS = ["Monday", "Tuesday", "Friday", "Sunday"]
CITY = """
cluster: qa
file: city.jsonl
key: person
options: options
templates: ["Where is {person}?", "{person} lives in {choices}: which?"]
inverted: [{input: "Ask for {answer}, number {number}.", target: "Where is {person}?"}]
unseen: ["Home of {person}:"]
natural: "Tell me about {person}."
"""
JOB = """
cluster: qa
file: job.jsonl
key: person
options: [baker, pilot, nurse]
templates: ["Job of {person}?"]
"""
DAY = """
cluster: calendar
file: day.jsonl
templates: ["What follows {number} days after {day}?"]
cot: ["Think: {number} days after {day}?"]
answer_after: "It is"
"""


def write_rows(path, rows):
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def world(tmp_path):
    """Three tasks in two clusters: 40 cities, 20 jobs of the same people, 30 days."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, text in (("city", CITY), ("job", JOB), ("day", DAY)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    write_rows(folder / "city.jsonl", [{"person": f"P{i}", "number": i, "answer": CITIES[i % 4], "options": CITIES}
                                       for i in range(40)])
    write_rows(folder / "job.jsonl", [{"person": f"P{i}", "answer": JOBS[i % 3]} for i in range(20)])
    write_rows(folder / "day.jsonl", [{"day": DAYS[i % 4], "number": i, "answer": DAYS[(i + i // 4) % 4],
                                       "rationale": f"Count {i}."} for i in range(30)])
    return folder


def load(folder, seed=0, **options):
    return InstructionData(**{"tasks": [str(folder)], "heldout": 0.2, **options}).load(seed)


def by_task(records) -> Counter:
    return Counter(record.meta["task"] for record in records)


def people(records) -> set[str]:
    """Everybody named in prompts or responses."""
    return {name for record in records for text in [record.prompt, *record.responses]
            for name in re.findall(r"P\d+", text)}


def days(records) -> set[str]:
    return {number for record in records for number in re.findall(r"(\d+) days", record.prompt)}


def held(side: str, share=0.2) -> bool:
    """Whether a row whose key shows as `side` is held out."""
    return prompt_hash(side) < share * 2**64


HELD_PEOPLE = {f"P{i}" for i in range(40) if held(f"person: P{i}")}
HELD_DAYS = {str(i) for i in range(30) if held(f"day: {DAYS[i % 4]}\n\nnumber: {i}")}
JOB_PEOPLE = {f"P{i}" for i in range(20)}
SIZES = {"city": 40 - len(HELD_PEOPLE), "job": 20 - len(HELD_PEOPLE & JOB_PEOPLE), "day": 30 - len(HELD_DAYS)}


# ---- the mixture


def test_a_drawn_record_is_a_rendered_row(world):
    data = load(world, only=["job"], options=0.0)
    assert by_task(data.demonstrations) == {"job": SIZES["job"]} and 10 < SIZES["job"] < 20
    assert len(data.prompts) == SIZES["job"] and not len(data.preferences) and not len(data.heldout)
    for record in data.demonstrations:
        number = int(re.fullmatch(r"Job of P(\d+)\?", record.prompt)[1])
        assert record.responses == [" " + JOBS[number % 3]] and record.scores is None
        assert record.meta == {"task": "job", "cluster": "qa", "variant": "plain", "origin": "job",
                               "unit": f"person: P{number}", "source": f"{world}/job.jsonl", "line": number + 1,
                               "answer": JOBS[number % 3]}


def test_the_mixture_is_proportional_up_to_cap_and_rate_and_exact(world):
    assert by_task(load(world).demonstrations) == SIZES, "null: as many as the rates"
    whole = {"heldout": 0.0, "heldout_clusters": []}
    assert by_task(load(world, examples=900, **whole).demonstrations) == {"city": 400, "job": 200, "day": 300}
    assert by_task(load(world, examples=101, rate=16, **whole).demonstrations) == {"city": 34, "day": 34, "job": 33}
    data = load(world, examples=90, cap=10)
    assert by_task(data.demonstrations) == {"city": 30, "day": 30, "job": 30}
    lines = Counter((record.meta["task"], record.meta["line"]) for record in data.demonstrations)
    assert len(lines) == 30 and set(lines.values()) == {3}, "ten rows of each task, each taken three times"


def test_the_seed_draws_the_mixture_and_nothing_else(world):
    options = {"few_shot": 0.3, "shots": 2, "cot_examples": 20, "cap": 10, "examples": 60}
    one, same, other = (load(world, seed, **options) for seed in (0, 0, 1))
    assert one.demonstrations.fingerprint == same.demonstrations.fingerprint != other.demonstrations.fingerprint
    for name in ("evaluation", "tuning", "choices"):
        assert getattr(one, name).fingerprint == getattr(other, name).fingerprint
        assert getattr(one, name).meta_fingerprint == getattr(other, name).meta_fingerprint
    assert list(load(world, 0, **options | {"rate": 3}).evaluation) == list(one.evaluation)


def test_inverted_templates_have_an_exact_share_and_are_not_evaluated(world):
    data = load(world, only=["city", "job"], examples=600, inverted=0.2, heldout=0.0)
    found = Counter((record.meta["task"], record.meta["variant"] == "inverted") for record in data.demonstrations)
    assert found == {("city", True): 80, ("city", False): 320, ("job", False): 200}, "job has no inverted template"
    for record in data.demonstrations:
        if record.meta["variant"] == "inverted":
            answer, number = re.fullmatch(r"Ask for (\w+), number (\d+)\.", record.prompt).groups()
            assert answer == CITIES[int(number) % 4] and record.responses == [f" Where is P{number}?"]
    assert data.report.sources["city"]["inverted"] == 80
    data = load(world, inverted=1.0)
    for records in (data.evaluation, data.tuning, data.choices):
        assert len(records) and not any("Ask for" in record.prompt for record in records)


@pytest.mark.parametrize("share, listed", [(0.0, 0), (0.25, 40), (1.0, 160)])
def test_a_share_of_the_prompts_lists_the_options(world, share, listed):
    data = load(world, only=["job"], examples=160, options=share)
    assert sum(record.prompt.endswith("?\nOPTIONS:\n- baker\n- pilot\n- nurse\n")
               for record in data.demonstrations) == listed
    assert Counter(record.meta["variant"] for record in data.demonstrations)["options"] == listed


def test_few_shot_prompts_show_solved_training_examples_of_the_same_template(world):
    data = load(world, only=["city"], examples=400, few_shot=0.25, shots=3, inverted=0.1, options=0.5)
    shown = [record for record in data.demonstrations if "shots" in record.meta]
    assert len(shown) == 100 and {record.meta["shots"] for record in shown} == {3}
    held_out = people(data.evaluation) | people(data.tuning)
    assert held_out and not held_out & people(data.demonstrations)
    forms = {"inverted": r"Ask for (\w+), number (\d+)\.( Where is P\d+\?)?",
             "options": r"(?:Where is P\d+\?\nOPTIONS:\n.*\n|P\d+ lives in .*: which\?)( \w+)?",
             "plain": r"Where is P\d+\?( \w+)?"}
    for record in shown:
        *examples, asked = record.prompt.split("\n\n")
        assert len(examples) == len(set(examples)) == 3
        for example in examples:
            assert re.fullmatch(forms[record.meta["variant"]], example, re.DOTALL), example
        own = people([Record(asked, record.responses)])
        assert not own & people([Record(example, []) for example in examples]), "the row itself is never shown"
        assert ("OPTIONS" in asked) == all("OPTIONS" in example for example in examples)
        for example in examples:
            if record.meta["variant"] != "inverted":
                name, answer = re.search(r"P(\d+)", example)[1], example.split()[-1]
                assert answer == CITIES[int(name) % 4]


def test_where_few_rows_differ_all_that_differ_are_shown_and_counted(world, caplog):
    """Twenty rows, the question another in three of them alone: two are left to show beside the one asked."""
    write_rows(world / "job.jsonl", [{"person": f"P{i % 3}", "answer": JOBS[i % 3]} for i in range(20)])
    data = load(world, only=["job"], examples=60, few_shot=0.5, shots=4, heldout=0.0, options=0.5)
    shown = [record for record in data.demonstrations if "shots" in record.meta]
    assert len(shown) == 30 and {record.meta["shots"] for record in shown} == {2}
    orders = set()
    for record in shown:
        *examples, asked = record.prompt.split("\n\n")
        (own,) = people([Record(asked, [])])
        assert people([Record(one, []) for one in examples]) == {"P0", "P1", "P2"} - {own} and len(examples) == 2
        assert all(one.endswith(JOBS[int(re.search(r"P(\d)", one)[1])]) for one in examples)
        orders.add((own, *re.findall(r"P\d", record.prompt)))
    assert len(orders) == 6, "in either order"
    assert data.report.skipped == {"task job: solved examples up to data.shots, no more differ": 30}
    assert "skipped 30 times: task job: solved examples up to data.shots" in caplog.text
    exact = load(world, only=["job"], examples=60, few_shot=0.5, shots=2, heldout=0.0)
    assert exact.report.skipped == {}
    assert {one.meta["shots"] for one in exact.demonstrations if "shots" in one.meta} == {2}


def test_where_no_row_differs_none_is_shown_and_that_is_counted(world):
    write_rows(world / "job.jsonl", [{"person": "P0", "answer": "nurse"}] * 20)
    data = load(world, tasks=[str(world / "job.yaml"), str(world / "city.yaml")], examples=40, few_shot=0.5,
                heldout=0.0,
                options=0.0)
    prompts = [record.prompt for record in data.demonstrations if record.meta["task"] == "job"]
    assert set(prompts) == {"Job of P0?"} and len(prompts) > 10
    assert not any("shots" in record.meta for record in data.demonstrations if record.meta["task"] == "job")
    assert data.report.skipped == {"task job: solved examples, none differs from the question": round(len(prompts) / 2)}


def test_what_is_evaluated_is_not_shown_where_few_rows_differ(tmp_path):
    """Four colours, asked without their key: those held out under one name are not shown under another."""
    (tmp_path / "hue.yaml").write_text("cluster: c\nfile: hue.jsonl\nkey: name\ntemplates: ['{colour}?']",
                                       encoding="utf-8")
    write_rows(tmp_path / "hue.jsonl", [{"name": f"N{i}", "colour": f"C{i % 7 if i < 8 else i % 4}", "answer": "x"}
                                        for i in range(60)])
    held_out = {f"C{i % 7 if i < 8 else i % 4}" for i in range(60) if held(f"name: N{i}", 0.05)}
    data = InstructionData(tasks=str(tmp_path), heldout=0.05, examples=60, few_shot=1.0, shots=6).load(0)
    parts = {colour for record in data.demonstrations for colour in re.findall(r"C\d", record.prompt)}
    assert held_out and parts == {f"C{i}" for i in range(7)} - held_out and data.report.skipped
    assert {record.meta["shots"] for record in data.demonstrations} == {len(parts) - 1}


def test_the_labs_tasks_can_be_shown_few_shot():
    """Some of them have hundreds of rows of a handful of questions, and many of these are held out."""
    data = InstructionData(tasks=["benchmarks/lab/tasks"], only=["day_before", "country", "past"], examples=600,
                           few_shot=0.5, heldout=0.4, evaluation=16).load(0)
    asked, fewer = by_task(data.demonstrations), sum(data.report.skipped.values())
    shown = Counter(record.meta["task"] for record in data.demonstrations if record.meta.get("shots") == 4)
    assert shown["past"] == round(asked["past"] / 2)
    assert set(data.report.skipped) == {"task day_before: solved examples up to data.shots, no more differ"}
    assert sum(shown.values()) + fewer == sum(round(count / 2) for count in asked.values()) and 0 < fewer < 20


# ---- chains of thought


def test_chain_of_thought_examples_are_added_to_the_others(world):
    plain, added = load(world, examples=72), load(world, examples=72, cot_examples=30)
    assert list(plain.demonstrations) == [one for one in added.demonstrations if one.meta["variant"] != "cot"]
    reasoned = [one for one in added.demonstrations if one.meta["variant"] == "cot"]
    assert len(reasoned) == added.report.sources["day"]["cot"] == 30 and by_task(reasoned) == {"day": 30}
    for record in reasoned:
        number = int(re.fullmatch(r"Think: (\d+) days after \w+\?", record.prompt)[1])
        assert record.responses == [f" Count {number}. It is {DAYS[(number + number // 4) % 4]}."]


def test_direct_answers_to_the_same_tasks_are_the_control(world):
    data = load(world, only=["city"], cot_tasks=["day"], cot_examples=30, cot_target="direct", cot_few_shot=0.5,
                shots=2)
    direct = [one for one in data.demonstrations if one.meta["task"] == "day"]
    assert len(direct) == 30 and not any("Think" in one.prompt or "Count" in one.responses[0] for one in direct)
    assert sum("shots" in one.meta for one in direct) == 15
    assert by_task(data.demonstrations)["city"] == SIZES["city"]


def test_chain_of_thought_exemplars_hold_rationales(world):
    data = load(world, only=["city"], cot_tasks=["day"], cot_examples=20, cot_few_shot=1.0, shots=2)
    shown = [one for one in data.demonstrations if one.meta["variant"] == "cot"]
    assert len(shown) == 20
    for record in shown:
        assert re.fullmatch(r"(Think: (\d+) days after \w+\? Count \2\. It is \w+\.\n\n){2}Think: \d+ days after \w+\?",
                            record.prompt)
    assert not any("shots" in one.meta for one in data.demonstrations if one.meta["task"] == "city")


def test_the_evaluation_is_the_same_with_and_without_the_added_examples(world):
    kwargs = {"only": ["city"], "cot_tasks": ["day"]}
    without, with_them = load(world, **kwargs), load(world, **kwargs, cot_examples=20)
    assert by_task(without.demonstrations) == {"city": SIZES["city"]}
    assert list(without.evaluation) == list(with_them.evaluation) and by_task(without.evaluation)["day"] > 0


# ---- what is held out


def test_held_out_people_are_in_no_training_prompt_of_any_task(world):
    data = load(world, examples=500, few_shot=0.2, shots=2)
    reported, tuned, trained = people(data.evaluation), people(data.tuning), people(data.demonstrations)
    assert reported | tuned == HELD_PEOPLE and trained == {f"P{i}" for i in range(40)} - HELD_PEOPLE
    assert days(data.evaluation) | days(data.tuning) == HELD_DAYS and not HELD_DAYS & days(data.demonstrations)
    city = [[one for one in records if one.meta["task"] == "city"] for records in (data.evaluation, data.tuning)]
    assert 0 <= len(people(city[0])) - len(people(city[1])) <= 1 and not people(city[0]) & people(city[1])
    counts = data.report.sources["city"]
    assert (counts["read"], counts["train"], counts["heldout"]) == (40, SIZES["city"], len(HELD_PEOPLE))
    assert counts["drawn"] == counts["inverted"] + counts["options"] + counts["plain"]
    assert counts["drawn"] == by_task(data.demonstrations)["city"]


def test_a_held_out_cluster_is_never_trained_on_and_wholly_evaluated(world):
    data = load(world, heldout_clusters=["qa"], cot_examples=5)
    assert by_task(data.demonstrations) == {"day": SIZES["day"] + 5}
    assert by_task(data.evaluation) == {"city": 40, "job": 20, "day": 2 * -(-len(HELD_DAYS) // 2)}
    assert by_task(data.tuning) == {"day": 2 * (len(HELD_DAYS) // 2)}, "a direct and a chain-of-thought prompt each"
    groups = {record.meta["task"]: record.meta["groups"]
              for record in data.choices if record.meta["variant"] == "options"}
    assert groups["job"] == ["options", "options/qa", "options/job", "options/heldout"]
    assert data.report.sources["city"] == {"read": 40, "train": 0, "heldout": 40, "drawn": 0}


def test_what_resembles_a_held_out_cluster_can_be_left_out_with_it(world):
    (world / "job.yaml").write_text(JOB.replace("cluster: qa", "cluster: work"), encoding="utf-8")
    exclusions = {"qa": ["work"]}
    data = load(world, heldout_clusters=["qa"], exclusions=exclusions)
    assert set(by_task(data.demonstrations)) == {"day"} and set(by_task(data.evaluation)) == {"day", "city"}
    assert "job" not in data.report.sources, "neither trained on nor evaluated: not read"
    other = load(world, heldout_clusters=["calendar"], exclusions=exclusions)
    assert set(by_task(other.demonstrations)) == {"city", "job"}


def test_rows_are_evaluated_up_to_a_number_and_prompts_once(world):
    write_rows(world / "job.jsonl", [{"person": f"P{i % 50}", "answer": JOBS[i % 50 % 3]} for i in range(100)])
    data = load(world, heldout_clusters=["qa"], evaluation=12)
    assert by_task(data.evaluation)["city"] == 12 and by_task(data.evaluation)["job"] <= 12
    prompts = [record.prompt for record in data.evaluation]
    assert len(set(prompts)) == len(prompts)
    assert data.report.duplicates == 50


def test_tasks_take_turns_in_the_evaluation(world):
    first = list(load(world, heldout_clusters=["qa"]).evaluation)[:6]
    assert [record.meta["task"] for record in first] == ["city", "day", "job"] * 2


def test_two_keys_have_one_on_each_side_whatever_the_share(world, caplog):
    for names, share in (("AB", 1e-9), ("AB", 1 - 1e-9)):
        write_rows(world / "job.jsonl", [{"person": names[i % 2], "answer": "nurse"} for i in range(20)])
        counts = load(world, only=["job"], heldout=share).report.sources["job"]
        assert counts["train"] == counts["heldout"] == 10
    assert "nothing is held out" not in caplog.text
    write_rows(world / "job.jsonl", [{"person": "A", "answer": "nurse"}] * 20)
    assert load(world, only=["job"]).report.sources["job"]["train"] == 20
    assert "task job: nothing is held out, all its rows have the same key" in caplog.text


def test_nothing_is_held_out_of_trained_tasks_on_request(world):
    data = load(world, heldout=0.0, heldout_clusters=["calendar"])
    assert by_task(data.demonstrations) == {"city": 40, "job": 20} and set(by_task(data.evaluation)) == {"day"}


def test_a_training_prompt_that_is_evaluated_is_drawn_anew_and_counted(tmp_path):
    """The template shows the colour alone, so that rows of different keys have the same prompt."""
    (tmp_path / "hue.yaml").write_text("cluster: c\nfile: hue.jsonl\nkey: name\ntemplates: ['{colour}?']",
                                       encoding="utf-8")
    write_rows(tmp_path / "hue.jsonl", [{"name": f"N{i}", "colour": f"C{i % 20}", "answer": "x"} for i in range(40)])
    data = InstructionData(tasks=str(tmp_path), heldout=0.2, examples=200).load(0)
    evaluated = {record.prompt for records in (data.evaluation, data.tuning) for record in records}
    trained = {record.prompt for record in data.demonstrations}
    assert len(data.demonstrations) == 200 and evaluated and not evaluated & trained
    assert data.report.dropped[EVALUATED] > 0 and data.report.lines[EVALUATED][0].startswith(f"{tmp_path}/hue.jsonl:")
    shown = InstructionData(tasks=str(tmp_path), heldout=0.2, examples=50, few_shot=1.0, shots=2).load(0)
    seen = {part.split("?")[0] + "?" for record in shown.demonstrations for part in record.prompt.split("\n\n")}
    assert not seen & evaluated, "nor is it among the solved examples"
    write_rows(tmp_path / "hue.jsonl", [{"name": f"N{i}", "colour": "C", "answer": "x"} for i in range(40)])
    with pytest.raises(ConfigError,
                       match="hue.yaml: key: found that the prompts of all training rows are evaluated too"):
        InstructionData(tasks=str(tmp_path)).load(0)


# ---- controls and forms


def test_random_labels_change_training_alone(world):
    true, random = (load(world, examples=720, few_shot=0.2, cot_examples=24, labels=labels, inverted=0.0)
                    for labels in ("true_answers", "random"))
    for name in ("evaluation", "tuning", "choices"):
        assert list(getattr(true, name)) == list(getattr(random, name))

    def right(data, task):
        rows = [(one.meta["line"] - 1, one.responses[0].strip())
                for one in data.demonstrations if one.meta["task"] == task]
        answers = {"city": lambda i: CITIES[i % 4], "job": lambda i: JOBS[i % 3]}[task]
        return sum(answer == answers(line) for line, answer in rows) / len(rows)

    assert right(true, "city") == right(true, "job") == 1
    assert 0.05 < right(random, "city") < 0.5 and 0.05 < right(random, "job") < 0.65, "about 1/4 and 1/3"
    true, random = (load(world, only=["day"], cot_examples=30, heldout=0.0, heldout_clusters=["qa"], labels=labels)
                    for labels in ("true_answers", "random"))
    answers, permuted = ({one.meta["line"]: one.responses[0]
                          for one in data.demonstrations if one.meta["variant"] == "cot"}
                         for data in (true, random))
    assert len(answers) == 30 and sorted(answers.values()) == sorted(permuted.values())
    assert sum(answers[line] == permuted[line] for line in answers) < 8, "free answers go round, with their rationales"


def test_in_chat_prompts_are_messages_and_answers_have_no_space(world):
    plain, chat = load(world, examples=100, few_shot=0.1), load(world, examples=100, few_shot=0.1, chat=True)
    for name in ("demonstrations", "evaluation", "tuning", "choices"):
        for one, other in zip(getattr(plain, name), getattr(chat, name), strict=True):
            assert other.prompt == [{"role": "user", "content": one.prompt}]
            assert [" " + text for text in other.responses] == one.responses and one.scores == other.scores


# ---- rank classification


def test_every_evaluated_row_with_options_is_asked_in_each_variant(world):
    data = load(world, heldout_clusters=["calendar"])
    cities, jobs = -(-len(HELD_PEOPLE) // 2), -(-len(HELD_PEOPLE & JOB_PEOPLE) // 2)
    variants = Counter((record.meta["task"], record.meta["variant"]) for record in data.choices)
    assert variants == {("city", variant): cities for variant in ("options", "plain", "new", "natural")} | {
        ("job", "options"): jobs, ("job", "plain"): jobs}
    evaluated = {(record.meta["task"], record.meta["line"])
                 for record in data.evaluation if record.meta["task"] != "day"}
    assert evaluated == {(record.meta["task"], record.meta["line"]) for record in data.choices}
    forms = {"options": r"Where is (P\d+)\?\nOPTIONS:\n- Rome\n- Oslo\n- Paris\n- Cairo\n|(P\d+) lives in Rome, Oslo, "
                        r"Paris or "
             r"Cairo: which\?", "plain": r"Where is P\d+\?", "new": r"Home of P\d+:",
             "natural": r"Tell me about P\d+\."}
    for record in data.choices:
        task, variant, line = (record.meta[key] for key in ("task", "variant", "line"))
        options, answer = (CITIES, CITIES[(line - 1) % 4]) if task == "city" else (JOBS, JOBS[(line - 1) % 3])
        assert record.responses == [" " + option for option in options]
        assert record.scores == [float(option == answer) for option in options]
        assert record.meta["groups"] == [variant, f"{variant}/qa", f"{variant}/{task}", f"{variant}/trained"]
        assert record.meta["unit"] == f"person: P{line - 1}", "of both tasks: what is asked of one is resampled as one"
        assert record.meta["origin"] == task
        assert task != "city" or re.fullmatch(forms[variant], record.prompt)


def test_a_unit_of_its_own_and_an_option_in_the_templates_words(world):
    text = (world / "city.yaml").read_text(encoding="utf-8")
    (world / "city.yaml").write_text(text.replace("key: person", "key: person\nunit: number"), encoding="utf-8")
    assert {record.meta["unit"] for record in load(world, only=["city"]).choices} == {
        f"number: {name[1:]}" for name in evaluated_people(world)}
    (world / "job.yaml").write_text("""cluster: qa
file: job.jsonl
key: person
options: [cook, king]
templates: [{input: "Job of {person}?", target: "A {answer}, I say."}]
""", encoding="utf-8")
    write_rows(world / "job.jsonl", [{"person": f"P{i}", "answer": "cook"} for i in range(20)])
    for record in load(world, only=["job"]).choices:
        assert record.responses == [" A cook, I say.", " A king, I say."] and record.scores == [1.0, 0.0]


def evaluated_people(world):
    return people(load(world, only=["city"]).evaluation)


def test_there_are_no_choices_without_options(world):
    assert load(world, tasks=[str(world / "day.yaml")]).choices is None


def test_a_task_that_is_its_cluster_counts_once_in_a_group(world):
    (world / "job.yaml").write_text(JOB.replace("cluster: qa", "cluster: job"), encoding="utf-8")
    groups = [one.meta["groups"] for one in load(world, heldout_clusters=["job"]).choices if one.meta["task"] == "job"]
    assert groups[0] == ["options", "options/job", "options/heldout"]


# ---- what a sampled response shows


@pytest.mark.parametrize("response, figures", [
    (" Count 3. It is Sunday.", (1, 1)), (" Count 3. it is Sunday.", (0, 0)), (" It is Friday. It is  sunday", (1, 1)),
    (" It is Sunday.\nWhat follows 4 days after", (1, 1)), (" It is Monday.", (0, 1)), (" Sunday", (1, 0)),
    (" It is", (0, 1)), ("", (0, 0)),
])
def test_a_chain_of_thought_is_right_by_what_follows_its_mark(response, figures):
    record = Record("?", [" Count 3. It is Sunday."], None,
                    {"task": "day", "variant": "cot", "answer": "Sunday", "answer_after": "It is"})
    accuracy, rationale = figures
    assert measure(record, response, True) == {"accuracy/cot": accuracy, "accuracy/cot/day": accuracy,
                                               "rationale/cot": rationale,
                                               "rationale/cot/day": rationale}


@pytest.mark.parametrize("response, hit",
                         [(" Rome", 1), ("rome.", 1), (" Rome\n", 1), (" Rome, Oslo", 0), ("", 0), (" Rom", 0)])
def test_a_direct_answer_is_compared_with_the_reference(response, hit):
    record = Record("?", [" Rome"], None, {"task": "city", "variant": "options", "answer": "Rome"})
    assert measure(record, response, False) == {"exact_match": hit, "exact_match/city": hit}


def test_references_are_right_by_the_measure_itself(world):
    data = load(world, heldout_clusters=["calendar"])
    assert data.measure is measure
    for record in data.evaluation:
        assert set(measure(record, record.responses[0], True).values()) == {1.0}
    assert {record.meta["variant"] for record in data.evaluation if record.meta["task"] == "day"} == {"plain", "cot"}


# ---- rows that cannot be used, and the report


def test_a_bad_row_stops_or_is_left_out(world):
    with open(world / "job.jsonl", "a", encoding="utf-8") as file:
        file.write('{"person": "P1", "answer": "king"}\n')
    with pytest.raises(DataError) as caught:
        load(world)
    assert str(caught.value).startswith(f"{world}/job.jsonl:21: options: found 'king'; expected one of")
    assert "data.on_bad_row=drop would leave 20 records" in str(caught.value)
    report = load(world, on_bad_row="drop").report
    assert report.dropped == {"answer not among the options": 1} and (report.read, report.kept) == (91, 90)
    assert report.lines == {"answer not among the options": [f"{world}/job.jsonl:21"]}
    assert report.kinds == {"task row": 90} and report.sources["job"]["read"] == 21
    assert report.layouts == {f"{world}/{name}.jsonl": f"task {name}" for name in ("city", "day", "job")}


# ---- which tasks, and their files


def test_rows_lie_beside_the_yaml_or_in_a_folder_or_are_files(world, tmp_path, caplog):
    rows = tmp_path / "rows"
    rows.mkdir()
    (world / "job.jsonl").rename(rows / "job.jsonl")
    with pytest.raises(ConfigError, match="data.path: found null, and beside .*job.yaml no job.jsonl"):
        load(world)
    with caplog.at_level(logging.INFO):
        assert set(by_task(load(world, path=str(rows)).demonstrations)) == {"job"}
    assert "tasks left out, whose files are not in data.path: city (city.jsonl), day (day.jsonl)" in caplog.text
    assert set(by_task(load(world, path=str(rows / "job.jsonl")).demonstrations)) == {"job"}
    several = [str(rows / "job.jsonl"), str(world / "city.jsonl")]
    assert set(by_task(load(world, path=several).demonstrations)) == {"job", "city"}
    write_rows(rows / "day.jsonl.gz", [json.loads(line) for line in (world / "day.jsonl").read_text().splitlines()])
    assert set(by_task(load(world, path=str(rows)).demonstrations)) == {"job", "day"}, "also .gz"
    (world / "day.yaml").write_text(DAY.replace("day.jsonl", "day.jsonl.gz"), encoding="utf-8")
    assert set(by_task(load(world, path=str(world)).demonstrations)) == {"city", "day"}, "and also without"


def test_two_tasks_may_read_one_file(world):
    (world / "hire.yaml").write_text(JOB.replace("cluster: qa", "cluster: work"), encoding="utf-8")
    for path in (None, str(world), [str(world / "job.jsonl")]):
        assert {"job", "hire"} <= set(by_task(load(world, path=path).demonstrations))


def test_a_task_without_a_file_takes_the_one_that_is_given(world, tmp_path):
    (tmp_path / "own.yaml").write_text(JOB.replace("file: job.jsonl", "file: null"), encoding="utf-8")
    data = load(world, tasks=[str(tmp_path / "own.yaml")], path=str(world / "job.jsonl"))
    assert by_task(data.demonstrations) == {"own": SIZES["job"]}
    with pytest.raises(ConfigError, match="no file of its own"):
        load(world, tasks=[str(tmp_path / "own.yaml")])
    (tmp_path / "other.yaml").write_text(JOB.replace("file: job.jsonl", "file: null"), encoding="utf-8")
    with pytest.raises(ConfigError, match="the file of no task"):
        load(world, tasks=[str(tmp_path / "o*.yaml")], path=str(world / "job.jsonl"))


def test_tasks_are_files_folders_and_globs_each_once(world):
    assert set(by_task(load(world, tasks=f"{world}/[cj]*.yaml").demonstrations)) == {"city", "job"}
    both = load(world, tasks=[str(world), f"{world}/city.yaml"])
    assert by_task(both.demonstrations) == SIZES


def test_tasks_are_found_from_the_project_s_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k_train.tsv").write_text("1+1?\t2\tOne and one.\n2+2?\t4\tTwo and two.\n", encoding="utf-8")
    assert InstructionData(tasks=["benchmarks/flan_cot/gsm8k.yaml"], path="gsm8k_train.tsv").load(0).report.read == 2


@pytest.mark.parametrize("options, message", [
    ({"tasks": None}, "data.tasks: found none; expected task YAMLs"),
    ({"tasks": []}, "data.tasks: found none"),
    ({"tasks": ["nowhere"]}, "data.tasks: found 'nowhere', where no YAML is"),
    ({"path": "nowhere"}, "data.path: found nothing at nowhere"),
    ({"heldout_clusters": ["math"]}, "data.heldout_clusters: found math; expected some of calendar, qa"),
    ({"heldout_clusters": ["qa", "calendar"]}, "data.tasks: found no task to train on"),
    ({"examples": 0}, "data.tasks: found no task to train on"),
    ({"only": []}, "data.tasks: found no task to train on"),
    ({"exclusions": {"math": ["qa"]}}, "data.exclusions: found math; expected some of calendar, qa"),
    ({"exclusions": {"qa": ["math"]}}, "data.exclusions: found math"),
    ({"only": ["town"]}, "data.only: found town; expected some of city, day, job"),
    ({"only": ["job"], "heldout_clusters": ["qa"]}, "data.only: found job, whose cluster qa is held out or excluded"),
    ({"cot_tasks": ["job"]}, "data.cot_tasks: found job, which has no chain-of-thought templates"),
    ({"cot_tasks": ["town"]}, "data.cot_tasks: found town"),
    ({"cot_examples": 3, "only": ["job"]}, "data.cot_examples: found 3, but no task that is trained on has"),
    ({"cap": 0}, "data.cap: found 0; expected at least 1"), ({"rate": 0}, "data.rate: found 0"),
    ({"shots": 0}, "data.shots: found 0"), ({"evaluation": 0}, "data.evaluation: found 0"),
    ({"examples": -1}, "data.examples: found -1"), ({"cot_examples": -1}, "data.cot_examples: found -1"),
    ({"inverted": 1.1}, "data.inverted: found 1.1; expected a share"),
    ({"few_shot": -0.1}, "data.few_shot: found -0.1"),
    ({"options": 2}, "data.options: found 2"), ({"cot_few_shot": 2}, "data.cot_few_shot: found 2"),
    ({"heldout": 1.0}, "data.heldout: found 1.0; expected a share"), ({"labels": "none"}, "data.labels: found 'none'"),
    ({"cot_target": "x"}, "data.cot_target: found 'x'; expected rationale or direct"),
    ({"on_bad_row": "x"}, "data.on_bad_row: found 'x'; expected error or drop"),
])
def test_options_that_cannot_be_used_are_refused(world, options, message):
    with pytest.raises(ConfigError) as caught:
        load(world, **options)
    assert str(caught.value).startswith(message)


def test_tasks_whose_rows_are_missing_cannot_be_named(world, tmp_path):
    (tmp_path / "job.jsonl").write_text((world / "job.jsonl").read_text(), encoding="utf-8")
    for options, message in (({"only": ["day"]}, "data.only: found day, whose file day.jsonl is not in data.path"),
                             ({"heldout_clusters": ["calendar"]},
                              "data.heldout_clusters: found calendar, none of whose files")):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load(world, path=str(tmp_path), **options)
    (tmp_path / "job.jsonl").unlink()
    with pytest.raises(ConfigError,
                       match="data.path: found no file of any task in .*; expected some of city.jsonl, day.jsonl, "):
        load(world, path=str(tmp_path))


@pytest.mark.parametrize("name, text, message", [
    ("town", CITY + "name: job\n", "found two tasks named job"),
    ("qa", CITY, "found the task qa in the cluster qa"),
    ("calendar", CITY, "found the task calendar in the cluster qa"),
    ("heldout", CITY, "found the task heldout"),
])
def test_names_that_would_mix_figures_are_refused(world, name, text, message):
    (world / f"{name}.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load(world)


# ---- the command line


@pytest.mark.slow
def test_inspection_reads_tasks_named_on_the_command_line(world, tmp_path):
    run = tmp_path / "run"
    ended = invoke("task=inspect", "data=flan", f"data.tasks=[{world}]", "data.heldout_clusters=[calendar]",
                   "data.evaluation=5",
                   f"hydra.run.dir={run}", f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    told = json.loads((run / "data.json").read_text(encoding="utf-8"))
    assert told["sources"]["day"] == {"read": 30, "train": 0, "heldout": 30, "drawn": 0}
    ended = invoke("task=inspect", "data=flan", f"hydra.run.dir={run}", f"stages.folder={tmp_path}/stages")
    assert ended.status == 2 and ended.err.startswith("data.tasks: found none")
