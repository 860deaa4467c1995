"""A curve's picture: a panel for each figure, both axes by order of magnitude; lines differ by dashes and marks too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.speed.scaling.point import Figure, Spread

WIDTH, HEIGHT = 330, 280  # of a panel
DASHES = ([1, 0], [7, 4], [2, 3])


def picture(found: Mapping[tuple[str, int], Mapping[str, Spread]], x: str, figures: Sequence[Figure]) -> str:
    """An SVG. found: line and x → by its title a figure; drawn are those that are to be, where all are above 0."""
    import altair as alt  # what draws takes a second to import
    import pandas as pd

    from benchmarks.page.alone import colours, standing
    from benchmarks.page.paint import SHAPES

    sheet, lines = colours(), list(dict.fromkeys(line for line, _ in found))
    ticks = sorted({at for _, at in found})
    legend = None if len(lines) < 2 else alt.Legend(title=None, orient="top", symbolSize=80, symbolDash=[1, 0],
                                                       symbolStrokeWidth=0)
    hues = alt.Scale(domain=lines, range=[sheet[f"row-{index}"] for index in range(len(lines))])
    colour = alt.Color("line:N", scale=hues, legend=legend)
    dashes = alt.StrokeDash("line:N", scale=alt.Scale(domain=lines, range=list(DASHES[:len(lines)])), legend=None)
    shape = alt.Shape("line:N", scale=alt.Scale(domain=lines, range=list(SHAPES[:len(lines)])), legend=legend)
    panels = []
    for figure in (one for one in figures if one.drawn):
        rows = [{"line": line, "x": at, **of[figure.title]._asdict()} for (line, at), of in found.items()
                if figure.title in of and of[figure.title].low > 0]
        if not rows:
            continue
        across = alt.X("x:Q", title=x, scale=alt.Scale(type="log", nice=False, padding=14),
                       axis=alt.Axis(values=ticks, labelExpr=MAGNITUDE, grid=False))
        low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
        up = alt.Scale(type="log", domain=[low / 1.25, high * 1.25], nice=False)
        base = alt.Chart(pd.DataFrame(rows)).encode(x=across, color=colour)
        y = alt.Y("median:Q", title=figure.title, scale=up, axis=alt.Axis(values=marks(low / 1.25, high * 1.25),
                                                                          labelExpr=MAGNITUDE))
        panel = (base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dashes)
                 + base.mark_rule(strokeWidth=1.4).encode(y=alt.Y("low:Q", scale=up, title=figure.title), y2="high:Q")
                 + base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape))
        panels.append(panel.properties(width=WIDTH, height=HEIGHT))
    drawn = alt.concat(*panels, columns=2, spacing=34).resolve_scale(y="independent")
    return standing(drawn)


MAGNITUDE = ("datum.value >= 1e6 ? format(datum.value / 1e6, '.3~g') + 'M' : datum.value >= 1e3 ? "
             "format(datum.value / 1e3, '.3~g') + 'k' : format(datum.value, '.3~g')")  # 1.07M, 1k, 0.002


FACTORS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), [1 + part / 5 for part in range(45)],
           [1 + part / 10 for part in range(90)])


def marks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, few and evenly by order of magnitude."""
    found: list[float] = []
    for factors in FACTORS:
        every = (float(f"{factor * 10.0**power:.2g}") for power in range(-12, 13) for factor in factors)
        found = [value for value in every if low <= value <= high]
        if len(found) >= 3:
            break
    return found[::1 + len(found) // 9]
