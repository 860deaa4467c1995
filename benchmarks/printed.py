"""A table of results as text for a terminal."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import cycle, zip_longest
from string import ascii_letters
from typing import TextIO

from algorithms.common.evaluation.inference.comparisons import Verdict

from .tables import Block, Table, blocks, plain

PAIRS = 60      # that are listed; more are the signs of a square, and the files have the list
_WRAPPED = 40   # letters of a line of text in a cell
_SIGNS = {Verdict.SEEN_ALONE: "~", Verdict.EQUAL: "=", Verdict.UNDECIDED: "."}
_KEY = ("Each row against the columns: + better, - worse, ~ a difference seen only if that pair is looked at alone, "
        "= practically equal, . no difference seen. table.md and report.html have what was found of each pair.")


def print_table(table: Table, width: int | None = None, file: TextIO | None = None) -> None:
    """The table as text, intervals below their figures, columns in as many blocks as `width` (the terminal's) takes."""
    file = file or sys.stdout
    text = _text(table, width or shutil.get_terminal_size((140, 40)).columns)
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))


def aligned(header: Sequence[str], rows: Sequence[Sequence[tuple[str, ...]]], texts: int = 0) -> str:
    """Cells of lines below a header, as text; the first column and the last `texts` of them begin at the left."""
    return "\n".join(_aligned(Block(list(header), [list(row) for row in rows], texts)))


def _text(table: Table, width: int) -> str:
    lines = [line for text in table.opening for line in (*textwrap.wrap(plain(text), width), "")]
    found, square = blocks(table), len(table.pairs) > PAIRS
    if square:
        found[1] = _square(table)
    for index, block in enumerate(found):
        for part in _packed(_wrapped(block), width):
            lines += [*_aligned(part), ""]
        lines += [*textwrap.wrap(_KEY, width), ""] if square and index == 1 else []
    return "\n".join([*lines, *map(plain, table.notes)]) + "\n"


def _square(table: Table) -> Block:
    """How each row came off against each other, those that beat most first."""
    signs: dict[tuple[str, str], str] = {}
    for pair in (row.pair for row in table.pairs):
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            signs[one, other] = ("+" if pair.winner == one else "-") if pair.verdict.claims else _SIGNS[pair.verdict]
    letters = dict(zip(table.ranked, cycle(ascii_letters)))
    rows = [[(f"{letter} {label}", ""), (" ".join(signs.get((label, other), " ") for other in letters), "")]
            for label, letter in letters.items()]
    return Block(["pairs", " ".join(letters.values())], rows)


def _wrapped(block: Block) -> Block:
    """For a terminal: texts on several lines, the marked row with an asterisk."""
    rows = []
    for index, row in enumerate(block.rows):
        label = f"{row[0][0]} *" if index == block.best else row[0][0]
        middle, texts = row[1:len(row) - block.texts], row[len(row) - block.texts:]
        rows.append([(label, ""), *middle, *(tuple(textwrap.wrap(text, _WRAPPED)) or ("",) for (text,) in texts)])
    return Block(block.header, rows, block.texts)


def _aligned(block: Block) -> list[str]:
    header = [(title,) for title in block.header]
    widths = [max(len(text) for cell in column for text in cell) for column in zip(header, *block.rows)]
    left = {0, *range(len(header) - block.texts, len(header))}
    lines = []
    for row in (header, *block.rows):
        for texts in zip_longest(*row, fillvalue=""):  # the figures, then the intervals below them
            if any(texts):
                cells = [text.ljust(wide) if index in left else text.rjust(wide)
                         for index, (text, wide) in enumerate(zip(texts, widths))]
                lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def _packed(block: Block, width: int) -> list[Block]:
    """The block's columns in blocks that fit into `width`, each with the first column; one column at least."""
    wide = [max(len(text) for text in (title, *(text for row in block.rows for text in row[i])))
            for i, title in enumerate(block.header)]
    groups: list[list[int]] = []
    used = width + 1
    for i in range(1, len(wide)):
        used += 2 + wide[i]
        if used > width:
            groups.append([])
            used = wide[0] + 2 + wide[i]
        groups[-1].append(i)
    texts = len(block.header) - block.texts     # where they begin
    return [Block([block.header[i] for i in (0, *group)], [[row[i] for i in (0, *group)] for row in block.rows],
                   sum(i >= texts for i in group)) for group in groups]
