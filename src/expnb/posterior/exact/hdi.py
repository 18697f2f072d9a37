"""The shortest interval that holds 95 % of a density."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np

from expnb.posterior.exact.arms import BoolArray, FloatArray, IntArray

PROB = 0.95
_STARTS = np.linspace(0.0, 1.0 - PROB, 17)  # mass left of the interval
_NEWTON_STEPS = 8
_BISECTIONS = 36
_QUANTILE_STEPS = 60
_SMALL = 1e-13
_STEP = 1e-6  # mass; nearer to the edge a polynomial no longer tells heights apart


class Densities(Protocol):
    """One density per row, whatever holds it."""

    @property
    def breaks(self) -> FloatArray:
        """Rising, shape (row, any); the first and the last hold the density between them."""

    def ladder(self) -> tuple[FloatArray, FloatArray]:
        """Rising points, closer than the density bends, and the mass below each; both of shape (row, point)."""

    def at(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mass below x and density at x, for x of shape (row, any)."""

    def take(self, rows: IntArray) -> Self:
        """The densities of `rows` only."""


def shortest_interval(these: Densities, *, log_scale: bool) -> tuple[FloatArray, FloatArray]:
    """Ends, each of shape (row,), of the shortest interval that holds 95 % of each density.

    For a density with one peak this is the highest density interval. Where the density falls from its very edge on, the interval starts at that edge; where it has two peaks, the interval covers both when that is
    shorter [1]_.

    Parameters
    ----------
    these : Densities
        Densities of x.
    log_scale : bool
        Whether length is counted in ``exp(x)`` instead of x: the interval of ``exp(x)`` is not the transformed interval of x.

    References
    ----------
    .. [1] Chen, Shao (1999), Monte Carlo estimation of Bayesian credible and HPD intervals.
    """
    slope = 1.0 if log_scale else 0.0
    low, high, start = _best_start(these, log_scale=log_scale)
    low, high, ok = newton(these, low, high, np.full(len(low), PROB), slope)
    low_edge, high_edge = _one_sided(these, start, slope)
    for rows, prob, edge in ((np.flatnonzero(low_edge), PROB, "low"), (np.flatnonzero(high_edge), 1.0 - PROB, "high")):
        if len(rows):
            inner, ends = _quantile(these.take(rows), np.full(len(rows), prob)), these.breaks[rows]
            low[rows], high[rows] = (ends[:, 0], inner) if edge == "low" else (inner, ends[:, -1])
    slow = np.flatnonzero(~(ok | low_edge | high_edge))
    if len(slow):
        low[slow], high[slow] = _bisect(these.take(slow), start[slow], slope)
    return low, high


def _one_sided(these: Densities, start: IntArray, slope: float) -> tuple[BoolArray, BoolArray]:
    """Rows whose interval begins, or ends, at the edge of the density: a step away from it already makes the interval longer."""
    low, high = np.zeros(len(start), dtype=bool), np.zeros(len(start), dtype=bool)
    for side, last, prob in ((low, 0, _STEP), (high, len(_STARTS) - 1, 1.0 - PROB - _STEP)):
        rows = np.flatnonzero(start == last)
        if len(rows):
            some, at = these.take(rows), np.full(len(rows), prob)
            height = _log_height(some, np.stack([_quantile(some, at), _quantile(some, at + PROB)], axis=1), slope)
            side[rows] = height[:, 0] >= height[:, 1] if side is low else height[:, 0] <= height[:, 1]
    return low, high


def _log_height(these: Densities, x: FloatArray, slope: float) -> FloatArray:
    """Log density of what length is counted in."""
    height: FloatArray = np.log(np.maximum(these.at(x)[1], 1e-300)) - slope * x
    return height


def _best_start(these: Densities, *, log_scale: bool) -> tuple[FloatArray, FloatArray, IntArray]:
    """Shortest of a few candidate intervals, and which one it was."""
    low = _rough_quantile(these, _STARTS)
    high = _rough_quantile(these, _STARTS + PROB)
    length = np.exp(high) * -np.expm1(low - high) if log_scale else high - low
    best = length.argmin(axis=1)
    row = np.arange(len(best))
    return low[row, best], high[row, best], best


