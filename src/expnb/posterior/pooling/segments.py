"""Segments of an experiment, partially pooled: every segment row borrows from the others of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from expnb.posterior.comparison import Comparison
from expnb.posterior.effect import Density, Effect, PooledEffect
from expnb.posterior.effects import loss_of, probabilities
from expnb.posterior.exact.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean, Poisson
from expnb.posterior.pooling.pool import Pooled, pool
from expnb.posterior.table import CLEARLY_POSITIVE, Table
from expnb.spec.prior import Prior
from expnb.stats.cells import ALL

LEAST_SEGMENTS = 2
NOT_BEST = "pooled treatment by treatment, so P(best) is not stated"


class Pool(Protocol):
    """A way to pool: `pool`, or draws of the same model."""

    def __call__(
        self,
        control: Arm,
        treatment: Arm,
        prior: Prior,
        cuts: FloatArray,
        *,
        sign: int,
        margin: float | None,
        tau_scale: float | None,
        pairs: Sequence[Comparison],
    ) -> Pooled:
        """As `pool`; `pairs` says what is pooled."""


def _by_grid(
    control: Arm,
    treatment: Arm,
    prior: Prior,
    cuts: FloatArray,
    *,
    sign: int,
    margin: float | None,
    tau_scale: float | None,
    pairs: Sequence[Comparison],  # noqa: ARG001 - a grid needs no names
) -> Pooled:
    return pool(control, treatment, prior, cuts, sign=sign, margin=margin, tau_scale=tau_scale)


def pool_segments(
    pairs: Sequence[Comparison], priors: Sequence[Prior], effects: Sequence[Effect], *, how: Pool = _by_grid
) -> tuple[list[Effect], tuple[PooledEffect, ...]]:
    """The effects with their segments pooled, where that is possible, and what is known of the segments together.

    Segments of one column are pooled, per metric and treatment, where two or more have a relative effect, on which rope and margin are applied, and the prior is not flat. All others stay as they are, and so do the rows
    that explain a main one.

    Parameters
    ----------
    pairs, priors, effects : sequence, one per row
        As `exact_effects` takes and gives them; rows `to_be_pooled` need no posterior.
    how : callable
        The engine.
    """
    if all(pair.segment == ALL for pair in pairs):
        return list(effects), ()
    table, out = Table(pairs), list(effects)
    several = len({pair.variant for pair in pairs}) > 1
    found = []
    for rows, family in _pools(table, priors):
        control, treatment = table.arms(rows, family)
        first, prior = pairs[rows[0]], priors[rows[0]]
        sign, margin = first.sign, first.metric.margin
        cuts = table.cuts[rows[0]]
        own = [pairs[row] for row in rows]
        made = how(
            control, treatment, around_none(prior), cuts, sign=sign, margin=margin, tau_scale=prior.scale, pairs=own
        )
        pooled = _together(first, [pair.segment for pair in own], made, prior)
        found.append(pooled)
        for row, changes in zip(rows.tolist(), _of_segments(table, rows, made, several=several), strict=True):
            note = "; ".join(part for part in (out[row].note, NOT_BEST if several else "") if part)
            text = f"pooled over {len(rows)} segments by {pooled.column}, {prior.id}"
            out[row] = replace(out[row], prior=text, note=note, **changes)
    return out, tuple(found)


def to_be_pooled(pairs: Sequence[Comparison], priors: Sequence[Prior]) -> BoolArray:
    """Which rows `pool_segments` gives another posterior, shape (row,)."""
    out = np.zeros(len(pairs), dtype=np.bool_)
    if any(pair.segment != ALL for pair in pairs):
        for rows, _ in _pools(Table(pairs), priors):
            out[rows] = True
    return out


def around_none(prior: Prior) -> Prior:
    """The prior with the share at exactly no effect around none instead: as a Student-t of half the smallest scale.

    Where segments differ, nobody believes that the effect in the typical one is exactly 0.
    """
    if not prior.null_share:
        return prior
    return Prior(
        family="learnt",
        df=prior.df,
        scales=(0.5 * min(prior.scales), *prior.scales),
        weights=(prior.null_share, *((1 - prior.null_share) * weight for weight in prior.weights)),
        source=prior.source,
    )


def _pools(table: Table, priors: Sequence[Prior]) -> Iterator[tuple[IntArray, int]]:
    """Rows that are pooled with each other, and their one likelihood: the most careful one that any of them needs."""
    for group in _groups(table, priors):
        family = int(table.family[group].max())
        rows = group[sound(table, group, family)]
        if len(rows) >= LEAST_SEGMENTS:
            yield rows, family


def _groups(table: Table, priors: Sequence[Prior]) -> list[IntArray]:
    """Rows of the same metric, treatment and segment column that can be pooled at all."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for row in np.flatnonzero(table.known & table.on_relative_scale).tolist():
        pair = table.pairs[row]
        if pair.segment != ALL and pair.estimate == "main" and priors[row].family != "flat":
            key = (pair.metric.name, pair.variant, pair.segment.partition("=")[0])
            places.setdefault(key, []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in places.values() if len(rows) >= LEAST_SEGMENTS]


