"""An answer is shown as it grows, and in whole at its end."""

import pytest

from algorithms.common.models.sampling import Sampling
from algorithms.common.runs.speakers import Shown, Speaker


@pytest.mark.parametrize("grows, pieces", [
    ([" The", " The food", " The food ", " The food was. "], ["The", " food", "", " was."]),
    (["a\ufffd", "a\ufffd\ufffd", "a\u00e9"], ["a", "", "\u00e9"]),  # a character of several tokens
    (["", " ", "yes"], ["", "", "yes"]),
])
def test_every_piece_is_shown_once(grows, pieces):
    found: list[str] = []
    shown = Shown(found.append)
    for said in grows:
        shown.so_far(said)
    shown.whole(grows[-1])
    assert found == [*pieces, ""] and "".join(found) == grows[-1].strip()


def test_a_character_that_never_ends_is_shown_at_the_end():
    found: list[str] = []
    shown = Shown(found.append)
    shown.so_far("a\ufffd")
    shown.whole("a\ufffd")
    assert found == ["a", "\ufffd"]


def test_an_answer_that_was_written_otherwise_is_shown_anew():
    found: list[str] = []
    shown = Shown(found.append)
    shown.so_far("wo n't")
    shown.so_far("won't go")
    shown.whole("won't go")
    assert found == ["wo n't", "\n", "won't go"]


def test_a_prompt_that_is_cut_is_said_once(make_models, caplog):
    models = make_models(max_length=32, max_prompt_length=16)
    models.add_role("policy", trainable=False, seed=0)
    speaker = Speaker("outputs/dpo", models, "policy")
    for turn, text in enumerate(("good", "good " * 60, "bad " * 60)):
        speaker.reply(text, Sampling(4, 1.0), 0, turn, lambda piece: None)
        assert len(caplog.messages) == min(turn, 1)
    assert "outputs/dpo: 1 of 1 prompts are cut to leave room for answers of 4 tokens" in caplog.text
