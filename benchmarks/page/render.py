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
from algorithms.common.support.style import page_style

from ..advice import UNFINISHED
from ..comparison_tables import Member, budget_words, words_of
from ..results_read import Result
from ..tables import (
    COSTS,
    Alarm,
    PairRow,
    Row,
    Table,
    amount,
    figure_cell,
    interval,
    of_differences,
    p_value,
    plain,
    title,
)
from . import charts, meanings, runs
from .gaps import gaps
from .paint import painted

HERE = Path(__file__).parent
MATRIX = 12         # rows up to which a matrix has figures; of more it has signs, the figures where one points
SQUARE = 40         # rows up to which pairs stand as a matrix
PAIRS = 60          # of more rows, the pairs that are listed
JOINED = " A line joins rows of one method that differ in one setting, or its checkpoints."


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows, in words."""

    title: str
    caption: str
    svg: Markup
    narrow: Markup = Markup()   # for a phone, where it has a drawing of its own


def write_page(table: Table, members: Sequence[Member], results: Sequence[Result], folder: str | Path) -> Path:
    """report.html in `folder`, of a table and the runs that it was made of."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(plain=plain, lines=_lines, p_value=p_value)
    complete = [run for run in results if run.status == "complete"]
    models, data = runs.subject(complete or results)
    shared, own = runs.settings(members)
    drawn = [member for member in members if member.runs]
    score = (table.figure or "").removeprefix("reward/").removeprefix("score/").removesuffix("_minus_sft") \
        or "gold"
    asked, paint = runs.answers(_foremost(table, drawn), score), painted(table.rows)
    counts = runs.counted(members)
    page = environment.get_template("page.html.j2").render(
        style=Markup(page_style() + (HERE / "page.css").read_text(encoding="utf-8")), script=Markup(script),
        hash=_hash(script), models=models, data=data, paint=paint, methods=[member.label for member in members],
        budget=budget_words(complete) or "not the same for all", finished=_finished(table, results), table=table,
        alarms=_alarms(table, drawn), best=table.best, figure=_title(table.figure),
        meaning=meanings.of(table.figure or ""), head=_first(table, drawn, paint),
        charts=_charts(table, drawn, paint), columns=_columns(table), cells=_cells(table), matrix=_matrix(table),
        compared=table.ranked, signs=len(table.ranked) > MATRIX, pairs=_sorted(table.pairs)[:PAIRS],
        more_pairs=max(len(table.pairs) - PAIRS, 0),
        cost_columns=[(COSTS[name][0], meanings.COSTS[name]) for name in table.costs], cost_cells=_cost_cells(table),
        asked=asked, score=score if any(one.spread for one in asked) else "", unit=of_differences(table.figure),
        answering=runs.answering(asked), answered=len(drawn), counts=counts,
        counted=list(dict.fromkeys(name for _, values in counts for name in values)), gaps=gaps(table, members),
        commands={member.label: [runs.command(run) for run in [*member.runs, *member.lost]] for member in members},
        shared=shared, own=own)
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _finished(table: Table, results: Sequence[Result]) -> str:
    """How many runs there are, of how many seeds, and what each was asked."""
    complete = [run for run in results if run.status == "complete"]
    seeds = len({run.seed for run in complete})
    text = f"{len(complete)} finished" + (f" of {len(results)}" if len(complete) < len(results) else "")
    text += f", {seeds} seed{'' if seeds == 1 else 's'}" if complete else ""
    asked = [row.estimates[table.figure] for row in table.rows if table.figure in row.estimates]
    return text + (f", {asked[0].n:,} {asked[0].unit} each" if asked else "")


def _foremost(table: Table, members: Sequence[Member]) -> list[Member]:
    """The rows whose answers are shown: of too many those that beat most, in the order of the table."""
    first = [*table.ranked, *(member.label for member in members)][:runs.ANSWERED_BY]
    return [member for member in members if member.label in first] if len(members) > runs.ANSWERED_BY else list(members)


def _lines(text: str) -> str:
    """Text whose line breaks stand; whatever else cannot be printed is spelled out."""
    return "\n".join(plain(line) for line in text.splitlines())


def _hash(script: str) -> str:
    """By which the page's own policy lets its script run, and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _title(figure: str | None) -> str:
    if figure is None:
        return ""
    return words_of(figure)[0] or title(figure)[0]


def _first(table: Table, members: Sequence[Member], paint: charts.Paint) -> Chart | None:
    """The picture of the first screen: what the declared figure costs."""
    rows = [member.row for member in members if table.figure in member.row.estimates]
    cost = next((name for name in ("money", "seconds", "tokens_trained")
                 if rows and all(name in row.costs for row in rows)), None)
    if table.figure is None or cost is None or len(rows) < 2:
        return None
    unit, divisor, title = _unit(cost, max(row.costs[cost] for row in rows))
    points = []
    for row in rows:
        one, spent = row.estimates[table.figure], row.costs[cost]
        told = f"{row.label}: {interval(one)} for {amount(spent, cost)} {COSTS[cost][0]}"
        points.append(charts.Point(row.label, spent / divisor, one.mean, one.low, one.high, told))
    quality, lower = _title(table.figure), words_of(table.figure)[1]
    wide, narrow = (Markup(charts.quality_and_cost(points, paint, title, quality, lower, size))
                    for size in ((charts.WIDE if len(points) <= charts.FEW else charts.TALL), charts.NARROW))
    better = "lower" if lower else "higher"
    caption = (f"Each method by its {quality} ({better} is better), with its 95 % interval, and what it cost, shared "
               "stages included. The dashed line joins the methods than which none was both better and cheaper, by "
               "their means alone: whether two of them differ is said above.")
    return Chart(f"Quality against cost in {unit}", caption, wide, narrow)


def _unit(cost: str, most: float) -> tuple[str, float, str]:
    """A cost's unit in a picture, by the largest: its name, what it is divided by, and the title of the axis."""
    if cost == "seconds" and most >= 180:
        return ("minutes", 60.0, "minutes of training") if most < 7200 else ("hours", 3600.0, "hours of training")
    name, divisor, _ = COSTS[cost]
    return name, divisor, "seconds of training" if cost == "seconds" else name


