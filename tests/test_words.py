"""What counts as a word: runs between spaces, and single characters where a script has none."""

import pytest

from algorithms.common.data.records.duplicates import near_duplicates, words
from algorithms.common.data.records.inspection import count_words
from algorithms.common.data.records.record import Record
from algorithms.common.data.records.storage import Records
from algorithms.common.data.records.words import units
from algorithms.common.data.refusals.wording import is_right

CASES = {
    "Don't panic, 42!": ["Don't", "panic,", "42!"],
    "我爱你。": ["我", "爱", "你", "。"],
    "ABC的GPU很快": ["ABC", "的", "GPU", "很", "快"],
    "これはペンです": ["こ", "れ", "は", "ペ", "ン", "で", "す"],
    "か\u3099 ﾊﾟ": ["か\u3099", "ﾊﾟ"],  # a voiced sound mark belongs to its kana
    "葛\U000e0100城": ["葛\U000e0100", "城"],  # so does the variant of a character
    "𠮷野家": ["𠮷", "野", "家"],
    "ดีที่สุด": ["ดี", "ที่", "สุ", "ด"],  # vowels and tones above and below are no characters of their own
    "ສະບາຍດີ": ["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"],
    "မြန်မာ": ["မြ", "န်", "မာ"],
    "ខ្មែរ": ["ខ្", "មែ", "រ"],
    "한국어 문장": ["한국어", "문장"],  # Korean has spaces
    "नमस्ते दुनिया": ["नमस्ते", "दुनिया"],
    " \t\n": [],
}


@pytest.mark.parametrize("text", CASES)
def test_units(text):
    assert units(text) == CASES[text] and count_words(text) == len(CASES[text])


def test_words_of_prompts_leave_out_punctuation():
    assert words("我爱你。ABC!") == ["我", "爱", "你", "abc"] and words("ดีที่สุด") == ["ดี", "ที่", "สุ", "ด"]
    assert words("한국어, 문장") == ["한국어", "문장"]


@pytest.mark.parametrize("prompt, other, unlike", [
    ("请用三句话介绍一下北京的历史和文化", "请用三句话介绍一下北京的历史和文化吧", "请写一首关于春天的五言绝句给我"),
    ("กรุณาอธิบายประวัติของกรุงเทพมหานคร", "กรุณาอธิบายประวัติของกรุงเทพมหานครด้วย",
     "ช่วยเขียนกลอนเกี่ยวกับทะเลและภูเขา")])
def test_near_duplicates_are_found_without_spaces(prompt, other, unlike):
    held = Records.from_list([Record(other, []), Record(unlike, [])])
    found = near_duplicates({"prompts": Records.from_list([Record(prompt, [])])}, {"evaluation": held})
    assert [pair[1] for pair in found.pairs] == [("evaluation", 0)]


def test_an_answer_is_found_in_a_sentence_without_spaces():
    assert is_right("意大利的首都是罗马。", ["罗马"], "contains") and is_right("罗马。", ["罗马"])
    assert not is_right("意大利的首都是米兰。", ["罗马"], "contains") and not is_right("首都是罗马", ["罗马"])
    assert not is_right("He is a Roman.", ["Roma"], "contains"), "whole words where there are words"
