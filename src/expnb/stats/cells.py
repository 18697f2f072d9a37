"""Cells: additive statistics per variant x segment x day, the only form in which data leaves its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import reduce as fold
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from expnb.stats.checks import Check
from expnb.stats.moments import EMPTY, Moments

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
DayArray = npt.NDArray[np.datetime64]
TextArray = npt.NDArray[np.str_]

ALL = "all"  # the segment that holds every unit
# Digits of a sum that do not depend on the order in which an engine's threads added it up.
STABLE_DIGITS = 9


@dataclass(frozen=True, slots=True)
class MetricCells:
    """Power sums of one metric, one entry per cell.

    Parameters
    ----------
    shift : float
        Pinned constant near the mean, metric unit; sums are of ``value - shift``, which keeps their digits.
    n_ok, n_null, n_nan, n_infinite : ndarray of int, shape (cell,)
        Units with a usable value, and without one by cause.
    s1, s2 : ndarray of float, shape (cell,)
        Sum and sum of squares of ``value - shift``.
    low, high : ndarray of float, shape (cell,)
        Smallest and largest value; NaN where there is none.
    """

    shift: float
    n_ok: IntArray
    n_null: IntArray
    n_nan: IntArray
    n_infinite: IntArray
    s1: FloatArray
    s2: FloatArray
    low: FloatArray
    high: FloatArray

    def moments(self, cell: int) -> Moments:
        """Moments of one cell."""
        n = int(self.n_ok[cell])
        if n == 0:
            return EMPTY
        low, high = float(self.low[cell]), float(self.high[cell])
        if low == high:  # exact, where sums would leave rounding noise for a spread
            return Moments(n, low, 0.0, low, high)
        mean = float(self.s1[cell]) / n
        m2 = max(0.0, float(self.s2[cell]) - n * mean * mean)
        return Moments(n, self.shift + mean, m2, low, high)


@dataclass(frozen=True, slots=True)
class Cells:
    """Statistics of a cohort, additive over cells; no row, no unit id.

    Parameters
    ----------
    variant : ndarray of str, shape (cell,)
    segments : mapping of str to ndarray of str, shape (cell,)
        Value of each segment column.
    day : ndarray of datetime64[D], shape (cell,)
        Day of the first exposure; NaT where rows carry no time.
    n : ndarray of int, shape (cell,)
        Units.
    metrics : mapping of str to MetricCells
    checks : tuple of Check
        What is wrong, or right, with the data.
    source : str
        Where the rows were read, for display.
    """

    variant: TextArray
    segments: Mapping[str, TextArray]
    day: DayArray
    n: IntArray
    metrics: Mapping[str, MetricCells]
    checks: tuple[Check, ...]
    source: str

    @property
    def units(self) -> int:
        """Units in all cells."""
        return int(self.n.sum())

    def count(self, variant: str) -> int:
        """Units of one arm."""
        return int(self.n[self.variant == variant].sum())

    def moments(self, metric: str, variant: str, where: BoolArray | None = None) -> Moments:
        """Moments of a metric in one arm, over the cells selected by `where`.

        Parameters
        ----------
        where : ndarray of bool, shape (cell,), optional
            All cells when left out.
        """
        chosen = self.variant == variant if where is None else (self.variant == variant) & where
        column = self.metrics[metric]
        return fold(Moments.__add__, (column.moments(int(cell)) for cell in np.flatnonzero(chosen)), EMPTY)

    def segment_values(self, segment: str) -> list[str]:
        """Values of a segment column, sorted."""
        return sorted(set(self.segments[segment].tolist()))

    def days(self, *, least: int = 1) -> tuple[date, date] | None:
        """First and last day on which at least that many units were exposed; None where there is none.

        Parameters
        ----------
        least : int
            Units per day; a stray date, such as 1970-01-01, then does not stretch the experiment.
        """
        known = ~np.isnat(self.day)
        days, place = np.unique(self.day[known], return_inverse=True)
        full = days[np.bincount(place, weights=self.n[known], minlength=days.size) >= least]
        return (full[0].item(), full[-1].item()) if full.size else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the statistics, independent of the order of cells and of an engine's threads."""
        keys = [self.variant, *self.segments.values(), self.day]
        lines = []
        for cell in range(self.n.size):
            parts = [str(key[cell]) for key in keys] + [str(self.n[cell])]
            for name in sorted(self.metrics):
                moments = self.metrics[name].moments(cell)
                parts += [
                    name,
                    str(moments.n),
                    *(
                        f"{value + 0.0:.{STABLE_DIGITS}g}"
                        for value in (moments.mean, moments.m2, moments.low, moments.high)
                    ),
                ]
            lines.append("\t".join(parts))
        return sha256("\n".join(sorted(lines)).encode()).hexdigest()