def _rough_quantile(these: Densities, prob: FloatArray) -> FloatArray:
    """Quantiles by straight lines between nodes, shape (row, len(prob))."""
    x, running = these.ladder()
    offset = 2.0 * np.arange(len(x))[:, None]  # rows one after the other make one rising sequence
    ladder = np.maximum.accumulate(np.clip(running, 0.0, 1.0) + offset, axis=1)
    right = np.searchsorted(ladder.ravel(), prob + offset).reshape(len(x), -1) - len(x[0]) * np.arange(len(x))[:, None]
    right = np.clip(right, 1, x.shape[1] - 1)
    row = np.arange(len(x))[:, None]
    f0, f1 = running[row, right - 1], running[row, right]
    share = np.clip((prob - f0) / np.where(f1 > f0, f1 - f0, 1.0), 0.0, 1.0)
    quantile: FloatArray = x[row, right - 1] + share * (x[row, right] - x[row, right - 1])
    return quantile


def newton(
    these: Densities, low: FloatArray, high: FloatArray, prob: FloatArray, slope: float
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Solve mass = `prob`, shape (row,), and equal density at both ends; also says which rows got there."""
    low, high, done = low.copy(), high.copy(), np.zeros(len(low), dtype=bool)
    left = np.arange(len(low))
    some = these
    for _ in range(_NEWTON_STEPS):
        a, b = low[left], high[left]
        step = np.maximum(1e-4 * (b - a), 1e-300)  # both ends may sit at one edge for a while
        x = np.stack([a, a + step, b, b + step], axis=1)
        mass, density = some.at(x)
        height = np.log(np.maximum(density, 1e-300)) - slope * x
        miss, gap = mass[:, 2] - mass[:, 0] - prob[left], height[:, 2] - height[:, 0]
        arrived = (np.abs(miss) < 1e-9) & (np.abs(gap) < 1e-5)
        rise_a, rise_b = (height[:, 1] - height[:, 0]) / step, (height[:, 3] - height[:, 2]) / step
        det = density[:, 2] * rise_a - density[:, 0] * rise_b
        det = np.where(np.abs(det) < 1e-300, np.inf, det)
        # the last step is taken too: it costs nothing and squares the error
        low[left] = np.clip(a + (gap * density[:, 2] - miss * rise_b) / det, some.breaks[:, 0], some.breaks[:, -1])
        high[left] = np.clip(b + (gap * density[:, 0] - miss * rise_a) / det, some.breaks[:, 0], some.breaks[:, -1])
        done[left[arrived]] = True
        if arrived.all():
            break
        left, some = left[~arrived], some.take(np.flatnonzero(~arrived))
    return low, high, done


def _bisect(these: Densities, start: IntArray, slope: float) -> tuple[FloatArray, FloatArray]:
    """The slow sure way, between the candidates next to the best one."""
    left = _STARTS[np.maximum(start - 1, 0)]
    right = _STARTS[np.minimum(start + 1, len(_STARTS) - 1)]
    for _ in range(_BISECTIONS):
        middle = 0.5 * (left + right)
        ends = np.stack([_quantile(these, middle), _quantile(these, middle + PROB)], axis=1)
        height = _log_height(these, ends, slope)
        shrinks = height[:, 0] < height[:, 1]  # moving right shortens the interval
        left, right = np.where(shrinks, middle, left), np.where(shrinks, right, middle)
    return _quantile(these, left), _quantile(these, left + PROB)


def _quantile(these: Densities, prob: FloatArray) -> FloatArray:
    """Quantile of each row, shape (row,), by Newton steps kept inside a shrinking bracket."""
    left, right = these.breaks[:, 0].copy(), these.breaks[:, -1].copy()
    x = 0.5 * (left + right)
    for _ in range(_QUANTILE_STEPS):
        mass, density = these.at(x[:, None])
        miss = mass[:, 0] - prob
        left, right = np.where(miss > 0, left, x), np.where(miss > 0, x, right)
        aim = x - miss / np.maximum(density[:, 0], 1e-300)
        done = np.abs(miss) < _SMALL
        if done.all():
            break
        x = np.where(done, x, np.where((aim > left) & (aim < right), aim, 0.5 * (left + right)))
    return x
