"""Effects of two arms that are bells of a kind, on one even grid per comparison.

On an even grid the density of a difference is one correlation of the arms' densities, and so is that of a log ratio once they stand on a logarithmic scale; a prior on the log ratio multiplies in. Sums over such a grid, and
what lies between its points, are exact for all that double precision says as soon as the grid is finer than the narrower arm [1]_: a twentieth of the work of following each density with panels.

References
----------
.. [1] Stenger (1993), Numerical methods based on sinc and analytic functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, Self, TypeAlias, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from expnb.posterior.exact.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean, Poisson
from expnb.posterior.exact.hdi import PROB, shortest_interval
from expnb.posterior.exact.quantity import CHART_POINTS, Quantity
from expnb.spec.prior import Prior

LEAST_COUNT = 5
"""Conversions or events, and units without one, from which on an arm is served."""
LARGEST_ERROR = 0.1
"""Of a Normal mean, as a share of it, up to which its logarithm is served."""

_DROP = 32.0  # exp(-32) = 1e-14: what lies below that share of an arm's peak is left out
_KINDS = ((32, 150.0, 0.55), (64, 25.0, 0.40), (128, 10.0, 0.30), (256, 5.0, 0.30))
"""Points per arm, the smallest counts they serve, and the widest step in standard deviations of the narrower arm: few counts lean, and what leans needs a finer grid."""
_UNEQUAL = (((24, 72), 150.0, 0.7, 0.26), ((56, 128), 10.0, 0.5, 0.26))
"""Of arms of which one is much narrower: points of that one and of the effect, the smallest counts they serve, and the widest steps in standard deviations of that one and of the effect."""
_EVEN = 0.15  # of the distance at which a prior bends: up to this step no finer points are needed
_COARSEST = 0.35  # standard deviations of the likelihood
_MEANS_POINTS = 48, 96  # of the log ratio of two Normal means, where it is a bell and where it leans
_POINTS = 72  # of a density under a prior
_MORE_POINTS = 96  # under one of several scales, the smallest of which sets where the points lie close
_RUNG = 0.2  # steps
_MATTERS = 1e-11  # of the peak
_FINEST = 1e-7  # share of the peak of the likelihoods that a prior may pull to
_REACH = 6.5  # standard deviations in a chart
_FEW_ROWS = 64
_MOST = 600.0  # logarithm of a mean over its estimate
_CHUNK = 1024  # rows at a time, so that they stay in the processor's cache
_HALF = 1.959963984540054
_STEPS = 14
_SMALL = 1e-4  # standard deviations; the next step is about the square of this one
_LEVEL = 1e-3  # of a mass, or of a log density, before the last step
_LEAST = 1e-300
_VANISHED = math.exp(-_DROP)
_NOTHING = 1e-15  # a mean as a share of its estimate


Looked: TypeAlias = tuple[FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]
Taken = TypeVar("Taken", bound="HasRows")


class HasRows(Protocol):
    """One thing per row."""

    def take(self, rows: IntArray) -> Self:
        """The things of `rows` only."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What an even grid of v stands for: ``centre + v``, or ``bend sinh(v)`` where a prior bends at that distance from no effect.

    Parameters
    ----------
    centre, bend : ndarray, shape (row,)
        `bend` is None where v is not bent.
    """

    centre: FloatArray
    bend: FloatArray | None = None

    def take(self, rows: IntArray) -> Scale:
        """The scales of `rows` only."""
        return Scale(self.centre[rows], None if self.bend is None else self.bend[rows])

    def of(self, v: FloatArray) -> FloatArray:
        """Log ratio or difference at v, shape (row, any)."""
        if self.bend is None:
            return self.centre[:, None] + v
        growth = np.exp(v)  # NumPy's sinh, arcsinh and hypot take several times as long as what is written out here
        out: FloatArray = (0.5 * self.bend)[:, None] * (growth - 1.0 / growth)
        return out

    def v(self, x: FloatArray) -> FloatArray:
        """What v is at a log ratio or difference, shape (row, any)."""
        if self.bend is None:
            return x - self.centre[:, None]
        far = np.abs(x) / self.bend[:, None]
        out: FloatArray = np.copysign(np.log(far + np.sqrt(far * far + 1.0)), x)
        return out

    def stretch(self, x: FloatArray) -> tuple[FloatArray | float, FloatArray | float]:
        """How fast what v stands for changes with v where it is x, and the slope of the logarithm of that."""
        if self.bend is None:
            return 1.0, 0.0
        stretch = np.sqrt(x * x + (self.bend * self.bend)[:, None])
        return stretch, x / stretch


@dataclass(frozen=True, slots=True)
class Samples:
    """A density per row at even points.

    Parameters
    ----------
    start, step : ndarray, shape (row,)
        First point, and how far apart they are.
    density : ndarray, shape (row, point)
    """

    start: FloatArray
    step: FloatArray
    density: FloatArray

    @property
    def v(self) -> FloatArray:
        """Points, shape (row, point)."""
        return self.start[:, None] + self.step[:, None] * np.arange(self.density.shape[1])

    def take(self, rows: IntArray) -> Samples:
        """The densities of `rows` only."""
        return Samples(self.start[rows], self.step[rows], self.density[rows])

    def normalised(self) -> Samples:
        """The same with mass 1."""
        total = self.density.sum(axis=1) * self.step
        return Samples(self.start, self.step, self.density / total[:, None])

    def mean_sd(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of v, each of shape (row,), where the mass is 1."""
        v = self.v
        mean = self.integrate(v)
        return mean, np.sqrt(self.integrate((v - mean[:, None]) ** 2))

    def integrate(self, values: FloatArray) -> FloatArray:
        """Integral of `values` times the density, shape (row,)."""
        out: FloatArray = np.einsum("rk,rk->r", values, self.density) * self.step
        return out


