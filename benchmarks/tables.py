"""A table of results as Markdown, CSV, LaTeX and text for a terminal.

Whatever comes from files or models is escaped for where it goes: no control sequence reaches a terminal, no `|` breaks
a Markdown row, no `_` stops LaTeX. What was not measured is blank, never zero.
"""

import csv
import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from algorithms.common.evaluation.statistics import Estimate

# Metric: title and digits after the point, in the order of the columns. Others follow in the CSV under their own names.
METRICS = {
    "reward/gold": ("gold", 3),
    "reward/gold_minus_sft": ("gold − SFT", 3),
    "win_rate/sft": ("win rate", 3),
    "reward/proxy": ("proxy", 3),
    "reward/proxy_minus_sft": ("proxy − SFT", 3),
    "kl/exact": ("KL", 3),
    "kl/k1": ("KL (k1)", 3),
    "kl/bound": ("KL (bound)", 3),
    "length/mean": ("length", 1),
    "eos_rate": ("EOS", 3),
    "distinct_2": ("distinct-2", 3),
    "perplexity/heldout": ("perplexity", 2),
    "accuracy/heldout": ("accuracy", 3),
    "refusal/unanswerable": ("refused unknown", 3),
    "refusal/answerable": ("refused known", 3),
    "accuracy/answerable": ("right known", 3),
}
# Cost: title, divisor and digits.
COSTS = {
    "seconds": ("seconds", 1, 1),
    "tokens_trained": ("tokens trained", 1, 0),
    "tokens_sampled": ("tokens sampled", 1, 0),
    "labels": ("labels", 1, 0),
    "peak_memory_bytes": ("peak MB", 10**6, 0),
    "reward_queries": ("reward queries", 1, 0),
    "resident_models": ("resident models", 1, 0),
    "trainable_parameters": ("trainable", 1, 0),
}


@dataclass
class Row:
    """An algorithm under one setting: its figures by metric, its costs, or the error that it ended with."""

    algorithm: str
    settings: dict[str, str]                    # the overrides in which rows of the table differ
    seeds: tuple[int | None, ...]
    origin: str = ""                            # tells apart rows that are otherwise named alike
    estimates: dict[str, Estimate] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def label(self) -> str:
        """`dpo (beta=0.1)`; a failed job says so here, where no column can hide it."""
        settings = ", ".join(f"{key.removeprefix('algorithm.')}={value}" for key, value in self.settings.items())
        label = self.algorithm + (f" ({settings})" if settings else "") + (f", {self.origin}" if self.origin else "")
        return plain(label if self.error is None else f"{label}: failed")


@dataclass
class Table:
    """Rows, and the notes without which they would mislead."""

    rows: list[Row]
    notes: list[str]

    @property
    def metrics(self) -> list[str]:
        """Metrics that any row has, in the order of the columns."""
        present = {name for row in self.rows for name in row.estimates}
        return [name for name in METRICS if name in present] + sorted(present - set(METRICS))

    @property
    def costs(self) -> list[str]:
        """Costs that any row has, in the order of the columns."""
        return [name for name in COSTS if any(name in row.costs for row in self.rows)]


@dataclass
class _Block:
    """Part of a table: a header and rows of cells; a cell is a figure and its interval, either may be empty."""

    header: list[str]
    rows: list[list[tuple[str, str]]]


def plain(text: str) -> str:
    """`text` with everything unprintable (controls, line breaks, direction marks, lone surrogates) spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def write(table: Table, folder: str | Path) -> None:
    """table.md, table.csv and table.tex into `folder`, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("md", _markdown(table)), ("csv", _csv(table)), ("tex", _latex(table))):
        (folder / f"table.{name}").write_text(text, encoding="utf-8", newline="")


def print_table(table: Table, width: int | None = None, file: TextIO | None = None) -> None:
    """The table as text, intervals below their figures, columns in as many blocks as `width` (the terminal's) takes."""
    file = file or sys.stdout
    text = _text(table, width or shutil.get_terminal_size((140, 40)).columns)
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _blocks(table: Table) -> list[_Block]:
    """Quality and cost: one table of both is too wide to be read."""
    metrics = [name for name in table.metrics if name in METRICS]  # the others are in the CSV
    if "kl/exact" in metrics:  # the estimate from samples says the same less precisely
        metrics = [name for name in metrics if name != "kl/k1"]
    if "reward/gold_minus_sft" in metrics:  # where the truth is known, the paired comparison is of it
        metrics = [name for name in metrics if name != "reward/proxy_minus_sft"]
    titles = [METRICS[name] for name in metrics]
    quality = _Block(["algorithm", *(title for title, _ in titles), "seeds"], [])
    for row in table.rows:
        figures = [_figure(row.estimates.get(name), digits) for name, (_, digits) in zip(metrics, titles)]
        seeds = str(len(row.seeds)) if row.error is None else ""
        quality.rows.append([(row.label, ""), *figures, (seeds, "")])
    cost = _Block(["algorithm", *(COSTS[name][0] for name in table.costs)], [])
    for row in table.rows:
        if row.costs:
            cost.rows.append([(row.label, ""), *((_amount(row.costs.get(name), name), "") for name in table.costs)])
    return [quality, cost] if cost.rows else [quality]


