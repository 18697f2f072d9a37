"""Which of many arms is the best, for large samples: everything on one lattice.

The log of the control's mean u and the log ratio of a treatment lam share one step, so that ``u + lam`` lies on the lattice too: each arm is evaluated once per point, not once per pair.
Sums of smooth functions over a lattice converge exponentially to their integrals, and so do those up to a point of it, with the sine integral as weights [1]_.

References
----------
.. [1] Stenger (1993), Numerical methods based on sinc and analytic functions, 3.6: indefinite integration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from expnb.posterior.exact.arms import Arm, Binomial, BoolArray, FloatArray, IntArray, NormalMean, Poisson
from expnb.spec.prior import Prior

LEAST_COUNT = 15
"""Conversions, and units without one, from which on nothing of an arm lies at an edge."""
LARGEST_ERROR = 0.12
"""Of a Normal mean, as a share of it, up to which its logarithm exists for all that the data say."""

_STEP = 0.45  # in standard deviations of the narrowest arm
_POLE = 5.0  # steps that a Student-t's poles are at least away: an integral up to a point is off by exp(-pi times this)
_WIDE = 7.0  # standard deviations on either side
_SIZES = (48, 64, 96, 128, 192, 256, 384, 512)  # points
_STRIDE = 0.6  # of the control's mean, in its standard deviations
_VALUES = 200_000  # at a time, so that they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Bump:
    """One arm: the log of a rate or mean, or the mean itself; all of shape (row,).

    Parameters
    ----------
    middle, spread : ndarray
        Rough place and width.
    power, rest : ndarray
        Of a rate p ``p**power (1 - p)**rest``; of events with mean m ``m**power exp(-rest m)``.
    """

    kind: type[Arm]
    middle: FloatArray
    spread: FloatArray
    power: FloatArray
    rest: FloatArray
    on_logs: bool

    @classmethod
    def of(cls, arm: Arm, *, own: float, flat: bool) -> Bump:
        """The arm with `own` more in its power: the measure of its logarithm, where it is its own."""
        if isinstance(arm, Binomial):
            power, rest = arm.successes + own, arm.failures
            share = power / (power + rest)
            return cls(Binomial, np.log(share), np.sqrt(rest / (power * (power + rest))), power, rest, on_logs=True)
        if isinstance(arm, Poisson):
            power = arm.total + own
            return cls(Poisson, np.log(power / arm.units), 1.0 / np.sqrt(power), power, arm.units, on_logs=True)
        assert isinstance(arm, NormalMean)  # noqa: S101 - no other arm is served
        if flat:
            return cls(NormalMean, arm.mean, arm.se, arm.mean, arm.se, on_logs=False)
        return cls(NormalMean, np.log(arm.mean), arm.se / arm.mean, np.full_like(arm.mean, own), arm.se, on_logs=True)

    def take(self, rows: IntArray) -> Bump:
        """The same arm in `rows` only."""
        return Bump(
            self.kind, self.middle[rows], self.spread[rows], self.power[rows], self.rest[rows], on_logs=self.on_logs
        )

    def height(self, gap: FloatArray) -> FloatArray:
        """Density at ``middle + gap``, shape (row, point), up to a factor per row."""
        power, rest = self.power[:, None], self.rest[:, None]
        if not self.on_logs:
            return np.exp(-0.5 * (gap / self.spread[:, None]) ** 2)
        growth = np.expm1(gap)
        if self.kind is Binomial:
            odds = power / rest  # of the middle
            inside = np.maximum(1.0 - odds * growth, 1e-300)
            return np.exp(power * gap + rest * np.log(inside))
        if self.kind is Poisson:
            return np.exp(power * (gap - growth))
        return np.exp(power * gap - 0.5 * (growth / self.spread[:, None]) ** 2)


class Place(NamedTuple):
    """Where the lattice of log ratios (of all arms, where they are independent) lies, each of shape (row,)."""

    step: FloatArray
    first: IntArray  # in steps from the control's middle
    points: IntArray


def shares(arms: Sequence[Arm], prior: Prior, *, largest: bool) -> Iterator[tuple[IntArray, FloatArray]]:
    """Rows whose arms are all large, and P(an arm is the best) in them, shape (row, arm), not yet normalised."""
    large = np.logical_and.reduce([_is_large(arm, prior) for arm in arms])
    rows = np.flatnonzero(large)
    if not len(rows):
        return
    flat = prior.family == "flat"
    bumps = [
        Bump.of(arm.take(rows), own=1.0 if flat or not number else 0.0, flat=flat) for number, arm in enumerate(arms)
    ]
    place = _place(bumps, prior)
    size = np.searchsorted(_SIZES, place.points)
    stride = np.where(flat, 0, np.floor(np.log2(np.maximum(_STRIDE * bumps[0].spread / place.step, 1.0)))).astype(
        np.intp
    )
    for kind, power in sorted(set(zip(size.tolist(), stride.tolist(), strict=True))):
        chosen = np.flatnonzero((size == kind) & (stride == power))
        if kind == len(_SIZES):
            continue  # too far apart for a lattice
        skip, points = 2**power, _SIZES[kind]
        values = len(arms) * points * (1 if flat else _controls(place.step[chosen] * skip, bumps[0].spread[chosen]))
        for some in np.array_split(chosen, math.ceil(len(chosen) * values / _VALUES)):
            own = [bump.take(some) for bump in bumps]
            step, first = place.step[some], place.first[some]
            if flat:
                yield rows[some], _independent(own, step, first, points, largest=largest)
            else:
                yield rows[some], _tied(own, prior, step, first, points, skip, largest=largest)


def _is_large(arm: Arm, prior: Prior) -> BoolArray:
    if isinstance(arm, Binomial):
        return np.minimum(arm.successes, arm.failures) >= LEAST_COUNT
    if isinstance(arm, Poisson):
        return arm.total >= LEAST_COUNT
    if isinstance(arm, NormalMean):
        return (arm.se < LARGEST_ERROR * arm.mean) | (prior.family == "flat")
    return np.zeros(len(arm), dtype=np.bool_)


def _place(bumps: Sequence[Bump], prior: Prior) -> Place:
    step = _STEP * np.minimum.reduce([bump.spread for bump in bumps])
    if prior.family == "flat":
        low = np.minimum.reduce([bump.middle - _WIDE * bump.spread for bump in bumps]) - bumps[0].middle
        high = np.maximum.reduce([bump.middle + _WIDE * bump.spread for bump in bumps]) - bumps[0].middle
    else:
        finest = min(scale for scale, _ in prior.parts)
        step = np.minimum(step, finest * (math.sqrt(prior.df) / _POLE if prior.family != "normal" else _STEP))
        ends = [(bump.middle - bumps[0].middle, _WIDE * np.hypot(bump.spread, bumps[0].spread)) for bump in bumps[1:]]
        low = np.minimum.reduce([np.minimum(middle, 0.0) - wide for middle, wide in ends])
        high = np.maximum.reduce([np.maximum(middle, 0.0) + wide for middle, wide in ends])
    first = np.floor(low / step)
    return Place(step, first.astype(np.intp), (np.ceil(high / step) - first + 1).astype(np.intp))


def _controls(step: FloatArray, spread: FloatArray) -> int:
    """Lattice points that hold the control's mean."""
    return 2 * math.ceil(float((_WIDE * spread / step).max(initial=1.0))) + 1


