"""The rows of a group, gathered wherever they stand in a file.

A file is read once to number its groups, and again for the rows: those of groups that are not complete yet are held, up
to HELD characters. Where they are more, the later groups wait for another reading.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .lines import Row

HELD = 1 << 28


def digest(name: str | int) -> bytes:
    """What stands for a group's name: a prompt's text may be one."""
    return hashlib.blake2b(repr(name).encode(), digest_size=16).digest()


class Groups:
    """Which group every row of a file is of, by its number in the order of their first rows.

    Memory: 8 bytes a row, and some 150 a group.
    """

    def __init__(self):
        self.of_row, self.sizes = array("q"), array("q")
        self._numbers: dict[bytes, int] = {}

    def add(self, name: str | int | None):
        """The next row's group; 1 and "1" are two, None is none."""
        if name is None:
            self.of_row.append(-1)
            return
        number = self._numbers.setdefault(digest(name), len(self._numbers))
        if number == len(self.sizes):
            self.sizes.append(0)
        self.sizes[number] += 1
        self.of_row.append(number)

    def digests(self) -> set[bytes]:
        """Of the groups' names, until they are gathered."""
        return set(self._numbers)

    def gather(self, read: Callable[[], Iterable[Row]], met: Callable[[Row, bool], None]) -> Iterator[list[Row]]:
        """Every group's rows, the groups in the order of their first rows.

        read: reads the same rows anew. met: called once for every row, with whether it is in a group. Raises ValueError
        where the rows are not as many as before.
        """
        self._numbers.clear()
        wanted = reached = 0
        while True:
            held: dict[int, list[Row]] = {}
            sizes: dict[int, int] = {}
            total, end = 0, len(self.sizes)
            for place, (row, number) in enumerate(zip(read(), self.of_row, strict=True)):
                if place >= reached:
                    reached = place + 1
                    met(row, number >= 0)
                if wanted == end and reached == len(self.of_row):
                    break
                if not wanted <= number < end:
                    continue
                size = extent(row.value)
                held.setdefault(number, []).append(row)
                sizes[number] = sizes.get(number, 0) + size
                total += size
                while wanted in held and len(held[wanted]) == self.sizes[wanted]:
                    total -= sizes.pop(wanted)
                    wanted += 1
                    yield held.pop(wanted - 1)
                if total > HELD and len(held) > 1:
                    end = _let_go(held, sizes, total)
                    total = sum(sizes.values())
            if wanted == len(self.sizes):
                return


def _let_go(held: dict[int, list[Row]], sizes: dict[int, int], total: int) -> int:
    """Give up the latest groups, never the first, until half of HELD is left; returns the first that was given up."""
    end = 0
    for number in sorted(held, reverse=True)[:-1]:
        if total <= HELD // 2:
            break
        del held[number]
        total -= sizes.pop(number)
        end = number
    return end


def _parts(value: Any) -> Iterator[Any]:
    """A row and all that lies in it."""
    left = [value]
    while left:
        yield (one := left.pop())
        if isinstance(one, (dict, list)):
            left += one.values() if isinstance(one, dict) else one


def extent(value: Any) -> int:
    """About how many characters a row holds."""
    return sum(50 + (len(one) if isinstance(one, (str, bytes)) else 0) for one in _parts(value))


def texts(value: Any) -> Iterator[str]:
    """Every text in a row."""
    return (one for one in _parts(value) if isinstance(one, str))
