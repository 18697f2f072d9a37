"""The rules of one decision: what was found, what was asked for, and whether that is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import altair as alt

from expnb.charts.figure import Figure
from expnb.charts.forest import Layer, caption
from expnb.charts.theme import BETTER, DOT, FAINT, TEXT, TEXT_SIZE, WIDTH, WORSE, config
from expnb.decisions.decision import MARKS, Decision, Rule
from expnb.decisions.rules import in_percent

# Rules that ask for a probability; of the first two a high one is bad.
_PROBABILITIES: Final[Mapping[str, str]] = {
    "harm": "harm beyond the margin",
    "segment": "harm in the worst segment",
    "guardrail": "within the margin",
    "ship_above_rope": "better than the rope",
    "ship_above_margin": "no worse than the margin",
    "conclude_flat": "inside the rope",
}
_TICKS: Final = (0.001, 0.05, 0.5, 0.95, 0.999)
_ENDS: Final = (0.0005, 0.9995)
_STOPS: Final[Mapping[str, str]] = {"harm": "closes the gate at", "segment": "holds the ramp at"}
_ROW, _ROOM = 26, 12  # px, and of the axis beside its ends
_PLOT = WIDTH - 340  # px; the rest is for names at the left and words at the right


def rules(decision: Decision) -> Figure:
    """Every rule of a decision that asks for a probability: a dot where it is, a line where it would have to be, and the outcome in words.

    Parameters
    ----------
    decision : Decision

    Returns
    -------
    Figure
        Probabilities stand on a scale of odds, so that 99 % and 99.9 % can be told apart; the table has all rules.
    """
    asked = [rule for rule in decision.rules if rule.name in _PROBABILITIES]
    others = [rule for rule in decision.rules if rule.name not in _PROBABILITIES and rule.outcome != "met"]
    told = [*dict.fromkeys(rule.sentence for rule in others), decision.footer[0].upper() + decision.footer[1:] + "."]
    sentence = f"{decision.experiment}: {decision.title}. {' '.join(decision.reasons)}"
    title = alt.TitleParams(
        text=decision.title,
        subtitle="probability found (dot) and asked for (line), rule by rule",
        anchor="start",
        offset=10,
        frame="group",
    )
    chart: alt.VConcatChart = alt.vconcat(*([_drawn(asked)] if asked else []), caption(told)).properties(
        title=title, spacing=10, background="transparent", description=sentence, config=config()
    )
    return Figure(chart=chart, table=decision.table(), sentence=sentence)


def _drawn(asked: Sequence[Rule]) -> Layer:
    names = _names(asked)
    y = alt.Y(
        "rule:N",
        sort=names,
        axis=alt.Axis(title=None, domain=False, ticks=False, labelLimit=0, labelPadding=8),
    )
    labels = " : ".join(f"abs(datum.value - {_odds(p):.4f}) < 0.01 ? '{100 * p:g} %'" for p in _TICKS)
    axis = alt.Axis(
        values=[_odds(p) for p in _TICKS],
        labelExpr=f"{labels} : ''",
        title="probability, on a scale of odds",
        domain=False,
    )
    low, high = map(_odds, _ENDS)
    room = (high - low) * _ROOM / _PLOT
    x = alt.X("x:Q", scale=alt.Scale(domain=[low - room, high + room], nice=False, zero=False), axis=axis)
    parts: list[alt.Chart] = []
    for colour in (BETTER, WORSE, FAINT):
        rows = [(name, rule) for name, rule in zip(names, asked, strict=True) if _colour(rule) == colour]
        dots = [{"rule": name, "x": _odds(rule.value)} for name, rule in rows if rule.value is not None]
        words = [{"rule": name, "x": high, "words": _words(rule)} for name, rule in rows]
        if dots:
            parts.append(_marks(dots).mark_circle(color=colour, opacity=1, size=2 * DOT).encode(x=x, y=y))
        if words:
            text = _marks(words).mark_text(
                align="left", dx=_ROOM + 8, baseline="middle", color=TEXT, fontSize=TEXT_SIZE
            )
            parts.append(text.encode(x=x, y=y, text="words:N"))
    lines = [
        {"rule": name, "x": _odds(rule.threshold)}
        for name, rule in zip(names, asked, strict=True)
        if rule.threshold is not None
    ]
    if lines:
        parts.append(_marks(lines).mark_tick(color=TEXT, thickness=2, height=_ROW - 8).encode(x=x, y=y))
    drawn: Layer = alt.layer(*parts).properties(width=_PLOT, height=_ROW * len(names))
    return drawn


def _marks(rows: Sequence[Mapping[str, object]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))  # type: ignore[no-untyped-call]


def _names(asked: Sequence[Rule]) -> list[str]:
    """What each row is about; the variant only where there are several, and a number where two rows would be one."""
    variants = {rule.variant for rule in asked}
    names: list[str] = []
    for rule in asked:
        about = rule.metric if len(variants) == 1 else f"{rule.metric}, {rule.variant}"
        name = f"{about}: {_PROBABILITIES[rule.name]}"
        same = sum(each == name or each.startswith(f"{name} (") for each in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def _colour(rule: Rule) -> str:
    """What is harmed or not known to be safe stands out; a verdict that is not reached yet is no bad news."""
    if rule.outcome == "met":
        return BETTER
    return WORSE if rule.outcome == "not met" and rule.name in _STOPS else FAINT


def _words(rule: Rule) -> str:
    """The outcome with its numbers."""
    if rule.value is None or rule.threshold is None:
        return f"{MARKS[rule.outcome]} not known"
    asked = (
        f"{_STOPS[rule.name]} {in_percent(rule.threshold)}"
        if rule.name in _STOPS
        else f"{in_percent(rule.threshold)} needed"
    )
    return f"{MARKS[rule.outcome]} {in_percent(rule.value)} ({asked})"


def _odds(p: float) -> float:
    """Log odds, at the ends of the axis where it would leave it."""
    inside = min(max(p, _ENDS[0]), _ENDS[1])
    return math.log(inside / (1 - inside))
