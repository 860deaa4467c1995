"""The data report: numbers worked by hand, near-duplicates across the split, a page that hostile data cannot change."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from algorithms.common.data.records import DataSets, FileData, Record, Records, duplicates
from algorithms.common.data.records.duplicates import jaccard, near_duplicates, shingles, words
from algorithms.common.data.records.inspection import count_words, inspect, summary
from algorithms.common.data.records.inspection_page import bars, number, page, percent, terminal
from algorithms.common.data.records.told import LoadReport
from algorithms.common.support import phases
from command_line import invoke, run_python
from few import few


def data(report=None, choices=None, **sets):
    names = ("preferences", "demonstrations", "prompts", "evaluation", "heldout", "tuning")
    return DataSets(**{name: Records.from_list(sets.get(name, [])) for name in names}, report=report or LoadReport(),
                    choices=None if choices is None else Records.from_list(choices))


def at(line, path="f.jsonl"):
    return {"source": path, "line": line}


# Near-duplicates


def test_words_and_shingles():
    assert words("Don't SHOUT, Straße!") == ["don", "t", "shout", "strasse"]
    assert words("ﬁne １２") == ["fine", "12"], "compatibility forms are one"
    assert words("我爱ABC") == ["我", "爱", "abc"]
    assert shingles("a b, c B") == {("a", "b"), ("b", "c"), ("c", "b")}
    assert shingles("One!") == {("one",)} and shingles("?!") == set()
    turns = (("system", "You are kind."), ("user", "a b"), ("assistant", "c"))
    chat = [{"role": role, "content": text} for role, text in turns]
    assert shingles(chat) == {("a", "b"), ("b", "c")}, "what the system says is the same everywhere"


def test_jaccard_by_hand():
    """The last of five words differs: three of four pairs are shared, of five in all."""
    assert jaccard(shingles("the cat sat down now"), shingles("the cat sat down here")) == 3 / 5
    assert jaccard({1, 2, 3}, {2, 3, 4, 5}) == 2 / 5 and jaccard(set(), set()) == 0 and jaccard({1}, {1}) == 1


SENTENCE = ("please write a short story about an old lighthouse keeper who finds a letter in a bottle and then "
            "decides to "
            "leave the island after thirty years of living there all alone")       # 32 words, 31 pairs


def test_a_planted_near_duplicate_is_found_and_a_merely_similar_one_is_not():
    """One word in the middle replaced: 29 / 33 = 0.88. Four words apart from each other: 23 / 39 = 0.59."""
    changed = SENTENCE.replace("bottle", "barrel")
    similar = changed.replace("short", "long").replace("keeper", "owner").replace("island", "coast")
    assert jaccard(shingles(SENTENCE), shingles(changed)) == 29 / 33
    assert jaccard(shingles(SENTENCE), shingles(similar)) == 23 / 39
    others = [Record(f"question number {i} about something else", []) for i in range(300)]
    training = Records.from_list([*others, Record(changed, []), Record(similar, [])])
    heldout = Records.from_list([Record("unlike anything", []), Record(SENTENCE, [])])
    found = near_duplicates({"prompts": training}, {"evaluation": heldout})
    assert found.pairs == [(("prompts", 300), ("evaluation", 1), 29 / 33)]
    assert found.heldout == 2 and found.untried == 0
    assert not near_duplicates({"prompts": training.select([*range(300), 301])}, {"evaluation": heldout}).pairs
    assert near_duplicates({"prompts": training.select([301])}, {"evaluation": heldout}, threshold=0.5).pairs


def test_equal_prompts_are_no_near_duplicates_but_other_spellings_are():
    training = Records.from_list([Record("How are you?", []), Record("Tell me a joke.", [])])
    heldout = Records.from_list([Record([{"role": "user", "content": "How are you?"}], []),
                                 Record("tell me a JOKE", []),
                                 Record("…", []), Record("", [])])
    found = near_duplicates({"prompts": training}, {"heldout": heldout})
    assert found.pairs == [(("prompts", 1), ("heldout", 1), 1.0)] and found.heldout == 3


def test_near_duplicates_are_those_that_comparing_all_pairs_finds():
    """Edits of every size; the minima miss less than 1 % of the pairs, and here none."""
    random = np.random.Generator(np.random.Philox(key=5))
    vocabulary = [f"w{i}" for i in range(3000)]

    def text(count):
        return [vocabulary[i] for i in random.integers(3000, size=count)]

    originals, edited = [text(40) for _ in range(150)], []
    for original in originals:
        new = list(original)
        for place in random.choice(40, size=random.integers(1, 9), replace=False):
            new[place] = vocabulary[random.integers(3000)]
        edited.append(" ".join(new))
    originals = [" ".join(one) for one in originals]
    expected = {i for i, (a, b) in enumerate(zip(originals, edited)) if jaccard(shingles(a), shingles(b)) >= 0.8}
    assert 15 < len(expected) < 135
    found = near_duplicates({"a": Records.from_list(Record(one, []) for one in originals[::2]),
                             "b": Records.from_list(Record(one, []) for one in originals[1::2] + originals[:10])},
                            {"e": Records.from_list(Record(one, []) for one in edited)})
    assert {held[1] for _, held, _ in found.pairs} == expected
    trained = {(name, 2 * row + (name == "b")) for (name, row), _, _ in found.pairs}
    assert trained == {("ab"[i % 2], i) for i in expected}


def test_keys_agree_as_often_as_the_sets_are_similar():
    """60 of 140 elements shared: 3/7. A band of 5 minima agrees with probability (3/7)⁵ = 0.0145."""
    sets = []
    for i in range(600):
        shared = {(f"s{i}/{j}",) for j in range(60)}
        sets += [shared | {(f"{side}{i}/{j}",) for j in range(40)} for side in "ab"]
    keys, sizes = duplicates.band_keys(sets)
    assert (sizes == 100).all() and keys.dtype == np.uint32 and keys.shape == (1200, 16)
    agree = (keys[0::2] == keys[1::2]).mean()
    deviation = (0.0145 * 0.9855 / (600 * 16)) ** 0.5
    assert abs(agree - (3 / 7) ** 5) < 4 * deviation


def test_what_is_cut_short_is_counted(monkeypatch):
    """40 held-out prompts of one long template, each 0.6 like every training prompt of it."""
    template = " ".join(f"t{i}" for i in range(12))
    heldout = Records.from_list(Record(f"{template} {i} {i}b {i}c {i}d", []) for i in range(40))
    training = Records.from_list(Record(f"{template} {i} {i}b {i}c {i}d", []) for i in range(100, 200))
    full = near_duplicates({"p": training}, {"e": heldout})
    assert not full.pairs and full.comparisons > 100
    monkeypatch.setattr(duplicates, "COMPARISONS", 10)
    cut = near_duplicates({"p": training}, {"e": heldout})
    assert cut.comparisons == 10 and cut.untried == full.untried + full.comparisons - 10
    monkeypatch.setattr(duplicates, "BUCKET", 1)
    monkeypatch.setattr(duplicates, "COMPARISONS", 1000)
    assert near_duplicates({"p": training}, {"e": heldout}).untried > full.untried


def test_of_many_candidates_each_training_prompt_tries_others(monkeypatch):
    """All prompts share a long beginning, so that some bands put the 60 held-out prompts into one bucket."""
    template, tried = " ".join(f"t{i}" for i in range(12)), set()
    read = duplicates._Index._read
    monkeypatch.setattr(duplicates._Index, "_read", lambda self, held: tried.add(held) or read(self, held))
    monkeypatch.setattr(duplicates, "BUCKET", 1)
    heldout = Records.from_list(Record(f"{template} {i} {i}b {i}c", []) for i in range(60))
    training = Records.from_list(Record(f"{template} {i} {i}b {i}c", []) for i in range(100, 900))
    near_duplicates({"p": training}, {"e": heldout}, threshold=0.9)
    assert len(tried) > 50


def test_many_equal_candidates_do_not_hide_one_another():
    """100 held-out prompts that nearly equal one training prompt, more than are tried at once, in two batches of it."""
    heldout = Records.from_list(Record(f"{SENTENCE} {i}", []) for i in range(100))
    training = Records.from_list(Record(f"{SENTENCE} {i}", []) for i in range(1000, 1400))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(duplicates, "BATCH", 64)
        assert len(near_duplicates({"p": training}, {"e": heldout}).pairs) == 100


# Numbers


def test_outliers_by_hand():
    """1…8 and 100: quartiles 3 and 7, so the fences are 3 − 12 = −9 and 7 + 12 = 19."""
    found = summary([1, 2, 3, 4, 5, 6, 7, 8, 100], lambda i: f"line {i}")
    assert (found["min"], found["p25"], found["median"], found["p75"], found["max"]) == (1, 3, 5, 7, 100)
    assert found["mean"] == 136 / 9 and found["n"] == 9
    assert found["outliers"] == {"below": -9, "above": 19, "count": 1, "share": 1 / 9,
                                 "first": [{"at": "line 8", "value": 100}]}
    assert summary([-100, *range(1, 9)], str)["outliers"]["first"] == [{"at": "0", "value": -100}]
    at_the_fence = summary([1, 2, 3, 4, 5, 6, 7, 8, 19], str)
    assert at_the_fence["outliers"]["count"] == 0
    assert summary([], str) is None


def test_where_most_values_are_equal_not_all_others_are_outliers():
    """4 of 20 differ by a word or two: the quartiles are both 7, and the fences 7 ± 3 · 0.7."""
    found = summary([6, *[7] * 15, 8, 9, 9, 40], str)
    assert (found["p25"], found["p75"]) == (7, 7)
    assert found["outliers"]["first"] == [{"at": "19", "value": 40}]
    short = summary([8] * 11 + [9] * 33 + [12] * 10 + [13], str)  # quartiles of 9, and 9 + 3 · 0.9 < 12
    assert short["outliers"]["above"] == 12 and short["outliers"]["first"] == [{"at": "54", "value": 13}]
    shares = summary([0.5] * 20 + [0.9], str)
    assert shares["outliers"]["count"] == 1, "only counts differ by whole numbers"


def test_only_the_first_outliers_are_named():
    found = summary([5] * 100 + [50] * 7, str)
    assert found["outliers"]["count"] == 7
    assert [one["at"] for one in found["outliers"]["first"]] == ["100", "101", "102", "103", "104"]


def test_histograms_count_everything_once():
    found = summary([2, 2, 3, 5], str)["histogram"]
    assert found["edges"] == [2, 3, 4, 5, 6] and found["counts"] == [2, 1, 0, 1] and not found["open"]
    long = summary(list(range(1000)) + [10**6], str)["histogram"]
    assert sum(long["counts"]) == 1001 and long["open"] and len(long["counts"]) <= 24
    assert set(np.diff(long["edges"])) == {42.0}
    assert summary([0.5, 0.5], str)["histogram"] == {"edges": [0.5, 1.5], "counts": [2], "open": False}
    real = summary(np.linspace(0, 1, 1000), str)["histogram"]
    assert sum(real["counts"]) == 1000 and len(real["counts"]) == 24


def test_the_smallest_margins_have_a_histogram():
    """A 24th of the smallest number above 0 is 0."""
    found = summary(np.array([0.0, 5e-324]), str)["histogram"]
    assert found["counts"] == [2] and found["edges"] == [0.0, 1.0]


def test_words_are_counted_as_white_space_separates_them():
    assert count_words("It isn't  far,\nreally") == 4 and count_words("我爱 ABC的") == 4 and count_words(" ") == 0


def test_a_set_by_hand():
    records = [
        Record("one two", ["long answer", "short"], [1.0, 0.0], at(1)),             # the longer is preferred
        Record("one two", ["ab", "abcd"], [3.0, 1.0], at(2)),                       # the shorter; margin 2
        Record("three", ["x", "y"], [1.0, 0.0], at(3)),                             # of equal length
        Record("four", ["a", "bb", "ccc"], [2.0, 2.0, 5.0], {**at(4), "origin": "hh"}),     # ccc above both; one tie
        Record("five", ["u", "vv", "w"], [1.0, 1.0, 1.0], {**at(5), "origin": "hh"}),       # all tied
        Record("one two", ["long answer", "short"], [1.0, 0.0], at(6)),             # the first again
    ]
    found = inspect(data(preferences=records))["statistics"]["preferences"]
    assert (found["records"], found["distinct_prompts"], found["repeated_records"]) == (6, 4, 1)
    assert found["responses_per_record"] == {"2": 4, "3": 2} and found["records_per_prompt"] == {"1": 3, "3": 1}
    assert found["origins"] == {"hh": 2}
    assert found["length_bias"] == {"pairs": 6, "longer": 4, "shorter": 1, "equal": 1, "share": 4 / 5}
    assert found["ties"] == {"2": {"records": 4, "pairs": 4, "tied_pairs": 0, "all_tied": 0},
                             "3": {"records": 2, "pairs": 6, "tied_pairs": 4, "all_tied": 1}}
    assert (found["margin"]["n"], found["margin"]["min"], found["margin"]["max"]) == (6, 0, 3)
    assert found["prompt"]["words"]["mean"] == 9 / 6 and found["response"]["characters"]["n"] == 14
    assert found["response"]["words"]["max"] == 2 and found["response"]["characters"]["max"] == 11


def test_outliers_are_named_by_file_and_line_or_by_place():
    rows = [Record(f"p {i}", ["a b", "c d"], [1.0, 0.0], at(i + 1)) for i in range(20)]
    rows[7] = Record("p 7", ["word " * 50, "a b"], [40.0, 0.0], at(8))
    prompts = [Record("x", [])] * 9 + [Record("x " * 30, [])]
    found = inspect(data(preferences=rows, prompts=prompts))["statistics"]
    assert found["preferences"]["response"]["words"]["outliers"]["first"] == [{"at": "f.jsonl:8", "value": 50}]
    assert found["preferences"]["margin"]["outliers"]["first"] == [{"at": "f.jsonl:8", "value": 40.0}]
    assert found["prompts"]["prompt"]["words"]["outliers"]["first"] == [{"at": "prompts[9]", "value": 30}]
    assert found["prompts"]["response"]["words"] is None and found["prompts"]["margin"] is None


def test_ungraded_and_extreme_scores():
    records = [Record("a", ["x", "y"]), Record("b", ["x"], [1.0]), Record("c", ["x", "y"], [1.7e308, -1.7e308])]
    found = inspect(data(preferences=records))
    assert found["statistics"]["preferences"]["margin"]["n"] == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "strict JSON, without numbers as keys"


def test_examples_are_a_fixed_draw_and_long_texts_say_their_length():
    records = [Record([{"role": "user", "content": f"{i} " + "x" * 3000}], ["y"] * 12, None, at(i)) for i in range(40)]
    first, second = (inspect(data(demonstrations=records))["statistics"]["demonstrations"]["examples"]
                     for _ in range(2))
    assert first == second and len(first) == 5 and len({one["at"] for one in first}) == 5
    assert len(first[0]["prompt"][0]["text"]) == 1000 and first[0]["prompt"][0]["characters"] > 3000
    assert len(first[0]["responses"]) == 8 and first[0]["responses_in_all"] == 12


def test_questions_with_options():
    choices = [Record("q1", ["a", "b", "c"], [0.0, 1.0, 0.0], {"groups": ["options/qa", "options/heldout"]}),
               Record("q2", ["a", "b"], [1.0, 1.0], {"groups": ["options/qa"]})]
    found = inspect(data(choices=choices))
    assert found["sets"]["choices"] == 2
    found = found["statistics"]["choices"]
    assert found["responses_per_record"] == {"2": 1, "3": 1} and found["right_options"] == {"1": 1, "2": 1}
    assert found["position_of_right"] == {"0": 1, "1": 1} and found["groups"] == {"options/qa": 2, "options/heldout": 1}
    assert "ties" not in found and "choices" not in inspect(data())["sets"]


# The split


def test_prompts_on_both_sides_are_counted_and_named():
    found = inspect(data(preferences=[Record("a", ["x", "y"], [1.0, 0.0], at(1))], prompts=[Record("b", [])],
                         evaluation=[Record([{"role": "user", "content": "a"}], [], None, at(7)), Record("c", [])],
                         heldout=[Record("a", ["x", "y"], [1.0, 0.0], at(8))] * 2, tuning=[Record("c", [])]))
    assert found["split"] == {"training_prompts": 2, "heldout_prompts": 2, "shared_prompts": 1,
                              "shared_with_training": {"evaluation": 1, "heldout": 2, "tuning": 0},
                              "lines": ["f.jsonl:7", "f.jsonl:8", "f.jsonl:8"], "tuning_and_evaluation": 1}
    printed = terminal(found)
    assert "ATTENTION: 2 records of heldout have a prompt that is trained on" in printed
    assert "ATTENTION: 1 prompts are both tuned and evaluated on" in printed
    assert "2 records of heldout have a prompt that is trained on" in page(found, "t")


def chat(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_conversations_that_go_on_across_the_split_are_counted_and_named():
    training = [Record(chat("a", "it is so", "b"), ["x y z", "w"], [1.0, 0.0], at(1)), Record("c", [], None, at(2))]
    # begins the first; its answer is there
    held = [Record("a", [" it is so\n", "no"], [1.0, 0.0], at(5)),
            Record(chat("c", "yes", "d"), ["m n o", "so"], [1.0, 0.0], at(6)),      # goes on with the second
            Record(chat("e", "yes", "f"), ["it is"], None, at(7)),                  # neither, and too short to tell
            Record(chat("a", "it is so", "b"), ["q"], None, at(8)),                 # the same prompt is no beginning
            Record("z", ["it is so"], None, at(9))]                                 # the same words to another question
    found = inspect(data(preferences=training[:1], prompts=training, heldout=held, evaluation=held[2:]))
    assert found["conversations"] == {"continued": {"evaluation": 0, "heldout": 2, "tuning": 0},
                                      "answers_trained_on": {"evaluation": 0, "heldout": 1, "tuning": 0},
                                      "lines": {"continued": ["f.jsonl:5", "f.jsonl:6"],
                                                "answers_trained_on": ["f.jsonl:5"]}}
    printed, shown = terminal(found), Page.of(page(found, "t")).text
    for told in ("2 records of heldout belong to a conversation whose beginning or continuation is trained on",
                 "1 records of heldout have a response that follows the same turn in a training prompt"):
        assert f"ATTENTION: {told}" in printed and told in shown
    assert "continued: f.jsonl:5, f.jsonl:6" in printed and "answers trained on: f.jsonl:5" in printed
    assert "continued: f.jsonl:5, f.jsonl:6" in shown


def test_a_share_of_no_pairs_is_not_told():
    found = inspect(data(preferences=[Record("a", ["x", "y"], [1.0, 0.0])]))
    assert found["statistics"]["preferences"]["length_bias"]["pairs"] == 1
    assert "longer response" not in terminal(found) and "longer response" not in page(found, "t")
    told = inspect(data(preferences=[Record("a", ["xx", "y"], [1.0, 0.0])]))
    assert "preferred in 100.0 % of 1 pairs" in terminal(told) and "longer response" in page(told, "t")


def test_a_split_without_fault_is_said():
    found = inspect(data(prompts=[Record("a b", [])], evaluation=[Record("c d", [])]))
    assert found["split"]["shared_prompts"] == 0 and found["near_duplicates"]["count"] == 0
    assert "ATTENTION" not in terminal(found) and "no prompt, and no near-duplicate of one" in terminal(found)


def test_near_duplicates_are_shown_with_their_lines():
    found = inspect(data(preferences=[Record("Tell me a joke.", ["x", "y"], [1.0, 0.0], at(3))],
                         evaluation=[Record("tell me a joke", [], None, at(9))], tuning=[Record("else", [])]))
    (pair,) = found["near_duplicates"]["first"]
    assert (pair["training"]["at"], pair["heldout"]["at"], pair["jaccard"]) == ("f.jsonl:3", "f.jsonl:9", 1.0)
    assert found["near_duplicates"]["count"] == 1 and found["near_duplicates"]["heldout_prompts"] == 2
    assert "f.jsonl:3 ≈ f.jsonl:9 (1.00)" in terminal(found)
    found["near_duplicates"]["untried_candidates"] = 3
    assert "3 candidates were too many to compare" in terminal(found)


def test_no_data_at_all():
    found = inspect(data())
    assert found["statistics"] == {} and set(found["sets"].values()) == {0}
    assert "read 0 rows" in terminal(found) and Page.of(page(found, "nothing")).text


# The page


VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """A page's elements and text; every element must be closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    @classmethod
    def of(cls, html):
        made = cls()
        made.feed(html)
        made.close()
        assert not made.open
        return made

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text


