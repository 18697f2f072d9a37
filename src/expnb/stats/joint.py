"""Two measures of the same units: ratios by the delta method, and covariates from before the exposure (CUPED)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from expnb.stats.arrays import FloatArray, IntArray
from expnb.stats.moments import Moments


def per_cell(shift: FloatArray | float, size: int) -> FloatArray:
    """One shift per cell, of one for all or one for each."""
    if isinstance(shift, np.ndarray) and shift.shape == (size,):
        return shift
    return np.full(size, shift, dtype=np.float64)


def common_shift(shift: FloatArray, n: IntArray, s1: FloatArray) -> float:
    """The shift that cells share; else the mean of their values, around which no sum of theirs loses digits."""
    first = float(shift[0])
    if (shift == first).all():
        return first
    total = int(n.sum())
    return first + math.fsum(n * (shift - first) + s1) / total if total else first


def merged_shift(shift: FloatArray, n: IntArray, s1: FloatArray, place: IntArray, size: int) -> FloatArray:
    """The shift of each group of cells, as `common_shift`; `place` holds the group of each cell, of `size` in all."""
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, place, shift)
    np.maximum.at(high, place, shift)
    total = np.bincount(place, n, size)
    gap = np.bincount(place, n * (shift - low[place]) + s1, size)
    return np.where(low == high, low, low + gap / np.maximum(total, 1))


@dataclass(frozen=True, slots=True)
class Joint:
    """Sums of a second measure over the units that have a usable value of the first.

    Parameters
    ----------
    shift : ndarray of float, shape (cell,)
        Pinned constant near the mean of the second measure; one number stands for all cells.
    n_missing : ndarray of int, shape (cell,)
        Units without the second measure; they count with the value `shift`. A ratio has none: without a denominator it has no value.
    s1, s2 : ndarray of float, shape (cell,)
        Sum and sum of squares of ``second - shift``.
    cross : ndarray of float, shape (cell,)
        Sum of products with ``value - shift`` of the first.
    own : ndarray of float, shape (cell,)
        Sum of ``value - shift`` of the first over the units that have both.
    """

    shift: FloatArray | float
    n_missing: IntArray
    s1: FloatArray
    s2: FloatArray
    cross: FloatArray
    own: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", per_cell(self.shift, self.n_missing.size))

    @property
    def shifts(self) -> FloatArray:
        """`shift`, one per cell."""
        return per_cell(self.shift, self.n_missing.size)

    def reshift(self, shift: FloatArray | float, n_ok: IntArray) -> Joint:
        """The same statistics around other constants, which also stands in where the second measure is missing; exact algebra.

        Parameters
        ----------
        n_ok : ndarray of int, shape (cell,)
            Units with a usable value of the first.
        """
        by, n = self.shifts - shift, n_ok - self.n_missing
        if not by.any():
            return self
        return replace(
            self,
            shift=shift,
            s1=self.s1 + n * by,
            s2=self.s2 + 2 * by * self.s1 + n * by * by,
            cross=self.cross + by * self.own,
        )

    def centred(self, n_ok: IntArray) -> Joint:
        """Around the mean of the second measure over all cells, where some units lack it: what stands in for it does not depend on the order of rows."""
        there = n_ok - self.n_missing
        n = int(there.sum())
        if not n or not self.n_missing.any():
            return self
        first = float(self.shifts[0])
        return self.reshift(first + math.fsum(there * (self.shifts - first) + self.s1) / n, n_ok)


@dataclass(frozen=True, slots=True)
class JointMoments:
    """Means and squared deviations of two measures x (second) and y (first) of `n` units."""

    n: int
    mean_y: float
    mean_x: float
    yy: float
    xx: float
    xy: float


def ratio_moments(joint: JointMoments) -> Moments:
    """Moments of a ratio of means, y over x: its value, and the squared deviations that give its standard error.

    The linearised value of a unit is ``ratio + (y - ratio * x) / mean_x`` (delta method [1]_, [2]_); its mean is the ratio itself.

    Raises
    ------
    ZeroDivisionError
        If the mean of x is 0.

    References
    ----------
    .. [1] Deng, Knoblich and Lu (2018), Applying the Delta Method in Metric Analytics, KDD, section 3.
    .. [2] Cochran (1977), Sampling Techniques, 6.4.
    """
    ratio = joint.mean_y / joint.mean_x
    squares = joint.yy - 2 * ratio * joint.xy + ratio**2 * joint.xx
    return Moments(joint.n, ratio, max(0.0, squares) / joint.mean_x**2, -math.inf, math.inf)


def adjusted(arms: Mapping[str, JointMoments]) -> dict[str, Moments]:
    """Moments of ``y - theta * (x - mean of x over all arms)`` per arm: the same mean effect with less noise.

    `theta` is the regression slope within arms, pooled, so that the effect itself does not enter it [1]_.

    References
    ----------
    .. [1] Deng, Xu, Kohavi and Walker (2013), Improving the Sensitivity of Online Controlled Experiments by Utilizing Pre-Experiment Data, WSDM, section 3.2.
    """
    xx = math.fsum(arm.xx for arm in arms.values())
    theta = math.fsum(arm.xy for arm in arms.values()) / xx if xx > 0 else 0.0
    total = sum(arm.n for arm in arms.values())
    centre = math.fsum(arm.n * arm.mean_x for arm in arms.values()) / max(1, total)
    return {
        name: Moments(
            arm.n,
            arm.mean_y - theta * (arm.mean_x - centre),
            max(0.0, arm.yy - 2 * theta * arm.xy + theta**2 * arm.xx),
            -math.inf,
            math.inf,
        )
        for name, arm in arms.items()
    }
