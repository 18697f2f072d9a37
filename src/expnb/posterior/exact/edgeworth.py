"""A density that is close to a bell, from its cumulants: no nodes, no integrals.

``f(z) = phi(z) (1 + sum_h c_h He_h(z))`` with the terms ordered by powers of one over the square root of the sample size [1]_. With cumulants up to the eighth what is left out is of the seventh power.

References
----------
.. [1] Blinnikov, Moessner (1998), Expansions for nearly Gaussian distributions, eq. 43.
.. [2] Cody (1969), Rational Chebyshev approximations for the error function.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from expnb.posterior.exact.arms import BoolArray, FloatArray, IntArray
from expnb.stats.normal import cdf

_ROOT = math.sqrt(2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class Edgeworth:
    """Densities of z = (x - mean) / sd, one per row.

    Parameters
    ----------
    mean, sd : ndarray, shape (row,)
        Of x.
    terms : ndarray, shape (degree + 1, row)
        Coefficients of the Hermite polynomials He_0, He_1, …; the first three are 1, 0, 0.
    """

    mean: FloatArray
    sd: FloatArray
    terms: FloatArray

    @classmethod
    def of(cls, cumulants: FloatArray) -> Edgeworth:
        """From cumulants 1, 2, …, shape (order, row)."""
        order, sd = len(cumulants), np.sqrt(cumulants[1])
        powers = np.cumprod(np.concatenate([[sd**3], np.broadcast_to(sd, (order - 3, len(sd)))]), axis=0)
        standard = cumulants[2:] / powers / [[math.factorial(j)] for j in range(3, order + 1)]
        terms = np.zeros((3 * order - 5, len(sd)))
        terms[0] = 1.0
        for parts, degree, weight in _partitions(order - 2):
            product = np.full(len(sd), weight)
            for part in parts:
                product *= standard[part - 1]
            terms[degree] += product
        last = np.flatnonzero(np.abs(terms).max(axis=1) > 1e-13)[-1]
        return cls(cumulants[0], sd, terms[: last + 1])

    def take(self, rows: IntArray) -> Edgeworth:
        """The densities of `rows` only."""
        return Edgeworth(self.mean[rows], self.sd[rows], self.terms[:, rows])

    def z(self, x: FloatArray) -> FloatArray:
        """Values in standard deviations from the mean; shape (any, row)."""
        out: FloatArray = (x - self.mean) / self.sd
        return out

    def below(self, z: FloatArray) -> FloatArray:
        """P(Z < z), for z of shape (any, row)."""
        return cdf(z) - _bell(z) * self._sum(z, shift=1)

    def height(self, z: FloatArray) -> FloatArray:
        """Density of Z at z, for z of shape (any, row)."""
        return _bell(z) * (1.0 + self._sum(z, shift=0))

    def log_slope(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Log density at z and its slope, for z of shape (any, row)."""
        inside, change = 1.0 + self._sum(z, shift=0), self._change(z)
        inside = np.maximum(inside, 1e-300)
        return -0.5 * z * z + np.log(inside), -z + change / inside

    def mirrored(self, where: BoolArray) -> Edgeworth:
        """The densities of -x in the rows `where`, of x in the others."""
        sign = np.where(where, -1.0, 1.0)
        odd = np.arange(len(self.terms))[:, None] % 2 == 1
        return Edgeworth(self.mean * sign, self.sd, self.terms * np.where(odd, sign, 1.0))

    def integrals(self, z: FloatArray, count: int) -> list[FloatArray]:
        """The distribution function integrated once, twice, … from the left up to z, shape (row,) each: the first is ``E[max(0, z - Z)]``.

        The n-fold integral of the bell from the left is ``A_n = (z A_(n-1) + A_(n-2)) / n``, and ``phi He_h`` is its derivative of order h but for the sign.
        """
        bell = _bell(z)
        derivatives = [he * bell * (-1.0) ** degree for degree, he in _hermite(z, max(len(self.terms) - 3, 0))]
        repeated = [bell, cdf(z)]
        for n in range(1, count + 1):
            repeated.append((z * repeated[-1] + repeated[-2]) / n)
        found = []
        for n in range(1, count + 1):
            total = repeated[n + 1].copy()
            for degree in range(3, len(self.terms)):
                order = degree - n - 1  # of the derivative of the bell; below zero one of its integrals
                part = derivatives[order] if order >= 0 else repeated[-order]
                total += self.terms[degree] * (-1.0) ** degree * part
            found.append(total)
        return found

    def _sum(self, z: FloatArray, *, shift: int) -> FloatArray:
        """``sum_h c_h He_(h - shift)(z)`` over h >= 3; an integral of the density lowers the degree by one."""
        total = np.zeros_like(z)
        for degree, polynomial in _hermite(z, len(self.terms) - 1 - shift):
            if degree + shift >= 3:
                total += self.terms[degree + shift] * polynomial
        return total

    def _change(self, z: FloatArray) -> FloatArray:
        """Slope of ``sum_h c_h He_h(z)``: the slope of He_h is h He_(h - 1)."""
        total = np.zeros_like(z)
        for degree, polynomial in _hermite(z, len(self.terms) - 2):
            if degree >= 2:
                total += (degree + 1) * self.terms[degree + 1] * polynomial
        return total


def _hermite(z: FloatArray, highest: int) -> Iterator[tuple[int, FloatArray]]:
    """He_0 .. He_highest at z, by ``He_(n+1) = z He_n - n He_(n-1)``."""
    before, here = np.zeros_like(z), np.ones_like(z)
    for degree in range(highest + 1):
        yield degree, here
        before, here = here, z * here - degree * before


def _bell(z: FloatArray) -> FloatArray:
    out: FloatArray = np.exp(-0.5 * z * z) / _ROOT
    return out


@cache
def _partitions(powers: int) -> tuple[tuple[tuple[int, ...], int, float], ...]:
    """Every product of cumulants up to a power of one over the root of the sample size: its cumulants less 2, the degree of its Hermite polynomial, and its weight."""
    found = []
    for power in range(1, powers + 1):
        for parts in _sums(power, power):
            weight = math.prod(1.0 / math.factorial(parts.count(part)) for part in set(parts))
            found.append((parts, power + 2 * len(parts), weight))
    return tuple(found)


def _sums(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a number as a sum of falling numbers."""
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _sums(total - first, first):
            yield (first, *rest)
