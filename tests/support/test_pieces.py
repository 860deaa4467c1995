"""What is asked piece by piece is kept: an error at the end loses one piece."""

import pytest

from algorithms.common.support.pieces import Pieces


def test_what_was_asked_before_an_error_is_not_asked_again(tmp_path):
    asked = []

    def double(items, broken=True):
        if broken and 5 in items:
            raise RuntimeError("the endpoint is gone")
        asked.append(items)
        return [2.5 * item for item in items]

    with pytest.raises(RuntimeError):
        Pieces(tmp_path).asked("scores", [1, 2, 3, 4, 5], double, 2)
    found = Pieces(tmp_path).asked("scores", [1, 2, 3, 4, 5], lambda items: double(items, broken=False), 2)
    assert found == [2.5, 5.0, 7.5, 10.0, 12.5] and asked == [[1, 2], [3, 4], [5]]


def test_what_is_found_brings_the_time_that_it_took(tmp_path, monkeypatch):
    from algorithms.common.support import pieces as module

    times = iter([10.0, 13.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    first, again = Pieces(tmp_path), Pieces(tmp_path)
    assert first.kept("answers", lambda: [[1, True]]) == again.kept("answers", lambda: None) == [[1, True]]
    assert (first.seconds, again.seconds) == (0.0, 3.0)


def test_without_a_folder_nothing_is_kept():
    pieces = Pieces()
    assert [pieces.kept("a", lambda value=value: value) for value in (1, 2)] == [1, 2]
