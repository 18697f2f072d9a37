"""Count, mean and squared deviations: the statistics that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and squared deviations of one metric in one arm.

    Parameters
    ----------
    n : int
        Units with a value.
    mean : float
        Metric unit.
    m2 : float
        Sum of squared deviations from the mean, metric unit squared; variance = m2 / (n - 1).
    low, high : float
        Smallest and largest value; infinite with the wrong sign where `n` is 0.
    """

    n: int
    mean: float
    m2: float
    low: float
    high: float

    def __add__(self, other: Moments) -> Moments:
        """Moments of two disjoint samples together (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        return Moments(
            n,
            self.mean + gap * other.n / n,
            self.m2 + other.m2 + gap**2 * self.n * other.n / n,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def variance(self) -> float:
        """Unbiased variance; NaN with fewer than two units."""
        return self.m2 / (self.n - 1) if self.n > 1 else math.nan

    @property
    def se(self) -> float:
        """Standard error of the mean, metric unit; NaN with fewer than two units."""
        return math.sqrt(self.variance / self.n) if self.n > 1 else math.nan


EMPTY = Moments(0, 0.0, 0.0, math.inf, -math.inf)
