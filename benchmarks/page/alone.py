"""Pictures that stand by themselves, beside a page in Markdown: in the light colours of the report's style sheet."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from algorithms.common.support.style import page_style

from .paint import COLOURS, SHAPES

WIDTH, HEIGHT = 680, 400
_SHEET = Path(__file__).with_name("page.css")


@cache
def colours() -> dict[str, str]:
    """The style sheets' variables, of their light dress."""
    light = [sheet.partition("@media")[0] for sheet in (page_style(), _SHEET.read_text(encoding="utf-8"))]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", "".join(light)))


def curves(lines: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]], rows: Sequence[str], x: str, y: str
           ) -> str:
    """An SVG: of each row a line with its band, and points with their intervals; dicts of row, x, y, low, high."""
    sheet = colours()
    hues = alt.Scale(domain=list(rows), range=[sheet[f"row-{index % COLOURS}"] for index in range(len(rows))])
    colour = alt.Color("row:N", scale=hues, legend=alt.Legend(title=None, orient="top"))
    shapes = alt.Scale(domain=list(rows), range=[SHAPES[index % len(SHAPES)] for index in range(len(rows))])
    shape = alt.Shape("row:N", scale=shapes, legend=alt.Legend(title=None, orient="top"))
    line, dots = (alt.Chart(pd.DataFrame(frame)).encode(x=alt.X("x:Q", title=x), color=colour)
                  for frame in (lines, points))
    scale = alt.Scale(zero=False)
    chart = (line.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title=y, scale=scale), y2="high:Q")
             + line.mark_line(strokeWidth=1.8).encode(y="y:Q")
             + dots.mark_rule(strokeWidth=1.1, opacity=0.75).encode(y="low:Q", y2="high:Q")
             + dots.mark_point(filled=True, size=55, opacity=1).encode(y="y:Q", shape=shape))
    return standing(chart.properties(width=WIDTH, height=HEIGHT))


def standing(chart: Any) -> str:
    """An Altair chart as an SVG in the page's light colours."""
    sheet = colours()
    grey = dict(gridColor=sheet["rule"], domainColor=sheet["rule"], tickColor=sheet["rule"])
    text = dict(labelColor=sheet["ink"], labelFontSize=12)
    drawn = chart.configure(font="sans-serif", background=sheet["paper"])
    return vl_convert.vegalite_to_svg(drawn.configure_axis(
        **text, **grey, titleColor=sheet["ink"], titleFontSize=12, titleFontWeight="normal",
    ).configure_legend(**text, symbolOpacity=1).configure_view(stroke=None).to_json())
