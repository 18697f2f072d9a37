"""A plan before the data: how likely the policy has acted by each day, and which effect it can find by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import altair as alt

from expnb.charts import words
from expnb.charts.figure import Figure
from expnb.charts.forest import Layer
from expnb.charts.theme import BETTER, CHARACTER, FAINT, TEXT, TEXT_SIZE, WIDTH, WORSE, config
from expnb.planning.design import POWER, ExperimentPlan

# What may have happened by a day: field, words, colour and dashes, in the order in which names are laid out where they meet.
ENDS: Final = (
    ("shipped", "ships", BETTER, [1, 0]),
    ("rolled_back", "rolls back", WORSE, [1, 0]),
    ("concluded_flat", "concludes flat", FAINT, [5, 3]),
)
_LABELS: Final = 150  # px, right of the lines
_LEFT: Final = 52  # px; both panels keep as much for their axes, so that their days stand under each other
_HEIGHT, _LOW = 200, 120
_APART = 16  # px between two labels
_CLIP = 4.0  # an effect so many times as large as the last one lies outside the panel


@dataclass(frozen=True, slots=True)
class _Line:
    """One curve and what it is called at its end."""

    rows: Sequence[tuple[int, float]]
    label: str
    colour: str
    dash: Sequence[int]


def plan(found: ExperimentPlan) -> Figure:
    """Shares of rollouts that shipped, rolled back and concluded flat by each day, and under them the smallest effect that ships with probability 0.8.

    Parameters
    ----------
    found : ExperimentPlan
        From `xb.plan_experiment`.

    Returns
    -------
    Figure
        The table has one row per day, with units and percent enrolled.
    """
    told = f"{found.experiment}: by day {found.days} the policy has shipped with probability {words.probability(found.assurance)}, over effects as the prior expects them."
    title = alt.TitleParams(
        text="What the policy would do by each day",
        subtitle=f"probability, with effects drawn from the prior · {found.daily_units:,.0f} eligible units per day",
        anchor="start",
        offset=10,
        frame="group",
    )
    figure = alt.vconcat(_verdicts(found), _effects(found), _caption([told, *_advice(found), found.footer]))
    chart: alt.VConcatChart = figure.properties(
        title=title, spacing=14, background="transparent", description=told, config=config()
    )
    return Figure(chart=chart, table=found.table(), sentence=told)


def _advice(found: ExperimentPlan) -> list[str]:
    """What has to be changed for the plan to work, where something has."""
    return [each for each in found.sentences if "cannot be shown" in each or "fits this traffic" in each]


def _caption(sentences: Sequence[str]) -> Layer:
    """Words under the panels, from their left edge on."""
    lines = [line for sentence in sentences for line in words.lines(sentence)]
    base = alt.Chart(alt.Data(values=[{}])).mark_text(  # type: ignore[no-untyped-call]
        align="left", baseline="top", lineBreak="\n", lineHeight=_APART, fontSize=TEXT_SIZE, color=TEXT
    )
    drawn: Layer = base.encode(x=alt.value(0), y=alt.value(4), text=alt.value("\n".join(lines))).properties(
        width=WIDTH - _LABELS, height=_APART * len(lines)
    )
    return drawn


def _verdicts(found: ExperimentPlan) -> Layer:
    lines = []
    for field, verb, colour, dash in ENDS:
        shares = [(0, 0.0), *((row.day, float(getattr(row, field))) for row in found.rows)]
        lines.append(_Line(shares, f"{verb} {100 * shares[-1][1]:.1f} %", colour, dash))
    top = max(0.1, *(share for line in lines for _, share in line.rows))
    last = all(row.detectable is None for row in found.rows)
    return _panel(found, lines, (0.0, min(1.0, 1.1 * top)), _HEIGHT, "format(100 * datum.value, 'd') + ' %'", days=last)


def _effects(found: ExperimentPlan) -> Layer:
    heading = f"Smallest effect on {words.name(found.goal)} that ships with probability {100 * POWER:.0f} %"
    effects = [(row.day, row.detectable) for row in found.rows if row.detectable is not None]
    if not effects:
        empty = alt.Chart(alt.Data(values=[{}])).mark_text(align="left", baseline="top", color=TEXT)  # type: ignore[no-untyped-call]
        none: Layer = empty.encode(
            x=alt.value(0), y=alt.value(4), text=alt.value(f"{heading}: none by day {found.days}.")
        ).properties(width=WIDTH - _LABELS, height=24)
        return none
    line = _Line(effects, f"{100 * effects[-1][1]:+.2g} %".replace("-", words.MINUS), BETTER, [1, 0])
    label = "datum.value == 0 ? '0' : format(100 * datum.value, '+,.3~r') + ' %'"
    return _panel(found, [line], _ends(effects), _LOW, label, days=True, heading=heading)


def _ends(effects: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Ends of the axis of effects, with no effect on it; the first ones may be too large to be shown."""
    last = effects[-1][1]
    largest = _CLIP * abs(last)
    shown = [value for _, value in effects if abs(value) <= largest]
    low, high = min(0.0, *shown, last), max(0.0, *shown, last)
    room = 0.1 * (high - low)
    return low - (room if low else 0.0), high + (room if high else 0.0)


