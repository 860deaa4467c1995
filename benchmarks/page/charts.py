"""Charts of the report as SVG that stands in the page itself.

Vega-Altair describes them and vl-convert draws them: 10 to 30 kB each, no script, and every mark with a label of its
own (`aria-label`), from which the page makes tooltips that a mouse, a keyboard and a screen reader find. Plotly draws
by a script of several megabytes; matplotlib's SVG has no labels of marks. Colours are the page's variables, so that
they follow its light and dark dress and a row has one colour everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

COLOURS = 8         # of the style sheet, told apart by colour-blind readers; shapes tell further rows apart
SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
WIDE, WIDTH, HEIGHT = 960, 520, 330     # the first picture fills the page, the others half of it
_LABELLED = 14      # rows with their name beside the point; more would cover each other
_LOGARITHMIC = 30   # ratio of costs from which they are shown by order of magnitude


@dataclass(frozen=True)
class Point:
    """A row of the table in a plane; `low` and `high` are the ends of the interval of `y`."""

    row: str
    x: float
    y: float
    low: float
    high: float
    told: str       # what the mark says


def quality_and_cost(points: Sequence[Point], rows: Sequence[str], cost: str, quality: str,
                     lower_is_better: bool = False) -> str:
    """Each row a point; the line joins those than which no other is both better and cheaper, by their means."""
    frame = _frame(points)
    wide = min(point.x for point in points) > 0 and \
        max(point.x for point in points) > _LOGARITHMIC * min(point.x for point in points)
    most = max(point.x for point in points)
    scale = alt.Scale(type="log", nice=False, padding=40) if wide else alt.Scale(domain=[0, 1.12 * most], nice=False)
    x = alt.X("x:Q", title=cost, scale=scale)
    best = _frame(frontier(points, lower_is_better))
    line = alt.Chart(best).mark_line(interpolate="step-after", strokeDash=[5, 4], color="var(--muted)",
                                     aria=False).encode(x=x, y="y:Q")
    return _svg(line + _points(frame, x, quality, rows), WIDE)


def frontier(points: Sequence[Point], lower_is_better: bool = False) -> list[Point]:
    """The points than which none is both cheaper and better, from the cheapest on."""
    sign, best, kept = -1 if lower_is_better else 1, float("-inf"), []
    for point in sorted(points, key=lambda point: (point.x, -sign * point.y)):
        if sign * point.y > best:
            best = sign * point.y
            kept.append(point)
    return kept


def distance(points: Sequence[Point], rows: Sequence[str], quality: str) -> str:
    """Quality against √KL (Gao et al. 2023, arXiv 2210.10760): how far from the start it was bought."""
    moved = [Point(one.row, sqrt(max(one.x, 0.0)), one.y, one.low, one.high, one.told) for one in points]
    most = max(one.x for one in moved)
    x = alt.X("x:Q", title="√KL to the start, square root of nats per response",
              scale=alt.Scale(domain=[0, 1.2 * most or 1], nice=False))
    return _svg(_points(_frame(moved), x, quality, rows))


def best_of(curve: Sequence[Mapping[str, Any]]) -> str:
    """Rewards of the best of n answers against n: dicts of n, figure, y, low, high, told."""
    frame = pd.DataFrame(curve)
    x = alt.X("n:Q", title="n, answers to choose from", scale=alt.Scale(type="log", base=2, nice=False, padding=16),
              axis=alt.Axis(values=sorted(set(frame["n"])), format="d"))
    colour = _colour(list(dict.fromkeys(frame["figure"])), "figure", legend=alt.Legend(title=None, orient="top"))
    base = alt.Chart(frame).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.15, aria=False).encode(y=alt.Y("low:Q", title="reward"), y2="high:Q")
    line = base.mark_line(aria=False).encode(y="y:Q")
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(y="y:Q", description="told:N")
    return _svg(band + line + dots)


def training(curves: Sequence[Mapping[str, Any]], rows: Sequence[str], title: str) -> str:
    """A figure of training against the share of the steps that were taken: dicts of row, seed, x, y."""
    frame = pd.DataFrame(curves)
    here = [row for row in rows if row in set(frame["row"])]
    chart = alt.Chart(frame).mark_line(strokeWidth=1.4, opacity=0.85, aria=False).encode(
        x=alt.X("x:Q", title="share of the steps", axis=alt.Axis(format="%", tickCount=4)),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False)),
        color=_colour(rows, "row"), detail="seed:N",
    ).properties(width=225, height=120).facet(
        facet=alt.Facet("row:N", title=title, sort=here, header=alt.Header(labelColor="currentColor",
                                                                          titleColor="currentColor")),
        columns=2, spacing=18).resolve_scale(y="independent")
    return _svg(chart, None)


def stages(parts: Sequence[Mapping[str, Any]], rows: Sequence[str], unit: str) -> str:
    """What each row paid for: dicts of row, stage, order, value, told."""
    frame = pd.DataFrame(parts)
    last = frame.groupby("stage")["order"].max()
    names = sorted(last.index, key=lambda name: -last[name])    # its own, last in every bar, has one colour
    chart = alt.Chart(frame).mark_bar(stroke="var(--paper)", strokeWidth=1).encode(
        x=alt.X("value:Q", title=unit), y=alt.Y("row:N", title=None, sort=list(rows)),
        color=_colour(names, "stage", legend=alt.Legend(title=None, orient="top")),
        order=alt.Order("order:Q"), description="told:N")
    return _svg(chart.properties(width=WIDTH, height=max(26 * frame["row"].nunique(), 60)), None)


def _points(frame: pd.DataFrame, x: alt.X, quality: str, rows: Sequence[str]) -> alt.LayerChart:
    base = alt.Chart(frame).encode(x=x, color=_colour(rows, "row"))
    rules = base.mark_rule(strokeWidth=2, aria=False).encode(
        y=alt.Y("low:Q", title=quality, scale=alt.Scale(zero=False)), y2="high:Q")
    shapes = [SHAPES[index // COLOURS % len(SHAPES)] for index in range(len(rows))]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        y="y:Q", description="told:N", shape=alt.Shape("row:N", legend=None,
                                                      scale=alt.Scale(domain=list(rows), range=shapes)))
    layers = rules + dots
    if frame["row"].nunique() > _LABELLED:
        return layers
    last = 0.7 * frame["x"].max()   # names of points further right stand at their left, inside the picture
    for here, align, dx in ((alt.datum.x <= last, "left", 9), (alt.datum.x > last, "right", -9)):
        text = {"dy": -7, "fontSize": 13, "fontWeight": 600, "aria": False}
        names = base.transform_filter(here).mark_text(align=align, dx=dx, **text)
        layers += names.encode(y="y:Q", text="row:N")
    return layers


def _frame(points: Sequence[Point]) -> pd.DataFrame:
    return pd.DataFrame([vars(point) for point in points])


def _colour(names: Sequence[str], column: str, legend: alt.Legend | None = None) -> alt.Color:
    colours = [f"var(--row-{index % COLOURS})" for index in range(len(names))]
    return alt.Color(f"{column}:N", legend=legend, scale=alt.Scale(domain=list(names), range=colours))


def _svg(chart: Any, width: int | None = WIDTH) -> str:
    chart = chart.properties(width=width, height=HEIGHT) if width else chart
    text = dict(labelColor="currentColor", titleColor="currentColor", labelFontSize=12, titleFontSize=12)
    chart = chart.configure(font="system-ui, sans-serif", background="transparent").configure_axis(
        **text, titleFontWeight="normal", gridColor="var(--rule)", domainColor="var(--rule)", tickColor="var(--rule)",
    ).configure_legend(labelColor="currentColor", labelFontSize=12, symbolType="square").configure_view(stroke=None)
    return vl_convert.vegalite_to_svg(chart.to_json())
