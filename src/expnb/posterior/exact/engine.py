"""Exact posteriors of effects, many comparisons at once: no sampling, no randomness.

Three ways lead to the same figures, and each row takes the first that serves it. Large samples without a prior on the effect need no density: their figures follow from cumulants (`smooth`). From a few conversions on, the
density stands on one even grid per row (`sampled`), and under a prior the absolute effect follows from the relative one (`rescaled`). What is left follows its density with panels (`grid`), from likelihoods whose nuisance mean is
integrated out (`ratio`, `difference`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.exact import point, rescaled, sampled, smooth
from expnb.posterior.exact.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean
from expnb.posterior.exact.best import share_best
from expnb.posterior.exact.quantity import Quantity, collect, of_difference, of_log_ratio
from expnb.posterior.exact.routes import difference, log_masses, log_ratio, mixed_kinds
from expnb.posterior.exact.sampled import Curve
from expnb.spec.prior import FLAT, Prior

__all__ = [
    "Arm",
    "Binomial",
    "NormalMean",
    "Quantity",
    "absolute_effect",
    "both_effects",
    "prob_best",
    "relative_effect",
    "share_above",
]

Parts: TypeAlias = list[tuple[IntArray, Quantity]]

_CHUNK = 1024  # rows at a time, so that their nodes stay in the processor's cache


def relative_effect(control: Arm, treatment: Arm, prior: Prior, cuts: FloatArray, *, chart: bool = True) -> Quantity:
    """Posterior of ``effect_rel = mean_t / mean_c - 1``.

    The joint density of the control mean m and ``lam = log(mean_t / mean_c)`` is ``L_c(m) p_ref(m) L_t(m exp(lam)) prior(lam)``; with ``prior.family == "flat"`` each arm has its own reference
    prior instead, Beta(1, 1) on a rate and flat on a mean. m is integrated out for each lam and the prior multiplies in exactly. Under a prior with a point at no effect all figures are those of the mixture (`point`).

    Parameters
    ----------
    control, treatment : Arm
        The same kind and number of rows. Of a NormalMean, the control mean is at least 5 standard errors and the treatment mean above 0; the control mean is then taken to be above 5 % of its
        estimate, without which no ratio of Normals has a mean.
    prior : Prior
        On ``log(1 + effect_rel)``.
    cuts : ndarray, shape (row, cut) or (cut,)
        Relative effects; 0.02 means +2 %.
    chart : bool
        Whether densities for charts are wanted too.

    Raises
    ------
    PosteriorError
        If the arms do not go together, or a relative effect has no meaning for them.

    References
    ----------
    .. [1] Hinkley (1969), On the ratio of two correlated normal random variables.
    .. [2] Stenger (1993), Numerical methods based on sinc and analytic functions.
    """
    if prior.family != "flat":
        return _under_prior(control, treatment, prior, cuts, None, chart=chart)[0]
    cuts = _checked(control, treatment, cuts)

    def parts() -> Iterator[tuple[IntArray, Quantity]]:
        left = np.ones(len(control), dtype=np.bool_)
        yield from _without_panels(control, treatment, cuts, left, log_scale=True, chart=chart)
        yield from _ratio_on_panels(control, treatment, prior, cuts, left, chart=chart)

    return collect(len(control), cuts.shape[-1], parts(), chart=chart)


def share_above(control: Arm, treatment: Arm, prior: Prior, cuts: FloatArray) -> FloatArray:
    """P(effect_rel > cut), shape (row, cut): that of `relative_effect` alone, for less.

    Parameters
    ----------
    control, treatment, prior
        As in `relative_effect`, of a prior without a point at no effect.
    cuts : ndarray, shape (row, cut) or (cut,)
        Relative effects, above -1.
    """
    if prior.family == "flat":
        return relative_effect(control, treatment, prior, cuts, chart=False).p_above
    cuts = np.broadcast_to(_checked(control, treatment, cuts), (len(control), cuts.shape[-1]))
    left, out = np.ones(len(control), dtype=np.bool_), np.empty(cuts.shape)
    for rows, curve in sampled.curves(control, treatment, prior, left.copy(), log_scale=True):
        out[rows] = 1.0 - curve.at(np.log1p(cuts[rows]))[0]
        left[rows] = False
    for rows, part in _ratio_on_panels(control, treatment, prior, cuts, left, chart=False):
        out[rows] = part.p_above
    return out


def absolute_effect(
    control: Arm,
    treatment: Arm,
    prior: Prior,
    cuts: FloatArray,
    *,
    chart: bool = True,
) -> Quantity:
    """Posterior of ``effect_abs = mean_t - mean_c``, under the same joint posterior as `relative_effect`.

    Parameters
    ----------
    control, treatment : Arm
        As in `relative_effect`; with ``prior.family == "flat"`` means may have any sign.
    prior : Prior
        On ``log(1 + effect_rel)``; it ties the two arms together.
    cuts : ndarray, shape (row, cut) or (cut,)
        Metric unit.
    chart : bool
        Whether densities for charts are wanted too.

    Raises
    ------
    PosteriorError
        If the arms do not go together, or a prior on the relative effect has no meaning for them.

    References
    ----------
    .. [1] Stenger (1993), Numerical methods based on sinc and analytic functions.
    """
    if prior.family != "flat":
        return _under_prior(control, treatment, prior, None, cuts, chart=chart)[1]
    cuts = _checked(control, treatment, cuts)

    def parts() -> Iterator[tuple[IntArray, Quantity]]:
        left = np.ones(len(control), dtype=np.bool_)
        yield from _without_panels(control, treatment, cuts, left, log_scale=False, chart=chart)
        for rows in sampled.chunks(np.flatnonzero(left), _CHUNK):
            route = difference(control.take(rows), treatment.take(rows), prior)
            for where, these in route.batches:
                own = _of_rows(cuts, rows[where])
                yield rows[where], of_difference(these, route.centre[where], own, chart=chart)

    return collect(len(control), cuts.shape[-1], parts(), chart=chart)


def _without_panels(
    control: Arm, treatment: Arm, cuts: FloatArray, left: BoolArray, *, log_scale: bool, chart: bool
) -> Iterator[tuple[IntArray, Quantity]]:
    """Effects without a prior of large samples and of rows that stand on an even grid; the others stay `left`."""
    cumulants, summary = (
        (smooth.log_ratio, smooth.of_log_ratio) if log_scale else (smooth.difference, smooth.of_difference)
    )
    for rows, found in smooth.served(control, treatment, cumulants):
        left[rows] = False
        for some in sampled.chunks(np.arange(len(rows)), _CHUNK):
            yield rows[some], summary(found[:, some], _of_rows(cuts, rows[some]), chart=chart)
    for rows, curve in sampled.curves(control, treatment, FLAT, left, log_scale=log_scale):
        left[rows] = False
        yield rows, sampled.effects(curve, _of_rows(cuts, rows), log_scale=log_scale, chart=chart)


def both_effects(
    control: Arm,
    treatment: Arm,
    prior: Prior,
    relative_cuts: FloatArray,
    absolute_cuts: FloatArray,
    *,
    chart: bool = True,
) -> tuple[Quantity, Quantity]:
    """`relative_effect` and `absolute_effect`, each with its own cuts, for less than the price of both."""
    if prior.family != "flat":
        return _under_prior(control, treatment, prior, relative_cuts, absolute_cuts, chart=chart)
    relative = relative_effect(control, treatment, prior, relative_cuts, chart=chart)
    return relative, absolute_effect(control, treatment, prior, absolute_cuts, chart=chart)


def _under_prior(
    control: Arm,
    treatment: Arm,
    prior: Prior,
    relative_cuts: FloatArray | None,
    absolute_cuts: FloatArray | None,
    *,
    chart: bool,
) -> tuple[Quantity, Quantity]:
    """Both effects; what has no cuts is not worked out, and its zeros mean nothing."""
    wanted = relative_cuts is not None or prior.null_share > 0, absolute_cuts is not None
    cuts = [_checked(control, treatment, np.zeros(1) if own is None else own) for own in (relative_cuts, absolute_cuts)]
    left = [np.full(len(control), each) for each in wanted]
    parts: tuple[Parts, Parts] = ([], [])
    null = np.zeros(len(control))
    for rows, curve in sampled.curves(control, treatment, prior, np.ones(len(control), dtype=np.bool_), log_scale=True):
        own = control.take(rows), treatment.take(rows)
        given = None
        if wanted[0]:
            given = _ratio_on_curve(*own, prior, curve, _of_rows(cuts[0], rows), chart=chart)
            null[rows] = 0.0 if given.null is None else given.null
            parts[0].append((rows, given))
            left[0][rows] = False
        if wanted[1]:
            part, ok = rescaled.of_curve(*own, curve, given, _of_rows(cuts[1], rows), chart=chart)
            good = np.flatnonzero(ok)
            parts[1].append((rows[good], part.take(good)))
            left[1][rows[good]] = False
    for rows, part in _ratio_on_panels(control, treatment, prior, cuts[0], left[0], chart=chart):
        null[rows] = 0.0 if part.null is None else part.null
        parts[0].append((rows, part))
    for rows in sampled.chunks(np.flatnonzero(left[1]), _CHUNK):
        route = difference(control.take(rows), treatment.take(rows), prior)
        for where, these in route.batches:
            at, centre = _of_rows(cuts[1], rows[where]), route.centre[where]
            part = of_difference(these, centre, at, chart=chart)
            if prior.null_share:
                part = point.with_point(part, these, centre, null[rows[where]], at, log_scale=False)
            parts[1].append((rows[where], part))
    relative, absolute = (
        collect(len(control), own.shape[-1], each, chart=chart) for own, each in zip(cuts, parts, strict=True)
    )
    return relative, absolute


def _ratio_on_curve(
    control: Arm, treatment: Arm, prior: Prior, curve: Curve, cuts: FloatArray, *, chart: bool
) -> Quantity:
    """Relative effects of rows that stand on an even grid."""
    part = sampled.effects(curve, cuts, log_scale=True, chart=chart)
    factor = point.log_bayes_factor(prior, *log_masses(control, treatment, prior, curve))
    part = replace(part, log_factor=factor)
    if prior.null_share:
        null = point.null_probability(prior, factor)
        part = point.with_point(part, curve, np.zeros(len(null)), null, cuts, log_scale=True)
    return part


def _ratio_on_panels(
    control: Arm, treatment: Arm, prior: Prior, cuts: FloatArray, left: BoolArray, *, chart: bool
) -> Iterator[tuple[IntArray, Quantity]]:
    """Relative effects of the rows that are `left`."""
    for rows in sampled.chunks(np.flatnonzero(left), _CHUNK):
        route = log_ratio(control.take(rows), treatment.take(rows), prior)
        for where, these in route.batches:
            own, centre = _of_rows(cuts, rows[where]), route.centre[where]
            part = of_log_ratio(these, centre, route.moment[where], own, chart=chart)
            if route.log_at_null is not None:
                factor = point.log_bayes_factor(prior, these.log_mass, route.log_at_null[where])
                part = replace(part, log_factor=factor)
            if part.log_factor is not None and prior.null_share:
                null = point.null_probability(prior, part.log_factor)
                part = point.with_point(part, these, centre, null, own, log_scale=True)
            yield rows[where], part


def prob_best(arms: Sequence[Arm], prior: Prior, *, largest: bool) -> FloatArray:
    """P(an arm's mean is the best of all), shape (row, variant); rows sum to 1.

    Parameters
    ----------
    arms : sequence of Arm
        The first is the control, which all others share.
    prior : Prior
        On the log ratio of each treatment to the control, independent given the control.
    largest : bool
        Whether the largest mean is the best, or the smallest.

    Raises
    ------
    PosteriorError
        As `relative_effect`, and if there are fewer than two arms.
    """
    if len(arms) < 2:
        raise PosteriorError(
            f"{len(arms)} arm was given; the best of all needs at least two. Add the treatments after the control."
        )
    zero = np.zeros(1)
    for arm in arms[1:]:
        _checked(arms[0], arm, zero)
    if len(arms) > 2:
        return share_best(arms, prior, largest=largest)
    verb = absolute_effect if prior.family == "flat" else relative_effect
    pair = verb(arms[0], arms[1], prior, zero, chart=False)
    better = pair.p_above if largest else 1.0 - pair.p_above
    if pair.null is not None and not largest:
        better = better - pair.null[:, None]  # who equals control is not best
    better = np.clip(better, 0.0, 1.0)
    return np.concatenate([1.0 - better, better], axis=1)


def _checked(control: Arm, treatment: Arm, cuts: FloatArray) -> FloatArray:
    if type(control) is not type(treatment):
        raise mixed_kinds(control, treatment)
    if len(control) != len(treatment):
        raise PosteriorError(
            f"the control has {len(control)} rows and the treatment {len(treatment)}; each row is one comparison. Give both arms the same rows."
        )
    cuts = np.atleast_1d(np.asarray(cuts, dtype=np.float64))
    if not np.isfinite(cuts).all():
        raise PosteriorError(
            f"cuts are {cuts.tolist()}; each must be a finite effect. Leave out the ones that are not set."
        )
    return cuts


def _of_rows(cuts: FloatArray, rows: IntArray) -> FloatArray:
    return cuts if cuts.ndim == 1 else cuts[rows]
