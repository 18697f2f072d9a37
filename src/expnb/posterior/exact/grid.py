"""One density per row, held as polynomials on panels that follow its shape.

A panel holds the density at Gauss-Legendre nodes. Integrals over a panel, and up to any point inside it, are then exact for the polynomial through the nodes,
so that a cut needs not lie on a grid point. Panels whose polynomial is not good enough are halved until it is [1]_.

References
----------
.. [1] Trefethen (2019), Approximation Theory and Approximation Practice, chapters 8 and 19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from expnb.errors import PosteriorError
from expnb.posterior.exact.arms import BoolArray, FloatArray, IntArray

LogDensity: TypeAlias = Callable[[IntArray, FloatArray], FloatArray]
"""``log_density(rows, x)``: log density up to a constant per row, at x of shape (len(rows), point)."""

NODES = 16
DROP = 33.0  # exp(-33) = 5e-15: what lies below that share of the peak is left out
TOLERANCE = 2e-9  # of the whole mass, per panel; the error of a probability is about a tenth of it
_JUMP = 20.0  # a jump overstates the mass that is missing
_UNIFORM_PANELS = 7
_ZOOM_POINTS = 24
_MOST_PANELS = 600


def _legendre(t: FloatArray) -> FloatArray:
    """Legendre polynomials P_0 .. P_NODES at t in [-1, 1], along a new first axis."""
    table = np.empty((NODES + 1, *t.shape))
    table[0] = 1.0
    table[1] = t
    for k in range(1, NODES):
        table[k + 1] = ((2 * k + 1) / (k + 1)) * t * table[k] - (k / (k + 1)) * table[k - 1]
    return table


_T, _W = np.polynomial.legendre.leggauss(NODES)
_ORDER = np.arange(NODES)
_TO_SERIES: FloatArray = _W[:, None] * _legendre(_T)[:NODES].T * (_ORDER + 0.5)  # node values -> series


def _antiderivatives(t: FloatArray) -> FloatArray:
    """Integral of P_0 .. P_(NODES-1) from -1 to t, along a new first axis."""
    table = _legendre(t)
    out = np.empty((NODES, *t.shape))
    out[0] = t + 1.0
    out[1:] = (table[2:] - table[:-2]) / (2 * _ORDER[1:] + 1).reshape(-1, *[1] * t.ndim)
    return out


_TO_ENDS: FloatArray = _TO_SERIES @ np.stack([(-1.0) ** _ORDER, np.ones(NODES)], axis=1)  # node values -> both ends
_TO_RUNNING: FloatArray = _TO_SERIES @ _antiderivatives(_T)  # node values -> integral up to each node


@dataclass(frozen=True, slots=True)
class Panels:
    """A density per row, normalised to 1.

    Parameters
    ----------
    breaks : ndarray, shape (row, panel + 1)
        Ends of the panels, not falling.
    x : ndarray, shape (row, panel, NODES)
        Nodes.
    density : ndarray, shape (row, panel, NODES)
        Density at the nodes.
    below : ndarray, shape (row, panel + 1)
        Mass below each break; starts at 0, ends at 1.
    log_mass : ndarray, shape (row,)
        Log of what the density was divided by.
    """

    breaks: FloatArray
    x: FloatArray
    density: FloatArray
    below: FloatArray
    log_mass: FloatArray

    @property
    def half(self) -> FloatArray:
        """Half the width of each panel, shape (row, panel)."""
        return 0.5 * np.diff(self.breaks, axis=1)

    def integrate(self, values: FloatArray) -> FloatArray:
        """Integral over each panel of `values` times the density, shape (row, panel)."""
        return ((values * self.density) @ _W) * self.half

    def ladder(self) -> tuple[FloatArray, FloatArray]:
        """Nodes and the mass below each, both of shape (row, panel * NODES)."""
        inside = (self.density @ _TO_RUNNING) * self.half[..., None]
        return self.x.reshape(len(self.x), -1), (self.below[:, :-1, None] + inside).reshape(len(self.x), -1)

    def take(self, rows: IntArray) -> Panels:
        """The densities of `rows` only."""
        return Panels(self.breaks[rows], self.x[rows], self.density[rows], self.below[rows], self.log_mass[rows])

    def at(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mass below x and density at x, for x of shape (row, point)."""
        x = np.clip(x, self.breaks[:, :1], self.breaks[:, -1:])
        panel = (x[:, :, None] >= self.breaks[:, None, 1:-1]).sum(axis=2)
        row = np.arange(len(x))[:, None]
        half = self.half[row, panel]
        t = np.clip((x - self.breaks[row, panel]) / np.where(half > 0, half, 1.0) - 1.0, -1.0, 1.0)
        series = self.density[row, panel] @ _TO_SERIES
        table = _legendre(t)
        rises = (table[2:] - table[:-2]) / (2 * _ORDER[1:] + 1)[:, None, None]  # integrals of P_1 .. from -1
        inside = series[..., 0] * (t + 1.0) + np.einsum("rpk,krp->rp", series[..., 1:], rises)
        return self.below[row, panel] + inside * half, np.einsum("rpk,krp->rp", series, table[:NODES])


