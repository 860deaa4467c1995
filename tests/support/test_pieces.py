"""What is asked piece by piece is kept: an error at the end loses one piece."""

import pytest

from algorithms.common.rewards.classifier import of_equal_length
from algorithms.common.support.pieces import Pieces


def test_what_was_asked_before_an_error_is_not_asked_again(tmp_path):
    asked = []

    def double(items, broken=True):
        if broken and 5 in items:
            raise RuntimeError("the endpoint is gone")
        asked.append(items)
        return [2.5 * item for item in items]

    with pytest.raises(RuntimeError):
        Pieces(tmp_path).asked("scores", [1, 2, 3, 4, 5], double, 2, int)
    found = Pieces(tmp_path).asked("scores", [1, 2, 3, 4, 5], lambda items: double(items, broken=False), 2, int)
    assert found == [2.5, 5.0, 7.5, 10.0, 12.5] and asked == [[1, 2], [3, 4], [5]]


def test_what_is_found_brings_the_time_that_it_took(tmp_path, monkeypatch):
    from algorithms.common.support import pieces as module

    times = iter([10.0, 13.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    first, again = Pieces(tmp_path), Pieces(tmp_path)
    assert first.kept("answers", lambda: [[1, True]]) == again.kept("answers", lambda: None) == [[1, True]]
    assert (first.seconds, again.seconds) == (0.0, 3.0)


def test_what_is_found_brings_what_was_noted_beside_it(tmp_path):
    memory = []
    first, again = (Pieces(tmp_path, lambda: len(memory)) for _ in range(2))
    first.kept("answers", lambda: memory.append(1)), again.kept("answers", lambda: None)
    assert (first.noted, again.noted) == ([], [1])


@pytest.mark.parametrize("left", [b"", b"\0\0\0\0", b'{"seconds": 1.0, "val', b"[]", b"\xff", b'{"value": 3}'])
def test_a_piece_that_cannot_be_read_is_made_again(tmp_path, caplog, left):
    (tmp_path / "a.json").write_bytes(left)
    assert [Pieces(tmp_path).kept("a", lambda value=value: value) for value in (7, 8)] == [7, 7]
    assert f"{tmp_path}/a.json cannot be read, and is made again" in caplog.text


def test_those_of_one_length_are_asked_together_and_told_in_their_own_order(tmp_path):
    """A length is read in as many passes as it takes, and in one more where a piece ends within it."""
    lengths = [1 + place * 7919 % 97 for place in range(2048)]
    passes = []

    def ask(part):
        passes.extend(of_equal_length(part, 32))
        return [2 * one for one in part]

    assert Pieces().asked("scores", lengths, ask, 128, int) == [2 * one for one in lengths]
    assert len(passes) <= len(of_equal_length(lengths, 32)) + 15


def test_without_a_folder_nothing_is_kept():
    pieces = Pieces()
    assert [pieces.kept("a", lambda value=value: value) for value in (1, 2)] == [1, 2]
