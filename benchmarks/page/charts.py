"""Charts of the report as SVG that stands in the page itself.

Vega-Altair describes them and vl-convert draws them: 10 to 30 kB each, no script, and every mark with a label of its
own (`aria-label`), from which the page makes tooltips that a mouse, a keyboard and a screen reader find. Plotly draws
by a script of several megabytes; matplotlib's SVG has no labels of marks. Colours are the page's variables, so that
they follow its light and dark dress and a row has one colour everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, sqrt
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from .labels import Box, Label, placed
from .paint import SHADES

WIDE, TALL, NARROW = (960, 330), (960, 520), (285, 300)     # the first picture, of many rows, and as a phone has it
WIDTH, HEIGHT = 345, 250                # the others; all fit a phone beside their axis
FEW, MANY = 16, 40  # rows with their name beside the point, in a tall picture; of more, those that the line joins
_LOGARITHMIC = 30   # ratio of costs from which they are shown by order of magnitude

Paint = Mapping[str, tuple[int, str]]   # of a row: colour and shape


@dataclass(frozen=True)
class Point:
    """A row of the table in a plane; `low` and `high` are the ends of the interval of `y`."""

    row: str
    x: float
    y: float
    low: float
    high: float
    told: str           # what the mark says
    line: str = ""      # points of one are joined, in the order of x


def quality_and_cost(points: Sequence[Point], paint: Paint, cost: str, quality: str, lower_is_better: bool = False,
                     size: tuple[int, int] = WIDE) -> str:
    """Each row a point; the line joins those than which no other is both better and cheaper, by their means."""
    least, most = (choose(point.x for point in points) for choose in (min, max))
    wide = least > 0 and most > _LOGARITHMIC * least
    plane = Plane((least / 1.3, most * 1.3) if wide else (0.0, 1.08 * most or 1.0), _reach(points), wide, size)
    best = frontier(points, lower_is_better)
    named = points if len(points) <= (MANY if size == TALL else FEW) else best
    steps = [one for first, second in zip(best, best[1:])
             for one in (((first.x, first.y), (second.x, first.y)), ((second.x, first.y), (second.x, second.y)))]
    axis = alt.Axis(tickCount=4 if size == NARROW else 10, labelOverlap=True)
    x = alt.X("x:Q", title=cost, scale=plane.scale(0), axis=axis)
    line = alt.Chart(_frame(best)).mark_line(interpolate="step-after", strokeDash=[5, 4], color="var(--muted)",
                                             aria=False).encode(x=x, y="y:Q")
    return _svg(line + _points(points, x, quality, paint, plane, named, steps), size)


def frontier(points: Sequence[Point], lower_is_better: bool = False) -> list[Point]:
    """The points than which none is both cheaper and better, from the cheapest on."""
    sign, best, kept = -1 if lower_is_better else 1, -inf, []
    for point in sorted(points, key=lambda point: (point.x, -sign * point.y)):
        if sign * point.y > best:
            best = sign * point.y
            kept.append(point)
    return kept


def distance(points: Sequence[Point], paint: Paint, quality: str) -> str:
    """Quality against √KL (Gao et al. 2023, arXiv 2210.10760): how far from the start it was bought."""
    moved = [replace(one, x=sqrt(max(one.x, 0.0))) for one in points]
    return plane(moved, paint, "√KL to the start, square root of nats per response", quality)


def plane(points: Sequence[Point], paint: Paint, title: str, quality: str) -> str:
    """Points by two figures, those of one line joined, from 0 on."""
    found = Plane((0.0, 1.08 * max(one.x for one in points) or 1.0), _reach(points), False, (WIDTH, HEIGHT))
    lines: dict[str, list[Point]] = {}
    for one in sorted(points, key=lambda one: one.x):
        lines.setdefault(one.line, []).append(one)
    joined = [((one.x, one.y), (other.x, other.y)) for line, members in lines.items() if line
              for one, other in zip(members, members[1:])]
    ends = [members[-1] for line, members in lines.items() if line] + lines.get("", [])
    named = points if len(points) <= FEW else ends if len(ends) <= FEW else []
    x = alt.X("x:Q", title=title, scale=found.scale(0), axis=alt.Axis(tickCount=6, labelOverlap=True))
    chart = _points(points, x, quality, paint, found, named, joined)
    if joined:
        frame = _frame([one for line in lines.values() for one in line if one.line])
        colour = _colour({one.line: f"var(--row-{paint[one.row][0]})" for one in points if one.line}, "line")
        chart = alt.Chart(frame).mark_line(strokeWidth=1.2, opacity=0.6, aria=False).encode(
            x=x, y="y:Q", color=colour, detail="line:N", order="x:Q") + chart
        chart = chart.resolve_scale(color="independent")
    return _svg(chart)


def best_of(curve: Sequence[Mapping[str, Any]], colour: int) -> str:
    """Rewards of the best of n answers against n: dicts of n, figure, y, low, high, told; the first figure has the
    row's `colour`."""
    frame = pd.DataFrame(curve)
    x = alt.X("n:Q", title="n, answers to choose from", scale=alt.Scale(type="log", base=2, nice=False, padding=16),
              axis=alt.Axis(values=sorted(set(frame["n"])), format="d"))
    figures = list(dict.fromkeys(frame["figure"]))
    paint = _colour({name: f"var(--row-{colour})" if index == 0 else f"var(--shade-{(index - 1) % SHADES})"
                     for index, name in enumerate(figures)}, "figure", alt.Legend(title=None, orient="top"))
    base = alt.Chart(frame).encode(x=x, color=paint)
    band = base.mark_area(opacity=0.18, aria=False).encode(y=alt.Y("low:Q", title="reward"), y2="high:Q")
    line = base.mark_line(aria=False).encode(y="y:Q")
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(y="y:Q", description="told:N")
    return _svg(band + line + dots)


