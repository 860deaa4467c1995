"""The collector of garbage leaves libraries alone, and nothing else for longer than it should."""

import gc
import weakref

import pytest

from algorithms.common.runs import settings
from algorithms.common.support.collector import importing, leaving_alone
from command_line import MICRO, composed


@pytest.fixture(autouse=True)
def nothing_set_aside():
    """As a process begins; the tests' own setting aside is made good afterwards."""
    before = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()
    if before:
        gc.freeze()


def test_nothing_is_collected_while_libraries_are_imported_and_they_are_set_aside():
    with importing():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() > len(made)


class Node:
    """Garbage once nothing else names it, for the collector alone to find."""

    def __init__(self, died: list):
        self.itself = self
        weakref.finalize(self, died.append, 1)


def test_no_garbage_of_before_is_kept():
    died = []
    Node(died)
    with importing():
        assert died == [1]


def test_only_the_first_time_since_later_there_may_be_garbage():
    with importing():
        pass
    before = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.get_freeze_count() <= before and made


def test_a_failing_import_leaves_all_as_it_was_and_a_collector_that_was_off_stays_off():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled() and not gc.get_freeze_count()
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


def test_what_was_left_alone_is_given_back_unless_it_was_before():
    with leaving_alone():
        assert gc.isenabled() and gc.get_freeze_count()
    assert not gc.get_freeze_count()
    gc.freeze()
    before = gc.get_freeze_count()
    with leaving_alone():
        pass
    assert gc.get_freeze_count() >= before - 100


def test_garbage_made_meanwhile_is_collected():
    died = []
    with leaving_alone():
        Node(died)
        gc.collect()
        assert died == [1]


def test_what_a_run_is_made_of_is_imported_without_collections(monkeypatch):
    seen, build = [], settings.build
    monkeypatch.setattr(settings, "build", lambda *given: seen.append(gc.isenabled()) or build(*given))
    settings.settings(composed("algorithm=dpo", *MICRO))
    assert seen == [False] and gc.isenabled() and gc.get_freeze_count()
