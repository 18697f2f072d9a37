"""Log density of the log ratio of two means, before any prior on it.

The control's mean is integrated out: ``M(lam) = int L_c(m) L_t(m exp(lam)) J dm``. With a prior on lam the measure is dm (J = 1); without one the treatment has its own reference prior on
its mean and ``J = m exp(lam)``. Everything is a function of ``x = lam - centre``, so that means such as 1e9 +- 1 lose no digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from expnb.posterior.exact.arms import Binomial, BoolArray, FloatArray, IntArray, Located, NormalMean
from expnb.posterior.exact.grid import LogDensity
from expnb.spec.prior import Prior

CONTROL_FLOOR = 0.05
"""A Normal control mean is taken to be above this share of its estimate, at least 4.75 standard errors below it: without a floor the ratio of two normals has no mean."""

_NEAR = np.linspace(-6.0, 6.0, 15)  # curvatures; enough where the integrand is close to a bell
_MIDDLE = np.sinh(np.linspace(-2.85, 2.85, 29))  # reaches as far as ten successes and failures need
_FAR = np.sinh(np.linspace(-4.1, 4.1, 67))  # curvatures; reaches exponential tails
_MANY = 200  # successes and failures from which on an integrand is close to a bell
_FEW = 10  # below, only the slow way is safe
_SERIES_TOLERANCE = 1e-9
_BLOCK = 100_000


@dataclass(frozen=True, slots=True)
class Location:
    """Rough place of the log ratio in each row, all of shape (row,).

    Parameters
    ----------
    centre : ndarray
        ``x = 0`` in log ratio; exact, whatever its value.
    spread : ndarray
        Approximate standard deviation from the data alone.
    """

    centre: FloatArray
    spread: FloatArray


def locate_binomial(control: Binomial, treatment: Binomial) -> Location:
    """Log ratio of the rates, half a unit added to each cell."""
    (log_c, var_c), (log_t, var_t) = (_log_rate(arm) for arm in (control, treatment))
    return Location(log_t - log_c, np.sqrt(var_c + var_t))


def _log_rate(arm: Binomial) -> tuple[FloatArray, FloatArray]:
    successes, failures = arm.successes + 0.5, arm.failures + 0.5
    return np.log(successes / (arm.units + 1)), failures / (successes * (arm.units + 1))


def locate_normal(control: NormalMean | Located, treatment: NormalMean | Located) -> Location:
    """Log ratio of the means, which are above 0."""
    gap = (treatment.mean - control.mean) / control.mean
    near = np.abs(gap) < 0.5
    centre = np.where(near, np.log1p(np.where(near, gap, 0.0)), np.log(treatment.mean) - np.log(control.mean))
    return Location(centre, np.hypot(control.se / control.mean, treatment.se / treatment.mean))


def log_prior(prior: Prior, lam: FloatArray) -> FloatArray:
    """Log density of the prior on the log ratio, up to a constant, a point at no effect left out; 0 for the flat family."""
    return prior.log_density(lam)


# --- Normal means: closed form ----------------------------------------------------------------


def normal_marginal(control: NormalMean, treatment: NormalMean, *, flat: bool) -> LogDensity:
    """``log M`` of two Normal means, in closed form.

    The product of the likelihoods is a Normal in m times a factor; what is left is that Normal's mass above the control's floor or, without a prior on the ratio, its mean over that stretch [1]_.

    References
    ----------
    .. [1] Hinkley (1969), On the ratio of two correlated normal random variables.
    """
    rel_c, rel_t = control.se / control.mean, treatment.se / treatment.mean

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        a, b = rel_c[rows, None], rel_t[rows, None]
        growth = np.exp(x)
        var = b**2 + (growth * a) ** 2
        mode = (b**2 + growth * a**2) / var  # of the control mean, in units of its estimate
        width = a * b / np.sqrt(var)
        z = (mode - CONTROL_FLOOR) / width
        mass = _normal_cdf(z)
        size = (
            mode * mass + width * np.exp(-0.5 * np.minimum(z * z, 1400.0)) / math.sqrt(2.0 * math.pi) if flat else mass
        )
        out: FloatArray = -0.5 * np.expm1(x) ** 2 / var - 0.5 * np.log(var) + np.log(np.maximum(size, 1e-300))
        return out + x if flat else out

    return log_density


def _normal_cdf(z: FloatArray) -> FloatArray:
    """Standard Normal distribution function; exact 1 is not computed where it is plain."""
    out = np.ones_like(z)
    short = z < 8.5
    if short.any():
        out[short] = [0.5 * math.erfc(-v / math.sqrt(2.0)) for v in z[short].tolist()]
    return out


# --- conversions: one quadrature per point ----------------------------------------------------


def binomial_marginal(control: Binomial, treatment: Binomial, centre: FloatArray, *, flat: bool) -> LogDensity:
    """``log M`` of two rates, by quadrature over the control's rate.

    The larger of the two rates runs over (0, 1); its log odds are the variable of integration, so that the integrand is smooth even where a count is zero, and the trapezoidal rule
    converges exponentially [1]_. Nodes sit around the peak of the integrand of each point, hence the relative error is small however far out the point lies.

    References
    ----------
    .. [1] Trefethen, Weideman (2014), The exponentially convergent trapezoidal rule; Stenger (1993), Numerical methods based on sinc and analytic functions.
    """
    smallest = np.minimum.reduce([control.successes, control.failures, treatment.successes, treatment.failures])
    many, few = smallest >= _MANY, smallest < _FEW

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        out = np.empty_like(x)
        for chosen, nodes in ((many[rows], _NEAR), (~(many | few)[rows], _MIDDLE), (few[rows], _FAR)):
            for where in blocks(np.flatnonzero(chosen), x.shape[1] * len(nodes)):
                some = rows[where]
                parts = _RatePair.at(control.take(some), treatment.take(some), centre[some, None] + x[where], flat=flat)
                out[where] = parts.peak + (parts.bell() if nodes is _NEAR else parts.tails(nodes))
        return out

    return log_density


@dataclass(frozen=True, slots=True)
class _RatePair:
    """Integrand over the log odds y of the larger rate, all of shape (row, point).

    ``log f(y) = up * log p + down * log(1 - p) + other * log(1 - ratio * p)`` with ``p = 1 / (1 + exp(-y))``; `odds` is ``exp(y)`` at its peak, `gap` is 1 - ratio.
    """

    up: FloatArray
    down: FloatArray
    other: FloatArray
    gap: FloatArray
    odds: FloatArray
    peak: FloatArray

    @classmethod
    def at(cls, control: Binomial, treatment: Binomial, lam: FloatArray, *, flat: bool) -> _RatePair:
        rises = lam > 0  # the treatment has the larger rate
        fail_c, fail_t = control.failures[:, None], treatment.failures[:, None]
        size = -np.abs(lam)
        ratio, gap = np.exp(size), -np.expm1(size)
        up = (control.successes + treatment.successes)[:, None] + (2.0 if flat else 1.0) + np.zeros_like(lam)
        down = np.where(rises, fail_t, fail_c) + 1.0
        other = np.where(rises, fail_c, fail_t)
        powers = np.where(rises, control.successes[:, None], treatment.successes[:, None]) + (1.0 if flat else rises)
        # the peak solves a quadratic equation in its odds
        turn = down + other * ratio - up * gap
        root = np.sqrt(turn * turn + 4.0 * down * gap * up)
        high = turn < 0
        odds = np.where(high, root - turn, 2.0 * up) / np.where(high, 2.0 * down * gap, turn + root)
        small = ratio * odds / (1.0 + odds)
        lower = np.where(small < 0.5, np.log1p(-np.minimum(small, 0.5)), np.log1p(odds * gap) - np.log1p(odds))
        peak = powers * size - up * np.log1p(1.0 / odds) - down * np.log1p(odds) + other * lower
        return cls(up, down, other, gap, odds, peak)

    def _shape(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Two weights of the integrand, its width and its skewness at the peak."""
        first, second = self.odds / (1.0 + self.odds), self.odds * self.gap / (1.0 + self.odds * self.gap)
        total = self.up + self.down + self.other
        bend = total * first / (1.0 + self.odds)
        bend_other = self.other * second / (1.0 + self.odds * self.gap)
        width = 1.0 / np.sqrt(bend - bend_other)
        skew = (bend_other * (1.0 - 2.0 * second) - bend * (1.0 - 2.0 * first)) * width**3
        return first, second, width, skew

    def _sum(self, first: FloatArray, second: FloatArray, offset: FloatArray, weight: FloatArray) -> FloatArray:
        """Log of the weighted sum of the integrand at `offset` log odds from its peak, relative to the peak."""
        growth = np.expm1(offset)
        total = (self.up + self.down + self.other)[..., None]
        log_f = (
            self.up[..., None] * offset
            - total * np.log1p(first[..., None] * growth)
            + self.other[..., None] * np.log1p(second[..., None] * growth)
        )
        out: FloatArray = np.log(np.exp(log_f) @ weight)
        return out

    def bell(self) -> FloatArray:
        """Log integral where the integrand is close to a bell."""
        first, second, width, skew = self._shape()
        offset = width[..., None] * (_NEAR + skew[..., None] * (6.0**2 / 6.0))  # both ends drop alike
        return np.log(width) + self._sum(first, second, offset, np.ones(len(_NEAR)))

    def tails(self, nodes: FloatArray) -> FloatArray:
        """Log integral where the integrand may have exponential tails: a sinh opens up the middle."""
        first, second, width, _ = self._shape()
        offset = np.clip(width[..., None] * nodes, -600.0, 600.0)
        return np.log(width) + self._sum(first, second, offset, np.sqrt(1.0 + nodes**2))