def training(curves: Sequence[Mapping[str, Any]], paint: Paint, title: str) -> str:
    """A figure of training against the share of the steps that were taken: dicts of row, seed, x, y."""
    frame = pd.DataFrame(curves)
    here = [row for row in paint if row in set(frame["row"])]
    columns = min(len(here), 2)
    chart = alt.Chart(frame).mark_line(strokeWidth=1.4, opacity=0.85, aria=False).encode(
        x=alt.X("x:Q", title=None, axis=alt.Axis(format="%", values=[0, 0.5, 1])),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        color=_rows_colour(paint), detail="seed:N",
    ).properties(width=(WIDTH - 50 * (columns - 1)) // columns, height=100).facet(
        facet=alt.Facet("row:N", title=f"{title}, against the share of the steps", sort=here, header=alt.Header(
            labelColor="currentColor", titleColor="currentColor", titleFontWeight="normal", labelLimit=150)),
        columns=columns, spacing=16).resolve_scale(y="independent")
    return _svg(chart, None)


def paths(steps: Sequence[Mapping[str, Any]], paint: Paint) -> str:
    """Where training went, each seed a line: dicts of row, seed, x (√KL), y, order."""
    frame = pd.DataFrame(steps)
    here = {row: f"var(--row-{paint[row][0]})" for row in dict.fromkeys(frame["row"])}
    chart = alt.Chart(frame).mark_line(strokeWidth=1.4, opacity=0.85, aria=False).encode(
        x=alt.X("x:Q", title="√KL to the start, square root of nats per response", axis=alt.Axis(tickCount=6)),
        y=alt.Y("y:Q", title="reward/proxy", axis=alt.Axis(tickCount=6)), detail="seed:N", order="order:Q",
        color=_colour(here, "row", alt.Legend(title=None, orient="top", columns=2)))
    return _svg(chart)


def stages(parts: Sequence[Mapping[str, Any]], paint: Paint, unit: str) -> str:
    """What each row paid for: dicts of row, stage, order, own, value, told; what is its own has the row's colour."""
    frame = pd.DataFrame(parts)
    frame["paint"] = frame["row"].where(frame["own"], "stage: " + frame["stage"])
    names = list(dict.fromkeys(frame[~frame["own"]]["stage"]))
    shades = {f"stage: {name}": f"var(--shade-{index % SHADES})" for index, name in enumerate(names)}
    rows = {row: f"var(--row-{colour})" for row, (colour, _) in paint.items()}
    legend = alt.Legend(title=None, orient="top", values=list(shades), labelExpr="slice(datum.label, 7)", columns=2) \
        if shades else None
    chart = alt.Chart(frame).mark_bar(stroke="var(--card)", strokeWidth=1).encode(
        x=alt.X("value:Q", title=unit, axis=alt.Axis(tickCount=6)),
        y=alt.Y("row:N", title=None, sort=list(paint), axis=alt.Axis(labelLimit=130)),
        color=_colour({**rows, **shades}, "paint", legend), order=alt.Order("order:Q"), description="told:N")
    return _svg(chart.properties(width=WIDTH - 60, height=max(26 * frame["row"].nunique(), 60)), None)


@dataclass(frozen=True)
class Plane:
    """The part of a plane that a picture shows, and how many pixels it has."""

    x: tuple[float, float]
    y: tuple[float, float]
    logarithmic: bool               # x is
    size: tuple[int, int]

    def scale(self, axis: int) -> alt.Scale:
        kind = "log" if self.logarithmic and axis == 0 else "linear"
        return alt.Scale(type=kind, domain=list((self.x, self.y)[axis]), nice=False, zero=False)

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        turn = log if self.logarithmic else float
        left, right = map(turn, self.x)
        across = (turn(x) - left) / (right - left)
        return across * self.size[0], (1 - (y - self.y[0]) / (self.y[1] - self.y[0])) * self.size[1]

    def at(self, right: float, down: float) -> tuple[float, float]:
        """What is at a pixel."""
        turn, back = (log, exp) if self.logarithmic else (float, float)
        least, most = map(turn, self.x)
        return back(least + right / self.size[0] * (most - least)), \
            self.y[0] + (1 - down / self.size[1]) * (self.y[1] - self.y[0])