HOSTILE = ("<script>alert(1)</script>\"' onload=\"x()\" {{ 7*7 }} {% raw %} &lt; </pre></body> \n  forged line "
           "\u202eright to left\u2069 \x1b[31m \x07")


def hostile():
    report = LoadReport(read=9, kept=9, dropped={HOSTILE: 1}, lines={HOSTILE: [HOSTILE]}, kinds={HOSTILE: 1},
                        layouts={HOSTILE: HOSTILE}, ignored_columns={HOSTILE: [HOSTILE]}, fallbacks={HOSTILE: HOSTILE},
                        sources={HOSTILE: {HOSTILE: 1}}, filtered={HOSTILE: 2})
    meta = {"source": HOSTILE, "line": 1, "origin": HOSTILE}
    records = [Record([{"role": "user", "content": f"{HOSTILE} {i}"}], [HOSTILE, HOSTILE * (91 if i == 5 else 1)],
                      [1.0, 0.0], meta) for i in range(12)]
    return inspect(data(report, preferences=records, evaluation=[Record(f"{HOSTILE} 3 !", [], None, meta)],
                        choices=[Record(HOSTILE, ["a", HOSTILE], [1.0, 0.0], {"groups": [HOSTILE]})]))


def test_hostile_data_changes_neither_the_page_nor_the_terminal():
    found = hostile()
    html = page(found, HOSTILE)
    shown = Page.of(html)
    assert not {"script", "iframe", "img", "link", "a", "form", "object", "base"} & set(shown.tags)
    assert not [name for name, _ in shown.attributes if name.startswith("on") or name in ("href", "src", "action")]
    assert shown.text.count("<script>alert(1)</script>") > 20, "shown as it is written"
    assert "{{ 7*7 }}" in shown.text and "49 {%" not in shown.text and r"\u202eright to left\u2069" in shown.text
    for text in (html, terminal(found)):
        assert not set(text) & set("\u202e\u2069\x1b\x07")
    assert r"\u001b[31m" in terminal(found) and "\n  forged" not in terminal(found)


