"""The effect of every treatment on one metric, as densities over one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from expnb.charts import words
from expnb.charts.figure import Figure
from expnb.charts.frame import LINE_BOTTOM, TICK_GAP, Ends, Frame, Place, beside, centred, covers, values, x_of, y_of
from expnb.charts.rows import Row, domain, make_row, shared_scale, to_table
from expnb.charts.theme import BETTER, FAINT, TEXT, TEXT_SIZE, WIDTH, WORSE, config
from expnb.errors import NameNotFoundError
from expnb.posterior.effect import Effect
from expnb.posterior.posterior import Posterior
from expnb.spec.metric import SHARES
from expnb.stats.cells import ALL

Layer = alt.Chart | alt.LayerChart | alt.FacetChart

# Heights within a row, in peaks of the density: it stands on 0, its label above, interval and raw effect below.
_LABEL, _BAR, _INTERVAL, _RAW = 1.17, -0.16, -0.38, -0.66
_BOTTOM, _TOP = -0.82, 1.3
_LINE_TOP, _LABEL_TOP = 1.05, 1.29  # lines end short of the labels over the density, and go on over them
_ROPE_LABEL, _MARGIN_LABEL, _HEAD = 1.75, 1.47, 1.9  # above the first row only
_PEAK = 72  # px; height of a density
_EMPTY_ROW, _LINE = 24, 16  # px


def effect(posterior: Posterior, metric: str | None = None) -> Figure:
    """Posterior densities of the effect on one metric, one row per treatment.

    Parameters
    ----------
    posterior : Posterior
    metric : str, optional
        The goal when left out.

    Returns
    -------
    Figure
        On the relative scale; on the absolute one where no relative effect exists, or rope and margin were given on it.

    Raises
    ------
    NameNotFoundError
        If the posterior has no such metric.
    """
    effects = _chosen(posterior, metric)
    scale = shared_scale(effects)
    rows = [make_row(one, scale) for one in effects]
    control = words.name(posterior.control)
    caption = [
        *(_sentence(row, control) for row in rows),
        *(words.name(sentence, 200) for sentence in posterior.plain_odds(metric=effects[0].metric)),
        f"{_legend(rows)}Prior {effects[0].prior}, {posterior.engine} engine.",
    ]
    return Figure(chart=_chart(rows, control, caption), table=to_table(rows), sentence=" ".join(caption))


def _chosen(posterior: Posterior, metric: str | None) -> list[Effect]:
    """Effects on the metric, of all units."""
    everybody = [one for one in posterior.main if one.segment == ALL]
    wanted = metric or next(
        (one.metric for one in everybody if one.role == "goal"), everybody[0].metric if everybody else ""
    )
    chosen = [one for one in everybody if one.metric == wanted]
    if not chosen:
        raise NameNotFoundError("metric", wanted, list(dict.fromkeys(one.metric for one in everybody)))
    return chosen


# --- in words ---------------------------------------------------------------------------------


def _sentence(row: Row, control: str) -> str:
    """What one row shows."""
    about = f"{words.name(row.effect.metric)} under {words.name(row.effect.variant)} against {control}"
    note = f" {row.effect.note[0].upper()}{row.effect.note[1:]}." if row.effect.note else ""
    if not row.known:
        return f"{about}: no posterior can be shown; raw effect {_raw(row)}.{note}"
    interval = f" (95 % HDI {_interval(row)})" if row.low is not None else ""
    kind = "relative" if row.scale == "relative" else "absolute"
    better = f"better with probability {words.probability(row.effect.p_improvement)}"
    if row.effect.p_null:
        better += f", exactly without effect with {words.probability(row.effect.p_null)}"
    return f"{about}: {kind} effect {'without a mean' if row.mean is None else _amount(row, row.mean)}{interval}, {better}; raw effect {_raw(row)}.{note}"


def _amount(row: Row, value: float) -> str:
    width = row.high - row.low if row.low is not None and row.high is not None else 1.0
    return row.measure.change(value, row.measure.digits(width))


def _interval(row: Row) -> str:
    return "" if row.low is None or row.high is None else f"{_amount(row, row.low)} to {_amount(row, row.high)}"


def _raw(row: Row) -> str:
    return "unknown" if row.raw is None else _amount(row, row.raw)


def _legend(rows: Sequence[Row]) -> str:
    """What the lines mean that run through all rows."""
    first = rows[0]
    if not any(row.known for row in rows):
        return ""
    rope = (
        f"The grey band is the ROPE, differences under {first.measure.distance(first.rope)} that do not matter. "
        if first.rope
        else ""
    )
    margin = (
        f"Harm beyond the margin of {first.measure.distance(first.margin)} is not tolerated. " if first.margin else ""
    )
    null = (
        "The bar at 0 is the probability of exactly no effect, full height being 100 %; the density shows how the rest is spread. "
        if any(row.effect.p_null for row in rows)
        else ""
    )
    return rope + margin + null


# --- drawn ------------------------------------------------------------------------------------


def _chart(rows: Sequence[Row], control: str, caption: Sequence[str]) -> alt.VConcatChart:
    first, ends = rows[0].effect, domain(rows)
    unit = (
        "share of units"
        if first.kind in SHARES
        else f"in {words.name(first.unit)}"
        if first.unit
        else first.kind
        if first.kind in words.NO_MEANS
        else "mean per unit"
    )
    wish = "more is better" if rows[0].sign > 0 else "less is better"
    title = alt.TitleParams(
        text=f"Effect on {words.name(first.metric)}",
        subtitle=f"{unit}, {wish} · control {control}: {words.arm(first, first.mean_control, first.n_control)}",
        anchor="start",
        offset=12,
    )
    drawn: list[Layer] = [_row(row, ends, head=row is rows[0]) for row in rows]
    axis: list[Layer] = [_axis(rows[0], ends)] if any(row.known for row in rows) else []
    figure = alt.vconcat(*drawn, *axis, _caption(caption))
    drawing: alt.VConcatChart = figure.properties(
        title=title, spacing=8, background="transparent", description=" ".join(caption), config=config()
    )
    return drawing


def _row(row: Row, ends: Ends, *, head: bool) -> Layer:
    """One treatment: heading, lines, density, interval and raw effect."""
    effect = row.effect
    title = alt.TitleParams(
        text=words.name(effect.variant),
        subtitle=words.arm(effect, effect.mean_treatment, effect.n_treatment),
        anchor="start",
        fontSize=TEXT_SIZE + 1,
        offset=0,
    )
    if not row.known:
        why = Frame(ends, (0, 1)).text(
            Place(ends[0], "left"), 0.4, f"{words.name(effect.note) or 'no posterior'} · raw effect {_raw(row)}"
        )
        return alt.layer(why).properties(width=WIDTH, height=_EMPTY_ROW, title=title)
    frame = Frame(ends, (_BOTTOM, _HEAD if head else _TOP))
    layers = [
        *_lines(row, frame, head=head),
        *_density(row, frame),
        *_point(row, frame),
        *_interval_marks(row, frame),
        *_raw_marks(row, frame),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=round(_PEAK * (frame.heights[1] - _BOTTOM)), title=title)


def _lines(row: Row, frame: Frame, *, head: bool) -> list[Layer]:
    """The ROPE as a band, no effect as a line, the margin as a dashed one; labelled over the first row."""
    layers: list[Layer] = [frame.rule(0, _LINE_TOP, TEXT)]
    if row.rope:
        layers.insert(0, _band(row.rope, frame, _ROPE_LABEL - 0.14 if head else _LINE_TOP))
    if frame.shown(row.harm) and row.harm is not None:
        layers += _margin_line(row, row.harm, frame, head=head)
    return [*layers, *_line_labels(row, frame)] if head else layers


def _margin_line(row: Row, harm: float, frame: Frame, *, head: bool) -> list[Layer]:
    """Over the first row it goes on to its label, with a gap where the label of the density stands."""
    top = _MARGIN_LABEL + 0.12
    label = _better(row)
    if not head:
        return [frame.rule(harm, _LINE_TOP, WORSE, dashed=True)]
    if not covers(_over_peak(row, label, frame), label, frame.ends, harm):
        return [frame.rule(harm, top, WORSE, dashed=True)]
    return [
        frame.rule(harm, _LINE_TOP, WORSE, dashed=True),
        frame.rule(harm, top, WORSE, bottom=_LABEL_TOP, dashed=True),
    ]


def _band(rope: float, frame: Frame, top: float) -> alt.Chart:
    band = values({"low": max(-rope, frame.ends[0]), "high": min(rope, frame.ends[1]), "y": LINE_BOTTOM, "top": top})
    mark = alt.Chart(band).mark_rect(color=FAINT, opacity=0.22)
    tip = alt.value("ROPE, region of practical equivalence: differences too small to matter")
    drawn: alt.Chart = mark.encode(
        x=x_of(frame.ends, "low"), x2="high:Q", y=y_of(frame.heights), y2="top:Q", tooltip=tip
    )
    return drawn


def _line_labels(row: Row, frame: Frame) -> list[Layer]:
    layers: list[Layer] = []
    if row.rope:
        rope = f"ROPE ±{row.measure.distance(row.rope)}"
        layers.append(frame.text(centred(0, rope, frame.ends), _ROPE_LABEL, rope))
    if row.harm is not None and frame.shown(row.harm):
        margin = f"margin {row.measure.change(row.harm)}"
        layers.append(
            frame.text(beside(row.harm, margin, frame.ends, left=row.sign > 0), _MARGIN_LABEL, margin, colour=WORSE)
        )
    return layers


def _density(row: Row, frame: Frame) -> list[Layer]:
    """The density, its better side shaded and labelled with its probability."""
    label = _better(row)
    tip = label.partition("  ·  ")[0]
    curve = [{"x": float(x), "y": float(y), "base": 0.0} for x, y in zip(row.x, row.y, strict=True)]
    sides = (("worse", WORSE, 0.35, -row.sign), ("better", BETTER, 0.8, row.sign))
    areas = [
        _area([point for point in curve if side * point["x"] >= 0], name, colour, opacity, tip, frame)
        for name, colour, opacity, side in sides
    ]
    return [*areas, frame.text(_over_peak(row, label, frame), _LABEL, label, colour=BETTER, bold=True)]


def _better(row: Row) -> str:
    """The label of the density."""
    none = "" if not row.effect.p_null else f"  ·  P(no effect) {words.probability(row.effect.p_null)}"
    return f"P(better) {words.probability(row.effect.p_improvement)}{none}"


def _over_peak(row: Row, label: str, frame: Frame) -> Place:
    return centred(float(row.x[row.y.argmax()]), label, frame.ends)


def _point(row: Row, frame: Frame) -> list[Layer]:
    """The probability of exactly no effect as a bar at 0, as high as its share of the row."""
    null = row.effect.p_null
    if not null or not frame.shown(0):
        return []
    tip = alt.value(f"P(exactly no effect) {words.probability(null)}; the density shows the rest")
    bar = alt.Chart(values({"x": 0, "y": 0, "top": null})).mark_rule(color=TEXT, strokeWidth=9, opacity=1)
    return [bar.encode(x=x_of(frame.ends), y=y_of(frame.heights), y2="top:Q", tooltip=tip)]


def _area(
    points: Sequence[Mapping[str, float]], name: str, colour: str, opacity: float, tip: str, frame: Frame
) -> alt.Chart:
    # The name says which side it is, to readers of the specification as to screen readers of the drawing.
    area = alt.Chart(values(*points)).mark_area(
        interpolate="monotone",
        color=colour,
        fillOpacity=opacity,
        opacity=1,
        line=alt.OverlayMarkDef(color=FAINT, strokeWidth=1.2, opacity=1),
        description=f"{name} side of the density; {tip}",
    )
    drawn: alt.Chart = area.encode(x=x_of(frame.ends), y=y_of(frame.heights), y2="base:Q", tooltip=alt.value(tip))
    return drawn


def _interval_marks(row: Row, frame: Frame) -> list[Layer]:
    if row.low is None or row.high is None:
        return []
    middle, data = (row.low + row.high) / 2, {"low": row.low, "high": row.high, "y": _BAR}
    text = (
        f"95 % HDI {_interval(row)}" if row.mean is None else f"{_amount(row, row.mean)}  (95 % HDI {_interval(row)})"
    )
    tip = alt.value(f"{words.name(row.effect.variant)}: {text}")
    bar = alt.Chart(values(data)).mark_rule(color=TEXT, strokeWidth=4, strokeCap="round")
    marks = [bar.encode(x=x_of(frame.ends, "low"), x2="high:Q", y=y_of(frame.heights), tooltip=tip)]
    if row.mean is not None:
        dot = alt.Chart(values({"mean": row.mean, "y": _BAR})).mark_point(filled=True, size=90, color=TEXT, opacity=1)
        marks.append(dot.encode(x=x_of(frame.ends, "mean"), y=y_of(frame.heights), tooltip=tip))
    return [*marks, frame.text(centred(middle, text, frame.ends), _INTERVAL, text)]


def _raw_marks(row: Row, frame: Frame) -> list[Layer]:
    if row.raw is None:
        return []
    text = f"raw effect {_raw(row)}"
    tip = alt.value(f"{words.name(row.effect.variant)}: {text}, before the prior")
    tick = alt.Chart(values({"x": row.raw, "y": _RAW})).mark_tick(
        color=TEXT, opacity=1, thickness=2.5, size=13, orient="vertical"
    )
    place = beside(row.raw, text, frame.ends)
    return [tick.encode(x=x_of(frame.ends), y=y_of(frame.heights), tooltip=tip), frame.text(place, _RAW, text)]


def _axis(row: Row, ends: Ends) -> alt.Chart:
    """The axis that all rows share, as a view of its own under the last one."""
    axis = alt.Axis(
        title=row.measure.axis_title(row.scale, better_right=row.sign > 0),
        labelExpr=row.measure.ticks,
        tickCount=7,
        orient="bottom",
        labelOverlap=True,
        labelSeparation=TICK_GAP,
        offset=-8,
    )
    mark = alt.Chart(values({"x": ends[0]})).mark_point(opacity=0, size=0)
    drawn: alt.Chart = mark.encode(x=x_of(ends, axis=axis)).properties(width=WIDTH, height=1)
    return drawn


def _caption(sentences: Sequence[str]) -> alt.Chart:
    """What the chart shows, in words under it."""
    lines = [line for sentence in sentences for line in words.lines(sentence)]
    mark = alt.Chart(values({"x": 0})).mark_text(
        align="left", baseline="top", lineBreak="\n", lineHeight=_LINE, fontSize=TEXT_SIZE
    )
    drawn: alt.Chart = mark.encode(x=alt.value(0), y=alt.value(6), text=alt.value("\n".join(lines))).properties(
        width=WIDTH, height=_LINE * len(lines) + 6
    )
    return drawn
