"""Effects as a forest: one line per estimate with a ring where it was measured, a dot and a bar where it is believed to be, and its figures at the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import altair as alt

from expnb.charts import words
from expnb.charts.frame import TICK_GAP, Ends, x_of
from expnb.charts.theme import BETTER, DOT, FAINT, RING, TEXT, TEXT_SIZE, WIDTH, WORSE
from expnb.posterior.effect import Scale

Layer = alt.Chart | alt.LayerChart | alt.FacetChart
Sign = tuple[Literal["ring", "dot", "line"], str]

NAMES: Final = 130  # px, left of the axis
TOLD: Final = 205  # px, right of it
PLOT: Final = WIDTH - NAMES - TOLD
PERCENT: Final = words.Measure(100, " %")
_STEP, _LINE = 24, 16  # px
_ROOM = 0.05  # of the axis, at either end
_LONGEST_NAME, _LONGEST_TOLD = 18, 40  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One line.

    Parameters
    ----------
    raw : float, optional
        Drawn as a ring.
    mean, low, high : float, optional
        Drawn as a dot and a bar.
    told : str
        What stands at the right.
    better : bool
        Colour of dot and bar.
    strong : bool
        Whether the name is bold.
    """

    name: str
    raw: float | None
    mean: float | None
    low: float | None
    high: float | None
    told: str
    better: bool
    strong: bool = False


def ends_of(marks: Sequence[Mark]) -> Ends:
    """Ends of an axis that holds all of them, and 0."""
    seen = [value for mark in marks for value in (mark.raw, mark.mean, mark.low, mark.high)]
    shown = [0.0, *(value for value in seen if value is not None and math.isfinite(value))]
    room = _ROOM * (max(shown) - min(shown)) or 1.0
    return min(shown) - room, max(shown) + room


def forest(
    marks: Sequence[Mark],
    ends: Ends,
    *,
    heading: str,
    harm: float | None,
    axis: Scale | None,
    measure: words.Measure = PERCENT,
    better_right: bool = True,
) -> Layer:
    """The lines under one heading; `axis` is the scale that it measures, None for one that is hidden."""
    names = words.distinct([mark.name for mark in marks], _LONGEST_NAME)
    records = [_record(place, mark, name, measure) for place, (mark, name) in enumerate(zip(marks, names, strict=True))]
    drawn = alt.Chart(alt.Data(values=records))  # type: ignore[no-untyped-call]
    y = alt.Y("place:Q", scale=alt.Scale(domain=[len(marks) - 0.5, -0.5], nice=False, zero=False), axis=None)
    colour = alt.Color("colour:N", scale=None)
    x_axis = None if axis is None else _axis(axis, measure, better_right=better_right)
    rules = [_rule(0.0, FAINT, ends, x_axis)]
    if harm is not None and ends[0] < harm < ends[1]:
        rules.append(_rule(harm, WORSE, ends, x_axis, dashed=True))
    believed, measured = alt.datum.mean != None, alt.datum.raw != None  # noqa: E711 - an expression of Vega
    tip = alt.Tooltip("tip:N")
    layers = [
        *rules,
        drawn.transform_filter(believed).mark_rule(strokeWidth=4, strokeCap="round", opacity=0.65)
        .encode(x=x_of(ends, "low", x_axis), x2="high:Q", y=y, color=colour, tooltip=tip),
        drawn.transform_filter(believed).mark_point(filled=True, size=DOT, opacity=1)
        .encode(x=x_of(ends, "mean", x_axis), y=y, color=colour, tooltip=tip),
        drawn.transform_filter(measured).mark_point(filled=False, color=TEXT, size=RING, strokeWidth=1.8, opacity=1)
        .encode(x=x_of(ends, "raw", x_axis), y=y, tooltip=tip),
        _text(drawn, "right", "name", strong=False).encode(x=alt.value(-8), y=y),
        _text(drawn, "right", "name", strong=True).encode(x=alt.value(-8), y=y),
        _text(drawn, "left", "told", strong=False).encode(x=alt.value(PLOT + 10), y=y),
        _text(drawn, "left", "told", strong=True).encode(x=alt.value(PLOT + 10), y=y),
    ]  # fmt: skip
    title = alt.TitleParams(text=heading, anchor="start", fontSize=TEXT_SIZE + 1, offset=4, frame="group")
    layered: Layer = alt.layer(*layers).properties(width=PLOT, height=_STEP * len(marks), title=title)
    return layered