def test_the_page_loads_nothing_from_elsewhere_and_fits_every_screen():
    html = page(hostile(), "Data report")
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert not re.search(r"https?:|url\(|@import|<script|javascript:", html.replace("&lt;script", ""))


def test_a_cut_text_says_so_on_the_page():
    found = inspect(data(prompts=[Record("x" * 12345, [])]))
    assert "… cut; 12,345 characters in all" in page(found, "t")
    assert "cut;" not in page(inspect(data(prompts=[Record("x", [])])), "t")


def test_the_page_says_where_it_is_from_and_begins_with_open_examples():
    records = [Record(f"prompt {i}", ["a b"], None, at(i + 1, f"/data/long/way/{'ab'[i % 2]}.jsonl")) for i in range(6)]
    report = LoadReport(layouts={"/data/long/way/a.jsonl": "{prompt}", "/data/long/way/b.jsonl": "{prompt}"})
    made = {"Source": "way", "Command": "python run.py task=inspect"}
    html = page(inspect(data(report, prompts=records)), "t", made)
    shown = Page.of(html).text
    places = [shown.index(one) for one in (*made, made["Command"], "Examples", "example ", "Reading", "Sets")]
    assert places == sorted(places)
    assert html.count("<details open>") == html.count("<summary>example") == 5
    assert shown.count("/data/long/way") == 1, "a path is said once, and files by what is below it"
    assert "below -" not in shown, "what no length can be is no fence"


