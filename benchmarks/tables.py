"""A table of results, and its files: Markdown, CSV and LaTeX (`printed` has it as text for a terminal).

Whatever comes from files or models is escaped for where it goes: no control sequence reaches a terminal, no `|` breaks
a Markdown row, no `_` stops LaTeX. What was not measured is blank, never zero.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from algorithms.common.evaluation.inference.comparisons import Pair
from algorithms.common.evaluation.inference.intervals import Estimate

from . import latex

# Metric: title and digits after the point, in the order of the columns. Others follow in the CSV under their own names.
METRICS = {
    "reward/gold": ("gold", 3),
    "reward/gold_minus_sft": ("gold − SFT", 3),
    "reward/gold_minus_base": ("gold − base", 3),
    "win_rate/sft": ("win rate", 3),
    "win_rate/base": ("win rate (base)", 3),
    "reward/proxy": ("proxy", 3),
    "reward/proxy_minus_sft": ("proxy − SFT", 3),
    "reward/proxy_minus_base": ("proxy − base", 3),
    "score/auditor": ("auditor", 3),
    "score/auditor_minus_sft": ("auditor − SFT", 3),
    "score/auditor_minus_base": ("auditor − base", 3),
    "win_rate/auditor": ("win rate by auditor", 3),
    "accuracy/auditor": ("auditor's accuracy", 3),
    "kl/exact": ("KL", 3),
    "kl/k1": ("KL (k1)", 3),
    "kl/bound": ("KL (bound)", 3),
    "length/mean": ("length", 1),
    "eos_rate": ("EOS", 3),
    "distinct_2": ("distinct-2", 3),
    "perplexity/heldout": ("perplexity", 2),
    "perplexity/heldout_minus_sft": ("log perplexity − SFT", 3),
    "perplexity/heldout_minus_base": ("log perplexity − base", 3),
    "perplexity/texts": ("texts' perplexity", 2),
    "perplexity/texts_minus_sft": ("texts' log perplexity − SFT", 3),
    "perplexity/texts_minus_base": ("texts' log perplexity − base", 3),
    "overlap/rouge_l": ("ROUGE-L", 3),
    "overlap/bleu": ("BLEU", 3),
    "accuracy/heldout": ("accuracy", 3),
    "refusal/unanswerable": ("refused unknown", 3),
    "refusal/answerable": ("refused known", 3),
    "accuracy/answerable": ("right known", 3),
    "accuracy/exact": ("right answers", 3),
    "accuracy/exact_minus_sft": ("right answers − SFT", 3),
    "accuracy/exact_minus_base": ("right answers − base", 3),
}
# What judges say, and lm-evaluation-harness, by the beginning of the metric's name; their own names follow it.
JUDGED = {"win_rate/": "win rate", "win_rate_data/": "win rate against data", "score/": "score", "harness/": "harness"}
# Cost: title, divisor and digits.
COSTS = {
    "seconds": ("seconds", 1, 1),
    "money": ("money", 1, 4),
    "tokens_trained": ("tokens trained", 1, 0),
    "tokens_sampled": ("tokens sampled", 1, 0),
    "labels": ("labels", 1, 0),
    "peak_memory_bytes": ("peak MB", 10**6, 0),
    "reward_queries": ("reward queries", 1, 0),
    "resident_models": ("resident models", 1, 0),
    "trainable_parameters": ("trainable", 1, 0),
}


PARTS = ("mean", "low", "high", "n", "unit")    # of a figure, in the CSV


@dataclass
class Row:
    """An algorithm under one setting: its figures by metric, its costs, and the runs it was made of."""

    algorithm: str
    settings: dict[str, str]                    # the overrides in which rows of the table differ
    seeds: tuple[int, ...]                      # of the complete runs
    origin: str = ""                            # tells apart rows that are otherwise named alike
    estimates: dict[str, Estimate] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)    # figures that are not measured and have no interval
    costs: dict[str, float] = field(default_factory=dict)
    failed: int = 0                             # runs that ended with an error
    diverged: int = 0                           # of whose training no finite numbers came
    stopped: int = 0                            # runs that were ended from outside
    unbegun: int = 0                            # runs that never began
    errors: list[str] = field(default_factory=list)
    start: bool = False                         # no method of the table: what some of its rows started from
    unnamed: frozenset[str] = frozenset()       # settings that tell its method's rows from no other

    @property
    def label(self) -> str:
        """`dpo (beta=0.1)`."""
        settings = ", ".join(f"{key.removeprefix('algorithm.')}={value}" for key, value in self.settings.items()
                             if key not in self.unnamed)
        label = self.algorithm + (f" ({settings})" if settings else "") + (f", {self.origin}" if self.origin else "")
        return plain(label)

    @property
    def runs(self) -> str:
        """`3`, or `3 of 5 (1 failed, 1 diverged)`: none is averaged away."""
        told = ", ".join(f"{count} {how}" for how, count in self.lost.items())
        return f"{len(self.seeds)} of {self.total} ({told})" if told else str(len(self.seeds))

    @property
    def lost(self) -> dict[str, int]:
        """How many runs ended how, of those that were not finished."""
        ended = {"failed": self.failed, "diverged": self.diverged, "stopped": self.stopped, "not started": self.unbegun}
        return {how: count for how, count in ended.items() if count}

    @property
    def total(self) -> int:
        """Its runs, finished or not."""
        return len(self.seeds) + sum(self.lost.values())


@dataclass
class PairRow:
    """Two rows, compared."""

    pair: Pair
    difference: Estimate        # first − second, as it is printed
    seeds: tuple[int, ...]      # that both have
    finding: str
    settled: str                # what would settle it; empty where it is settled


@dataclass(frozen=True)
class Advice:
    """What a table comes to, in plain words, each a sentence or two."""

    take: str
    cost: str
    doubt: str


@dataclass
class Table:
    """Rows, how they compare, and the notes without which they would mislead."""

    rows: list[Row]
    notes: list[str]
    words: str = ""                                     # the sentences that a table begins with
    pairs: list[PairRow] = field(default_factory=list)
    figure: str | None = None                           # the metric of the pairs
    best: str | None = None                             # label of the row that was shown to be better than every other
    unknown: bool = False                               # nothing says whose answers are better
    advice: Advice | None = None

    @property
    def opening(self) -> list[str]:
        """The paragraphs that stand above the figures: the answer, then the comparison in full."""
        advice = [self.advice.take, self.advice.cost, self.advice.doubt] if self.advice else []
        return [text for text in (" ".join(advice), self.words) if text]

    @property
    def metrics(self) -> list[str]:
        """Metrics that any row has, in the order of the columns."""
        present = {name for row in self.rows for name in row.estimates}
        return [name for name in METRICS if name in present] + sorted(present - set(METRICS))

    @property
    def shown(self) -> list[str]:
        """Metrics with a column of their own; the others stand in the CSV alone."""
        metrics = [name for name in self.metrics if name in METRICS or judged(name)]
        if "kl/exact" in metrics:  # the estimate from samples says the same less precisely
            metrics = [name for name in metrics if name != "kl/k1"]
        for start in ("sft", "base"):
            if f"reward/gold_minus_{start}" in metrics:  # where the truth is known, the paired comparison is of it
                told = (f"reward/proxy_minus_{start}", "win_rate_data/gold")
                metrics = [name for name in metrics if name not in told]
        if any(name.endswith(("_minus_sft", "/sft")) for name in metrics):  # what SFT itself gained is between two rows
            metrics = [name for name in metrics if not name.endswith(("_minus_base", "/base"))]
        return metrics

    @property
    def ranked(self) -> list[str]:
        """The rows that were compared, those that beat most and are beaten by least first."""
        lead: dict[str, int] = {}
        for pair in (row.pair for row in self.pairs):
            for name in (pair.first, pair.second):
                lead[name] = lead.get(name, 0) + (1 if name == pair.winner else -1) * pair.verdict.claims
        return sorted((row.label for row in self.rows if row.label in lead), key=lambda label: -lead[label])

    @property
    def costs(self) -> list[str]:
        """Costs that any row has, in the order of the columns."""
        return [name for name in COSTS if any(name in row.costs for row in self.rows)]


@dataclass
class Block:
    """Part of a table: a header and rows of cells; a cell is lines: a figure and its interval, either empty; text."""

    header: list[str]
    rows: list[list[tuple[str, ...]]]
    texts: int = 0              # last columns that hold text
    best: int | None = None     # the row that is marked


class Alarm(str):
    """A note that a reader must not miss."""


def plain(text: str) -> str:
    """`text` with everything unprintable (controls, line breaks, direction marks, lone surrogates) spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def judged(name: str) -> str | None:
    """What a judge's metric begins with; None for all others."""
    start = f"{name.partition('/')[0]}/"
    return start if start in JUDGED and name not in METRICS and name.count("/") == 1 else None


