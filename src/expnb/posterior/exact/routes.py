"""From two arms to the density of their effect: a fast route for most rows, a sure one for the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import (
    Arm,
    Binomial,
    BoolArray,
    FloatArray,
    IntArray,
    Located,
    NormalMean,
    Poisson,
    RatioMean,
    StudentMean,
)
from expnb.posterior.exact.counts import locate_poisson, poisson_difference, poisson_marginal
from expnb.posterior.exact.difference import binomial_difference, normal_difference, normal_difference_with_prior
from expnb.posterior.exact.grid import LogDensity, Panels, first_breaks, resolve, support
from expnb.posterior.exact.located import located_difference, located_difference_with_prior, located_marginal
from expnb.posterior.exact.ratio import (
    CONTROL_FLOOR,
    Location,
    binomial_marginal,
    chebyshev,
    locate_binomial,
    locate_normal,
    log_prior,
    normal_marginal,
)
from expnb.posterior.exact.sampled import Curve
from expnb.spec.prior import Prior

Batches: TypeAlias = Iterator[tuple[IntArray, Panels]]

_POLES = np.array([0.9, 3.0, 11.0, 40.0])  # in distances of a Student-t's poles from the real line
_CLOSE = 2.0  # times as far: nearer poles of several scales share a landmark
_STEPS = np.linspace(0.0, 1.0, 24)
_WIDE_STEPS = np.linspace(0.0, 1.0, 30)
_LEAST_CERTAINTY = 5.0  # control mean / standard error
_LOCATED_DROP = 36.0
_WARPED_POINTS = 112
_BENDS = np.array([-6.0, -2.0, 0.0, 2.0, 6.0])  # in spreads


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
    log_at_null : ndarray, shape (row,), optional
        Of a log ratio under a prior: log density at no effect, up to the same constant as `Panels.log_mass`.
    """

    centre: FloatArray
    moment: FloatArray
    batches: Batches
    log_at_null: FloatArray | None = None


def log_ratio(control: Arm, treatment: Arm, prior: Prior) -> Route:
    """The posterior of the log ratio of the means."""
    if isinstance(control, StudentMean | RatioMean) and type(control) is type(treatment):
        return _located_ratio(control, treatment, prior)
    place, density = _marginal(control, treatment, prior)
    rows, moment = np.arange(len(control)), np.full(len(control), 2.0)
    if isinstance(control, Binomial | Poisson) and prior.family != "normal":
        count = control.successes if isinstance(control, Binomial) else control.total
        moment = np.minimum(count + (prior.family != "flat"), 2.0)
    ends = support(density, rows, _anywhere(place, prior, rows), moment)
    batches = resolve(density, rows, first_breaks(ends, _landmarks(place, prior)), moment)
    return Route(place.centre, moment, batches, _at_null(density, prior, place))


def _marginal(control: Arm, treatment: Arm, prior: Prior) -> tuple[Location, LogDensity]:
    """Where the log ratio lies, and its log density, the prior included."""
    flat = prior.family == "flat"
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        place = locate_binomial(control, treatment)
        marginal = binomial_marginal(control, treatment, place.centre, flat=flat)
    elif isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        require_log_scale(control, treatment)
        place = locate_normal(control, treatment)
        marginal = normal_marginal(control, treatment, flat=flat)
    elif isinstance(control, Poisson) and isinstance(treatment, Poisson):
        place = locate_poisson(control, treatment)
        marginal = poisson_marginal(control, treatment, flat=flat)
    else:
        raise mixed_kinds(control, treatment)
    return place, _with_prior(marginal, prior, place)


def difference(control: Arm, treatment: Arm, prior: Prior) -> Route:
    """The posterior of the difference of the means."""
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        return _rate_difference(control, treatment, prior)
    if isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        return _mean_difference(control, treatment, prior)
    if isinstance(control, Poisson) and isinstance(treatment, Poisson):
        return _event_difference(control, treatment, prior)
    if isinstance(control, StudentMean | RatioMean) and type(control) is type(treatment):
        return _located_difference(control, treatment, prior)
    raise mixed_kinds(control, treatment)


