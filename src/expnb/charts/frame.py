"""Where things stand in a view: axes, labels that do not run out of it, and lines through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import altair as alt

from expnb.charts.theme import CHARACTER, TEXT, TEXT_SIZE, WIDTH

Align = Literal["left", "center", "right"]
Ends = tuple[float, float]

TICK_GAP = 12  # px, at least, between the labels of an axis
LINE_BOTTOM = -0.27  # lines end short of the labels under the density
_GAP = 6  # px between a mark and its label


def x_of(ends: Ends, field: str = "x", axis: alt.Axis | None = None) -> alt.X:
    """The shared x axis, hidden unless one is given."""
    return alt.X(f"{field}:Q", scale=alt.Scale(domain=list(ends), nice=False, zero=False), axis=axis)


def y_of(heights: Ends, field: str = "y") -> alt.Y:
    """The hidden y axis."""
    return alt.Y(f"{field}:Q", scale=alt.Scale(domain=list(heights), nice=False, zero=False), axis=None)


def values(*records: Mapping[str, float]) -> alt.Data:
    """Data of a mark, inline: no data transformer which somebody set for their own charts applies."""
    return alt.Data(values=[dict(record) for record in records])  # type: ignore[no-untyped-call]


def _px(x: float, ends: Ends) -> float:
    return (x - ends[0]) / (ends[1] - ends[0]) * WIDTH


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label stands: its anchor, the side of it, and a shift in pixels."""

    x: float
    align: Align
    dx: int = 0


def covers(place: Place, text: str, ends: Ends, x: float) -> bool:
    """Whether a label stands over `x`."""
    length = len(text) * CHARACTER
    left = _px(place.x, ends) + place.dx - {"left": 0.0, "center": length / 2, "right": length}[place.align]
    return left - _GAP <= _px(x, ends) <= left + length + _GAP


def beside(x: float, text: str, ends: Ends, *, left: bool = False) -> Place:
    """Beside `x`, on the wished side if there is room."""
    need = len(text) * CHARACTER + _GAP
    fits_left, fits_right = _px(x, ends) >= need, _px(x, ends) + need <= WIDTH
    return Place(x, "right", -_GAP) if fits_left and (left or not fits_right) else Place(x, "left", _GAP)


def centred(x: float, text: str, ends: Ends) -> Place:
    """Over `x`, without running out of the chart."""
    half = len(text) * CHARACTER / 2
    if _px(x, ends) < half:
        return Place(ends[0], "left")
    if _px(x, ends) + half > WIDTH:
        return Place(ends[1], "right")
    return Place(x, "center")


@dataclass(frozen=True, slots=True)
class Frame:
    """The shared ends of the x axis and the heights of one view."""

    ends: Ends
    heights: Ends

    def text(self, place: Place, y: float, text: str, *, colour: str = TEXT, bold: bool = False) -> alt.Chart:
        """A label."""
        mark = alt.Chart(values({"x": place.x, "y": y})).mark_text(
            align=place.align,
            dx=place.dx,
            baseline="middle",
            color=colour,
            fontWeight="bold" if bold else "normal",
            fontSize=TEXT_SIZE + bold,
        )
        drawn: alt.Chart = mark.encode(x=x_of(self.ends), y=y_of(self.heights), text=alt.value(text))
        return drawn

    def rule(
        self, x: float, top: float, colour: str, *, bottom: float = LINE_BOTTOM, dashed: bool = False
    ) -> alt.Chart:
        """A line through density and interval, up to `top`."""
        mark = alt.Chart(values({"x": x, "y": bottom, "top": top})).mark_rule(
            color=colour, strokeWidth=1.5 if dashed else 1, strokeDash=[4, 3] if dashed else []
        )
        drawn: alt.Chart = mark.encode(x=x_of(self.ends), y=y_of(self.heights), y2="top:Q")
        return drawn

    def shown(self, x: float | None) -> bool:
        """Whether a value lies on the axis."""
        return x is not None and self.ends[0] < x < self.ends[1]