def blocks(rows: IntArray, size: int) -> Iterator[IntArray]:
    """The rows a few at a time; each of them needs `size` values, which then stay in the processor's cache."""
    step = max(1, _BLOCK // size)
    for first in range(0, len(rows), step):
        yield rows[first : first + step]


# --- a faster stand-in where one polynomial will do --------------------------------------------


def chebyshev(log_density: LogDensity, rows: IntArray, ends: FloatArray, points: int) -> tuple[LogDensity, BoolArray]:
    """A polynomial in place of `log_density` for x within `ends`, shape (row, 2), and which rows it serves.

    `rows` must be sorted; the stand-in takes any of them. A row is served when the last coefficients are below 1e-9 [1]_.

    References
    ----------
    .. [1] Trefethen (2019), Approximation Theory and Approximation Practice, chapter 3.
    """
    angle = np.pi * (np.arange(points) + 0.5) / points
    middle, half = ends.mean(axis=1), 0.5 * (ends[:, 1] - ends[:, 0])
    value = log_density(rows, middle[:, None] + half[:, None] * np.cos(angle))
    series = value @ (np.cos(angle[:, None] * np.arange(points)) * 2.0 / points)
    series[:, 0] *= 0.5
    served = np.abs(series[:, -2:]).max(axis=1) < _SERIES_TOLERANCE

    def stand_in(wanted: IntArray, x: FloatArray) -> FloatArray:
        at = np.searchsorted(rows, wanted)
        t = (x - middle[at, None]) / half[at, None]
        twice, coefficients = 2.0 * t, series[at]
        ahead, current = np.zeros_like(x), np.zeros_like(x)
        for k in range(points - 1, 0, -1):
            ahead, current = current, twice * current - ahead + coefficients[:, k : k + 1]
        out: FloatArray = t * current - ahead + coefficients[:, :1]
        return out

    return stand_in, served