def log_masses(control: Arm, treatment: Arm, prior: Prior, curve: Curve) -> tuple[FloatArray, FloatArray]:
    """Log of the integral of likelihood times prior, and of their product at no effect, up to the same constant; each of shape (row,)."""
    place, density = _marginal(control, treatment, prior)
    top = curve.scale.of(curve.mode)
    at = np.concatenate([top, np.zeros_like(top)], axis=1)
    values = density(np.arange(len(at)), at - place.centre[:, None])
    return values[:, 0] - np.log(curve.at(top)[1][:, 0]), values[:, 1]


def _located_ratio(control: Located, treatment: Located, prior: Prior) -> Route:
    require_log_scale(control, treatment)
    flat = prior.family == "flat"
    place = locate_normal(control, treatment)
    slow = located_marginal(control, treatment, flat=flat)
    reach = _located_reach(control, treatment, place, prior)
    fast, served = _warped(slow, place.spread, reach)
    moment = treatment.moments if flat else np.maximum(treatment.moments, 1.0)
    fast, slow = _with_prior(fast, prior, place), _with_prior(slow, prior, place)
    batches = _two_ways(fast, slow, prior, place, reach, served, moment)
    return Route(place.centre, moment, batches, _at_null(slow, prior, place))


def _at_null(log_density: LogDensity, prior: Prior, place: Location) -> FloatArray | None:
    if prior.family == "flat":
        return None
    return log_density(np.arange(len(place.centre)), -place.centre[:, None])[:, 0]


def _located_reach(control: Located, treatment: Located, place: Location, prior: Prior) -> FloatArray:
    """Stretch of the log ratio that holds the posterior, shape (row, 2): where either mean is as far off as it can be."""
    wide_c = control.reach(_LOCATED_DROP) * control.se / control.mean
    wide_t = treatment.reach(_LOCATED_DROP) * treatment.se / treatment.mean
    low = np.log(np.maximum(1.0 - wide_t, 1e-12)) - np.log1p(wide_c)
    high = np.log1p(wide_t) - np.log(np.maximum(1.0 - wide_c, CONTROL_FLOOR))
    if prior.family != "flat":  # the prior pulls towards no effect
        low = np.minimum(low, -place.centre - 5.0 * place.spread)
        high = np.maximum(high, -place.centre + 5.0 * place.spread)
    return np.stack([low, high], axis=1)


def _warped(slow: LogDensity, spread: FloatArray, reach: FloatArray) -> tuple[LogDensity, BoolArray]:
    """Polynomials in ``asinh(x / spread)`` in place of a density with long tails, and the rows they serve."""
    rows = np.arange(len(spread))
    ends = np.arcsinh(reach / spread[:, None])
    stand_in, served = chebyshev(
        lambda some, z: slow(some, spread[some, None] * np.sinh(z)), rows, ends, _WARPED_POINTS
    )
    return lambda some, x: stand_in(some, np.arcsinh(x / spread[some, None])), served