def sound(table: Table, rows: IntArray, family: int) -> BoolArray:
    """Which of the rows have a relative effect also under a likelihood that another one needs."""
    control, treatment = table.arms(rows, family)
    if isinstance(control, Binomial | Poisson) or isinstance(treatment, Binomial | Poisson):
        return np.ones(len(rows), dtype=np.bool_)
    least = CLEARLY_POSITIVE if isinstance(control, NormalMean) else control.certainty
    return np.asarray((control.mean >= least * control.se) & (treatment.mean > 0))


def _together(first: Comparison, segments: Sequence[str], made: Pooled, prior: Prior) -> PooledEffect:
    """What is known of all segments together; `first` is any of them."""
    above = float(made.effect.p_above[0, 0])
    low, _, high = made.tau_quantiles
    return PooledEffect(
        metric=first.metric.name,
        role=first.metric.role,
        direction=first.metric.direction,
        variant=first.variant,
        column=first.segment.partition("=")[0],
        segments=tuple(segments),
        effect_rel_post=float(made.effect.mean[0]),
        hdi_rel_low=float(made.effect.hdi_low[0]),
        hdi_rel_high=float(made.effect.hdi_high[0]),
        p_improvement=above if first.sign > 0 else 1 - above,
        spread=made.tau_mean,
        spread_low=low,
        spread_high=high,
        p_any_harmed=made.p_any_harmed,
        p_all_improve=made.p_all_improve,
        margin=first.metric.margin,
        prior=prior.id,
    )


def _of_segments(table: Table, rows: IntArray, made: Pooled, *, several: bool) -> list[dict[str, object]]:
    """The posterior figures of every segment, by name; absolute ones would need the joint posterior with the control's mean."""
    one = made.segments
    stated: Mapping[str, FloatArray] = {
        **probabilities(table, rows, one.p_above, np.zeros(len(rows))),
        "effect_rel_post": one.mean,
        "hdi_rel_low": one.hdi_low,
        "hdi_rel_high": one.hdi_high,
        "expected_loss_rel": loss_of(one, table.sign[rows] > 0),
        "shrinkage": made.shrinkage,
    }
    gone = dict.fromkeys(
        ("effect_abs_post", "hdi_abs_low", "hdi_abs_high", "expected_loss_abs", "absolute", "p_null", "works", "log_bayes_factor", "p_best")
    )  # fmt: skip
    out: list[dict[str, object]] = []
    for place in range(len(rows)):
        figures = {name: float(values[place]) for name, values in stated.items()}
        part: dict[str, object] = {name: None if value != value else value for name, value in figures.items()}  # noqa: PLR0124 - true of NaN alone
        part = {**gone, **part, "relative": Density(one.grid[place], one.density[place])}
        out.append(part if several else {**part, "p_best": part["p_improvement"]})
    return out