@dataclass(frozen=True, slots=True)
class Integral:
    """The integral, up to any v, of what is given at even points: by sinc functions at the points [1]_, and by the polynomial through it and three derivatives at both neighbours between them.

    Parameters
    ----------
    start, step : ndarray, shape (row,)
    table : ndarray, shape (row, point, 4)
        The integral and its derivatives, in steps.
    """

    start: FloatArray
    step: FloatArray
    table: FloatArray

    @classmethod
    def of(cls, these: Samples) -> Integral:
        """Of the density of `these`."""
        rows, points = these.density.shape
        table = (these.density * these.step[:, None]) @ _to_table(points)
        return cls(these.start, these.step, table.reshape(rows, points, 4))

    def take(self, rows: IntArray) -> Integral:
        """The integrals of `rows` only."""
        return Integral(self.start[rows], self.step[rows], self.table[rows])

    def at(self, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Integral up to v, and its first two derivatives there, for v of shape (row, any)."""
        terms, t = self._polynomials(v)
        value, slope, bend = terms[7], np.zeros_like(t), np.zeros_like(t)
        for term in terms[6::-1]:
            bend *= t
            bend += slope
            slope *= t
            slope += value
            value *= t
            value += term
        step = self.step[:, None]
        return value, slope / step, 2.0 * bend / step**2

    def slope(self, v: FloatArray) -> FloatArray:
        """The first derivative alone."""
        terms, t = self._polynomials(v)
        slope: FloatArray = 7.0 * terms[7]
        for power in range(6, 0, -1):
            slope *= t
            slope += power * terms[power]
        slope /= self.step[:, None]
        return slope

    def _polynomials(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coefficients of the polynomial that holds at v, shape (power, row, any), and how many steps v lies from where it begins."""
        rows, points, _ = self.table.shape
        left, t = _neighbours((v - self.start[:, None]) / self.step[:, None], points)
        point = (left + points * np.arange(rows)[:, None]).ravel()
        known = self.table.reshape(-1, 4).take(np.stack([point, point + 1], axis=1), axis=0).reshape(-1, 8)
        return (_TO_POLYNOMIAL @ known.T).reshape(8, *t.shape), t


@dataclass(frozen=True, slots=True)
class Curve:
    """The density of a log ratio or difference at even points of v, and its integral.

    Parameters
    ----------
    these : Samples
        Densities of v, normalised to 1.
    scale : Scale
        What v stands for.
    mean, sd : ndarray, shape (row,)
        Of v.
    mass : Integral
        Of the density.
    x, effect : ndarray, shape (row, point)
        Log ratios or differences at the points, and the effects that they are.
    to_none : ndarray, shape (row, point)
        What sums up values at the points to the integral, up to no effect, of values times the density.
    single : ndarray, shape (row,)
        Whether the density of the effect has one peak.
    """

    these: Samples
    scale: Scale
    mean: FloatArray
    sd: FloatArray
    mass: Integral
    x: FloatArray
    effect: FloatArray
    to_none: FloatArray
    single: BoolArray

    @classmethod
    def of(cls, these: Samples, scale: Scale, *, log_scale: bool) -> Curve:
        """The curve through `these`, which need not be normalised."""
        these = these.normalised()
        x = scale.of(these.v)
        effect = np.expm1(x) if log_scale else x
        height = these.density / scale.stretch(x)[0]
        single = _is_single(height / (1.0 + effect) if log_scale else height)
        mean, sd = these.mean_sd()
        return cls(these, scale, mean, sd, Integral.of(these), x, effect, _to_none(these, scale), single)

    def take(self, rows: IntArray) -> Curve:
        """The curves of `rows` only."""
        parts = self.these.take(rows), self.scale.take(rows), self.mean[rows], self.sd[rows], self.mass.take(rows)
        return Curve(*parts, self.x[rows], self.effect[rows], self.to_none[rows], self.single[rows])

    @property
    def breaks(self) -> FloatArray:
        """Where the density begins and ends to matter, shape (row, 2)."""
        ends = np.stack(_stretch(self.these.density, _MATTERS), axis=1)
        breaks: FloatArray = self.scale.of(self.these.start[:, None] + self.these.step[:, None] * ends)
        return breaks

    @property
    def mode(self) -> FloatArray:
        """Where v is likeliest, among the points, shape (row, 1)."""
        place = self.these.density.argmax(axis=1)
        mode: FloatArray = (self.these.start + self.these.step * place)[:, None]
        return mode

    def ladder(self) -> tuple[FloatArray, FloatArray]:
        """Log ratios or differences and the mass below each, both of shape (row, any)."""
        v = self.these.start[:, None] + self.these.step[:, None] * np.arange(0.0, self.these.density.shape[1], _RUNG)
        return self.scale.of(v), np.clip(self.mass.at(v)[0], 0.0, 1.0)

    def at(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mass below log ratios or differences and density there, for x of shape (row, any)."""
        v = self.scale.v(x)
        mass, density, _ = self.mass.at(v)
        last = self.these.start + self.these.step * (self.these.density.shape[1] - 1)
        before, after = v < self.these.start[:, None], v > last[:, None]
        mass = np.where(before, 0.0, np.where(after, 1.0, np.clip(mass, 0.0, 1.0)))
        return mass, np.where(before | after, 0.0, np.maximum(density, 0.0)) / self.scale.stretch(x)[0]

    def below_none(self, values: FloatArray) -> FloatArray:
        """Integral up to no effect, shape (row,), of `values` at the points times the density."""
        out: FloatArray = np.einsum("rk,rk->r", self.to_none, values)
        return out


def _to_none(these: Samples, scale: Scale) -> FloatArray:
    """As in `Curve`."""
    rows, points = these.density.shape
    left, t = _neighbours((scale.v(np.zeros((rows, 1)))[:, 0] - these.start) / these.step, points)
    weights = (np.vander(t, 8, increasing=True) @ _TO_POLYNOMIAL) @ _beside(points)
    own = sliding_window_view(weights, points, axis=1)[np.arange(rows), points - 1 - left]
    out: FloatArray = own * these.density * these.step[:, None]
    return out


def _is_single(height: FloatArray) -> BoolArray:
    """Whether a density has one peak, shape (row,)."""
    rises = height[:, 1:] > height[:, :-1]
    high = height > 1e-7 * height.max(axis=1, keepdims=True)
    matters = high[:, 1:] | high[:, :-1]
    turns = (matters[:, 1:] & matters[:, :-1] & ~rises[:, :-1] & rises[:, 1:]).any(axis=1)
    single: BoolArray = ~turns
    return single


def _neighbours(place: FloatArray, points: int) -> tuple[IntArray, FloatArray]:
    """The point left of a place, which is counted in steps from the first of so many points, and how far the place lies from it."""
    place = np.clip(place, 0.0, points - 1.0)
    left: IntArray = np.minimum(place.astype(np.intp), points - 2)
    return left, place - left


def _stretch(density: FloatArray, share: float) -> tuple[IntArray, IntArray]:
    """First and last point at which a density is more than a share of its peak, each of shape (row,)."""
    kept = density > density.max(axis=1, keepdims=True) * share
    first: IntArray = np.maximum(kept.argmax(axis=1) - 1, 0)
    last: IntArray = np.minimum(kept.shape[1] - kept[:, ::-1].argmax(axis=1), kept.shape[1] - 1)
    return first, last


@cache
def _to_table(points: int) -> FloatArray:
    """Values at even points -> integral up to each, value, slope and second derivative there, in steps; shape (point, 4 * point)."""
    d = np.arange(points)[None, :] - np.arange(points)[:, None]
    return np.moveaxis(_sinc(d), 0, 2).reshape(points, 4 * points)


@cache
def _beside(points: int) -> FloatArray:
    """The same of two points side by side, the first of which lies points - 1, points - 2, … 1 - points steps above; shape (8, 2 * points - 1)."""
    d = points - 1 - np.arange(2 * points - 1)
    return np.concatenate([_sinc(d), _sinc(d + 1)])


def _sinc(d: IntArray) -> FloatArray:
    """Of sinc functions, so many steps above their points: ``1/2 + Si(pi d) / pi``, 1 at d = 0, ``(-1)**d / d`` and ``-2 (-1)**d / d**2`` (``-pi**2 / 3`` at d = 0); shape (4, …)."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    steps = np.arange(np.abs(d).max())
    halves = (np.sinc(steps[:, None] + 0.5 + 0.5 * nodes) @ weights) * 0.5  # of sinc over each step
    up_to = np.concatenate([[0.5], 0.5 + np.cumsum(halves)])
    far = np.where(d == 0, 1, d)
    sign = np.where(d % 2 == 0, 1.0, -1.0)
    parts = [
        np.where(d >= 0, up_to[np.abs(d)], 1.0 - up_to[np.abs(d)]),
        np.where(d == 0, 1.0, 0.0),
        np.where(d == 0, 0.0, sign / far),
        np.where(d == 0, -(math.pi**2) / 3.0, -2.0 * sign / far**2),
    ]
    return np.stack(parts)


def _to_polynomial() -> FloatArray:
    """Value and three derivatives at 0 and at 1 -> coefficients of the polynomial that has them, shape (8, 8)."""
    powers = np.arange(8)
    rows = []
    for at in (0.0, 1.0):
        for order in range(4):
            factor = np.array([math.perm(int(power), order) for power in powers], dtype=np.float64)
            rows.append(factor * np.where(powers >= order, at ** np.maximum(powers - order, 0), 0.0))
    return np.linalg.inv(np.array(rows))


_TO_POLYNOMIAL = _to_polynomial()


# --- arms on a grid -----------------------------------------------------------------------------


def size_of(arm: Arm) -> FloatArray:
    """Conversions or events that are as close to a bell, shape (row,)."""
    if isinstance(arm, Binomial):
        return np.minimum(arm.successes, arm.failures)
    if isinstance(arm, Poisson):
        return arm.total
    if isinstance(arm, NormalMean):
        error = np.where(arm.mean > 0, arm.se / np.where(arm.mean > 0, arm.mean, 1.0), np.inf)
        return np.where(error <= LARGEST_ERROR, 1.0 / error**2, 0.0)
    return np.zeros(len(arm))


def peak_of(arm: Arm) -> tuple[FloatArray, FloatArray]:
    """Estimate of the mean and how far from it the likelihood falls by half a unit, both of shape (row,)."""
    if isinstance(arm, Binomial):
        rate = arm.successes / arm.units
        return rate, np.sqrt(rate * (1.0 - rate) / arm.units)
    if isinstance(arm, Poisson):
        return arm.total / arm.units, np.sqrt(arm.total) / arm.units
    assert isinstance(arm, NormalMean)  # noqa: S101 - no other arm is served
    return arm.mean, arm.se


def log_likelihood(arm: Arm, share: FloatArray, log: FloatArray | None) -> FloatArray:
    """Log likelihood, less its peak, where the mean is ``1 + share`` times its estimate, and `log` the logarithm of that if it is known; shape (row, point)."""
    if isinstance(arm, NormalMean):
        return -0.5 * (share * (arm.mean / arm.se)[:, None]) ** 2
    log = np.log1p(share) if log is None else log
    if isinstance(arm, Poisson):
        return arm.total[:, None] * (log - share)
    assert isinstance(arm, Binomial)  # noqa: S101 - no other arm is served
    left = np.maximum(1.0 - (arm.successes / arm.failures)[:, None] * share, _LEAST)
    return arm.successes[:, None] * log + arm.failures[:, None] * np.log(left)


def _correlated(
    control: Arm, treatment: Arm, points: int, *, log_scale: bool, flat: bool
) -> tuple[Samples, FloatArray]:
    """Density of the log ratio, or of the difference, of the means less its rough place; and that place, shape (row,).

    Parameters
    ----------
    points : int
        Per arm.
    flat : bool
        Whether each arm has its own reference prior; else the density is that before a prior on the log ratio, whose measure is that of the control's mean alone (see `ratio`).
    """
    grids, ends = [], [_ends(arm, log_scale=log_scale) for arm in (control, treatment)]
    step = np.maximum(*(high - low for low, high in ends)) / (points - 1)
    starts = [0.5 * (low + high - (points - 1) * step) for low, high in ends]
    for arm, start, own in zip((control, treatment), starts, (1.0, float(flat)), strict=True):
        at = start[:, None] + step[:, None] * np.arange(points)
        grids.append(np.fft.rfft(_density(arm, at, own, log_scale=log_scale), 2 * points, axis=1))
    found = np.fft.irfft(np.conj(grids[0]) * grids[1], 2 * points, axis=1)
    density = np.maximum(np.concatenate([found[:, points + 1 :], found[:, :points]], axis=1), 0.0)
    inside = np.flatnonzero((density > density.max(axis=1, keepdims=True) * _VANISHED).any(axis=0))
    first, last = inside[0], inside[-1]
    start = starts[1] - starts[0] + (first - points + 1) * step
    return Samples(start, step, density[:, first : last + 1]), _place(control, treatment, log_scale=log_scale)


def _summed(
    control: Arm, treatment: Arm, points: tuple[int, int], *, log_scale: bool, flat: bool
) -> tuple[Samples, FloatArray]:
    """The same for arms of which one is much narrower, summed over as many points of that one, at as many points of the effect."""
    (low_c, high_c), (low_t, high_t) = (_ends(arm, log_scale=log_scale) for arm in (control, treatment))
    start, end = low_t - high_c, high_t - low_c
    step = (end - start) / (points[1] - 1)
    effect = start[:, None] + step[:, None] * np.arange(points[1])
    by_control = high_c - low_c < high_t - low_t
    low, high = np.where(by_control, low_c, low_t), np.where(by_control, high_c, high_t)
    at = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, points[0])
    density = np.empty_like(effect)
    for rows, narrow, wide, sign, owns in (
        (np.flatnonzero(by_control), control, treatment, 1.0, (1.0, float(flat))),
        (np.flatnonzero(~by_control), treatment, control, -1.0, (float(flat), 1.0)),
    ):
        beside = (at[rows][:, :, None] + sign * effect[rows][:, None, :]).reshape(len(rows), points[0] * points[1])
        weight = _density(narrow.take(rows), at[rows], owns[0], log_scale=log_scale)
        other = _density(wide.take(rows), beside, owns[1], log_scale=log_scale).reshape(len(rows), *points)
        density[rows] = np.einsum("rq,rqk->rk", weight, other)
    return Samples(start, step, density), _place(control, treatment, log_scale=log_scale)


def _of_means(control: NormalMean, treatment: NormalMean) -> Iterator[tuple[IntArray, Samples]]:
    """Some rows at a time with the density of the log ratio of two Normal means less that of their estimates, before a prior on it, on no more points than it needs."""
    error_c, error_t = (arm.se / arm.mean for arm in (control, treatment))
    lost_c, lost_t = 2.0 * _DROP * error_c**2, 2.0 * _DROP * error_t**2
    reach = np.sqrt(lost_c + lost_t - lost_c * lost_t)
    low, high = (np.log1p((lost_c + side) / (1.0 - lost_c)) for side in (-reach, reach))  # where it has vanished
    few, more = _MEANS_POINTS
    lean = high - low > (few - 1) * _COARSEST * np.hypot(error_c, error_t)
    for points, chosen in ((few, ~lean), (more, lean)):
        for some in chunks(np.flatnonzero(chosen), _CHUNK):
            start, step = low[some], (high - low)[some] / (points - 1)
            x = start[:, None] + step[:, None] * np.arange(points)
            yield some, Samples(start, step, _ratio_of_means(control.take(some), treatment.take(some), x))


def _ratio_of_means(control: NormalMean, treatment: NormalMean, x: FloatArray) -> FloatArray:
    """That density at x, up to a constant, shape (row, point); the control's mean is integrated out [1]_.

    References
    ----------
    .. [1] Hinkley (1969), On the ratio of two correlated normal random variables.
    """
    share = np.expm1(x)
    error_c, error_t = ((arm.se / arm.mean)[:, None] for arm in (control, treatment))
    variance = ((1.0 + share) * error_c) ** 2 + error_t**2
    out: FloatArray = np.exp(-0.5 * share * share / variance) / np.sqrt(variance)
    return out


def _density(arm: Arm, at: FloatArray, own: float, *, log_scale: bool) -> FloatArray:
    """Of the logarithm of an arm's mean, or of the mean, `at` so far from its estimate; `own` is 1 where the measure is that of the mean, 0 where it is that of its logarithm."""
    if log_scale:
        log = np.minimum(at, _MOST)
        log_density = log_likelihood(arm, np.expm1(log), log)
        if own:
            log_density += log
    else:
        share = np.maximum(at / peak_of(arm)[0][:, None], _NOTHING - 1.0)
        log_density = log_likelihood(arm, share, None)
        if not own:  # a density of the mean is that of its logarithm over it
            log_density -= np.log1p(share)
    out: FloatArray = np.exp(log_density)
    return out


def _ends(arm: Arm, *, log_scale: bool) -> tuple[FloatArray, FloatArray]:
    """Where the likelihood of an arm has vanished on either side of its peak, in logs or in units; that of few counts is wider than a bell on the left of the one and on the right of the other."""
    mean, sd = peak_of(arm)
    if isinstance(arm, NormalMean):
        reach = math.sqrt(2.0 * _DROP) * sd
        return (np.log1p(-reach / mean), np.log1p(reach / mean)) if log_scale else (-reach, reach)
    far = _DROP / (arm.successes if isinstance(arm, Binomial) else arm.total)  # type: ignore[union-attr]
    low, high = -np.sqrt(2.0 * far) - far, np.sqrt(2.0 * far) + far
    return (low, np.log1p(high)) if log_scale else (np.expm1(low) * mean, high * mean)


def _place(control: Arm, treatment: Arm, *, log_scale: bool) -> FloatArray:
    (mean_c, _), (mean_t, _) = peak_of(control), peak_of(treatment)
    gap = mean_t - mean_c
    if not log_scale:
        return gap
    near = np.abs(gap) < 0.5 * mean_c
    return np.where(near, np.log1p(np.where(near, gap / mean_c, 0.0)), np.log(mean_t / mean_c))


def _standing(
    control: Arm, treatment: Arm, left: BoolArray, *, log_scale: bool, flat: bool
) -> Iterator[tuple[IntArray, Samples, FloatArray]]:
    """Rows that are `left` and served, some at a time, with their densities before a prior and where these lie; every row at most once."""
    size = np.minimum(size_of(control), size_of(treatment))
    rows = np.flatnonzero(left & (size >= LEAST_COUNT))
    rows = rows[np.argsort(size[rows], kind="stable")]  # neighbours go the same ways
    if not len(rows):
        return
    if log_scale and not flat and isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        means = control.take(rows), treatment.take(rows)
        place = _place(*means, log_scale=True)
        yield from ((rows[some], these, place[some]) for some, these in _of_means(*means))
        return
    arms = control.take(rows), treatment.take(rows)
    ends = [_ends(arm, log_scale=log_scale) for arm in arms]
    widths = np.stack([high - low for low, high in ends])
    errors = np.stack([sd / (mean if log_scale else 1.0) for mean, sd in map(peak_of, arms)])
    width, narrow = widths.max(axis=0), errors.min(axis=0)
    done = np.zeros(len(rows), dtype=np.bool_)
    for points, least, widest in _KINDS:
        good = ~done & (size[rows] >= least) & (width <= (points - 1) * widest * narrow)
        done |= good
        for some in chunks(rows[good], _CHUNK):
            own = control.take(some), treatment.take(some)
            yield some, *_correlated(*own, points, log_scale=log_scale, flat=flat)
    finer = np.take_along_axis(errors, widths.argmin(axis=0)[None], axis=0)[0]
    for both, least, fine, coarse in _UNEQUAL:
        good = ~done & (size[rows] >= least) & (widths.min(axis=0) <= (both[0] - 1) * fine * finer)
        good &= widths.sum(axis=0) <= (both[1] - 1) * coarse * np.hypot(*errors)
        done |= good
        for some in chunks(rows[good], _FEW_ROWS):
            own = control.take(some), treatment.take(some)
            yield some, *_summed(*own, both, log_scale=log_scale, flat=flat)


def chunks(rows: IntArray, most: int) -> Iterator[IntArray]:
    """The rows, at most so many at a time."""
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


# --- effects ------------------------------------------------------------------------------------


def curves(
    control: Arm, treatment: Arm, prior: Prior, left: BoolArray, *, log_scale: bool
) -> Iterator[tuple[IntArray, Curve]]:
    """Rows that are `left` and served, and their log ratios, or differences without a prior; every row at most once."""
    flat = prior.family == "flat"
    for rows, these, place in _standing(control, treatment, left, log_scale=log_scale, flat=flat):
        if flat:
            yield rows, Curve.of(these, Scale(place), log_scale=log_scale)
            continue
        bend = _bend_of(prior)
        even = these.step < _EVEN * bend
        for some, bent in ((np.flatnonzero(even), None), (np.flatnonzero(~even), bend)):
            if not len(some):
                continue
            own = these.take(some), place[some], prior
            if bent is None:
                made, scale, ok = _on_the_same_points(*own)
            else:
                arms = control.take(rows[some]), treatment.take(rows[some])
                made, scale, ok = _on_bent_points(*own, bent, _between(*arms, own[0]))
            good = np.flatnonzero(ok)
            if len(good):
                yield rows[some[good]], Curve.of(made.take(good), scale.take(good), log_scale=log_scale)


def _between(control: Arm, treatment: Arm, these: Samples) -> Callable[[FloatArray], FloatArray]:
    """The density of `these` between its points."""
    if isinstance(control, NormalMean) and isinstance(treatment, NormalMean):
        return partial(_ratio_of_means, control, treatment)
    return Integral.of(these).slope


def _on_the_same_points(these: Samples, place: FloatArray, prior: Prior) -> tuple[Samples, Scale, BoolArray]:
    """The density of the log ratio under a prior that hardly bends from point to point; and the rows in which the data leave something of what the prior expects."""
    expected = prior.density(place[:, None] + these.v)
    density = these.density * expected
    ok: BoolArray = density.sum(axis=1) > _FINEST * these.density.max(axis=1) * expected.sum(axis=1)
    return Samples(these.start, these.step, density), Scale(place), ok


def _on_bent_points(
    these: Samples, place: FloatArray, prior: Prior, bend: float, between: Callable[[FloatArray], FloatArray]
) -> tuple[Samples, Scale, BoolArray]:
    """The same on points that lie closer together where the prior bends; `between` says what the density of `these` is there."""
    first, last = _stretch(these.density, _VANISHED)
    scale = Scale(place, np.full(len(place), bend))
    ends = [np.arcsinh((place + these.start + these.step * end) / bend) for end in (first, last)]
    points = _POINTS if len(prior.parts) == 1 else _MORE_POINTS
    step = (ends[1] - ends[0]) / (points - 1)
    v = ends[0][:, None] + step[:, None] * np.arange(points)
    lam = scale.of(v)
    likelihood = np.maximum(between(lam - place[:, None]), 0.0)
    expected = prior.density(lam) * scale.stretch(lam)[0]
    density = likelihood * expected
    # where the data lie, the points must still be close enough for what the data say
    middle, spread = these.normalised().mean_sd()
    ok: BoolArray = step * np.hypot(place + middle, bend) < _COARSEST * spread
    ok &= density.sum(axis=1) > _FINEST * likelihood.max(axis=1) * expected.sum(axis=1)
    return Samples(ends[0], step, density), scale, ok


def _bend_of(prior: Prior) -> float:
    """Distance from no effect at which a prior bends: of a Student-t, that of its poles from the real line."""
    if prior.family == "normal":
        return 3.0 * prior.scale
    return min(scale for scale, _ in prior.parts) * math.sqrt(prior.df)


def effects(curve: Curve, cuts: FloatArray, *, log_scale: bool, chart: bool) -> Quantity:
    """What is stated of ``exp(x) - 1``, or of x itself, from the density of x.

    Parameters
    ----------
    cuts : ndarray, shape (row, cut) or (cut,)
        Unit of the effect.
    """
    these, scale = curve.these, curve.scale
    effect = curve.effect
    mean = these.integrate(effect)
    cuts = np.broadcast_to(cuts, (len(mean), cuts.shape[-1]))
    real = cuts > -1.0 if log_scale else np.ones_like(cuts, dtype=np.bool_)
    below = curve.at(np.log1p(np.where(real, cuts, 0.0)) if log_scale else cuts)[0]
    loss = np.maximum(-curve.below_none(effect), 0.0)
    low, high = _interval(curve, log_scale=log_scale)
    v = curve.mean[:, None] + curve.sd[:, None] * np.linspace(-_REACH, _REACH, CHART_POINTS if chart else 0)
    points = scale.of(v)
    density = curve.at(points)[1] if chart else v
    return Quantity(
        mean=mean,
        sd=np.sqrt(these.integrate((effect - mean[:, None]) ** 2)),
        hdi_low=np.expm1(low) if log_scale else low,
        hdi_high=np.expm1(high) if log_scale else high,
        p_above=np.where(real, 1.0 - below, 1.0),
        loss=loss,
        gain=np.maximum(mean + loss, 0.0),
        grid=np.expm1(points) if log_scale else points,
        density=density * np.exp(-points) if log_scale else density,
    )


def _interval(curve: Curve, *, log_scale: bool) -> tuple[FloatArray, FloatArray]:
    """Ends of the shortest interval of the effect that holds 95 %, in x, by Newton's method on equal mass and equal density; the sure way where that does not arrive, or where there are two peaks."""

    def look(some: Curve, v: FloatArray) -> Looked:
        mass, density, slope = some.mass.at(v)
        x = some.scale.of(v)
        stretch, change = some.scale.stretch(x)
        density = np.maximum(density, _LEAST)
        height, rise = np.log(density / stretch), slope / density - change
        if log_scale:
            height, rise = height - x, rise - stretch
        return mass, density, height, rise, np.ones(len(v), dtype=np.bool_)

    ends = curve.mean[:, None] + curve.sd[:, None] * np.array([-_HALF, _HALF])
    ends, done = even_ends(curve, look, ends, curve.sd, small=_SMALL, steps=_STEPS)
    low, high = curve.scale.of(ends).T
    slow = np.flatnonzero(~(done & curve.single))
    if len(slow):
        low[slow], high[slow] = shortest_interval(curve.take(slow), log_scale=log_scale)
    return low, high


def even_ends(
    these: Taken,
    look: Callable[[Taken, FloatArray], Looked],
    ends: FloatArray,
    width: FloatArray,
    *,
    small: float,
    steps: int,
) -> tuple[FloatArray, BoolArray]:
    """Ends between which 95 % lie and at which the effect is equally likely, shape (row, 2), by Newton's method; and in which rows it arrived.

    Parameters
    ----------
    these : Curve, or what can be taken row by row like it
    look : callable
        Of some of `these` and their ends: mass below, density, log density of the effect and its slope there, each of shape (row, 2), and the rows in which they could be found.
    ends : ndarray, shape (row, 2)
        To begin with.
    width : ndarray, shape (row,)
        Standard deviations; a step is at most half of one, and the last one smaller than `small` of one.
    """
    ends, done, left = ends.copy(), np.zeros(len(ends), dtype=np.bool_), np.arange(len(ends))
    for _ in range(steps):
        own = width[left, None]
        mass, density, height, rise, ok = look(these, ends[left])
        move = _newton_step(mass, density, height, rise)
        ends[left] += np.clip(move, -0.5 * own, 0.5 * own)
        near = (np.abs(move) < small * own).all(axis=1)
        done[left[near & ok & _is_interval(mass, height, rise)]] = True
        if near.any():
            keep = np.flatnonzero(~near)
            left, these = left[keep], these.take(keep)
        if not len(left):
            break
    return ends, done


def _newton_step(mass: FloatArray, density: FloatArray, height: FloatArray, rise: FloatArray) -> FloatArray:
    """Towards both ends of the shortest interval: equal `height` (log density of the effect, `rise` its slope) there, and 95 % between; all of shape (row, 2)."""
    miss, gap = mass[:, 1] - mass[:, 0] - PROB, height[:, 1] - height[:, 0]
    det = density[:, 1] * rise[:, 0] - density[:, 0] * rise[:, 1]
    det = np.where(np.abs(det) < _LEAST, np.inf, det)
    up = gap * density[:, 1] - miss * rise[:, 1], gap * density[:, 0] - miss * rise[:, 0]
    out: FloatArray = np.stack(up, axis=1) / det[:, None]
    return out


def _is_interval(mass: FloatArray, height: FloatArray, rise: FloatArray) -> BoolArray:
    """Whether ends are those of an interval that holds 95 % and falls off on both sides, shape (row,); as in `_newton_step`."""
    holds = np.abs(mass[:, 1] - mass[:, 0] - PROB) < _LEVEL
    even = np.abs(height[:, 1] - height[:, 0]) < _LEVEL
    out: BoolArray = holds & even & (rise[:, 0] > 0) & (rise[:, 1] < 0)
    return out