def _located_difference(control: Located, treatment: Located, prior: Prior) -> Route:
    centre, spread = treatment.mean - control.mean, np.hypot(control.se, treatment.se)
    rows, moment = np.arange(len(centre)), np.zeros(len(centre))
    wide = control.reach(_LOCATED_DROP) * control.se + treatment.reach(_LOCATED_DROP) * treatment.se
    reach = np.stack([-wide, wide], axis=1)
    if prior.family != "flat":
        require_log_scale(control, treatment)
        slow = located_difference_with_prior(control, treatment, prior)
        marks = _scaled_landmarks(centre, prior, control.mean)
        reach = np.stack([np.minimum(-wide, -centre - 6.0 * spread), np.maximum(wide, -centre + 6.0 * spread)], axis=1)
        ends = support(
            slow, rows, np.sort(np.concatenate([_bent(reach, spread), -centre[:, None]], axis=1), axis=1), moment
        )
        return Route(centre, moment, resolve(slow, rows, first_breaks(ends, marks), moment))
    slow = located_difference(control, treatment)
    fast, served = _warped(slow, spread, reach)

    def density(some: IntArray, x: FloatArray) -> FloatArray:
        out, good = np.empty_like(x), served[some]
        for chosen, verb in ((good, fast), (~good, slow)):
            if chosen.any():
                out[chosen] = verb(some[chosen], x[chosen])
        return out

    ends = support(density, rows, _bent(reach, spread), moment)
    marks = np.concatenate([-centre[:, None], spread[:, None] * _BENDS], axis=1)
    return Route(centre, moment, resolve(density, rows, first_breaks(ends, marks), moment))


def _bent(ends: FloatArray, spread: FloatArray) -> FloatArray:
    """Points between `ends` that lie closer together around 0, shape (row, point)."""
    out: FloatArray = spread[:, None] * np.sinh(_between(np.arcsinh(ends / spread[:, None])))
    return np.clip(out, ends[:, :1], ends[:, 1:])


def _event_difference(control: Poisson, treatment: Poisson, prior: Prior) -> Route:
    rate_c, rate_t = ((arm.total + 0.5) / arm.units for arm in (control, treatment))
    spread = np.sqrt(rate_c / control.units + rate_t / treatment.units)
    centre = rate_t - rate_c
    rows, moment = np.arange(len(control)), np.zeros(len(control))
    density = poisson_difference(control, treatment, prior, centre)
    reach = np.stack(
        [np.minimum(-60.0 * spread, -centre - 30.0 * spread), np.maximum(60.0 * spread, -centre + 30.0 * spread)],
        axis=1,
    )
    points = [_between(reach), spread[:, None] * np.linspace(-9.0, 9.0, 19), -centre[:, None]]
    ends = support(density, rows, np.sort(np.concatenate(points, axis=1), axis=1), moment)
    pole = control.total + treatment.total == 0  # the density then says nothing about how far out it matters
    ends[pole] = reach[pole]
    marks = -centre[:, None] if prior.family == "flat" else _scaled_landmarks(centre, prior, rate_c)
    return Route(centre, moment, resolve(density, rows, first_breaks(ends, marks), moment))


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


def require_log_scale(control: NormalMean | Located, treatment: NormalMean | Located) -> None:
    """Raise where a ratio of the means has no meaning.

    Raises
    ------
    PosteriorError
        If a control mean is less than 5 standard errors above 0 (more with few units), or a treatment mean is not above 0.
    """
    least = _LEAST_CERTAINTY if isinstance(control, NormalMean) else control.certainty
    ok = (control.mean >= least * control.se * (1.0 - 1e-9)) & (treatment.mean > 0)
    if not ok.all():
        row = int(np.argmin(ok))
        raise PosteriorError(
            f"row {row}: a relative effect needs a control mean of at least {np.broadcast_to(least, ok.shape)[row]:.3g} standard errors and a treatment mean above 0; they are"
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
        middles.append((zero, np.minimum(0.2 * spread, 0.2 * min(scale for scale, _ in prior.parts))))
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
    """Log ratios at which a prior bends: its centre and, of Student-t's, points on the way out."""
    if prior.family in {"flat", "normal"}:
        return np.zeros(1)
    poles = np.sort(np.concatenate([scale * np.sqrt(prior.df) * _POLES for scale, _ in prior.parts]))
    kept = [float(poles[0])]
    for pole in poles.tolist():
        if pole >= _CLOSE * kept[-1]:
            kept.append(pole)
    ladder = np.array(kept)
    return np.concatenate([-ladder[::-1], np.zeros(1), ladder])
