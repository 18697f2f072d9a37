"""One verdict under several priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import altair as alt

from expnb.charts import words
from expnb.charts.figure import Figure
from expnb.charts.forest import Mark, caption, ends_of, forest, legend
from expnb.charts.theme import config
from expnb.charts.words import Measure
from expnb.decisions.sensitivity import Sensitivity, SensitivityRow, Verdict
from expnb.errors import NameNotFoundError
from expnb.spec.metric import SHARES

_SHORT: Final[dict[Verdict, str]] = {
    "ship rule met": "may ship",
    "ship rule not met": "may not ship",
    "no difference that matters": "no difference",
    "harmed": "harmed",
    "within the margin": "within margin",
    "not yet known to be within the margin": "not yet known",
    "unknown": "unknown",
    "": "",
}


def sensitivity(strip: Sensitivity, metric: str | None = None) -> Figure:
    """The effect on one metric under every prior: what was measured as a ring, what each prior makes of it as a dot with its interval, and the verdict beside it.

    Parameters
    ----------
    strip : Sensitivity
        From ``xb.sensitivity(experiment, cohort)``.
    metric : str, optional
        The goal when left out.

    Returns
    -------
    Figure
        One block per treatment; the table has all metrics.

    Raises
    ------
    NameNotFoundError
        If it was not compared.
    """
    wanted = metric or next((row.metric for row in strip.rows if row.role == "goal"), strip.rows[0].metric)
    blocks = [rows for rows in strip.groups() if rows[0].metric == wanted]
    if not blocks:
        raise NameNotFoundError("metric", wanted, list(dict.fromkeys(row.metric for row in strip.rows)))
    told = [strip.sentence_on(wanted), *_priors(blocks)]
    return Figure(chart=_chart(blocks, strip.control, told), table=strip.table(), sentence=" ".join(told))


def _alike(rows: Sequence[SensitivityRow]) -> bool:
    """Whether all posteriors are one, for want of a relative effect on which a prior could lie."""
    return all(row.scale == "absolute" and row.prior == "flat" for row in rows)


def _priors(blocks: Sequence[tuple[SensitivityRow, ...]]) -> list[str]:
    """Every prior in full, once; why there is none."""
    named = [row for rows in blocks if not _alike(rows) for row in rows if row.under != "flat"]
    full = (row.prior if row.prior.startswith(row.under) else f"{row.under}: {row.prior}" for row in named)
    told = [f"{text[0].upper()}{text[1:]}." for text in dict.fromkeys(full)]
    alike = [rows[0] for rows in blocks if _alike(rows)]
    if not alike:
        return told
    where = f" under {', '.join(words.name(row.variant) for row in alike)}" if len(alike) < len(blocks) else ""
    why = f"{words.name(alike[0].metric)} has no relative effect{where}, on which priors lie: every prior is flat here and gives the same posterior."  # fmt: skip
    return [*told, why]


def _chart(blocks: Sequence[tuple[SensitivityRow, ...]], control: str, told: Sequence[str]) -> alt.VConcatChart:
    first = blocks[0][0]
    measure = _measure(first)
    marks = [_marks(rows, drawn=rows[0].scale == first.scale) for rows in blocks]
    ends = ends_of([mark for own in marks for mark in own])
    wish = "more is better" if first.direction == "increase" else "less is better"
    title = alt.TitleParams(
        text=f"Effect on {words.name(first.metric)} under several priors", subtitle=f"{first.scale}, {wish} · control {words.name(control)}", anchor="start", offset=10, frame="group"
    )  # fmt: skip
    drawn = [
        forest(
            own,
            ends,
            heading=words.name(rows[0].variant),
            harm=None,
            axis=first.scale if rows is blocks[-1] else None,
            measure=measure,
            better_right=first.direction == "increase",
        )
        for rows, own in zip(blocks, marks, strict=True)
    ]
    key = legend(("ring", "raw"), ("dot", "under the prior, with its 95 % HDI"))
    figure = alt.vconcat(key, *drawn, caption(told))
    chart: alt.VConcatChart = figure.properties(
        title=title, spacing=10, background="transparent", description=" ".join(told), config=config()
    )
    return chart


def _measure(row: SensitivityRow) -> Measure:
    if row.scale == "relative":
        return Measure(100, " %")
    return Measure(100, " pp") if row.kind in SHARES else Measure(1, f" {words.name(row.unit)}" if row.unit else "")


def _marks(rows: Sequence[SensitivityRow], *, drawn: bool) -> list[Mark]:
    """One line per prior, or one for all of them where they are alike."""
    if _alike(rows):
        return [replace(_mark(rows[0], drawn=drawn), name="every prior")]
    return [_mark(row, drawn=drawn) for row in rows]


def _mark(row: SensitivityRow, *, drawn: bool) -> Mark:
    """One prior; a treatment without a place on the axis of the others is told, not drawn."""
    sign = 1 if row.direction == "increase" else -1
    short = _SHORT[row.verdict]
    better = "P(better) unknown" if row.p_improvement is None else f"P(better) {words.probability(row.p_improvement)}"
    return Mark(
        name=row.under,
        raw=row.raw if drawn else None,
        mean=row.effect if drawn else None,
        low=row.hdi_low if drawn else None,
        high=row.hdi_high if drawn else None,
        told=f"{better}{f' · {short}' if short else ''}",
        better=sign * (row.effect or 0.0) > 0,
    )