def _panel(
    found: ExperimentPlan,
    lines: Sequence[_Line],
    ends: tuple[float, float],
    height: int,
    label: str,
    *,
    days: bool,
    heading: str = "",
) -> Layer:
    """Curves over days, each with its name at its end."""
    end = found.days + max(1, found.days // 28)  # the last step has a width too
    x = alt.X(
        "day:Q",
        scale=alt.Scale(domain=[0, end], nice=False),
        axis=alt.Axis(title="day" if days else None, values=_ticks(found.days), labels=days, format="d"),
    )
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(domain=list(ends), nice=False),
        axis=alt.Axis(title=None, tickCount=4, labelExpr=label, minExtent=_LEFT, maxExtent=_LEFT),
    )
    parts = []
    for line in lines:
        data = alt.Data(values=[{"day": day, "value": value} for day, value in (*line.rows, (end, line.rows[-1][1]))])  # type: ignore[no-untyped-call]
        mark = alt.Chart(data).mark_line(
            color=line.colour, strokeWidth=2.5, strokeDash=list(line.dash), interpolate="step-after", clip=True
        )
        parts.append(mark.encode(x=x, y=y))
    places = _places([line.rows[-1][1] for line in lines], ends, height)
    for line, place in zip(lines, places, strict=True):
        text = alt.Chart(alt.Data(values=[{}])).mark_text(align="left", baseline="middle", color=line.colour, fontSize=TEXT_SIZE, fontWeight=600)  # type: ignore[no-untyped-call]  # fmt: skip
        parts.append(text.encode(x=alt.value(WIDTH - _LABELS + 8), y=alt.value(place), text=alt.value(line.label)))
    drawn: Layer = alt.layer(*parts).properties(width=WIDTH - _LABELS, height=height)
    if heading:
        drawn = drawn.properties(
            title=alt.TitleParams(
                text=heading, anchor="start", frame="group", fontSize=TEXT_SIZE, fontWeight=600, offset=8
            )
        )
    return drawn


def _places(values: Sequence[float], ends: tuple[float, float], height: int) -> list[float]:
    """Heights of labels in pixels from the top: each beside the end of its line, moved up where it would touch the one below."""
    low, high = ends
    wished = [height * (1 - (min(max(value, low), high) - low) / (high - low)) for value in values]
    places, below = dict[int, float](), float(height + _APART)
    for line in sorted(range(len(values)), key=lambda line: -wished[line]):
        below = min(wished[line], below - _APART)
        places[line] = below
    return [places[line] for line in range(len(values))]


def _ticks(days: int) -> list[int]:
    """Weeks, as many as have room."""
    weeks = max(1, round(days * 3 * CHARACTER / (WIDTH - _LABELS) / 7))
    return list(range(0, days + 1, 7 * weeks if days >= 14 else max(1, days // 7)))
