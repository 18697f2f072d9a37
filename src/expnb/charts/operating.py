"""What a policy does before it meets a user: how simulated rollouts ended, by traffic and true effect."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import altair as alt

from expnb.charts.figure import Figure
from expnb.charts.forest import Layer, caption
from expnb.charts.theme import BETTER, FAINT, TEXT, TEXT_SIZE, WIDTH, config
from expnb.planning.simulate import Characteristic, OperatingCharacteristics

# How a rollout may end, from the left; the colours are those of better and worse, and greys for what moves nobody.
ENDS: Final = (
    ("roll_back", "rolls back", "#d9630b", 1.0),
    ("running", "still runs", FAINT, 0.3),
    ("conclude_flat", "concludes that nothing matters", FAINT, 0.8),
    ("ship", "ships", BETTER, 1.0),
)
_LEAST = 0.06  # of the width that a number needs
_BAR, _ROW = 18, 26  # px


def operating(found: OperatingCharacteristics) -> Figure:
    """How simulated rollouts ended: one bar of 100 % per traffic and true effect.

    Parameters
    ----------
    found : OperatingCharacteristics
        From `xb.simulate_policy`.

    Returns
    -------
    Figure
        One block per traffic; the table has days and users too.
    """
    blocks = [(units, list(rows)) for units, rows in groupby(found.rows, key=lambda row: row.units_per_day)]
    sentence = f"How {found.rollouts:,} simulated rollouts of {found.experiment} ended within {found.days} days, by traffic and true effect."
    title = alt.TitleParams(
        text="What the policy would do",
        subtitle=f"share of {found.rollouts:,} simulated rollouts each, after {found.days} days",
        anchor="start",
        offset=10,
        frame="group",
    )
    figure = alt.vconcat(
        _legend(),
        *(_block(units, rows, last=place == len(blocks) - 1) for place, (units, rows) in enumerate(blocks)),
        caption([found.footer]),
    )
    chart: alt.VConcatChart = figure.properties(
        title=title, spacing=10, background="transparent", description=sentence, config=config()
    )
    return Figure(chart=chart, table=found.table(), sentence=sentence)


def _block(units: float, rows: list[Characteristic], *, last: bool) -> Layer:
    """The bars of one traffic."""
    names = [f"true effect: {row.effect}" for row in rows]
    y = alt.Y(
        "effect:N",
        sort=names,
        axis=alt.Axis(title=None, domain=False, ticks=False, labelLimit=0, labelPadding=8),
    )
    axis = alt.Axis(format="%", tickCount=5, title="share of rollouts") if last else None

    def x(column: str) -> alt.X:
        return alt.X(f"{column}:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=axis)

    parts = []
    for place, (field, _, colour, opacity) in enumerate(ENDS):
        data = []
        for name, row in zip(names, rows, strict=True):
            before = sum(getattr(row, other[0]) for other in ENDS[:place])
            share = getattr(row, field)
            if share:
                data.append({"effect": name, "from": before, "to": before + share, "share": _percent(share)})
        if not data:
            continue
        bars = alt.Chart(alt.Data(values=data)).encode(  # type: ignore[no-untyped-call]
            y=y,
            x=x("from"),
            x2="to:Q",
        )
        parts.append(bars.mark_bar(color=colour, opacity=opacity, height=_BAR))
        wide = [each for each in data if each["to"] - each["from"] >= _LEAST]
        if wide:
            inside = "#ffffff" if opacity == 1.0 else TEXT
            middle = [each | {"middle": (each["from"] + each["to"]) / 2} for each in wide]
            text = alt.Chart(alt.Data(values=middle)).mark_text(color=inside, fontSize=TEXT_SIZE, baseline="middle")  # type: ignore[no-untyped-call]
            parts.append(text.encode(y=y, x=x("middle"), text="share:N"))
    drawn: Layer = alt.layer(*parts).properties(
        width=WIDTH,
        height=_ROW * len(rows),
        title=alt.TitleParams(
            text=f"{units:,.0f} units per day", anchor="start", fontSize=TEXT_SIZE, fontWeight=600, offset=4
        ),
    )
    return drawn


def _legend() -> Layer:
    """What the colours mean."""
    left, parts = 0.0, []
    for _, words, colour, opacity in ENDS:
        base = alt.Chart(alt.Data(values=[{}]))  # type: ignore[no-untyped-call]
        parts.append(
            base.mark_square(size=130, color=colour, opacity=opacity).encode(x=alt.value(left + 6), y=alt.value(8))
        )
        parts.append(
            base.mark_text(align="left", baseline="middle", color=TEXT, fontSize=TEXT_SIZE).encode(
                x=alt.value(left + 18), y=alt.value(8), text=alt.value(words)
            )
        )
        left += 40 + 7 * len(words)
    drawn: Layer = alt.layer(*parts).properties(width=WIDTH, height=16)
    return drawn


def _percent(share: float) -> str:
    """A share, never rounded up to all."""
    return "100 %" if share == 1 else f"{min(99.9, 100 * share):.1f} %"
