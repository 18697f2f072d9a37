"""Histograms on a logarithmic scale: additive, so that caps and quantiles are arithmetic and can move afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from expnb.stats.arrays import BoolArray, FloatArray, IntArray
from expnb.stats.joint import common_shift, per_cell

# Neighbouring bins differ by 2 %: whole numbers up to 50 have a bin of their own, larger values are known to 1 %.
LOG_BASE = math.log(1.02)
# Added to the logarithm, so that the sign of a bin is the sign of its values: enough for 1e-17 and above.
OFFSET = 2000


def edges(bins: IntArray) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest size of the values in each bin, without sign; 0 and 0 for the bin of zeros."""
    size = np.abs(bins) - OFFSET
    return np.where(bins == 0, 0.0, np.exp(size * LOG_BASE)), np.where(bins == 0, 0.0, np.exp((size + 1) * LOG_BASE))


def edge_above(value: float) -> float:
    """The smallest bin edge that is not below a positive value."""
    return math.exp(math.ceil(math.log(value) / LOG_BASE - 1e-9) * LOG_BASE)


@dataclass(frozen=True, slots=True)
class Bins:
    """Units and sums of one metric per cell and bin.

    Bin 0 holds zeros; bin ``b > 0`` the values from ``1.02**(b - 2000)`` to below ``1.02**(b - 1999)``; ``-b`` the same values with a minus.

    Parameters
    ----------
    cell : ndarray of int, shape (entry,)
        Position of the cell.
    bin : ndarray of int, shape (entry,)
    n : ndarray of int, shape (entry,)
        Units.
    s1, s2 : ndarray of float, shape (entry,)
        Sum and sum of squares of ``value - shift``, with the shift of the metric in that cell.
    """

    cell: IntArray
    bin: IntArray
    n: IntArray
    s1: FloatArray
    s2: FloatArray

    def at(self, chosen: BoolArray) -> Bins:
        """The entries selected by `chosen`, shape (entry,)."""
        return Bins(self.cell[chosen], self.bin[chosen], self.n[chosen], self.s1[chosen], self.s2[chosen])

    def moved(self, to: IntArray) -> Bins:
        """With cells at other positions: `to` holds the new one of each."""
        return Bins(to[self.cell], self.bin, self.n, self.s1, self.s2)

    def reshift(self, by: FloatArray | float) -> Bins:
        """Sums around a shift that is smaller by `by`, one for all or one per entry; exact algebra."""
        return Bins(
            self.cell,
            self.bin,
            self.n,
            self.s1 + self.n * by,
            self.s2 + 2 * by * self.s1 + self.n * by * by,
        )

    def __add__(self, other: Bins) -> Bins:
        """Both together; entries of the same cell and bin stay side by side."""
        return Bins(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))

    def merged(self) -> Bins:
        """One entry per cell and bin."""
        order = np.lexsort((self.bin, self.cell))
        cell, number = self.cell[order], self.bin[order]
        first = np.flatnonzero(np.concatenate([[True], (np.diff(cell) != 0) | (np.diff(number) != 0)]))
        if not cell.size:
            return self
        sums = (np.add.reduceat(part[order], first) for part in (self.n, self.s1, self.s2))
        n, s1, s2 = sums
        return Bins(cell[first], number[first], n, s1, s2)

    def cap_at(self, share: float) -> float:
        """The smallest bin edge that at least a share of the positive values stay below, over all cells.

        Positive values only: on a metric that is mostly 0, a quantile of all values would be 0 and the cap would remove everything. Over all arms: a cap per arm would hide the effect.

        Asked only where there is a positive value.
        """
        positive = self.at(self.bin > 0)
        order = np.argsort(positive.bin, kind="stable")
        below = np.cumsum(positive.n[order])
        place = int(np.searchsorted(below, share * below[-1]))
        return float(edges(positive.bin[order][place : place + 1])[1][0])

    def capped(self, cap: float, shift: FloatArray | float, size: int) -> tuple[FloatArray, FloatArray]:
        """Sum and sum of squares of ``min(value, cap) - shift`` per cell, shape (cell,); exact where `cap` is a bin edge.

        A cap inside a bin moves to the bin's upper edge.
        """
        low, _ = edges(self.bin)
        above = (self.bin > 0) & (low >= cap * (1 - 1e-12))
        gap = cap - per_cell(shift, size)[self.cell]
        s1 = np.where(above, self.n * gap, self.s1)
        s2 = np.where(above, self.n * gap * gap, self.s2)
        return np.bincount(self.cell, s1, size).astype(np.float64), np.bincount(self.cell, s2, size).astype(np.float64)

    def quantile(self, q: float, shift: FloatArray | float) -> tuple[float, float]:
        """The value that a share `q` of units stays below, and its standard error.

        Within a bin values are taken as evenly spread around their mean, as wide as their variance says. The standard error is the width of the 95 % interval between order statistics [1]_, divided by 3.92.

        References
        ----------
        .. [1] Woodruff (1952), Confidence Intervals for Medians and Other Position Measures, JASA 47.
        """
        shifts = shift[self.cell] if isinstance(shift, np.ndarray) else per_cell(shift, self.cell.size)
        centre = common_shift(shifts, self.n, self.s1)
        together = replace(self.reshift(shifts - centre), cell=np.zeros_like(self.cell)).merged()
        n = int(together.n.sum())
        reach = 1.959963984540054 * math.sqrt(q * (1 - q) / n)
        middle, low, high = (_at_share(together, share, centre) for share in (q, q - reach, q + reach))
        return middle, (high - low) / (2 * 1.959963984540054)


def _at_share(bins: Bins, share: float, shift: float) -> float:
    """The value below which a share of the units lies, in bins of one cell in rising order."""
    below = np.cumsum(bins.n)
    rank = min(max(share, 0.0), 1.0) * below[-1] - 1e-9  # 0.07 of 100 is a little more than 7
    place = min(int(np.searchsorted(below, rank)), bins.n.size - 1)
    n = int(bins.n[place])
    gap = float(bins.s1[place]) / n
    spread = float(bins.s2[place]) / n - gap**2
    if spread <= (1e-6 * (shift + gap)) ** 2 + 1e-13 * gap**2:  # all values of the bin are equal
        return shift + gap
    low, high = (float(edge[0]) for edge in edges(bins.bin[place : place + 1]))
    if bins.bin[place] < 0:
        low, high = -high, -low
    half = math.sqrt(3 * spread)  # of an even spread
    inside = float(rank - (below[place] - n)) / n
    return min(max(shift + gap + half * (2 * inside - 1), low), high)
