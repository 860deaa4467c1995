"""What a worked solution says its answer is, on rows made by hand and on solutions that are published with labels."""

import gzip
import json
from fractions import Fraction

import pytest
from hydra.utils import instantiate

from algorithms.common.data.final_answers import final_number, is_right, measure, stated
from algorithms.common.data.records import Record
from command_line import composed
from conftest import SHARED


@pytest.mark.parametrize("text, value", [
    ("She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7", 7),
    ("#### 1,234,567", 1234567),
    ("#### 1,234.50", Fraction("1234.5")),
    ("#### -5", -5),
    ("#### \N{MINUS SIGN}5", -5),
    ("#### -$1,200", -1200),
    ("#### $-3", -3),
    ("#### $18 a day", 18),
    ("#### 18 dollars", 18),
    ("#### 80%", 80),
    ("#### .5", Fraction(1, 2)),
    ("#### 3/4 of it", Fraction(3, 4)),
    ("#### 7.", 7),
    ("####7", 7),
    ("So the answer is 42.", 42),
    ("The answer is 3 + 4 = 7 apples.", 7),
    ("Answer: 12", 12),
    ("Answer:\n12", 12),
    ("He walks 5 miles.\nA: 26", 26),
    ("#### 7\nNo, the answer is 8.", 8),
    ("first 3, then 1,500 more", 1500),
    ("they are 1,2,3", 3),
    ("16 - 3 - 4 leaves 9", 9),
    ("it takes 3-4", 4),
    ("(16-3)", 3),
    ("x-5", 5),
    ("5kg", 5),
    ("half past ten is 10:30, after 40 minutes", 40),
    ("ratio 3:4 of 12", 12),
])
def test_numbers(text, value):
    assert final_number(text) == value


@pytest.mark.parametrize("text", [
    "", "nobody knows", "#### ", "9 apples\n####", "#### none", "I had 3. The answer is unknown.", "vitamin B12",
    "#### 5/0", "9" * 5000, "#### 10:5", "at 10:05", "#### 1/3/5",
])
def test_no_number(text):
    assert final_number(text) is None and not is_right(text, "5")


def test_the_last_mark_counts_on_its_line_alone():
    assert stated("#### 7\n#### 8\nbecause 9") == "8"
    assert stated("7 of them") is None and stated("7. Answer:") == ""
    assert not is_right("#### 7. Answer:", "7"), "and nothing else has a second chance"
    assert not is_right("the answer is 6. So the answer is 7.", "6")


@pytest.mark.parametrize("response, reference, right", [
    ("It is 1234.", "1,234", True),
    ("#### 1,234", "thus 1000 + 234\n#### 1234", True),
    ("#### 12.0", "12", True),
    ("#### 12.5", "12", False),
    ("#### 12", "-12", False),
    ("#### 12 pears", "12 apples", True),
    ("#### 10", "10:30", False),
    ("#### 10:30", "30", False),
    ("#### 10:30", "10:30", True),
    ("the answer is 5/1/2024", "1/2024", False),
    ("So the answer is friday", "Friday.", True),
    ("One day later is Friday. So the answer is Saturday.", "Friday", False),
    (" Friday. ", "Friday", True),
    ("It is Friday", "Friday", False),
    ("May 5", "May 5", True),
    ("June 5", "May 5", False),
    ("", "Friday", False),
    ("####", "####", False),
])
def test_right_and_wrong(response, reference, right):
    assert is_right(response, reference) is right


def test_published_solutions_are_judged_as_their_labels_say():
    path = SHARED / "data/gsm8k-solutions/example_model_solutions.jsonl.gz"
    if not path.exists():
        pytest.skip("needs the GSM8K solutions")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = [(is_right(one["solution"], row["ground_truth"]), one["is_correct"])
             for row in rows for one in row.values() if isinstance(one, dict)]
    assert len(found) == 4 * 1319 and all(ours == theirs for ours, theirs in found)


def test_the_figure():
    record = Record("Q", [], None, {"answer": 7, "kind": "sum"})
    assert measure(record, "#### 7", True, by="kind") == {"accuracy/exact": 1.0, "accuracy/exact/sum": 1.0}
    assert measure(record, "#### 8", False) == {"accuracy/exact": 0.0}
    assert measure(Record("Q", [], None, {"answer": " "}), "7", True) == measure(Record("Q", []), "7", True) == {}


def test_gsm_rows_have_it(tmp_path):
    solution = {"is_correct": True, "solution": "2 + 2 = 4\nA: 4"}
    sources = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    row = {"question": "2+2?", "ground_truth": "It is 4\n#### 4", **dict.fromkeys(sources, solution)}
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps({**row, "question": f"{n} and 2?"}) + "\n" for n in range(4)), encoding="utf-8")
    data = instantiate(composed("data=gsm_solutions", f"data.path={path}", "data.heldout=0.5").data,
                       _convert_="all").load(0)
    assert data.measure(data.evaluation[0], "<<2+2=4>>\nA: 4.00", True) == {"accuracy/exact": 1.0}