def _axis(scale: Scale, measure: words.Measure, *, better_right: bool) -> alt.Axis:
    title = measure.axis_title(scale, better_right=better_right)
    return alt.Axis(
        title=title, labelExpr=measure.ticks, tickCount=4, labelOverlap=True, labelSeparation=TICK_GAP, offset=2
    )


def _record(place: int, mark: Mark, name: str, measure: words.Measure) -> dict[str, object]:
    finite = {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in (("raw", mark.raw), ("mean", mark.mean), ("low", mark.low), ("high", mark.high))
    }
    raw = "" if mark.raw is None else f", raw {measure.change(mark.raw)}"
    return {
        **finite,
        "place": place,
        "name": name,
        "told": words.name(mark.told, _LONGEST_TOLD),
        "tip": f"{words.name(mark.name)}: {mark.told}{raw}",
        "strong": mark.strong,
        "colour": BETTER if mark.better else WORSE,
    }


def _text(drawn: alt.Chart, align: Literal["left", "right"], field: str, *, strong: bool) -> alt.Chart:
    chosen = drawn.transform_filter(alt.datum.strong == strong)
    mark: alt.Chart = chosen.mark_text(
        align=align, baseline="middle", fontSize=TEXT_SIZE, color=TEXT, fontWeight="bold" if strong else "normal"
    ).encode(text=f"{field}:N")
    return mark


def _rule(x: float, colour: str, ends: Ends, axis: alt.Axis | None, *, dashed: bool = False) -> alt.Chart:
    mark = alt.Chart(alt.Data(values=[{"x": x}])).mark_rule(color=colour, strokeWidth=1.5 if dashed else 1, strokeDash=[4, 3] if dashed else [])  # type: ignore[no-untyped-call]  # fmt: skip
    drawn: alt.Chart = mark.encode(x=x_of(ends, axis=axis))
    return drawn


def legend(*signs: Sign) -> Layer:
    """What ring, dot and line mean, in one line."""
    parts: list[alt.Chart] = []
    left = 0
    for kind, text in signs:
        half = {"dot": 14, "ring": 8, "line": 6}[kind]
        parts += _sign(kind, left + half)
        label = _key().mark_text(align="left", baseline="middle", fontSize=TEXT_SIZE, color=TEXT)
        parts.append(label.encode(x=alt.value(left + 2 * half + 6), y=alt.value(6), text=alt.value(text)))
        left += 2 * half + 26 + round(6.0 * len(text))
    layers: Layer = alt.layer(*parts).properties(width=PLOT, height=12)
    return layers


def _sign(kind: Literal["ring", "dot", "line"], left: int) -> list[alt.Chart]:
    y = alt.value(6)
    if kind == "ring":
        ring = _key().mark_point(filled=False, color=TEXT, size=RING, strokeWidth=1.8, opacity=1)
        return [ring.encode(x=alt.value(left), y=y)]
    if kind == "line":
        line = _key().mark_rule(color=WORSE, strokeWidth=1.5, strokeDash=[4, 3])
        return [line.encode(x=alt.value(left), y=alt.value(0), y2=alt.value(12))]
    bar = _key().mark_rule(color=BETTER, strokeWidth=4, strokeCap="round", opacity=0.65)
    dot = _key().mark_point(filled=True, color=BETTER, size=DOT, opacity=1)
    return [bar.encode(x=alt.value(left - 12), x2=alt.value(left + 12), y=y), dot.encode(x=alt.value(left), y=y)]


def _key() -> alt.Chart:
    return alt.Chart(alt.Data(values=[{}]))  # type: ignore[no-untyped-call]


def caption(sentences: Sequence[str]) -> alt.Chart:
    """What the chart shows, in words under it."""
    lines = [line for sentence in sentences for line in words.lines(sentence)]
    mark = _key().mark_text(align="left", baseline="top", lineBreak="\n", lineHeight=_LINE, fontSize=TEXT_SIZE)
    drawn: alt.Chart = mark.encode(x=alt.value(-NAMES), y=alt.value(6), text=alt.value("\n".join(lines))).properties(
        width=PLOT, height=_LINE * len(lines) + 6
    )
    return drawn