def panels(log_density: LogDensity, rows: IntArray, breaks: FloatArray) -> Panels:
    """The density of `rows` on given panels, each row scaled to mass 1."""
    half = 0.5 * np.diff(breaks, axis=1)
    x = (breaks[:, :-1] + half)[..., None] + half[..., None] * _T
    log_f = log_density(rows, x.reshape(len(rows), -1)).reshape(x.shape)
    top = log_f.max(axis=(1, 2), keepdims=True)
    density = np.exp(log_f - top)
    mass = np.cumsum((density @ _W) * half, axis=1)
    total = mass[:, -1:]
    if not (np.isfinite(total) & (total > 0)).all():
        raise PosteriorError(
            "a density came out without a finite mass, so that no probability can be stated. Please report the counts or means of this metric: this is a gap in expnb."
        )
    below = np.concatenate([np.zeros_like(total), mass / total], axis=1)
    return Panels(breaks, x, density / total[..., None], below, top[:, 0, 0] + np.log(total[:, 0]))


def unresolved(these: Panels, moment: FloatArray) -> BoolArray:
    """Panels whose polynomial misses the density, or the density times ``exp(moment * x)``.

    The last two coefficients of the Legendre series say how much is missing. What hides between a break and the first
    node shows as a jump between neighbours, since densities here are continuous. Returns booleans, shape (row, panel).
    """
    last = _TO_SERIES[:, -2:]
    width = these.half
    miss: BoolArray = np.abs(these.density @ last).sum(axis=2) * width > TOLERANCE
    ends = these.density @ _TO_ENDS
    jump = np.abs(ends[:, :-1, 1] - ends[:, 1:, 0]) * (width[:, 1:] > 0)
    miss[:, :-1] |= jump * width[:, :-1] > _JUMP * TOLERANCE
    miss[:, 1:] |= jump * width[:, 1:] > _JUMP * TOLERANCE
    weighted = np.flatnonzero(moment > 0)
    if len(weighted):
        x = these.x[weighted]
        tilted = these.density[weighted] * np.exp(
            moment[weighted, None, None] * (x - x.max(axis=(1, 2), keepdims=True))
        )
        whole = ((tilted @ _W) * width[weighted]).sum(axis=1, keepdims=True)
        miss[weighted] |= np.abs(tilted @ last).sum(axis=2) * width[weighted] > TOLERANCE * whole
    return miss