def _figure(estimate: Estimate | None, digits: int) -> tuple[str, str]:
    if estimate is None:
        return "", ""
    mean, low, high = (_number(value, digits) for value in (estimate.mean, estimate.low, estimate.high))
    return mean, f"[{low}, {high}]"


def _amount(value: float | None, name: str) -> str:
    _, divisor, digits = COSTS[name]
    return "" if value is None else _number(value / divisor, digits, ",")


def _number(value: float, digits: int, grouping: str = "") -> str:
    return f"{round(value, digits) + 0.0:{grouping}.{digits}f}"  # + 0.0: no "-0.000"


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"

    parts = []
    for block in _blocks(table):
        rule = [":---"] + ["---:"] * (len(block.header) - 1)
        rows = [[_escaped(row[0][0]), *(" ".join(cell).strip() for cell in row[1:])] for row in block.rows]
        parts.append("".join(map(line, [[_escaped(title) for title in block.header], rule, *rows])))
    if table.notes:
        parts.append("".join(f"- {_escaped(plain(note))}\n" for note in table.notes))
    return "\n".join(parts)


def _csv(table: Table) -> str:
    """One row per row, one column per number, full precision, in the units of result.json."""
    settings = list(dict.fromkeys(key for row in table.rows for key in row.settings))
    parts = ("mean", "low", "high", "n")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [f"{plain(name)}.{part}" for name in table.metrics for part in parts]
    writer.writerow(["algorithm", *map(plain, settings), *numbers, *table.costs, "seeds", "status", "error"])
    for row in table.rows:
        figures = [getattr(row.estimates[name], part) if name in row.estimates else ""
                   for name in table.metrics for part in parts]
        writer.writerow([plain(row.algorithm), *(plain(row.settings.get(key, "")) for key in settings), *figures,
                         *(row.costs.get(name, "") for name in table.costs),
                         " ".join(str(seed) for seed in row.seeds if seed is not None),
                         "complete" if row.error is None else "failed", plain(row.error or "")])
    return out.getvalue()


def _latex(table: Table) -> str:
    lines = ["% needs \\usepackage{booktabs}"]
    for block in _blocks(table):
        lines += [f"\\begin{{tabular}}{{l{'r' * (len(block.header) - 1)}}}", "\\toprule",
                  " & ".join(_tex(title) for title in block.header) + " \\\\", "\\midrule"]
        for row in block.rows:
            # Figures with an interval go into mathematics, where the minus sign is one.
            cells = [f"${figure}\\ {interval}$" if interval else _tex(figure) for figure, interval in row]
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\par\\medskip"]
    lines += [f"{{\\footnotesize {_tex(plain(note))}\\par}}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _text(table: Table, width: int) -> str:
    lines = []
    for block in _blocks(table):
        for part in _packed(block, width):
            lines += [*_aligned(part), ""]
    return "\n".join([*lines, *map(plain, table.notes)]) + "\n"


def _aligned(block: _Block) -> list[str]:
    header = [(title, "") for title in block.header]
    widths = [max(len(text) for cell in column for text in cell) for column in zip(header, *block.rows)]
    lines = []
    for row in (header, *block.rows):
        for texts in zip(*row):  # the figures, then the intervals below them
            if any(texts):
                cells = [texts[0].ljust(widths[0]), *(text.rjust(wide) for text, wide in zip(texts[1:], widths[1:]))]
                lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def _packed(block: _Block, width: int) -> list[_Block]:
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
    return [_Block([block.header[i] for i in (0, *group)], [[row[i] for i in (0, *group)] for row in block.rows])
            for group in groups]


def _escaped(text: str) -> str:
    """For Markdown; underscores inside words need nothing."""
    return "".join(f"\\{char}" if char in "\\|`*<[]$" else char for char in text)


def _tex(text: str) -> str:
    """For LaTeX with any engine: what the basic fonts lack becomes its code point."""
    return "".join(_LATEX.get(char, char if ord(char) < 0x180 else f"{{[}}U+{ord(char):04X}{{]}}") for char in text)


_LATEX = {
    **{char: f"\\{char}" for char in "{}$&#_%"}, "\\": "\\textbackslash{}", "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}", "]": "{]}",
    "*": "{*}", "−": "$-$", "←": "$\\leftarrow$", "…": "\\dots{}", '"': "{''}", "β": "$\\beta$",
}
