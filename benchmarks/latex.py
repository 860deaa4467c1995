"""A table of results as LaTeX: whatever comes from files or models is escaped for it."""

from collections.abc import Sequence
from typing import Protocol


class Block(Protocol):
    """A header and rows of cells; a cell is a figure and its interval, which may be empty, or a text alone."""

    header: list[str]
    rows: list[list[tuple[str, ...]]]
    texts: int              # last columns that hold text
    best: int | None        # the row that is marked


def document(opening: Sequence[str], blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """Paragraphs, a tabular for each block, and notes."""
    lines = ["% needs \\usepackage{booktabs}"]
    lines += [f"{_tex(text)}\\par\\medskip" for text in opening]
    for block in blocks:
        columns = "r" * (len(block.header) - 1 - block.texts) + "l" * block.texts
        lines += [f"\\begin{{tabular}}{{l{columns}}}", "\\toprule",
                  " & ".join(_tex(title) for title in block.header) + " \\\\", "\\midrule"]
        for index, row in enumerate(block.rows):
            # Figures with an interval go into mathematics, where the minus sign is one.
            cells = [f"${cell[0]}\\ {cell[1]}$" if any(cell[1:]) else _tex(cell[0]) for cell in row]
            cells[0] = f"\\textbf{{{cells[0]}}}" if index == block.best else cells[0]
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\par\\medskip"]
    lines += [f"{{\\footnotesize {_tex(note)}\\par}}" for note in notes]
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    """For LaTeX with any engine: what the basic fonts lack becomes its code point."""
    return "".join(_LATEX.get(char, char if ord(char) < 0x180 else f"{{[}}U+{ord(char):04X}{{]}}") for char in text)


_LATEX = {
    **{char: f"\\{char}" for char in "{}$&#_%"}, "\\": "\\textbackslash{}", "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}", "]": "{]}",
    "*": "{*}", "−": "$-$", "←": "$\\leftarrow$", "…": "\\dots{}", '"': "{''}", "β": "$\\beta$",
}