def _reach(points: Sequence[Point]) -> tuple[float, float]:
    """What the intervals take, and some room."""
    low, high = min(one.low for one in points), max(one.high for one in points)
    room = 0.09 * (high - low) or 1.0
    return low - room, high + room


def _points(points: Sequence[Point], x: alt.X, quality: str, paint: Paint, plane: Plane, named: Sequence[Point],
            lines: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> alt.LayerChart:
    """Marks with their intervals, and the names of `named` where they cover nothing; `lines` are drawn elsewhere."""
    base = alt.Chart(_frame(points)).encode(x=x, color=_rows_colour(paint))
    y = alt.Y("low:Q", title=quality, scale=plane.scale(1), axis=alt.Axis(tickCount=6))
    rules = base.mark_rule(strokeWidth=2, aria=False).encode(y=y, y2="high:Q")
    shapes = alt.Scale(domain=list(paint), range=[shape for _, shape in paint.values()])
    shape = alt.Shape("row:N", legend=None, scale=shapes)
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(y="y:Q", description="told:N", shape=shape)
    return alt.layer(rules, dots, *_names(points, paint, plane, named, lines))


def _names(points: Sequence[Point], paint: Paint, plane: Plane, named: Sequence[Point],
           lines: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> list[alt.Chart]:
    """The names as layers, placed by pixels."""
    if not named:
        return []
    ends = [(plane.pixels(one.x, one.high), plane.pixels(one.x, one.low)) for one in points]
    ends += [(plane.pixels(*first), plane.pixels(*second)) for first, second in lines]
    obstacles = [part for first, second in ends for part in _along(first, second)]
    obstacles += [Box(x - 6, y - 6, x + 6, y + 6) for x, y in (plane.pixels(one.x, one.y) for one in points)]
    where = [plane.pixels(one.x, one.y) for one in named]
    frame = pd.DataFrame([_name(one, at, label, plane) for one, at, label in
                          zip(named, where, placed([one.row for one in named], where, obstacles, *plane.size))])
    colour = _rows_colour(paint)
    layers = [alt.Chart(frame[frame["led"]]).mark_rule(strokeWidth=1, opacity=0.5, aria=False).encode(
        x="x:Q", y="y:Q", x2="middle:Q", y2="edge:Q", color=colour)] if frame["led"].any() else []
    for align, here in frame.groupby("align"):
        layers.append(alt.Chart(here).mark_text(
            align=align, baseline="middle", fontSize=13, fontWeight=600, aria=False).encode(
                x="begin:Q", y="text:Q", text="name:N", color=colour))
    return layers


def _name(point: Point, at: tuple[float, float], label: Label, plane: Plane) -> dict[str, Any]:
    """A label in the units of the plane: where its text begins, by its alignment, and where a line to it ends."""
    box, (x, y) = label.box, at
    middle = (box.left + box.right) / 2
    align, begin = ("left", box.left) if box.left > x else ("right", box.right) if box.right < x else ("center", middle)
    begin, text = plane.at(begin, (box.top + box.bottom) / 2)
    middle, edge = plane.at(middle, box.top if box.top > y else box.bottom)
    return {"row": point.row, "name": label.text, "align": align, "begin": begin, "text": text, "middle": middle,
            "edge": edge, "x": point.x, "y": point.y, "led": label.led}


def _along(first: tuple[float, float], second: tuple[float, float]) -> list[Box]:
    """A line as boxes of at most 6 pixels."""
    (x, y), (right, below) = first, second
    parts = max(int(max(abs(right - x), abs(below - y)) // 6), 1)
    places = [(x + (right - x) * part / parts, y + (below - y) * part / parts) for part in range(parts + 1)]
    return [Box(x - 3, y - 3, x + 3, y + 3) for x, y in places]


def _frame(points: Sequence[Point]) -> pd.DataFrame:
    return pd.DataFrame([vars(point) for point in points])


def _rows_colour(paint: Paint) -> alt.Color:
    return _colour({row: f"var(--row-{colour})" for row, (colour, _) in paint.items()}, "row")


def _colour(colours: Mapping[str, str], column: str, legend: alt.Legend | None = None) -> alt.Color:
    return alt.Color(f"{column}:N", legend=legend,
                     scale=alt.Scale(domain=list(colours), range=list(colours.values())))


def _svg(chart: Any, size: tuple[int, int] | None = (WIDTH, HEIGHT)) -> str:
    chart = chart.properties(width=size[0], height=size[1]) if size else chart
    text = dict(labelColor="currentColor", titleColor="currentColor", labelFontSize=12, titleFontSize=12)
    chart = chart.configure(
        font="system-ui, sans-serif", background="transparent", padding={"left": 16, "right": 8, "top": 4, "bottom": 4},
    ).configure_axis(
        **text, titleFontWeight="normal", gridColor="var(--rule)", domainColor="var(--rule)", tickColor="var(--rule)",
    ).configure_axisY(titlePadding=12).configure_legend(
        labelColor="currentColor", labelFontSize=12, symbolType="square", columnPadding=24).configure_view(stroke=None)
    return vl_convert.vegalite_to_svg(chart.to_json())