def test_the_pages_share_one_style():
    from algorithms.common.support.style import page_style
    assert page_style() in page(inspect(data(prompts=[Record("x", [])])), "t")


def test_every_report_field_is_on_the_page():
    report = LoadReport(read=30, kept=11, dropped={"null": 3}, lines={"null": ["f.jsonl:4"]}, duplicates=5,
                        strict_pairs=6, rows_without_records=7, blank_lines=8, layouts={"f.jsonl": "{prompt}"},
                        ignored_columns={"f.jsonl": ["id"]}, fallbacks={"prompts": "all"}, filtered={"language": 9},
                        skipped={"empty answer": 2}, sources={"hh": {"read": 30}, "lab": {"drawn": 4}})
    shown = " ".join(Page.of(page(inspect(data(report)), "t")).text.split())
    for text in ("30 rows read, 11 records kept", "null3 f.jsonl:4", "duplicates: 5", "strict pairs: 6",
                 "rows without records: 7", "blank lines: 8", "f.jsonl read as {prompt}", "columns not read: id",
                 "prompts made from: all", "9 rows filtered: language", "skipped 2 times: empty answer", "hh30–",
                 "lab–4"):
        assert text in shown, text
    printed = terminal(inspect(data(report)))
    for text in ("dropped 3: null (f.jsonl:4, …)", "filtered 9: language", "skipped 2 times: empty answer",
                 "columns not read in f.jsonl: id",
                 "prompts made from: all", "source hh: 30 read", "5 duplicate records"):
        assert text in printed, text


