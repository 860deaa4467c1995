"""The texts of the benchmark beside TRL: their lengths, and what is taken of a file."""

import json
from dataclasses import asdict, replace

import pytest

from algorithms.common.support.errors import DataError
from benchmarks.random_models import LAB
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.texts import pairs, prepare_texts, write_pairs
from benchmarks.speed.training import ranked


@pytest.fixture
def asked(tmp_path) -> Request:
    found = Request("", "", "tiny", "cpu", "fp32", 3, str(tmp_path), "", lengths=Lengths((16, 48), (4, 24)))
    prepare_texts(found)
    return found


def test_pairs_are_read_again_where_they_are_not_enough(asked):
    rows = pairs(asked, 600)
    assert len(rows) == 600 and rows[512] == rows[0] != rows[1] and set(rows[0]) == {"prompt", "chosen", "rejected"}


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


@pytest.fixture
def of_a_file(asked, tmp_path) -> Request:
    """Twelve comparisons that have the lengths, one whose prompt is too long, one whose answer is."""
    words = " a good film with a plot".split(" ")
    rows = [{"prompt": f"Human: is it good? It is {'so ' * 12}{number}\n\nAssistant:\n",
             "chosen": "\n\nit was  a good\nfilm" + " film" * (number % 3), "rejected": " it was a plot"}
            for number in range(12)]
    rows += [{**rows[0], "prompt": " ".join(words * 20)}, {**rows[1], "chosen": " ".join(words * 20)}]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return replace(asked, data=str(path))


def test_of_a_file_those_of_the_lengths_are_taken(of_a_file):
    """In its order. Both sides part a response from its prompt at its first space."""
    from transformers import AutoTokenizer

    prepare_texts(of_a_file)
    found, tokenizer = pairs(of_a_file, 12), AutoTokenizer.from_pretrained(LAB)
    assert len({row["prompt"] for row in found}) == 12 and pairs(of_a_file, 13)[12] == found[0]
    assert found[0]["prompt"].endswith("so 0\n\nAssistant:") and found[0]["chosen"] == " it was a good film"
    for row in found:
        for key in ("chosen", "rejected"):
            apart = [tokenizer(row[part], add_special_tokens=False).input_ids for part in ("prompt", key)]
            assert tokenizer(row["prompt"] + row[key], add_special_tokens=False).input_ids == sum(apart, [])


def test_too_few_of_the_lengths_are_refused_with_what_is_usual(of_a_file):
    with pytest.raises(DataError, match="found 0 of 14 .* prompts of 2-3 tokens .* 4-24; expected 8 .* fix: ") as told:
        prepare_texts(replace(of_a_file, lengths=Lengths((2, 3), (4, 24))))
    prompt, response = str(told.value).split("fix: ")[1].split(" are")[0].split()
    lengths = Lengths.read(prompt.removeprefix("prompt="), response.removeprefix("response="))
    prepare_texts(replace(of_a_file, lengths=lengths))  # what the message says works


@pytest.mark.parametrize("count", [3, 30])
def test_rows_of_a_file_that_come_again_have_prompts_of_their_own(of_a_file, tmp_path, count):
    prepare_texts(of_a_file)
    write_pairs(of_a_file, tmp_path / "more.jsonl", count)
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == count