def title(name: str) -> tuple[str, int]:
    """Of a metric's column, and its digits."""
    if start := judged(name):
        return f"{JUDGED[start]} ({plain(name.removeprefix(start))})", 3
    return METRICS.get(name, (plain(name), 3))


def of_differences(figure: str | None) -> str:
    """The unit of a figure's differences, where it is not the figure's own; else empty."""
    return "nats per token" if (figure or "").startswith("perplexity/") else ""


def write(table: Table, folder: str | Path) -> None:
    """table.md, table.csv and table.tex into `folder`, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tex = latex.document(list(map(plain, table.opening)), blocks(table), list(map(plain, table.notes)))
    for name, text in (("md", _markdown(table)), ("csv", _csv(table)), ("tex", tex)):
        (folder / f"table.{name}").write_text(text, encoding="utf-8", newline="")


def blocks(table: Table) -> list[Block]:
    """Quality, pairs and cost: one table of all is too wide to be read."""
    best = next((index for index, row in enumerate(table.rows) if table.best and row.label == table.best), None)
    quality = Block(["algorithm", *(title(name)[0] for name in table.shown), "runs"], [], best=best)
    for row in table.rows:
        figures = [figure_cell(row, name) for name in table.shown]
        quality.rows.append([(row.label, ""), *figures, (row.runs, "")])
    cost = Block(["algorithm", *(COSTS[name][0] for name in table.costs)], [])
    for row in table.rows:
        if row.costs:
            cost.rows.append([(row.label, ""), *((amount(row.costs.get(name), name), "") for name in table.costs)])
    return [quality, *([_pairs(table)] if table.pairs else []), *([cost] if cost.rows else [])]


def _pairs(table: Table) -> Block:
    told, digits = title(table.figure)
    told, digits = (of_differences(table.figure), 3) if of_differences(table.figure) else (told, digits)
    settled = any(row.settled for row in table.pairs)
    header = ["pair", f"difference in {told}", "p (Holm)", "finding", *["to settle it"] * settled]
    block = Block(header, [], 1 + settled)
    for row in table.pairs:
        texts = [(row.finding,), *[(row.settled,)] * settled]
        names = (f"{row.pair.first} − {row.pair.second}", "")
        block.rows.append([names, _figure(row.difference, digits), (p_value(row.pair.adjusted), ""), *texts])
    return block


def p_value(p: float) -> str:
    """To three digits; none is so small that it is zero."""
    return "< 0.001" if p < 0.001 else _number(p, 3)


def _figure(estimate: Estimate | None, digits: int, constant: bool = False) -> tuple[str, str]:
    if estimate is None:
        return "", ""
    mean, low, high = (_number(value, digits) for value in (estimate.mean, estimate.low, estimate.high))
    return mean, "" if constant else f"[{low}, {high}]"


def figure_cell(row: Row, name: str) -> tuple[str, str]:
    """A row's figure as its column prints it, and its interval, which a constant lacks; both empty where it was not
    measured."""
    return _figure(row.estimates.get(name), title(name)[1], name in row.constants)


def interval(estimate: Estimate) -> str:
    """A figure and its interval, to three digits."""
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def amount(value: float | None, name: str) -> str:
    _, divisor, digits = COSTS[name]
    return "" if value is None else _number(value / divisor, digits, ",")


def _number(value: float, digits: int, grouping: str = "") -> str:
    return f"{round(value, digits) + 0.0:{grouping}.{digits}f}"  # + 0.0: no "-0.000"


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"

    parts = [f"{_escaped(plain(text))}\n" for text in table.opening]
    for block in blocks(table):
        rule = [":---"] + ["---:"] * (len(block.header) - 1 - block.texts) + [":---"] * block.texts
        rows = []
        for index, row in enumerate(block.rows):
            label = f"**{_escaped(row[0][0])}**" if index == block.best else _escaped(row[0][0])
            middle, texts = row[1:len(row) - block.texts], row[len(row) - block.texts:]
            rows.append([label, *(" ".join(cell).strip() for cell in middle), *(_escaped(text) for (text,) in texts)])
        parts.append("".join(map(line, [[_escaped(title) for title in block.header], rule, *rows])))
    if table.notes:
        parts.append("".join(f"- {_escaped(plain(note))}\n" for note in table.notes))
    return "\n".join(parts)


def _csv(table: Table) -> str:
    """One line per row and per pair, one column per number, full precision, in the units of result.json."""
    settings = list(dict.fromkeys(key for row in table.rows for key in row.settings))
    figures = [f"{plain(name)}.{part}" for name in table.metrics for part in PARTS]
    ended = ["runs", "failed", "diverged", "seeds", "status", "best", "error"]
    difference = [f"difference.{part}" for part in PARTS]
    pair = ["first", "second", "figure", *difference, "p", "p_holm", "verdict", "winner", "smallest_shown",
            "smallest_margin", "finding", "to_settle"] if table.pairs else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["kind", "algorithm", *map(plain, settings), *figures, *table.costs, *ended, *pair])
    for row in table.rows:
        numbers = [part for name in table.metrics for part in _parts(row.estimates.get(name))]
        status = "complete" if not row.lost else "partial" if row.seeds else \
            "failed" if row.failed or row.diverged else next(iter(row.lost))
        told = [row.total, row.failed, row.diverged, _seeds(row.seeds), status,
                "best" if table.best == row.label else "", plain("; ".join(row.errors))]
        own = [plain(row.settings.get(key, "")) for key in settings]
        costs = [row.costs.get(name, "") for name in table.costs]
        writer.writerow(["start" if row.start else "row", plain(row.algorithm), *own, *numbers, *costs, *told,
                         *[""] * len(pair)])
    before = [""] * (1 + len(settings) + len(figures) + len(table.costs))
    for row in table.pairs:
        one = row.pair
        found = [one.first, one.second, plain(table.figure), *_parts(row.difference), one.p, one.adjusted,
                 one.verdict.value, one.winner or "", one.smallest_shown, one.smallest_margin, row.finding, row.settled]
        writer.writerow(["pair", *before, "", "", "", _seeds(row.seeds), "", "", "", *found])
    return out.getvalue()


def _parts(estimate: Estimate | None) -> list:
    return [getattr(estimate, part) if estimate else "" for part in PARTS]


def _seeds(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _escaped(text: str) -> str:
    """For Markdown; underscores inside words need nothing."""
    return "".join(f"\\{char}" if char in "\\|`*<[]$" else char for char in text)
