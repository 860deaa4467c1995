"""What a model wrote cannot act on the terminal that shows it."""

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.support.terminal import IN_SWEEPS, is_short, printable, short


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


def test_in_a_sweep_the_terminal_gets_what_a_job_is_at_and_each_warning_once(tmp_path, monkeypatch):
    monkeypatch.setattr("algorithms.common.support.terminal._warned", set())
    root, log, stream = logging.getLogger(), logging.getLogger("some.room"), io.StringIO()
    console, file = logging.StreamHandler(stream), logging.FileHandler(tmp_path / "run.log")
    monkeypatch.setattr(root, "handlers", [console, file])
    monkeypatch.setattr(log, "level", logging.INFO)
    for number in (3, 4):
        with short(number):
            assert is_short()
            log.info("read 5 rows")
            log.info("stage 1 of 2", extra=IN_SWEEPS)
            log.warning("2 rows are cut")
            log.error("no room")
    log.info("the table")
    assert not is_short()
    assert [line.split("] ")[-1] for line in stream.getvalue().splitlines()] == [
        "#3 stage 1 of 2", "#3 2 rows are cut", "#3 no room", "#4 stage 1 of 2", "#4 no room", "the table"]
    assert (tmp_path / "run.log").read_text().count("read 5 rows\nstage 1 of 2\n2 rows are cut\nno room\n") == 2
