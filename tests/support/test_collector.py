"""The collector of garbage leaves libraries alone, and nothing else for longer than it should."""

import gc
import weakref

import pytest

from algorithms.common.support.collector import importing, leaving_alone


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


def test_only_the_first_time_since_later_there_may_be_garbage():
    with importing():
        pass
    before = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.get_freeze_count() <= before and made


def test_a_failing_import_leaves_the_collector_at_work_and_one_that_was_off_stays_off():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
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
    class Node:
        pass

    died = []
    with leaving_alone():
        node = Node()
        node.itself = node
        weakref.finalize(node, died.append, 1)
        del node
        gc.collect()
        assert died == [1]
