"""The page: one file that loads nothing, in which no text of a file or a model is markup."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from algorithms.common.evaluation.inference.comparisons import Verdict
from algorithms.common.evaluation.inference.wording import listed, number

from ..comparison_tables import Member, words_of
from ..results_read import Result
from ..tables import COSTS, Alarm, PairRow, Row, Table, amount, figure_cell, interval, of_differences, plain, title
from . import charts, meanings, runs

HERE = Path(__file__).parent
MATRIX = 12         # rows up to which pairs stand as a matrix
PAIRS = 60          # of more rows, the pairs that are listed
_UNFINISHED = 0.9   # share of finished answers below which the page warns


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows, in words."""

    title: str
    caption: str
    svg: Markup


def write_page(table: Table, members: Sequence[Member], results: Sequence[Result], folder: str | Path) -> Path:
    """report.html in `folder`, of a table and the runs that it was made of."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(plain=plain, lines=_lines)
    complete = [run for run in results if run.status == "complete"]
    models, data = runs.subject(complete)
    shared, own = runs.settings(members)
    drawn = [member for member in members if member.runs]
    score = (table.figure or "").removeprefix("reward/").removeprefix("score/").removesuffix("_minus_sft") \
        or "gold"
    asked = runs.answers(drawn, score)
    page = environment.get_template("page.html.j2").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")), script=Markup(script), hash=_hash(script),
        models=models, data=data, rows=_labels(table), methods=[member.label for member in members], table=table,
        alarms=_alarms(table), best=table.best, figure=_title(table.figure), head=_first(table, drawn),
        charts=_charts(table, drawn), columns=_columns(table), cells=_cells(table), matrix=_matrix(table),
        pairs=_sorted(table.pairs)[:PAIRS], more_pairs=max(len(table.pairs) - PAIRS, 0),
        cost_columns=[(COSTS[name][0], meanings.COSTS[name]) for name in table.costs], cost_cells=_cost_cells(table),
        asked=asked, score=score if any(one.spread for one in asked) else "", colours=charts.COLOURS,
        unit=of_differences(table.figure),
        answering=[member.label for member in drawn[:runs.ANSWERED_BY]],
        commands={member.label: [runs.command(run) for run in [*member.runs, *member.lost]] for member in members},
        shared=shared, own=own)
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _lines(text: str) -> str:
    """Text whose line breaks stand; whatever else cannot be printed is spelled out."""
    return "\n".join(plain(line) for line in text.splitlines())


def _hash(script: str) -> str:
    """By which the page's own policy lets its script run, and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _labels(table: Table) -> list[str]:
    """By whose order a row has its colour, wherever it is shown."""
    return [row.label for row in table.rows]


def _title(figure: str | None) -> str:
    if figure is None:
        return ""
    return words_of(figure)[0] or title(figure)[0]


def _first(table: Table, members: Sequence[Member]) -> Chart | None:
    """The picture of the first screen: what the declared figure costs."""
    cost = next((name for name in ("seconds", "tokens_trained") if name in table.costs), None)
    if table.figure is None or cost is None:
        return None
    unit, divisor, _ = COSTS[cost]
    points = []
    for row in (member.row for member in members):
        one, spent = row.estimates.get(table.figure), row.costs.get(cost)
        if one is not None and spent is not None:
            told = f"{row.label}: {interval(one)} for {amount(spent, cost)} {unit}"
            points.append(charts.Point(row.label, spent / divisor, one.mean, one.low, one.high, told))
    if len(points) < 2:
        return None
    lower = words_of(table.figure)[1]
    svg = charts.quality_and_cost(points, _labels(table), unit, _title(table.figure), lower)
    caption = (f"Each method by its {_title(table.figure)}, with its 95 % interval, and what it cost, shared stages "
               "included; a method that draws several answers for each that it gives pays for that when it is used. "
               "The dashed line joins the methods than which none was both better and cheaper, by their means alone: "
               "whether two of them differ is said above.")
    return Chart("Quality and cost", caption, Markup(svg))


