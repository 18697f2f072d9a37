"""Smooth functions as sums of Gaussian bells on an even grid, so that they can be blurred and cut in closed form.

``f(x) = sum_k weight_k * exp(-(x - x_k)**2 / (2 * width**2))`` with the weights that make it exact at the grid points. Where f is no narrower than a bell of sd 2.5 steps the error is about 1e-8 of f [1]_.

References
----------
.. [1] Maz'ya, Schmidt (2007), Approximate Approximations; Fornberg, Flyer (2015), A Primer on Radial Basis Functions, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from expnb.posterior.exact.arms import FloatArray, IntArray

WIDTH = 1.1  # of a bell, in steps
STEPS_PER_SD = 2.5  # of the narrowest bell that is to be resolved
_SIZES = 32
FADE = 12  # steps outside the stretch that matters, in which a function fades out
_FADE_WIDTH = 1.5
_FADE_CENTRE = 3.0


@lru_cache(maxsize=32)
def _inverse(points: int) -> FloatArray:
    """Values at the grid points -> weights of the bells; symmetric."""
    step = np.arange(points)
    out: FloatArray = np.linalg.inv(np.exp(-0.5 * ((step[:, None] - step) / WIDTH) ** 2))
    return out


def bell_weights(values: FloatArray) -> FloatArray:
    """Weights of the bells whose sum takes these values at the grid points, along the last axis."""
    points = values.shape[-1]
    inverse = _inverse(-(-points // _SIZES) * _SIZES)  # a few sizes serve all
    out: FloatArray = values @ inverse[:points, :points]
    return out


def fade(points: FloatArray, inside: FloatArray) -> FloatArray:
    """1 at grid points 0 .. `inside`, counted in steps, and smoothly to 0 in `FADE` steps on either side."""
    from scipy.special import ndtr  # noqa: PLC0415 - half a second, only when segments are pooled

    out: FloatArray = ndtr((points + _FADE_CENTRE) / _FADE_WIDTH) * ndtr((inside + _FADE_CENTRE - points) / _FADE_WIDTH)
    return out


# --- mixtures of many bells, tabulated ----------------------------------------------------------

_DEGREE = 14
_ANGLE = np.pi * (np.arange(_DEGREE) + 0.5) / _DEGREE
_CHEBYSHEV = np.cos(_ANGLE)
_TO_SERIES = np.cos(_ANGLE[:, None] * np.arange(_DEGREE)) * (np.where(np.arange(_DEGREE) > 0, 2.0, 1.0) / _DEGREE)
_TOLERANCE = 5e-9
_FLOOR = 80.0  # below the peak, in logs: rounding errors may make a mixture negative there
_FAR = 8.5  # standard deviations of a bell
_LADDER = np.array([0.0, 0.8, 1.8, 3.2, 5.5, 10.0, 20.0, 40.0, 80.0])
_LOOKS = np.array([0, _DEGREE // 2, _DEGREE - 1])  # nodes of a panel at which it is asked whether it matters
_ROUNDS = 12
_CACHED = 16_000


@dataclass(frozen=True, slots=True)
class LogTable:
    """Logs of mixtures of bells, as polynomials on panels that all rows share.

    Parameters
    ----------
    breaks : ndarray, shape (panel + 1,)
    series : ndarray, shape (row, panel, degree)
        Chebyshev coefficients.
    centre, spread : ndarray, shape (row,)
        Mean and standard deviation of each mixture.
    """

    breaks: FloatArray
    series: FloatArray
    centre: FloatArray
    spread: FloatArray

    def at(self, rows: IntArray, x: FloatArray) -> FloatArray:
        """Log of the mixtures at x, shape (len(rows), point); beyond the table nothing is left of them."""
        panel = np.clip(np.searchsorted(self.breaks, x) - 1, 0, len(self.breaks) - 2)
        low, high = self.breaks[panel], self.breaks[panel + 1]
        t = (2.0 * x - low - high) / (high - low)
        series = self.series[rows[:, None], panel]
        ahead, current = np.zeros_like(x), np.zeros_like(x)
        for k in range(_DEGREE - 1, 0, -1):
            ahead, current = current, 2.0 * t * current - ahead + series[..., k]
        out: FloatArray = np.where(np.abs(t) <= 1.0 + 1e-9, t * current - ahead + series[..., 0], -1e4)
        return out


def log_table(
    points: FloatArray, var: FloatArray, weight: FloatArray, factor: Callable[[FloatArray], FloatArray] | None = None
) -> LogTable:
    """Table of ``log sum_k weight_k exp(-(x - points_k)**2 / (2 * var_k))``.

    Parameters
    ----------
    points, var : ndarray, shape (bell,)
    weight : ndarray, shape (row, bell)
    factor : callable, optional
        Log of what the mixtures are multiplied by, shape (row, len(x)); the table is exact where the product matters, -inf where nothing is asked.
    """
    area = weight * np.sqrt(var)
    area = area / area.sum(axis=1, keepdims=True)
    centre = area @ points
    spread = np.sqrt(np.maximum(area @ (points**2 + var) - centre**2, var.min()))
    reach = _FAR * np.sqrt(var)
    low, high = float((points - reach).min()), float((points + reach).max())
    middle, unit = float(np.median(centre)), float(np.median(spread))
    ladder = np.concatenate([middle - unit * _LADDER[:0:-1], middle + unit * _LADDER])
    breaks = np.unique(np.clip(np.concatenate([[low], ladder, [high]]), low, high))
    weight = weight / np.abs(weight).max(axis=1, keepdims=True)
    bells = _Mixture(points, -0.5 / var, weight, factor)
    series, height, floor = bells.series(breaks[:-1], breaks[1:], None)
    for _ in range(_ROUNDS):
        matters = np.exp(height - height.max(axis=1, keepdims=True))
        miss = np.flatnonzero((np.abs(series[..., -2:]).max(axis=2) * matters).max(axis=0) > _TOLERANCE)
        if not len(miss):
            break
        middles = 0.5 * (breaks[miss] + breaks[miss + 1])
        left, right = np.concatenate([breaks[miss], middles]), np.concatenate([middles, breaks[miss + 1]])
        finer = bells.series(left, right, floor)
        starts = np.concatenate([np.delete(breaks[:-1], miss), left])
        order = np.argsort(starts)
        series = np.concatenate([np.delete(series, miss, axis=1), finer[0]], axis=1)[:, order]
        height = np.concatenate([np.delete(height, miss, axis=1), finer[1]], axis=1)[:, order]
        breaks = np.append(starts[order], breaks[-1])
    return LogTable(breaks, series, centre, spread)


@dataclass(frozen=True, slots=True)
class _Mixture:
    """Mixtures of the same bells, ``sum_k weight_k exp(factor_k (x - points_k)**2)``."""

    points: FloatArray
    scale: FloatArray
    weight: FloatArray
    factor: Callable[[FloatArray], FloatArray] | None

    def series(
        self, low: FloatArray, high: FloatArray, floor: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Chebyshev coefficients of the logs on each panel, shape (row, panel, degree), the log height of the product there, and the floor."""
        x = 0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * _CHEBYSHEV
        mixture = self._at(x.ravel())
        if floor is None:
            floor = mixture.max(axis=1, keepdims=True) * np.exp(-_FLOOR)
        values = np.log(np.maximum(mixture, floor)).reshape(len(mixture), *x.shape)
        looks = values[..., _LOOKS]
        if self.factor is not None:
            looks = looks + self.factor(x[:, _LOOKS].ravel()).reshape(looks.shape)
        return values @ _TO_SERIES, looks.max(axis=2), floor

    def _at(self, x: FloatArray) -> FloatArray:
        out = np.empty((len(self.weight), len(x)))
        size = max(16, _CACHED // len(self.points))
        for first in range(0, len(x), size):
            gap = x[first : first + size, None] - self.points
            gap *= gap
            gap *= self.scale
            out[:, first : first + size] = self.weight @ np.exp(gap, out=gap).T
        return out
