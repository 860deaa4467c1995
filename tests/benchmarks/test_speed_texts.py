"""The texts of the benchmark beside TRL: their lengths, and what is taken of a file."""

import json
from dataclasses import asdict, replace

import pytest

from algorithms.common.support.errors import DataError
from benchmarks.random_models import LAB, SHAPES
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.texts import pairs, prepare_texts, write_pairs
from benchmarks.speed.training import ranked


@pytest.fixture
def asked(tmp_path) -> Request:
    found = Request("", "", "tiny", "cpu", "fp32", 3, str(tmp_path), "", lengths=Lengths((16, 48), (4, 24)))
    prepare_texts(found)
    return found


def test_pairs_come_again_with_a_number_where_they_are_not_enough(asked):
    """A side that keeps what it computed of a text would have less to do."""
    rows = pairs(asked, 1100)
    assert [rows[number]["prompt"] for number in (512, 1024)] == [f"{time} {rows[0]['prompt']}" for time in (1, 2)]
    assert len({row["prompt"] for row in rows}) == len(rows) == 1100
    assert pairs(asked, 512) == rows[:512] and rows[512]["chosen"] == rows[0]["chosen"]
    assert set(rows[0]) == {"prompt", "chosen", "rejected"}


def test_texts_have_the_lengths_that_are_asked_for(asked):
    """Words are tokens; a request that went through JSON asks for the same."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(LAB)
    for text in pairs(asked, 50):
        for key, (first, last) in (("prompt", (16, 48)), ("chosen", (4, 24)), ("rejected", (4, 24))):
            assert first <= len(tokenizer(text[key], add_special_tokens=False).input_ids) <= last
    assert Request.read(json.dumps(asdict(asked))) == asked


def test_ranked_responses_differ_and_have_the_pairs_words(asked):
    for text in pairs(asked, 512):
        found = ranked(text, 8)
        assert found[:2] == [text["chosen"], text["rejected"]] and len(set(found)) == 8
        assert all(sorted(one.split()) == sorted(text[key].split())
                   for place, one in enumerate(found) for key in [("chosen", "rejected")[place % 2]])


def written(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def comparison(number: int, **other) -> dict:
    return {"prompt": f"Human: is it good? It is {'so ' * 12}{number}\n\nAssistant:\n",
            "chosen": "\n\nit was  a\nfilm" + " film" * (number % 3), "rejected": " it was a plot\n", **other}


LONG = " a good film with a plot" * 20
UNFIT = [{"prompt": LONG}, {"chosen": LONG}, {"chosen": "it was<eos> a film"}, {"prompt": "<bos>" + " is it" * 10},
         {"chosen": "it was a plot", "rejected": " it was a plot"}]


@pytest.fixture
def of_a_file(asked, tmp_path) -> Request:
    """Twelve comparisons that have the lengths, one more of the first's prompt, and what has not or cannot be told."""
    rows = [comparison(number) for number in range(12)] + [comparison(0, chosen="it is another film")]
    rows += [comparison(20 + number, **other) for number, other in enumerate(UNFIT)]
    return replace(asked, data=written(tmp_path / "mine.jsonl", rows))


def test_of_a_file_those_of_the_lengths_are_taken(of_a_file):
    """In its order, one a prompt. Both sides part a response from its prompt at its first space."""
    from transformers import AutoTokenizer

    prepare_texts(of_a_file)
    found, tokenizer = pairs(of_a_file, 12), AutoTokenizer.from_pretrained(LAB)
    assert len({row["prompt"] for row in found}) == 12 and pairs(of_a_file, 13)[12]["chosen"] == found[0]["chosen"]
    assert found[0]["prompt"].endswith("so 0\n\nAssistant:") and found[0]["rejected"] == " it was a plot"
    assert found[1]["chosen"] == " it was  a\nfilm film"
    for row in found:
        for key in ("chosen", "rejected"):
            apart = [tokenizer(row[part], add_special_tokens=False).input_ids for part in ("prompt", key)]
            assert tokenizer(row["prompt"] + row[key], add_special_tokens=False).input_ids == sum(apart, [])


def test_too_few_of_the_lengths_are_refused_with_what_is_usual(of_a_file):
    with pytest.raises(DataError, match="found 0 prompts of 2-3 tokens .* 4-24, .* expected 8 .* fix: prompt=") as told:
        prepare_texts(replace(of_a_file, lengths=Lengths((2, 3), (4, 24))))
    prompt, response = str(told.value).split("fix: ")[1].split()
    lengths = Lengths.read(prompt.removeprefix("prompt="), response.removeprefix("response="))
    prepare_texts(replace(of_a_file, lengths=lengths))  # what the message says works


def test_the_model_has_room_for_the_lengths_that_are_proposed(asked, tmp_path):
    rows = [comparison(number, prompt=f"{number}" + LONG * (1 + number % 9), chosen=LONG * (number % 5)
                       or " film") for number in range(120)]
    asked = replace(asked, data=written(tmp_path / "long.jsonl", rows))
    with pytest.raises(DataError, match="fix: prompt=") as told:
        prepare_texts(asked)
    proposed = Lengths.read(*(part.split("=")[1] for part in str(told.value).split("fix: ")[1].split()))
    assert proposed.longest <= SHAPES["tiny"].positions
    prepare_texts(replace(asked, lengths=proposed))
    asked = replace(asked, data=written(tmp_path / "longer.jsonl", [
        comparison(number, prompt=f"{number}" + LONG * 9) for number in range(40)]))
    with pytest.raises(DataError, match="fix: another file: this one has too few for tiny"):
        prepare_texts(asked)


def test_a_file_without_comparisons_is_said_to_be_so(asked, tmp_path):
    data = written(tmp_path / "told.jsonl", [{"prompt": f"what is it? {number}", "response": "a film"}
                                             for number in range(20)])
    with pytest.raises(DataError, match="found no comparisons in .*told.jsonl"):
        prepare_texts(replace(asked, data=data))


@pytest.mark.parametrize("count", [3, 30])
def test_rows_of_a_file_that_come_again_have_prompts_of_their_own(of_a_file, tmp_path, count):
    prepare_texts(of_a_file)
    write_pairs(of_a_file, tmp_path / "more.jsonl", count)
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == count
