"""Past effects, as they were measured and as a prior shrinks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import altair as alt
import numpy as np
import pandas as pd

from expnb.charts import words
from expnb.charts.figure import Figure
from expnb.charts.frame import TICK_GAP, Ends, x_of
from expnb.charts.theme import BETTER, DOT, RING, TEXT, TEXT_SIZE, WIDTH, config
from expnb.charts.words import Measure
from expnb.errors import PosteriorError
from expnb.posterior.priors.learn import check_effects
from expnb.posterior.priors.mixture import Mixture, shrink
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    from expnb.posterior.effect import FloatArray

Layer = alt.LayerChart | alt.FacetChart

MOST: Final = 30
"""Effects that are drawn; of more, as many are picked evenly from the order of raw effects."""

_PERCENT: Final = Measure(100, " %")
_STEP, _LINE = 18, 16  # px
_NAMES = 190  # px, left of the axis
_ROOM = 0.05  # of the axis, at either end
_LONGEST = 26  # characters of a row's name


@dataclass(frozen=True, slots=True)
class _Row:
    """One past effect, all of it relative: 0.02 is +2 %; `shrunk` is the posterior mean, as in `Effect.effect_rel_post`."""

    name: str
    experiment: str
    metric: str
    variant: str
    raw: float
    raw_low: float
    raw_high: float
    shrunk: float
    low: float
    high: float
    p_above_zero: float
    p_no_effect: float


def past_effects(effects: pd.DataFrame, prior: Prior) -> Figure:
    """Raw and shrunk effects of past experiments, one row per arm, the largest raw effect on top.

    Parameters
    ----------
    effects : DataFrame
        As `learn_prior` takes it; rows of experiments that were not randomised are left out.
    prior : Prior
        Which shrinks them, such as ``xb.learn_prior(effects)``.

    Returns
    -------
    Figure
        At most 30 rows are drawn, picked evenly; the table has all.

    Raises
    ------
    PosteriorError
        If there is no effect to draw, or `effects` cannot be used.
    """
    usable = check_effects(effects)
    if usable.empty:
        raise PosteriorError("there is no past effect to draw. Collect finished experiments first.")
    rows = _rows(usable, prior)
    drawn = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, MOST).round().astype(int))]
    caption = [_sentence(rows, drawn), f"Prior: {prior.id}."]
    return Figure(chart=_chart(rows, drawn, caption), table=_table(rows), sentence=" ".join(caption))


def _rows(usable: pd.DataFrame, prior: Prior) -> list[_Row]:
    """Sorted by raw effect, largest first."""
    log_ratio, se = (usable[name].to_numpy(dtype=np.float64) for name in ("log_ratio", "se"))
    posterior = shrink(prior, log_ratio, se)
    figures: list[FloatArray] = [
        *(np.expm1(x) for x in (log_ratio, log_ratio - 1.96 * se, log_ratio + 1.96 * se)),
        _mean_relative(posterior),
        *(np.expm1(posterior.quantile(share)) for share in (0.025, 0.975)),
        posterior.above_zero,
        posterior.null,
    ]
    keys = [[str(value) for value in usable[name]] for name in ("experiment", "metric", "variant")]
    order = np.argsort(-log_ratio, kind="stable")
    # A row is named after what tells it from the others.
    arms = len(set(keys[2])) > 1
    metrics = len(set(zip(keys[0], keys[2], strict=True))) < len(usable) and len(set(keys[1])) > 1
    return [
        _Row(
            _name(keys[0][i], *([keys[2][i]] if arms else []), *([keys[1][i]] if metrics else [])),
            *(column[i] for column in keys),
            *(float(values[i]) for values in figures),
        )
        for i in order.tolist()
    ]


def _mean_relative(posterior: Mixture) -> FloatArray:
    """Mean of ``exp(effect) - 1``, shape (row,): that of a log-normal in every component."""
    mean: FloatArray = (posterior.weight * np.expm1(posterior.centre + 0.5 * posterior.spread**2)).sum(axis=1)
    return mean


def _name(experiment: str, *others: str) -> str:
    """What stands before a row, such as ``"checkout · one page"``."""
    rest = "".join(f" · {words.name(other, _LONGEST // (1 + len(others)) - 1)}" for other in others)
    return f"{words.name(experiment, _LONGEST - len(rest))}{rest}"


def _table(rows: Sequence[_Row]) -> pd.DataFrame:
    """Columns `experiment`, `metric`, `variant`, `quantity` and `value`."""
    told = ("raw", "raw_low", "raw_high", "shrunk", "low", "high", "p_above_zero", "p_no_effect")
    records = [
        (row.experiment, row.metric, row.variant, quantity, getattr(row, quantity)) for row in rows for quantity in told
    ]
    return pd.DataFrame(records, columns=["experiment", "metric", "variant", "quantity", "value"])


def _sentence(rows: Sequence[_Row], drawn: Sequence[_Row]) -> str:
    top, low = rows[0], rows[-1]
    picked = f", {len(drawn)} of them drawn, picked evenly" if len(drawn) < len(rows) else ""
    experiments = len({row.experiment for row in rows})
    what = "effect" if len(rows) == 1 else "effects"
    return (
        f"{len(rows):,} past {what} from {experiments:,} experiment{'s' if experiments != 1 else ''}{picked}. The largest measured {_percent(top.raw)} and is expected to be "
        f"{_percent(top.shrunk)}; the smallest measured {_percent(low.raw)} and is expected to be {_percent(low.shrunk)}."
    )


def _percent(value: float) -> str:
    return _PERCENT.change(value, _PERCENT.digits(abs(value)) if value else 1)


# --- drawn ------------------------------------------------------------------------------------


def _chart(rows: Sequence[_Row], drawn: Sequence[_Row], caption: Sequence[str]) -> alt.VConcatChart:
    metrics = list(dict.fromkeys(words.name(row.metric) for row in rows))
    about = metrics[0] if len(metrics) == 1 else f"{len(metrics)} metrics"
    title = alt.TitleParams(text=f"Past effects on {about}, raw and shrunk", anchor="start", offset=10, frame="group")
    figure = alt.vconcat(_legend(), _dumbbells(drawn), _caption(caption))
    chart: alt.VConcatChart = figure.properties(
        title=title, spacing=8, background="transparent", description=" ".join(caption), config=config()
    )
    return chart


def _ends(rows: Sequence[_Row]) -> Ends:
    values = [0.0, *(value for row in rows for value in (row.raw, row.low, row.high))]
    room = _ROOM * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _dumbbells(rows: Sequence[_Row]) -> Layer:
    """Raw effect as a ring, shrunk one as a dot with its interval, a line between them."""
    ends = _ends(rows)
    names = words.distinct([row.name for row in rows], _LONGEST)
    records = [
        {
            "place": float(place),
            "raw": row.raw,
            "shrunk": row.shrunk,
            "low": row.low,
            "high": row.high,
            "name": names[place],
            "tip": f"{words.name(row.experiment)}, {words.name(row.variant)}: raw {_percent(row.raw)}, shrunk {_percent(row.shrunk)} (95 % {_percent(row.low)} to {_percent(row.high)})",
        }
        for place, row in enumerate(rows)
    ]
    data = alt.Data(values=records)  # type: ignore[no-untyped-call]
    y = alt.Y("place:Q", scale=alt.Scale(domain=[-0.6, len(rows) - 0.4], reverse=True, nice=False), axis=None)
    axis = alt.Axis(
        title="relative effect",
        labelExpr=_PERCENT.ticks,
        tickCount=6,
        labelOverlap=True,
        labelSeparation=TICK_GAP,
    )
    base, tip = alt.Chart(data), alt.Tooltip("tip:N")
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=TEXT, strokeWidth=1).encode(x=x_of(ends, axis=axis))  # type: ignore[no-untyped-call]
    marks = [
        zero,
        base.mark_rule(color=BETTER, strokeWidth=3, strokeCap="round", opacity=0.6).encode(
            x=x_of(ends, "low", axis), x2="high:Q", y=y, tooltip=tip
        ),
        base.mark_rule(color=TEXT, strokeWidth=1.2).encode(x=x_of(ends, "raw", axis), x2="shrunk:Q", y=y, tooltip=tip),
        base.mark_point(filled=True, color=BETTER, size=DOT, opacity=1).encode(
            x=x_of(ends, "shrunk", axis), y=y, tooltip=tip
        ),
        base.mark_point(filled=False, color=TEXT, size=RING, strokeWidth=1.8, opacity=1).encode(
            x=x_of(ends, "raw", axis), y=y, tooltip=tip
        ),
        base.mark_text(align="right", baseline="middle", dx=-8, fontSize=TEXT_SIZE, color=TEXT).encode(
            x=alt.value(0), y=y, text="name:N"
        ),
    ]
    layers: Layer = alt.layer(*marks).properties(width=WIDTH - _NAMES, height=_STEP * len(rows))
    return layers


def _legend() -> Layer:
    """What ring, dot and bar mean."""
    ring = _key().mark_point(filled=False, color=TEXT, size=RING, strokeWidth=1.8, opacity=1)
    bar = _key().mark_rule(color=BETTER, strokeWidth=3, strokeCap="round", opacity=0.6)
    dot = _key().mark_point(filled=True, color=BETTER, size=DOT, opacity=1)
    layers: Layer = alt.layer(
        ring.encode(x=alt.value(8), y=alt.value(6)),
        _label("raw", 22),
        bar.encode(x=alt.value(66), x2=alt.value(90), y=alt.value(6)),
        dot.encode(x=alt.value(78), y=alt.value(6)),
        _label("shrunk by the prior, with its 95 % interval", 98),
    ).properties(width=WIDTH - _NAMES, height=12)
    return layers


def _key() -> alt.Chart:
    return alt.Chart(alt.Data(values=[{}]))  # type: ignore[no-untyped-call]


def _label(text: str, x: int) -> alt.Chart:
    mark = _key().mark_text(align="left", baseline="middle", fontSize=TEXT_SIZE, color=TEXT)
    label: alt.Chart = mark.encode(x=alt.value(x), y=alt.value(6), text=alt.value(text))
    return label


def _caption(sentences: Sequence[str]) -> alt.Chart:
    """What the chart shows, in words under it."""
    lines = [line for sentence in sentences for line in words.lines(sentence)]
    mark = _key().mark_text(align="left", baseline="top", lineBreak="\n", lineHeight=_LINE, fontSize=TEXT_SIZE)
    drawn: alt.Chart = mark.encode(x=alt.value(-_NAMES), y=alt.value(6), text=alt.value("\n".join(lines))).properties(
        width=WIDTH - _NAMES, height=_LINE * len(lines) + 6
    )
    return drawn