def _independent(bumps: Sequence[Bump], step: FloatArray, first: IntArray, size: int, *, largest: bool) -> FloatArray:
    """``int f_v prod_u F_u`` for each arm."""
    x = (first[:, None] + np.arange(size)) * step[:, None]
    heights = [bump.height(x + (bumps[0].middle - bump.middle)[:, None]) for bump in bumps]
    heights = [height / height.sum(axis=1, keepdims=True) for height in heights]
    below = [height @ _up_to(size) for height in heights]
    beaten = below if largest else [1.0 - part for part in below]
    return np.stack(
        [_product([heights[v], *beaten[:v], *beaten[v + 1 :]]).sum(axis=1) for v in range(len(bumps))], axis=1
    )


def _tied(
    bumps: Sequence[Bump],
    prior: Prior,
    step: FloatArray,
    first: IntArray,
    size: int,
    skip: int,
    *,
    largest: bool,
) -> FloatArray:
    """The same given the control's mean, averaged over it; the treatments are tied to it by the prior, which may hold a point at no effect.

    The control's mean takes every lattice point that is a multiple of `skip`.
    """
    controls = _controls(step * skip, bumps[0].spread)
    start = -(controls // 2) * skip
    u = (start + skip * np.arange(controls)) * step[:, None]
    lam = (first[:, None] + np.arange(size)) * step[:, None]
    belief = np.exp(prior.log_density(lam))
    point = prior.null_share / (1.0 - prior.null_share) * math.exp(prior.log_mass) / step  # at no effect, in steps
    both = (first[:, None] + start + np.arange(skip * (controls - 1) + size)) * step[:, None]
    heights, points = [], []
    for bump in bumps[1:]:
        height = bump.height(both + (bumps[0].middle - bump.middle)[:, None])
        points.append(point[:, None] * bump.height(u + (bumps[0].middle - bump.middle)[:, None]))
        windows = np.lib.stride_tricks.sliding_window_view(height, size, axis=1)[:, ::skip]
        heights.append(windows * belief[:, None, :])  # (row, control, log ratio)
    above = _from_zero(first, size)[:, None, :]
    win = above if largest else 1.0 - above
    below = [height @ _up_to(size) for height in heights]
    beaten = (
        below
        if largest
        else [height.sum(axis=2, keepdims=True) - part for height, part in zip(heights, below, strict=True)]
    )
    beaten = [
        part + own[:, :, None] for part, own in zip(beaten, points, strict=True)
    ]  # who equals control is not best
    parts = [_product([(height * (1.0 - win)).sum(axis=2) + own for height, own in zip(heights, points, strict=True)])]
    for v, height in enumerate(heights):
        parts.append(_product([height * win, *beaten[:v], *beaten[v + 1 :]]).sum(axis=2))
    weight = bumps[0].height(u)
    return np.stack([(weight * part).sum(axis=1) for part in parts], axis=1)


def _product(parts: Sequence[FloatArray]) -> FloatArray:
    out = parts[0]
    for part in parts[1:]:
        out = out * part
    return out


@cache
def _up_to(size: int) -> FloatArray:
    """Weights, in steps, of the integral up to each lattice point, shape (point, up to)."""
    offset = np.arange(size)[None, :] - np.arange(size)[:, None]
    out: FloatArray = _half_line()[offset + _SIZES[-1]]
    return out


def _from_zero(first: IntArray, size: int) -> FloatArray:
    """Weights, in steps, of the integral from zero on, shape (row, point)."""
    offset = np.clip(first[:, None] + np.arange(size), -_SIZES[-1], _SIZES[-1])
    out: FloatArray = _half_line()[offset + _SIZES[-1]]
    return out


@cache
def _half_line() -> FloatArray:
    """``1/2 + Si(pi n) / pi`` for n = -512 .. 512."""
    node, weight = np.polynomial.legendre.leggauss(16)
    x = math.pi * (np.arange(_SIZES[-1])[:, None] + 0.5 * (node + 1.0))
    parts = 0.5 * math.pi * (np.sin(x) / x) @ weight
    half = np.concatenate([[0.0], np.cumsum(parts)]) / math.pi
    return np.concatenate([0.5 - half[:0:-1], 0.5 + half])
