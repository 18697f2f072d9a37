"""Effects of large samples without a prior on them, in closed form.

From some dozens of conversions on, the log ratio and the difference of two means are close to a bell. Their cumulants are sums of those of the arms (`cumulants`), and everything that is stated
follows from them (`edgeworth`): no nodes, a hundredth of the work, and the same figures to eight digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from expnb.posterior.exact import cumulants
from expnb.posterior.exact.arms import Arm, Binomial, FloatArray, IntArray, NormalMean, Poisson
from expnb.posterior.exact.edgeworth import Edgeworth
from expnb.posterior.exact.hdi import PROB
from expnb.posterior.exact.quantity import CHART_POINTS, Quantity

LARGEST_ERROR = 0.025
"""Of a Normal mean, as a share of it, up to which its logarithm is served; up to twice that near no effect."""

_OF_LOG_RATIO = ((20.0, 1.5, 8), (40.0, 3.0, 8), (200.0, math.inf, 8), (2_000.0, math.inf, 6))
_OF_DIFFERENCE = ((25.0, 1.5, 8), *_OF_LOG_RATIO[1:])
"""From so many conversions, and as many units without one, up to so many standard deviations from no effect, by so many cumulants: the error of a probability stays below 1e-6, and that of a loss below 1e-4 of it.

The series is an asymptotic one: with fewer conversions more cumulants make it worse.
"""

_REACH = 6.5  # standard deviations in a chart
_FAR = 37.0  # standard deviations beyond which no mass is left
_HALF = 1.959963984540054
_STEPS = 12
_SMALL = 1e-9
_TERMS = 7  # of the series of an exponential

Cumulants: TypeAlias = Callable[[Arm, Arm, int], FloatArray]


def log_ratio(control: Arm, treatment: Arm, order: int, *, flat: bool = True) -> FloatArray:
    """Cumulants of the log ratio of the means, shape (order, row).

    Parameters
    ----------
    flat : bool
        Whether each arm has its own reference prior; else the density is that before a prior on the log ratio, whose measure is that of the control's mean alone (see `ratio`).
    """
    first, second = _of_log(treatment, 1.0 if flat else 0.0, order), _of_log(control, 1.0, order)
    return cumulants.gap(first, second)


def difference(control: Arm, treatment: Arm, order: int) -> FloatArray:
    """Cumulants of the difference of the means, shape (order, row)."""
    return cumulants.gap(_of(treatment, order), _of(control, order))


def served(control: Arm, treatment: Arm, quantity: Cumulants) -> Iterator[tuple[IntArray, FloatArray]]:
    """Rows that are close enough to a bell, and the cumulants of their log ratio or difference; every row at most once."""
    size = np.minimum(_size(control, quantity), _size(treatment, quantity))
    kinds = _OF_DIFFERENCE if quantity is difference else _OF_LOG_RATIO
    limits = [*(least for least, _, _ in kinds[1:]), math.inf]
    for (least, farthest, order), limit in zip(kinds, limits, strict=True):
        rows = np.flatnonzero((size >= least) & (size < limit))
        if len(rows):
            found = quantity(control.take(rows), treatment.take(rows), order)
            near = np.abs(found[0]) <= farthest * np.sqrt(found[1])
            yield rows[near], found[:, near]


def _size(arm: Arm, quantity: Cumulants) -> FloatArray:
    """Conversions or events that are as close to a bell."""
    if isinstance(arm, Binomial):
        return np.minimum(arm.successes, arm.failures)
    if isinstance(arm, Poisson):
        return arm.total
    if isinstance(arm, NormalMean):
        if quantity is difference:
            return np.full(len(arm), _OF_DIFFERENCE[-1][0])
        error = np.where(arm.mean > 0, arm.se / np.where(arm.mean > 0, arm.mean, 1.0), np.inf)
        return np.select(
            [error <= LARGEST_ERROR, error <= 2.0 * LARGEST_ERROR], [_OF_LOG_RATIO[2][0], _OF_LOG_RATIO[1][0]], 0.0
        )
    return np.zeros(len(arm))


def _of_log(arm: Arm, own: float, order: int) -> FloatArray:
    if isinstance(arm, Binomial):
        return cumulants.of_log_rate(arm.successes + own, arm.failures + 1.0, order)
    if isinstance(arm, Poisson):
        out = cumulants.of_log_gamma(arm.total + own, order)
        out[0] -= np.log(arm.units)
        return out
    assert isinstance(arm, NormalMean)  # noqa: S101 - no other arm is served
    out = cumulants.of_log_normal_mean(arm.se / arm.mean, order)
    out[0] += np.log(arm.mean)
    return out


def _of(arm: Arm, order: int) -> FloatArray:
    if isinstance(arm, Binomial):
        return cumulants.of_rate(arm.successes + 1.0, arm.failures + 1.0, order)
    if isinstance(arm, Poisson):
        return cumulants.of_gamma(arm.total + 1.0, arm.units, order)
    assert isinstance(arm, NormalMean)  # noqa: S101 - no other arm is served
    out = np.zeros((order, len(arm)))
    out[0], out[1] = arm.mean, arm.se**2
    return out


def of_log_ratio(found: FloatArray, cuts: FloatArray, *, chart: bool) -> Quantity:
    """Summary of ``exp(x) - 1`` from the cumulants of x; `cuts` as in `exact.relative_effect`."""
    density = Edgeworth.of(found)
    orders = np.arange(1, len(found) + 1)[:, None]
    factorial = np.array([math.factorial(order) for order in range(1, len(found) + 1)])[:, None]
    growth = (found / factorial).sum(axis=0)  # log E[exp(x)]
    mean = np.expm1(growth)
    spread = np.expm1((found * 2.0**orders / factorial).sum(axis=0) - 2.0 * growth)
    low, high = _interval(density, density.sd)
    real = cuts > -1.0  # no ratio of positive means lies below
    at = np.where(real, np.log1p(np.where(real, cuts, 0.0)), -np.inf)
    loss, gain = _sides(density, density.z(np.zeros(1)), mean, density.sd)
    z = _chart(density, chart=chart)
    x = density.mean + density.sd * z
    return Quantity(
        mean=mean,
        sd=np.exp(growth) * np.sqrt(spread),
        hdi_low=np.expm1(density.mean + density.sd * low),
        hdi_high=np.expm1(density.mean + density.sd * high),
        p_above=_above(density, at),
        loss=loss,
        gain=gain,
        grid=np.expm1(x).T,
        density=(density.height(z) / density.sd * np.exp(-x)).T,
    )


def of_difference(found: FloatArray, cuts: FloatArray, *, chart: bool) -> Quantity:
    """Summary of x from its cumulants; `cuts` as in `exact.absolute_effect`."""
    density = Edgeworth.of(found)
    low, high = _interval(density, np.zeros_like(density.sd))
    loss, gain = _sides(density, density.z(np.zeros(1)), density.mean, np.zeros_like(density.sd))
    z = _chart(density, chart=chart)
    return Quantity(
        mean=density.mean,
        sd=density.sd,
        hdi_low=density.mean + density.sd * low,
        hdi_high=density.mean + density.sd * high,
        p_above=_above(density, cuts),
        loss=loss * density.sd,
        gain=gain * density.sd,
        grid=(density.mean + density.sd * z).T,
        density=(density.height(z) / density.sd).T,
    )


def _above(density: Edgeworth, x: FloatArray) -> FloatArray:
    z = np.clip(density.z(np.broadcast_to(x, (len(density.mean), np.shape(x)[-1])).T), -_FAR, _FAR)
    out: FloatArray = np.clip(1.0 - density.below(z), 0.0, 1.0).T
    return out


def _interval(density: Edgeworth, slope: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends of the shortest interval of ``exp(slope z)`` (of z where slope is 0) that holds 95 %, in z.

    Newton's method on equal mass and equal density at both ends; its start, a bell that leans by `slope`, is a few hundredths away.
    """
    z = np.stack([-_HALF - slope, _HALF - slope])
    for _ in range(_STEPS):
        mass, (log_height, rise) = density.below(z), density.log_slope(z)
        height = np.exp(log_height) / math.sqrt(2.0 * math.pi)
        log_height, rise = log_height - slope * z, rise - slope
        miss, gap = mass[1] - mass[0] - PROB, log_height[1] - log_height[0]
        det = height[1] * rise[0] - height[0] * rise[1]
        move = np.stack([gap * height[1] - miss * rise[1], gap * height[0] - miss * rise[0]]) / det
        z = z + np.clip(move, -0.5, 0.5)
        if np.abs(move).max() < _SMALL:
            break
    return z[0], z[1]


