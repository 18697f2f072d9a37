"""Likelihoods of segments as sums of Gaussian bells, which can be blurred by tau and cut at a margin in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import FloatArray, IntArray
from expnb.posterior.exact.grid import LogDensity, support
from expnb.posterior.exact.ratio import chebyshev
from expnb.posterior.pooling.bells import FADE, STEPS_PER_SD, WIDTH, bell_weights, fade
from expnb.posterior.pooling.two_scales import REACH, Evidence, Scales, normal_means

_LONGEST_STEP = 0.25  # of a log ratio: likelihoods of few conversions bend on the scale of 1
_MOST_POINTS = 4000
_OUTLIER = 3.5  # standard deviations
_SERIES = (24, 40, 72)  # points of a polynomial
_TINY = 1e-300
_NOTHING = 1e-16  # of a bell
_SURE = 7.0  # standard deviations
_FAR = 10.0  # the same: bells that add nothing
_CACHED = 16_000


@dataclass(frozen=True, slots=True)
class Bells:
    """Likelihoods of some segments as sums of bells of one width, on points that they share.

    Parameters
    ----------
    rows : ndarray, shape (segment,)
    points : ndarray, shape (point,)
        Log ratios.
    width : float
    weight : ndarray, shape (segment, point)
    log_scale : ndarray, shape (segment,)
        Log of what the likelihoods were divided by.
    tilt : float
        The sum of bells is the likelihood times ``exp(tilt * (x - points[0]))``; 0 unless the part that matters lies in the tail of the likelihood, where it would drown in the rounding errors of the peak.
    """

    rows: IntArray
    points: FloatArray
    width: float
    weight: FloatArray
    log_scale: FloatArray
    tilt: float

    def blurred(self, mu: FloatArray, tau: FloatArray) -> FloatArray:
        """``log int L(d) Normal(d; mu, tau) dd``, shape (segment, len(mu)); one tau per mu."""
        sums = []
        for part in self._parts(mu, tau):
            kernel, _, _, weight = self._kernel(*part)
            sums.append(kernel @ weight)
        return self._logs(np.concatenate(sums))

    def share_above(self, mu: FloatArray, tau: FloatArray, cut: float) -> FloatArray:
        """``P(d > cut)`` where the density of d is ``L(d) Normal(d; mu, tau)``, shape (segment, len(mu))."""
        from scipy.special import ndtr  # noqa: PLC0415 - half a second, only when segments are pooled

        sums = []
        for part_mu, part_tau in self._parts(mu, tau):
            kernel, gap, share, weight = self._kernel(part_mu, part_tau)
            whole = kernel @ weight
            # a product of two bells is a bell, with its middle between theirs
            z = gap
            z *= -share
            z += part_mu[:, None] - cut
            z /= self.width * np.sqrt(share)
            kernel[z < -_SURE] = 0.0
            open_ = (np.abs(z) <= _SURE) & (kernel > _NOTHING)
            kernel[open_] *= ndtr(z[open_])
            sums.append(np.clip(kernel @ weight / np.maximum(whole, _TINY), 0.0, 1.0))
        out: FloatArray = np.concatenate(sums).T
        return out

    @property
    def _weight(self) -> FloatArray:
        """Weights without the tilt."""
        if not self.tilt:
            return self.weight
        out: FloatArray = self.weight * np.exp(
            -self.tilt * (self.points - self.points[0]) + 0.5 * (self.tilt * self.width) ** 2
        )
        return out

    def _parts(self, mu: FloatArray, tau: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Some points at a time, so that their kernel stays in the processor's cache."""
        size = max(16, _CACHED // len(self.points))
        for first in range(0, max(len(mu), 1), size):
            yield mu[first : first + size], tau[first : first + size]

    def _kernel(self, mu: FloatArray, tau: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """What each bell near these mu adds to a blurred likelihood, mu minus the bells' places, how near to mu the middle of both lies, and the bells' weights."""
        var = (self.width**2 + tau**2)[:, None]
        points = self.points - self.tilt * self.width**2  # a tilted bell is a bell elsewhere
        reach = _FAR * math.sqrt(var.max(initial=0.0))
        ends = mu.min(initial=np.inf) - reach, mu.max(initial=-np.inf) + reach
        near = slice(*np.searchsorted(points, ends))
        gap = mu[:, None] - points[near]
        kernel = gap * gap
        kernel *= -0.5 / var
        np.exp(kernel, out=kernel)
        kernel *= self.width / np.sqrt(var)
        return kernel, gap, tau[:, None] ** 2 / var, self._weight[:, near].T

    def _logs(self, sums: FloatArray) -> FloatArray:
        out: FloatArray = np.log(np.maximum(sums.T, _TINY)) + self.log_scale[:, None]
        return out


def as_bells(data: Evidence, grid: Scales) -> tuple[list[Bells], Stretch]:
    """The likelihoods where they matter, in groups of about equal width."""
    low, high, likely = _stretches(data, grid)
    outlier = np.abs(likely - data.centre) > _OUTLIER * data.spread
    octave = np.floor(np.log2(np.minimum(data.spread / STEPS_PER_SD, _LONGEST_STEP))).astype(int)
    octave -= (octave - octave.min()) % 2  # fewer groups with more bells each: most bells lie in reach of all segments
    step = 2.0**octave
    ends = np.stack([low - (FADE + 1) * step, high + (FADE + 1) * step], axis=1) - data.centre[:, None]
    known = _tabulated(data, ends)
    groups: dict[tuple[int, int], list[int]] = {}
    for row in range(len(data)):
        groups.setdefault((int(octave[row]), row if outlier[row] else -1), []).append(row)
    bells = [
        _group(known, np.array(rows), 2.0 ** key[0], low[rows], high[rows], likely[rows] if key[1] >= 0 else None)
        for key, rows in groups.items()
    ]
    return bells, Stretch(known, ends)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Likelihoods that are cheap within `ends`, shape (segment, 2), and must not be asked for elsewhere; as x of `Evidence`."""

    data: Evidence
    ends: FloatArray


def _tabulated(data: Evidence, ends: FloatArray) -> Evidence:
    """The likelihoods as one polynomial each, where that is good enough."""
    left, group = np.arange(len(data)), np.full(len(data), len(_SERIES))
    known: list[LogDensity] = []
    for points in _SERIES:
        found, served = chebyshev(data.log_likelihood, left, ends[left], points)
        group[left[served]] = len(known)
        known.append(found)
        left = left[~served]
        if not len(left):
            break
    known += [data.log_likelihood] * (len(_SERIES) + 1 - len(known))

    def log_likelihood(rows: IntArray, x: FloatArray) -> FloatArray:
        out, kind = np.empty_like(x), group[rows]
        for number, stand_in in enumerate(known):
            some = kind == number
            if some.all():
                return stand_in(rows, x)
            if some.any():
                out[some] = stand_in(rows[some], x[some])
        return out

    return replace(data, log_likelihood=log_likelihood)


def _stretches(data: Evidence, grid: Scales) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log ratios of each segment that matter, from and to, and a likely one; shape (segment,) each."""
    tau = grid.tau[:, None]
    own = tau**2 / (data.spread**2 + tau**2)  # weight of the segment's own data
    sd = REACH * data.spread * np.sqrt(own)
    low = (own * data.centre + (1.0 - own) * grid.low[:, None] - sd).min(axis=0)
    high = (own * data.centre + (1.0 - own) * grid.high[:, None] + sd).max(axis=0)
    outer = (grid.low - REACH * grid.tau).min(), (grid.high + REACH * grid.tau).max()
    points = np.concatenate(
        [
            np.broadcast_to(outer[0] + (outer[1] - outer[0]) * np.linspace(0, 1, 12), (len(data), 12)),
            data.centre[:, None] + data.spread[:, None] * np.linspace(-9.0, 9.0, 19),
        ],
        axis=1,
    )
    points = np.sort(points - data.centre[:, None], axis=1)
    ends = support(data.log_likelihood, np.arange(len(data)), points, np.zeros(len(data))) + data.centre[:, None]
    low, high = np.minimum(np.maximum(ends[:, 0], outer[0]), low), np.maximum(np.minimum(ends[:, 1], outer[1]), high)
    middle = own * data.centre + (1.0 - own) * grid.likely[:, None]
    return low, high, middle[np.argmax(grid.log_weight + normal_means(data, grid.tau)[2])]


def _group(
    data: Evidence, rows: IntArray, step: float, low: FloatArray, high: FloatArray, likely: FloatArray | None
) -> Bells:
    """Bells on the points ``step * whole number``, as far as any of the segments needs them."""
    first = np.floor(low / step).astype(int)
    inside = np.ceil(high / step) - first
    count = int(inside.max()) + 2 * FADE + 1
    if count > _MOST_POINTS:
        raise PosteriorError(
            f"the segments' effects range from {low.min():+.3g} to {high.max():+.3g} in steps of {step:.3g}, too many for a grid. Please report the counts of the segments: this is a gap in expnb."
        )
    place = np.arange(-FADE, count - FADE, dtype=np.float64)
    x = (first[:, None] + place) * step
    gap = x - data.centre[rows, None]
    log_f = data.log_likelihood(rows, np.clip(gap, gap[:, :1], (gap[:, 0] + (inside + 2 * FADE) * step)[:, None]))
    start, tilt = int(first.min()) - FADE, 0.0
    if likely is not None:
        ends = likely - data.centre[rows] + step * np.array([-0.5, 0.5])
        sides = data.log_likelihood(rows, ends[None, :])
        tilt = -float(sides[0, 1] - sides[0, 0]) / step
        log_f = log_f + tilt * (x - start * step)
    whole = (place >= 0) & (place <= inside[:, None])
    top = np.where(whole, log_f, -np.inf).max(axis=1)
    values = np.exp(np.minimum(log_f - top[:, None], 30.0)) * fade(place, inside[:, None])
    # Only points that some segment needs: segments may lie far apart.
    index = (first[:, None] - FADE - start) + np.arange(count)
    used, where = np.unique(index, return_inverse=True)
    weight = np.zeros((len(rows), len(used)))
    np.put_along_axis(weight, where.reshape(index.shape), bell_weights(values), axis=1)
    return Bells(rows, (start + used).astype(np.float64) * step, WIDTH * step, weight, top, tilt)
