"""Phases: nothing of short ones, a bar on a terminal, elsewhere a line every half minute."""

import io
import logging
import sys

import pytest

from algorithms.common.support import phases as module
from algorithms.common.support.phases import in_parts, progress, shown


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_without_a_terminal_a_line_comes_every_half_minute_and_none_of_a_short_phase(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("scoring", 100, "answers") as advance:
        clock.now += 29
        advance(10)
        assert not caplog.messages
        clock.now += 11  # 40 s, 20 of 100: 160 s are left
        advance(10)
        advance(1)
    assert caplog.messages == ["scoring: 20 of 100 answers, 02:40 left"]


def test_a_phase_that_goes_on_counts_its_pace_from_where_it_began(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("training", 10, "steps", done=6, digits=1) as advance:
        clock.now += 30
        advance.note = "loss 0.5"
        advance(0.5)  # 30 s for half a step, 3.5 steps are left
    assert caplog.messages == ["training: 6.5 of 10 steps, loss 0.5, 03:30 left"]


def test_what_is_over_is_no_more_than_the_whole_and_what_is_not_shown_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO)
    with shown(False), progress("scoring", 4, "answers") as advance:
        clock.now += 60
        advance(9)
        assert advance.done == 4
    assert not caplog.messages


def test_on_a_terminal_it_is_a_bar_that_moves_by_parts(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setattr(module, "SILENT", 0.0)
    with progress("dpo", 8, "steps", digits=1) as advance:
        advance._bar.mininterval = 0
        advance.note = "loss 0.7"
        advance(1.25)
        advance._bar.refresh()
    assert "1.2/8 steps" in screen.getvalue() and "loss 0.7" in screen.getvalue()


def test_parts_are_counted_by_what_they_hold(clock, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    for part in in_parts("reference", [[1, 2, 3], [4]], "records"):
        seen.append(part)
        clock.now += 31
    assert seen == [[1, 2, 3], [4]]
    assert caplog.messages == ["reference: 3 of 4 records, 00:10 left"], "what is over has nothing left"