def _charts(table: Table, members: Sequence[Member]) -> list[Chart]:
    rows, found = _labels(table), []
    if table.figure and len(points := runs.distances(members, table.figure)) > 1:
        found.append(Chart("How far from the start", f"{_title(table.figure).capitalize()} against the square root of "
                           "the KL divergence to the model that training began with; of best-of-n the KL is an upper "
                           "bound.", Markup(charts.distance(points, rows, _title(table.figure)))))
    for member in members:
        curve = _best_of(member.row)
        if len({point["n"] for point in curve}) > 1:
            found.append(Chart(f"{member.label}: how many answers to choose from", "What the best of n answers earns, "
                               "unbiased over all subsets of n of the answers that were drawn.",
                               Markup(charts.best_of(curve))))
    for name, curve in runs.curves(members):
        told = "The loss of the training batches, each seed a line."
        if name == "reward/proxy":
            told = ("Training's own measure of answers drawn while it runs: the score that is optimised, no measure of "
                    "quality.")
        found.append(Chart(f"Training: {name}", told, Markup(charts.training(curve, rows, name))))
    if "seconds" in table.costs and any(member.runs for member in members):
        parts = runs.stage_costs(members[:40], "seconds")
        found.append(Chart("What was paid for", "Seconds by stage. A stage that several methods stand on is built once "
                           "and charged to each of them.", Markup(charts.stages(parts, rows, "seconds"))))
    return found


def _best_of(row: Row) -> list[dict]:
    curve = []
    for name, one in row.estimates.items():
        figure, _, n = name.partition("@")
        if n.isdigit() and figure.startswith("reward/"):
            told = f"{figure}, best of {n}: {interval(one)}"
            curve.append({"n": int(n), "figure": figure, "y": one.mean, "low": one.low, "high": one.high, "told": told})
    return curve


def _alarms(table: Table) -> list[str]:
    """What a reader must not miss."""
    lost: dict[str, list[str]] = {}
    for row in table.rows:
        if row.lost:
            told = listed([f"{count} {how}" for how, count in row.lost.items()])
            lost.setdefault(f"{told} of {row.total} runs", []).append(row.label)
    found = [f"{listed(labels)}: {told}{' each' if len(labels) > 1 else ''}; see the notes for why."
             for told, labels in lost.items()]
    ended = {row.label: row.estimates["eos_rate"].mean for row in table.rows if "eos_rate" in row.estimates}
    if cut := {label: share for label, share in ended.items() if share < _UNFINISHED}:
        shares = " to ".join(dict.fromkeys(f"{choose(cut.values()):.0%}" for choose in (min, max)))
        found.append(f"{listed(list(cut))}: only {shares} of the answers ended before the limit of their length; the "
                     "others were judged as they were cut.")
    return found + [note for note in table.notes if isinstance(note, Alarm)]


def _columns(table: Table) -> list[tuple[str, str]]:
    return [(title(name)[0], meanings.of(name)) for name in table.shown]


def _cells(table: Table) -> list[tuple[Row, list[tuple[float | None, str, str]]]]:
    """Of every row, its figures: the number to sort by, as it is printed, and its interval."""
    return [(row, [(getattr(row.estimates.get(name), "mean", None), *figure_cell(row, name)) for name in table.shown])
            for row in table.rows]


def _cost_cells(table: Table) -> list[tuple[Row, list[tuple[float | None, str]]]]:
    return [(row, [(value := row.costs.get(name), amount(value, name)) for name in table.costs]) for row in table.rows]


def _matrix(table: Table) -> dict[tuple[str, str], tuple[PairRow, str, str, str]] | None:
    """By the labels of two rows: the pair, its difference as seen from the first, and how the first came off."""
    if not table.pairs or len(table.rows) > MATRIX:
        return None
    found = {}
    for row in table.pairs:
        pair = row.pair
        for one, other, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
            if pair.verdict.claims:
                how = "better" if pair.winner == one else "worse"
            else:
                how = {Verdict.EQUAL: "equal", Verdict.SEEN_ALONE: "alone"}.get(pair.verdict, "open")
            mean, low, high = (sign * value for value in (row.difference.mean, row.difference.low, row.difference.high))
            low, high = min(low, high), max(low, high)
            found[one, other] = (row, how, f"{mean:+.3g}", f"[{number(low)}, {number(high)}]")
    return found


def _sorted(pairs: Sequence[PairRow]) -> list[PairRow]:
    return sorted(pairs, key=lambda row: row.pair.adjusted)