def _charts(table: Table, members: Sequence[Member], paint: charts.Paint) -> list[Chart]:
    found = []
    if table.figure and len(points := runs.distances(members, table.figure)) > 1:
        found.append(Chart("How far from the start", f"{_title(table.figure).capitalize()} against the square root of "
                           "the KL divergence to the model that training began with; of best-of-n the KL is an upper "
                           f"bound.{JOINED if any(one.line for one in points) else ''}",
                           Markup(charts.distance(points, paint, _title(table.figure)))))
    figure = _by_temperature(table)
    warm = runs.temperatures(members, figure) if figure else []
    if len({point.x for point in warm}) > 1:
        found.append(Chart("How warm the answers are drawn", f"{title(figure)[0].capitalize()} against the temperature "
                           "that the reported answers were drawn at; 0 takes the likeliest word each time.",
                           Markup(charts.plane(warm, paint, "temperature", title(figure)[0]))))
    for member in members:
        curve = _best_of(member.row, table.figure)
        if len({point["n"] for point in curve}) > 1:
            found.append(Chart(f"{member.label}: how many answers to choose from", "What the best of n answers earns, "
                               "unbiased over all subsets of n of the answers that were drawn.",
                               Markup(charts.best_of(curve, paint[member.label][0]))))
    part = f" Of the first {runs.CURVES} of {len(members)} methods." if len(members) > runs.CURVES else ""
    if steps := runs.paths(members):
        found.append(Chart("On the way", "The learned reward of the answers that training drew, against how far they "
                           "were from its start, step by step, each seed a line: what was optimised, no measure of "
                           f"quality.{part}",
                           Markup(charts.paths(steps, paint))))
    for name, curve in runs.curves(members):
        told = "The loss of the training batches, each seed a line."
        if name == "reward/proxy":
            told = ("Training's own measure of answers drawn while it runs: the score that is optimised, no measure of "
                    "quality.")
        found.append(Chart(f"Training: {name}", told + part, Markup(charts.training(curve, paint, name))))
    if "seconds" in table.costs and any(member.runs for member in members):
        parts = runs.stage_costs(members[:40], "seconds")
        found.append(Chart("What was paid for", "Seconds by stage: in a method's colour what is its own, in grey the "
                           "stages it stands on. One marked shared is built once, and charged in full to each method "
                           "that stands on it.", Markup(charts.stages(parts, paint, "seconds"))))
    return found


def _by_temperature(table: Table) -> str | None:
    """The figure to show against temperature: how often answers are better, else what rows are compared by."""
    return next((name for name in ("win_rate/sft", "win_rate/base", *table.metrics) if name in table.metrics
                 and name.startswith("win_rate/")), table.figure)


def _best_of(row: Row, first: str | None) -> list[dict]:
    """Points of a curve by figure, that which rows are compared by first."""
    curve = []
    for name, one in row.estimates.items():
        figure, _, n = name.partition("@")
        if n.isdigit() and figure.startswith("reward/"):
            told = f"{figure}, best of {n}: {interval(one)}"
            curve.append({"n": int(n), "figure": figure, "y": one.mean, "low": one.low, "high": one.high, "told": told})
    return sorted(curve, key=lambda point: (point["figure"] != first, point["figure"], point["n"]))


def _alarms(table: Table, members: Sequence[Member]) -> list[str]:
    """What a reader must not miss."""
    lost: dict[str, list[str]] = {}
    for row in table.rows:
        if row.lost:
            told = listed([f"{count} {how}" for how, count in row.lost.items()])
            lost.setdefault(f"{told} of {row.total} runs", []).append(row.label)
    found = [f"{listed(labels)}: {told}{' each' if len(labels) > 1 else ''}; see the notes for why."
             for told, labels in lost.items()]
    ended = {row.label: row.estimates["eos_rate"].mean for row in table.rows if "eos_rate" in row.estimates}
    if cut := {label: share for label, share in ended.items() if share < UNFINISHED}:
        shares = " to ".join(dict.fromkeys(f"{choose(cut.values()):.0%}" for choose in (min, max)))
        found.append(f"{listed(list(cut))}: only {shares} of the answers ended before the limit of their length; the "
                     "others were judged as they were cut.")
    if cut_texts := runs.truncated(members):
        found.append(f"Texts of the data were cut to fit model.max_length: {listed(cut_texts)}.")
    return found + [note for note in table.notes if isinstance(note, Alarm) and not note.startswith("Data")]


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
    if not table.pairs or len(table.ranked) > SQUARE:
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
