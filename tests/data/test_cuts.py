"""What is cut is said: how many of how many, by which limit; and how conversations are written without a template."""

import logging

from algorithms.common.data.cuts import tell_cut_examples, tell_cut_prompts
from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.data.template import Example, Template
from algorithms.common.data.usability import Reading, usable


def test_cut_examples_are_counted(caplog):
    whole = Example([1, 2], [[3]], [True], None, "a")
    prompt = Example([1, 2], [[3]], [True], None, "b", truncated=True, prompt_cut=True)
    end = Example([1, 2], [[3], [4]], [True, False], None, "c", truncated=True, prompt_cut=True, turns_left_out=2)
    turns = Example([1, 2], [[3]], [True], None, "d", truncated=True, turns_left_out=3)
    assert tell_cut_examples("dpo", iter([whole, prompt, end, whole, turns]), 64, 32) == 3
    assert caplog.messages == ["dpo: 3 of 5 records are cut to fit model.max_length=64 and model.max_prompt_length=32: "
                               "1 lose the end of a response, 2 lose a part of their prompt's text, 2 lose whole turns "
                               "before the user's last one (5 in all)"]
    caplog.clear()
    assert tell_cut_examples("dpo", [whole], 64, 32) == 0 and not caplog.messages
    assert tell_cut_examples("dpo", [end], 64, 32) == 1 and "1 lose the end" in caplog.text


def test_cut_prompts_are_counted(caplog):
    assert tell_cut_prompts("evaluation", [[1, 2, 3], [1]], [[3], [1]], 64, 56) == 1
    assert caplog.messages == [
        "evaluation: 1 of 2 prompts are cut to leave room for answers of 56 tokens within model.max_length=64"]
    caplog.clear()
    assert tell_cut_prompts("evaluation", [[1]], [[1]], 64, 56) == 0 and not caplog.messages


def test_what_was_said_is_not_said_again(caplog):
    """A run and its start are evaluated on the same prompts, and cut alike."""
    said: set[str] = set()
    for _ in range(2):
        assert tell_cut_prompts("evaluation", [[1, 2]], [[2]], 64, 56, said) == 1
        assert tell_cut_examples("held-out pairs", [Example([1], [[3]], [False], None, "a", truncated=True)], 64, 32,
                                 said) == 1
    assert len(caplog.messages) == 2
    assert tell_cut_prompts("evaluation", [[1, 2], [1]], [[2], [1]], 64, 56, said) == 1 and len(caplog.messages) == 3


def data(prompt) -> DataSets:
    pairs = Records.from_list([Record(prompt, [" yes", " no"], [1.0, 0.0])])
    none = Records.from_list([])
    return DataSets(preferences=pairs, demonstrations=none, prompts=none, evaluation=none, heldout=none, tuning=none,
                    report=LoadReport())


def test_the_form_of_conversations_without_a_template_is_said_where_there_are_some(tokenizer, caplog):
    caplog.set_level(logging.INFO)
    reading = Reading(Template(tokenizer), "preferences")
    usable(data([{"role": "user", "content": "hi"}]), [reading, reading])
    (told,) = [text for text in caplog.messages if text.startswith("no chat template")]
    assert r"conversations are written as '\n\nHuman: …\n\nAssistant: …'" in told and "model.chat_template=FILE" in told
    caplog.clear()
    usable(data("hi"), [reading])
    assert not caplog.messages
