"""Effects by segment, raw and pooled side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import altair as alt
import pandas as pd

from expnb.charts import words
from expnb.charts.figure import Figure
from expnb.charts.forest import Mark, Sign, caption, ends_of, forest, legend
from expnb.charts.theme import config
from expnb.charts.words import Measure
from expnb.errors import NameNotFoundError, PosteriorError
from expnb.posterior.effect import Effect, PooledEffect
from expnb.posterior.posterior import Posterior
from expnb.stats.cells import ALL

_PERCENT: Final = Measure(100, " %")
TOLD: Final = (
    "raw",
    "pooled",
    "hdi_low",
    "hdi_high",
    "p_improvement",
    "p_harm",
    "shrinkage",
    "n_control",
    "n_treatment",
)


@dataclass(frozen=True, slots=True)
class _Block:
    """One treatment in all segments of one kind."""

    pooled: PooledEffect
    effects: tuple[Effect, ...]


def segments(posterior: Posterior, metric: str | None = None, *, by: str | None = None) -> Figure:
    """Effects on one metric by segment: what was measured as a ring, what is believed after pooling as a dot with its interval.

    Parameters
    ----------
    posterior : Posterior
        With pooled segments.
    metric : str, optional
        The goal when left out.
    by : str, optional
        Kind of segment, such as ``"platform"``; all when left out.

    Returns
    -------
    Figure
        One block per treatment and kind of segment, on one relative axis: the typical segment first, then all segments, the largest pooled effect on top.

    Raises
    ------
    PosteriorError
        If no segments were pooled, or none of the metric.
    NameNotFoundError
        If there is no such metric, or no such kind of segment was pooled.
    """
    blocks = _blocks(posterior, metric, by)
    told = [
        *(sentence for block in blocks for sentence in _sentences(block)),
        f"Prior {blocks[0].pooled.prior}, {posterior.engine} engine.",
    ]
    return Figure(chart=_chart(blocks, posterior.control, told), table=_table(blocks), sentence=" ".join(told))


def _blocks(posterior: Posterior, metric: str | None, by: str | None) -> list[_Block]:
    if not posterior.pooled:
        raise PosteriorError(
            "no segments were pooled: that needs segments = [...] in the experiment, two or more of them with a relative effect, and a prior that is not flat. posterior.summary() has what there is."
        )
    wanted = metric or next((one.metric for one in posterior.pooled if one.role == "goal"), posterior.pooled[0].metric)
    chosen = [one for one in posterior.pooled if one.metric == wanted]
    if not chosen:
        raise _without(posterior, wanted)
    kept = [one for one in chosen if by in {None, one.column}]
    if not kept:
        raise NameNotFoundError("kind of segment", str(by), list(dict.fromkeys(one.column for one in chosen)))
    return [_Block(one, _of(posterior, one)) for one in kept]


def _without(posterior: Posterior, metric: str) -> PosteriorError | NameNotFoundError:
    """Why a metric has no pooled segments, and which ones have some."""
    others = list(dict.fromkeys(one.metric for one in posterior.pooled))
    effects = [one for one in posterior.main if one.metric == metric]
    if not effects:
        return NameNotFoundError("metric", metric, others)
    parts = [one for one in effects if one.segment != ALL]
    if len(parts) < 2:
        why = "fewer than two segments have enough units"
    elif any(one.scale == "absolute" and one.effect_rel_post is not None for one in parts):
        why = "it is judged on the absolute scale, and relative effects are what is pooled"
    elif any(one.prior == "flat" and one.effect_rel_post is not None for one in parts):
        why = "its prior is flat"
    elif any(one.effect_rel_post is not None for one in parts):
        why = "fewer than two segments have a relative effect"
    else:
        why = "it has no relative effect"
    return PosteriorError(f"the segments of {metric!r} were not pooled: {why}. Those of {', '.join(others)} were; posterior.segments() has all.")  # fmt: skip


def _of(posterior: Posterior, pooled: PooledEffect) -> tuple[Effect, ...]:
    effects = [posterior.effect(pooled.metric, pooled.variant, segment) for segment in pooled.segments]
    return tuple(sorted(effects, key=lambda one: -(one.effect_rel_post or 0.0)))


def _value(effect: Effect) -> str:
    """The segment without its column, such as ``"mobile"``."""
    return words.name(effect.segment.partition("=")[2])


# --- in words ---------------------------------------------------------------------------------


def _sentences(block: _Block) -> list[str]:
    pooled, best, worst = block.pooled, block.effects[0], block.effects[-1]
    about = f"{words.name(pooled.metric)} under {words.name(pooled.variant)} by {words.name(pooled.column)}"
    typical = f"{_percent(pooled.effect_rel_post)} in the typical segment (95 % HDI {_percent(pooled.hdi_rel_low)} to {_percent(pooled.hdi_rel_high)})"
    out = [f"{about}: {typical}, from {_one(worst)} to {_one(best)}."]
    harm = (
        ""
        if pooled.p_any_harmed is None or pooled.margin is None
        else f"At least one of these {len(pooled.segments)} segments is harmed beyond {_PERCENT.distance(pooled.margin)} with probability {words.probability(pooled.p_any_harmed)}; "
    )
    all_improve = f"ll of them improve with {words.probability(pooled.p_all_improve)}."
    return [*out, f"{harm}{'a' if harm else 'A'}{all_improve}"]


def _one(effect: Effect) -> str:
    return f"{_percent(effect.effect_rel_post)} in {_value(effect)} (raw {_percent(effect.effect_rel)})"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else _PERCENT.change(value, 1 if abs(value) >= 0.01 else 2)


# --- drawn ------------------------------------------------------------------------------------


def _chart(blocks: Sequence[_Block], control: str, told: Sequence[str]) -> alt.VConcatChart:
    marks = [_marks(block) for block in blocks]
    ends = ends_of([mark for block in marks for mark in block])
    metric = words.name(blocks[0].pooled.metric)
    wish = "more is better" if blocks[0].pooled.direction == "increase" else "less is better"
    margin = blocks[0].pooled.margin
    harm = None if margin is None else -margin if blocks[0].pooled.direction == "increase" else margin
    title = alt.TitleParams(
        text=f"Effect on {metric} by segment", subtitle=f"relative, {wish} · control {words.name(control)}", anchor="start", offset=10, frame="group"
    )  # fmt: skip
    drawn = [
        forest(
            own,
            ends,
            heading=f"{words.name(block.pooled.variant)}, by {words.name(block.pooled.column)}",
            harm=harm,
            axis="relative" if block is blocks[-1] else None,
            better_right=block.pooled.direction == "increase",
        )
        for block, own in zip(blocks, marks, strict=True)
    ]
    signs: list[Sign] = [("ring", "raw"), ("dot", "pooled with the others, with its 95 % HDI")]
    if harm is not None and ends[0] < harm < ends[1]:
        signs.append(("line", "tolerated harm"))
    key = legend(*signs)
    figure = alt.vconcat(key, *drawn, caption(told))
    chart: alt.VConcatChart = figure.properties(
        title=title, spacing=10, background="transparent", description=" ".join(told), config=config()
    )
    return chart


def _marks(block: _Block) -> list[Mark]:
    pooled, sign = block.pooled, 1 if block.pooled.direction == "increase" else -1
    first = Mark(
        name="typical segment",
        raw=None,
        mean=pooled.effect_rel_post,
        low=pooled.hdi_rel_low,
        high=pooled.hdi_rel_high,
        told=f"{_percent(pooled.effect_rel_post)}, P(better) {words.probability(pooled.p_improvement)}",
        better=sign * pooled.effect_rel_post > 0,
        strong=True,
    )
    rest = [
        Mark(
            name=_value(effect),
            raw=effect.effect_rel,
            mean=effect.effect_rel_post,
            low=effect.hdi_rel_low,
            high=effect.hdi_rel_high,
            told=f"{_percent(effect.effect_rel_post)}, P(better) {words.probability(effect.p_improvement)}",
            better=sign * (effect.effect_rel_post or 0.0) > 0,
        )
        for effect in block.effects
    ]
    return [first, *rest]


def _table(blocks: Sequence[_Block]) -> pd.DataFrame:
    """Columns `metric`, `variant`, `column`, `segment`, `quantity` and `value`; of the typical segment `segment` is empty."""
    records: list[tuple[str, str, str, str, str, float | None]] = []
    for block in blocks:
        one = block.pooled
        key = (one.metric, one.variant, one.column)
        together = {
            "pooled": one.effect_rel_post, "hdi_low": one.hdi_rel_low, "hdi_high": one.hdi_rel_high, "p_improvement": one.p_improvement,
            "spread": one.spread, "p_any_harmed": one.p_any_harmed, "p_all_improve": one.p_all_improve, "margin": one.margin,
        }  # fmt: skip
        records += [(*key, "", name, value) for name, value in together.items()]
        for effect in block.effects:
            figures = (effect.effect_rel, effect.effect_rel_post, effect.hdi_rel_low, effect.hdi_rel_high, effect.p_improvement, effect.p_harm, effect.shrinkage, effect.n_control, effect.n_treatment)  # fmt: skip
            records += [(*key, effect.segment, name, value) for name, value in zip(TOLD, figures, strict=True)]
    frame = pd.DataFrame(records, columns=["metric", "variant", "column", "segment", "quantity", "value"])
    return frame.astype({"value": "float64"})
