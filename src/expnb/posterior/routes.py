"""From two arms to the density of their effect: a fast route for most rows, a sure one for the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean
from expnb.posterior.difference import binomial_difference, normal_difference, normal_difference_with_prior
from expnb.posterior.grid import LogDensity, Panels, first_breaks, resolve, support
from expnb.posterior.ratio import (
    Location,
    binomial_marginal,
    fast_binomial,
    locate_binomial,
    locate_normal,
    log_prior,
    normal_marginal,
)
from expnb.spec.prior import Prior

Batches: TypeAlias = Iterator[tuple[IntArray, Panels]]

_POLES = np.array([0.9, 3.0, 11.0, 40.0])  # in distances of a Student-t's poles from the real line
_REACH = 10.5  # spreads on either side of the estimate
_STEPS = np.linspace(0.0, 1.0, 24)
_WIDE_STEPS = np.linspace(0.0, 1.0, 30)
_LEAST_CERTAINTY = 5.0  # control mean / standard error


@dataclass(frozen=True, slots=True)
class Route:
    """Densities of x in batches of rows, and what turns x into an effect.

    Parameters
    ----------
    centre : ndarray, shape (row,)
        Log ratio or difference at ``x = 0``.
    moment : ndarray, shape (row,)
        How many moments ``exp(x)`` needs, at most 2.
    batches : iterator of (rows, Panels)
        Every row comes once.
    """

    centre: FloatArray
    moment: FloatArray
    batches: Batches


def log_ratio(control: Arm, treatment: Arm, prior: Prior) -> Route:
    """The posterior of the log ratio of the means."""
    flat = prior.family == "flat"
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        place = locate_binomial(control, treatment)
        slow = binomial_marginal(control, treatment, place.centre, flat=flat)
        reach = _reach(place, prior)
        fast, served = fast_binomial(control, treatment, reach, slow)
        moment = (
            np.full(len(control), 2.0) if prior.family == "normal" else np.minimum(control.successes + (not flat), 2.0)
        )
    elif isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        require_log_scale(control, treatment)
        place = locate_normal(control, treatment)
        fast = slow = normal_marginal(control, treatment, flat=flat)
        reach, served = _reach(place, prior), place.spread < 0.1
        moment = np.full(len(control), 2.0)
    else:
        raise mixed_kinds(control, treatment)
    fast, slow = _with_prior(fast, prior, place), _with_prior(slow, prior, place)
    return Route(place.centre, moment, _two_ways(fast, slow, prior, place, reach, served, moment))


def difference(control: Arm, treatment: Arm, prior: Prior) -> Route:
    """The posterior of the difference of the means."""
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        return _rate_difference(control, treatment, prior)
    if isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        return _mean_difference(control, treatment, prior)
    raise mixed_kinds(control, treatment)


def _mean_difference(control: NormalMean, treatment: NormalMean, prior: Prior) -> Route:
    centre, spread = treatment.mean - control.mean, np.hypot(control.se, treatment.se)
    rows, moment = np.arange(len(control)), np.zeros(len(control))
    if prior.family == "flat":
        density, marks = normal_difference(control, treatment), -centre[:, None]
        ends = spread[:, None] * np.array([-8.2, 8.2])
    else:
        require_log_scale(control, treatment)
        density = normal_difference_with_prior(control, treatment, prior)
        marks = _scaled_landmarks(centre, prior, control.mean)
        reach = np.stack(
            [np.minimum(-12.0 * spread, -centre - 6.0 * spread), np.maximum(12.0 * spread, -centre + 6.0 * spread)],
            axis=1,
        )
        ends = support(
            density, rows, np.sort(np.concatenate([_between(reach), -centre[:, None]], axis=1), axis=1), moment
        )
    return Route(centre, moment, resolve(density, rows, first_breaks(ends, marks), moment))


def _rate_difference(control: Binomial, treatment: Binomial, prior: Prior) -> Route:
    rate_c, rate_t = ((arm.successes + 0.5) / (arm.units + 1.0) for arm in (control, treatment))
    spread = np.sqrt(rate_c * (1.0 - rate_c) / control.units + rate_t * (1.0 - rate_t) / treatment.units)
    centre = rate_t - rate_c
    rows, moment = np.arange(len(control)), np.zeros(len(control))
    density = binomial_difference(control, treatment, prior, centre)
    low, high = -1.0 - centre, 1.0 - centre
    reach = np.stack(
        [np.minimum(-60.0 * spread, -centre - 30.0 * spread), np.maximum(60.0 * spread, -centre + 30.0 * spread)],
        axis=1,
    )
    reach = np.clip(reach, low[:, None], high[:, None])
    near = np.clip(spread[:, None] * np.linspace(-9.0, 9.0, 19), low[:, None], high[:, None])
    ends = support(
        density, rows, np.sort(np.concatenate([_between(reach), near, -centre[:, None]], axis=1), axis=1), moment
    )
    pole = control.successes + treatment.successes == 0  # the density then says nothing about how far out it matters
    ends[pole] = reach[pole]
    marks = -centre[:, None] if prior.family == "flat" else _scaled_landmarks(centre, prior, rate_c)
    return Route(centre, moment, resolve(density, rows, first_breaks(ends, marks), moment))


def require_log_scale(control: NormalMean, treatment: NormalMean) -> None:
    """Raise where a ratio of the means has no meaning.

    Raises
    ------
    PosteriorError
        If a control mean is less than 5 standard errors above 0, or a treatment mean is not above 0.
    """
    ok = (control.mean >= _LEAST_CERTAINTY * control.se) & (treatment.mean > 0)
    if not ok.all():
        row = int(np.argmin(ok))
        raise PosteriorError(
            f"row {row}: a relative effect needs a control mean of at least {_LEAST_CERTAINTY:g} standard errors and a treatment mean above 0; they are"
            f" {control.mean[row]:g} +- {control.se[row]:g} and {treatment.mean[row]:g} +- {treatment.se[row]:g}. Use the absolute effect with the flat prior."
        )


def mixed_kinds(control: Arm, treatment: Arm) -> PosteriorError:
    """The error for arms that do not go together."""
    return PosteriorError(
        f"the control is {type(control).__name__} and the treatment {type(treatment).__name__}; both arms of a comparison are of the same kind. Build both from the same metric."
    )


def _two_ways(
    fast: LogDensity,
    slow: LogDensity,
    prior: Prior,
    place: Location,
    reach: FloatArray,
    served: BoolArray,
    moment: FloatArray,
) -> Batches:
    """The fast way within `reach` for rows `served` by it, if they stay inside; else the slow way."""
    easy, ends = np.flatnonzero(served), np.zeros((len(served), 2))
    if len(easy):
        ends[easy] = support(fast, easy, _between(reach[easy]), moment[easy])
        easy = easy[(ends[easy, 0] > reach[easy, 0]) & (ends[easy, 1] < reach[easy, 1])]
    served = np.zeros_like(served)
    served[easy] = True
    hard = np.flatnonzero(~served)
    if len(hard):
        ends[hard] = support(slow, hard, _anywhere(place, prior, hard), moment[hard])
    marks = _landmarks(place, prior)
    for rows, density in ((easy, fast), (hard, slow)):
        for where, these in resolve(density, rows, first_breaks(ends[rows], marks[rows]), moment[rows]):
            yield rows[where], these


def _with_prior(marginal: LogDensity, prior: Prior, place: Location) -> LogDensity:
    if prior.family == "flat":
        return marginal
    return lambda rows, x: marginal(rows, x) + log_prior(prior, place.centre[rows, None] + x)


def _reach(place: Location, prior: Prior) -> FloatArray:
    """Stretch of x that holds the posterior where counts are not small, shape (row, 2)."""
    wide = _REACH * place.spread
    low, high = -wide, wide
    if prior.family != "flat":  # the prior pulls towards no effect
        low, high = np.minimum(low, -place.centre - 0.5 * wide), np.maximum(high, -place.centre + 0.5 * wide)
    return np.stack([low, high], axis=1)


def _between(ends: FloatArray) -> FloatArray:
    return ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * _STEPS


def _anywhere(place: Location, prior: Prior, rows: IntArray) -> FloatArray:
    """Points from which to look for the posterior of a log ratio anywhere, shape (len(rows), point).

    Without a prior both tails fall at least like ``exp(-abs(lam))``. A Student-t falls so slowly that the ratio may go to zero for all that the data say.
    """
    spread, zero = place.spread[rows, None], -place.centre[rows, None]
    left, right = (80.0, 80.0) if prior.family == "flat" else (1e6, 300.0)
    middles = [(np.zeros_like(zero), np.minimum(0.2 * spread, 1.0))]
    if prior.family != "flat":
        middles.append((zero, np.minimum(0.2 * spread, 0.2 * prior.scale)))
    around = [middle for middle, _ in middles]
    for middle, first in middles:
        around += [middle - first * (left / first) ** _WIDE_STEPS, middle + first * (right / first) ** _WIDE_STEPS]
    return np.sort(np.clip(np.concatenate(around, axis=1), -left, right), axis=1)


def _landmarks(place: Location, prior: Prior) -> FloatArray:
    """Log ratios at which the density may bend sharply, as x: no effect, and the flanks of a Student-t."""
    return -place.centre[:, None] + flanks(prior)


def _scaled_landmarks(centre: FloatArray, prior: Prior, mean: FloatArray) -> FloatArray:
    return -centre[:, None] + flanks(prior) * mean[:, None]


def flanks(prior: Prior) -> FloatArray:
    """Log ratios at which a prior bends: its centre and, of a Student-t, points on the way out."""
    if prior.family != "student_t":
        return np.zeros(1)
    pole = prior.scale * np.sqrt(prior.df) * _POLES
    return np.concatenate([-pole[::-1], np.zeros(1), pole])
