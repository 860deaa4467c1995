"""What a model wrote cannot act on the terminal that shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.support.terminal import printable


@pytest.mark.parametrize("text, shown", [
    ("\x1b[31mred\x1b[0m", r"\u001b[31mred\u001b[0m"),                    # colour
    ("\x1b]0;title\x07", r"\u001b]0;title\u0007"),                        # OSC: the window's title
    ("\x9b2J", r"\u009b2J"),                                              # C1 control: clear the screen
    ("good\rbad", r"good\u000dbad"),                                      # overwrites the line
    ("a\x08\x08b\x00\x7f", r"a\u0008\u0008b\u0000\u007f"),
    ("\u202egnp.exe", r"\u202egnp.exe"),                                  # right-to-left override
    ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
    ("a\u200bb\ufeff\u00ad", r"a\u200bb\ufeff\u00ad"),                    # invisible
    ("a\U000e0041", r"a\U000e0041"),                                      # invisible tags
    ("\ud800", r"\ud800"),                                                # half of a pair: cannot be encoded
])
def test_controls_are_written_out(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("text", [
    "plain text, with\ttabs\nand lines", "naïve café", "日本語", "עברית", "العربية", "हिन्दी", "👩‍👩‍👧‍👦 👍🏽 ❤️ 🇩🇪",
    "می‌خواهم", "∑ β → ∞", "",
])
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_left(text):
    shown = printable(text)
    assert printable(shown) == shown
    assert not [c for c in shown if c not in "\n\t"
                and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000)]
    shown.encode()