def _sides(density: Edgeworth, zero: FloatArray, mean: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``E[max(0, -effect)]`` and ``E[max(0, effect)]`` of ``exp(x) - 1``; with scale 0 of x, in standard deviations.

    The lesser of the two is a sum of repeated integrals of the tail, ``int (1 - exp(x)) f dx = int exp(x) F dx`` over x < 0, and the other follows from the mean.
    """
    bad = zero < 0  # more mass above no effect than below
    near = density.mirrored(~bad)
    tails = near.integrals(np.where(bad, zero, -zero), _TERMS if scale.any() else 1)
    factor = np.where(scale > 0, scale, 1.0)
    sign = np.where(bad, -1.0, 1.0)
    small = np.zeros_like(zero)
    for power, tail in enumerate(tails):
        small += tail * factor * (sign * scale) ** power
    small = np.maximum(small, 0.0)
    whole = np.where(scale > 0, mean, mean / density.sd)
    return np.where(bad, small, small - whole), np.where(bad, small + whole, small)


def _chart(density: Edgeworth, *, chart: bool) -> FloatArray:
    """Even points in z, shape (CHART_POINTS, row); none without a chart."""
    return np.linspace(-_REACH, _REACH, CHART_POINTS if chart else 0)[:, None] + np.zeros_like(density.mean)
