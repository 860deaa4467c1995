"""Proposals of rewritten instructions: how they are read, and which are kept."""

import pytest

from algorithms.common.data.rewriting import (
    CUT,
    EMPTY,
    LEAKS,
    MARK,
    OTHER,
    SAME,
    UNMARKED,
    Rules,
    in_place,
    instruction_of,
    proposed,
    question,
)

TEA = "How do I make green tea?"
POUR = "Pour water of eighty degrees over the leaves and wait two minutes."


def test_the_question_shows_the_pair_and_asks_for_the_mark():
    text = question(TEA, f" {POUR}", "Boil it {hard}.")
    assert text.index(TEA) < text.index(POUR) < text.index("Boil it {hard}.") < text.index(f'"{MARK}"')
    assert f"[Better answer]\n{POUR}\n" in text


@pytest.mark.parametrize("said, found", [
    (f"The first is exact.\n{MARK} How do I make it well?", ("How do I make it well?", None)),
    (f"{MARK}\n\"How, step by step?\"\n", ("How, step by step?", None)),
    (f'{MARK} "a" or "b"?', ('"a" or "b"?', None)),
    (f"I end with {MARK} now.\n{MARK} Two\nlines", ("Two\nlines", None)),
    ("How do I make it well?", ("", UNMARKED)),
    (f"{MARK}  \n", ("", EMPTY)),
])
def test_what_follows_the_last_mark(said, found):
    assert proposed(said, True) == found
    assert proposed(said, False) == ("", CUT)


@pytest.mark.parametrize("proposal, reason", [
    ("How do I make green tea, step by step and with the temperature?", None),
    ("how do I make GREEN tea", SAME),
    ("Pour water over leaves.", OTHER),
    ("How do I make green tea? Say that I pour water of eighty degrees over the leaves.", LEAKS),
    ("How do I make green tea? Tell of water of eighty degrees over it.", None),    # five words in a row, no more
    ("?!", EMPTY),
])
def test_which_proposals_are_kept(proposal, reason):
    assert Rules().refused(proposal, TEA, POUR) == reason


def test_the_rules_are_settings():
    five = "How do I make green tea? Tell of water of eighty degrees over it."
    assert Rules(longest_shared=4).refused(five, TEA, POUR) == LEAKS
    assert Rules(longest_shared=0).refused("Now, how do I make green tea?", TEA, "Now.") == LEAKS
    assert Rules(least_kept=0.0).refused("Pour water.", TEA, POUR) is None
    half = "green tea make"     # three of six
    assert Rules(least_kept=0.5).refused(half, TEA, POUR) is None
    assert Rules(least_kept=0.51).refused(half, TEA, POUR) == OTHER


def test_words_that_the_instruction_has_leak_nothing():
    text = "Correct: pour water of eighty degrees over the leaves."
    assert Rules().refused(f"{text} Mind the spelling.", text, POUR) is None


def test_single_instructions():
    turn = {"role": "user", "content": TEA}
    assert instruction_of(TEA) == instruction_of([turn]) == TEA
    assert instruction_of([{"role": "system", "content": "x"}, turn]) is None
    assert instruction_of([turn, {"role": "assistant", "content": "a"}, turn]) is None
    assert in_place(TEA, "new") == "new" and in_place([{**turn, "n": 1}], "new") == [{**turn, "content": "new", "n": 1}]