def test_numbers_for_readers():
    assert [number(value) for value in (None, 0, 1234567, 2.0, 0.12345, -3.5, 1e300)] == \
        ["–", "0", "1,234,567", "2", "0.1235", "-3.5", "1e+300"]
    assert percent(0.1234) == "12.3 %" and percent(None) == "–"


def test_bars_fill_their_field():
    made = bars({"counts": [1, 0, 4], "edges": [0, 1, 2, 3], "open": True})
    assert [bar["height"] for bar in made] == [14, 0, 56] and [bar["x"] for bar in made] == [0, 80, 160]
    assert [bar["y"] for bar in made] == [42, 56, 0]
    assert [bar["told"] for bar in made] == ["0 to below 1: 1", "1 to below 2: 0", "2 or more: 4"]
    few, _ = bars({"counts": [1, 10**6], "edges": [0, 1, 2], "open": False})
    assert few["height"] == 1, "what is there can be seen"


def test_long_counting_says_how_far_it_is(monkeypatch, caplog, tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = FileData(path=str(tmp_path / "p.jsonl"), heldout=0.3).load(0)
    monkeypatch.setattr(phases, "EVERY", 0.0)
    monkeypatch.setattr(duplicates, "BATCH", 4)  # a phase of one part ends with its first word
    with caplog.at_level("INFO"):
        inspect(data)
    for phase in ("counting", "looking for conversations on both sides", "hashing prompts",
                  "comparing prompts of both sides"):
        assert re.search(rf"{phase}: [\d,]+ of [\d,]+ (records|prompts)", caplog.text), phase


# task=inspect


ROWS = [{"prompt": f"Question {i} of many", "chosen": "yes of course", "rejected": "no"} for i in range(20)]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_secrets_are_masked_everywhere_even_where_a_text_is_cut(tmp_path, monkeypatch):
    secret = "sk-1234567890abcdef"
    monkeypatch.setenv("PLANTED", secret)
    (tmp_path / secret).mkdir()
    path = tmp_path / secret / "pairs.jsonl"
    rows = [{"prompt": "x" * 990 + secret + f" {i}", "chosen": secret, "rejected": "no", secret: 1} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = invoke("task=inspect", "data=file", f"data.path={tmp_path}/${{oc.env:PLANTED}}/pairs.jsonl",
                   f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    written = (tmp_path / "run/data.json").read_text() + (tmp_path / "run/data.html").read_text() + ended.out
    assert "***" in written and secret[:8] not in written


@pytest.mark.slow
@pytest.mark.parametrize("source", [["data=reviews", "data.preferences=32", "data.demonstrations=32"],
                                    ["data=mixture", "+data@data.sources.a.data=reviews"]])
def test_the_lab_and_mixtures_are_inspected_without_a_model(source, tmp_path):
    code = ("import runpy, sys; sys.argv = ['run.py', *sys.argv[1:]]\n"
            "try: runpy.run_path('run.py', run_name='__main__')\n"
            "finally: print('LOADED', [m for m in ('transformers', 'peft', 'accelerate') if m in "
            "sys.modules])")
    ended = run_python("-c", code, "task=inspect", *source, f"hydra.run.dir={tmp_path}/run",
                       f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[-1] == "LOADED []"
    assert json.loads((tmp_path / "run/data.json").read_text())["split"]["shared_prompts"] == 0


@pytest.mark.parametrize("name, rows", few([("hh-rlhf/harmless-base-test.jsonl.gz", 2303),
                                            ("llama-factory/dpo_en_demo.json.gz", 300)], [1]))
def test_public_data(shared_data, name, rows, tmp_path):
    ended = invoke("task=inspect", "data=file", f"data.path={shared_data / name}", "data.on_bad_row=drop",
                   f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    found = json.loads((tmp_path / "run/data.json").read_text())
    assert found["sets"]["preferences"] + found["sets"]["heldout"] + found["sets"].get("audit", 0) == rows
    aside = found["sets"].get("audit", 0) / (rows - found["sets"]["heldout"])
    assert aside == (pytest.approx(0.2, abs=0.01) if rows == 2303 else 0), "a fifth, where that is worth it"
    assert found["split"]["shared_prompts"] == 0 and found["near_duplicates"]["untried_candidates"] == 0
    assert not any(found["conversations"]["continued"].values())
    Page.of((tmp_path / "run/data.html").read_text())


@pytest.mark.browser
def test_a_browser_shows_the_page(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium")
    (tmp_path / "data.html").write_text(page(hostile(), "Data report"))
    subprocess.run([browser, "--headless", "--no-sandbox", "--window-size=390,3000",
                    f"--screenshot={tmp_path}/page.png",
                    f"file://{tmp_path}/data.html"], check=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)})
    assert (tmp_path / "page.png").stat().st_size > 10_000