def support(log_density: LogDensity, rows: IntArray, points: FloatArray, moment: FloatArray) -> FloatArray:
    """Where the density of each row matters, shape (row, 2).

    Starts from sorted `points`, shape (row, point), keeps the stretch within exp(-DROP) of the peak, and looks closer until that stretch fills most of the points. With ``moment > 0``
    the stretch also holds where the density times ``exp(moment * x)`` matters, so that the moments of ``exp(x)`` come out right.
    """
    out = np.empty((len(rows), 2))
    left = np.arange(len(rows))
    ramp = np.linspace(0.0, 1.0, _ZOOM_POINTS)
    while len(left):
        value = log_density(rows[left], points)
        keep = _within_drop(value)
        if moment[left].any():
            keep |= _within_drop(value + moment[left, None] * points)
        first = np.maximum(keep.argmax(axis=1) - 1, 0)
        last = np.minimum(keep.shape[1] - keep[:, ::-1].argmax(axis=1), keep.shape[1] - 1)
        row = np.arange(len(left))
        ends = np.stack([points[row, first], points[row, last]], axis=1)
        out[left] = ends
        again = (last - first < keep.shape[1] // 2) & (ends[:, 1] > ends[:, 0])
        left, ends = left[again], ends[again]
        points = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * ramp
    return out


def _within_drop(value: FloatArray) -> BoolArray:
    keep: BoolArray = value > value.max(axis=1, keepdims=True) - DROP
    return keep


def first_breaks(ends: FloatArray, extra: FloatArray) -> FloatArray:
    """Panels to begin with: even ones between `ends`, shape (row, 2), and breaks at `extra`, shape (row, any)."""
    even = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * np.linspace(0.0, 1.0, _UNIFORM_PANELS + 1)
    even[:, -1] = ends[:, 1]  # rounding must not leave a sliver of a panel
    return np.sort(np.concatenate([even, np.clip(extra, ends[:, :1], ends[:, 1:])], axis=1), axis=1)


def resolve(
    log_density: LogDensity, rows: IntArray, breaks: FloatArray, moment: FloatArray
) -> Iterator[tuple[IntArray, Panels]]:
    """Batches of (positions in `rows`, their densities), each on panels fine enough.

    Raises
    ------
    PosteriorError
        If a density stays unresolved, which means that it is no density.
    """
    waiting = [(np.arange(len(rows)), breaks)]
    while waiting:
        batch, cuts = waiting.pop()
        for some, compact in _by_panel_count(cuts):
            where = batch[some]
            these = panels(log_density, rows[where], compact)
            miss = unresolved(these, moment[where])
            bad = miss.any(axis=1)
            if not bad.all():
                good = np.flatnonzero(~bad)
                yield where[good], (these.take(good) if bad.any() else these)
            if bad.any():
                if compact.shape[1] > _MOST_PANELS:
                    raise PosteriorError(
                        f"the density of row {int(rows[where[bad]][0])} cannot be resolved on {_MOST_PANELS} panels. Please report its counts: this is a gap in expnb."
                    )
                waiting.append((where[bad], _halve(compact[bad], miss[bad])))


def _halve(breaks: FloatArray, miss: BoolArray) -> FloatArray:
    middle = 0.5 * (breaks[:, :-1] + breaks[:, 1:])
    return np.sort(np.concatenate([breaks, np.where(miss, middle, breaks[:, :-1])], axis=1), axis=1)


def _by_panel_count(breaks: FloatArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Rows with about as many panels of some width, without the panels of no width."""
    empty = np.diff(breaks, axis=1) <= 0
    count = -4 * (-(breaks.shape[1] - 1 - empty.sum(axis=1)) // 4)  # rounded up, for fewer batches
    for most in sorted(set(count.tolist())):  # np.unique would import numpy.ma
        rows = np.flatnonzero(count == most)
        wanted = min(most, breaks.shape[1] - 1)
        # empty panels sort behind the others; their breaks repeat the last one
        pushed = np.where(empty[rows], breaks[rows, -1:], breaks[rows, :-1])
        yield rows, np.concatenate([np.sort(pushed, axis=1)[:, :wanted], breaks[rows, -1:]], axis=1)
