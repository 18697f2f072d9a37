"""Cumulants of what is known of an arm: of the log of a rate, of the rate itself.

Of independent variables cumulants add up, which gives those of a log ratio and of a difference without an integral.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np

from expnb.posterior.exact.arms import FloatArray

ORDER = 8  # the highest cumulant
_SERIES = 20  # power of a relative error up to which cumulants of its logarithm are written out
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66)


def of_log_rate(a: FloatArray, b: FloatArray, order: int) -> FloatArray:
    """Cumulants 1 .. order of ``log p``, ``p ~ Beta(a, b)``, shape (order, row): ``psi_(j-1)(a) - psi_(j-1)(a + b)`` [1]_.

    Parameters
    ----------
    a, b : ndarray, shape (row,)
        At least 30, where the asymptotic series of the polygamma functions has all digits [2]_.

    References
    ----------
    .. [1] Johnson, Kotz, Balakrishnan (1995), Continuous Univariate Distributions 2, chapter 25.
    .. [2] Abramowitz, Stegun (1964), 6.4.11.
    """
    share = np.log1p(-b / (a + b))
    out = _rest(a, order) - _rest(a + b, order)
    out[0] += share
    for m in range(1, order):
        # leading terms 1 / a**m - 1 / (a + b)**m, without a difference of near numbers where b is small
        lead = math.factorial(m - 1) * -np.expm1(m * share) / a**m
        out[m] += lead if m % 2 else -lead
    return out


def of_log_gamma(a: FloatArray, order: int) -> FloatArray:
    """Cumulants 1 .. order of ``log g``, ``g ~ Gamma(a, 1)``, shape (order, row): ``psi_(j-1)(a)``; a is at least 30."""
    out = _rest(a, order)
    out[0] += np.log(a)
    for m in range(1, order):
        lead = math.factorial(m - 1) / a**m
        out[m] += lead if m % 2 else -lead
    return out


def _rest(x: FloatArray, order: int) -> FloatArray:
    """Polygamma functions 0 .. order - 1 at x without their leading terms, log(x) and ``(m - 1)! / x**m``."""
    one = 1.0 / x
    square, power = one * one, np.ones_like(x)
    out = np.empty((order, len(x)))
    for m in range(order):
        power = power * one  # 1 / x**(m + 1)
        series = np.zeros_like(x)
        for weight in _WEIGHTS[m]:
            series = (series + weight) * square
        size = power * (0.5 * math.factorial(m)) + series * power * x
        out[m] = size if m % 2 else -size
    return out


# Factors of 1 / x**(m + 2 k) for k = 5 .. 1, for Horner's scheme.
_WEIGHTS = [
    [
        b * (math.factorial(2 * k + m - 1) / math.factorial(2 * k))
        for k, b in zip(range(5, 0, -1), _BERNOULLI[::-1], strict=True)
    ]
    for m in range(ORDER)
]


def of_rate(a: FloatArray, b: FloatArray, order: int) -> FloatArray:
    """Cumulants 1 .. order of ``p ~ Beta(a, b)``, shape (order, row), by the recurrence of its central moments [1]_.

    References
    ----------
    .. [1] Mühlbach (2021), New formulas for moments and functions of the Beta distribution: with ``n = a + b`` and mean m,
       ``(n + r) mu_(r+1) = r ((1 - 2 m) mu_r + m (1 - m) mu_(r-1))``.
    """
    both = a + b
    mean = a / both
    spread, lean = mean * (b / both), (b - a) / both
    moments = [np.ones_like(mean), np.zeros_like(mean)]
    for r in range(1, order):
        moments.append(r * (lean * moments[r] + spread * moments[r - 1]) / (both + r))
    return np.stack([mean, *from_central(moments)])


def of_gamma(a: FloatArray, rate: FloatArray, order: int) -> FloatArray:
    """Cumulants 1 .. order of ``g ~ Gamma(a, rate)``, shape (order, row): ``(j - 1)! a / rate**j``."""
    return np.stack([math.factorial(m - 1) * a / rate**m for m in range(1, order + 1)])


def from_central(moments: list[FloatArray]) -> list[FloatArray]:
    """Cumulants 2 .. from central moments 0 ..: ``kappa_r = mu_r - sum_j C(r-1, j-1) kappa_j mu_(r-j)``."""
    cumulants: list[FloatArray] = [np.zeros_like(moments[0]), np.zeros_like(moments[0])]
    for r in range(2, len(moments)):
        rest = [math.comb(r - 1, j - 1) * cumulants[j] * moments[r - j] for j in range(2, r)]
        cumulants.append(moments[r] - sum(rest))
    return cumulants[2:]


def gap(first: FloatArray, second: FloatArray) -> FloatArray:
    """Cumulants of ``first - second``, independent."""
    sign = np.where(np.arange(1, len(first) + 1) % 2, -1.0, 1.0)
    out: FloatArray = first + sign[:, None] * second
    return out


def of_log_normal_mean(share: FloatArray, order: int) -> FloatArray:
    """Cumulants 1 .. order of ``log(1 + share Z)``, Z standard Normal, shape (order, row): of the log of a mean over its estimate.

    Parameters
    ----------
    share : ndarray, shape (row,)
        Standard error over mean, at most 0.1: the series in its square is an asymptotic one.
    """
    square = share * share
    out = np.zeros((order, len(share)))
    for weights in reversed(_log_normal_series()):
        out = (out + np.array(weights[:order])[:, None]) * square
    return out


@cache
def _log_normal_series() -> tuple[tuple[float, ...], ...]:
    """Factors of share**2, share**4, … in the cumulants, in whole numbers from the moments of a Normal."""
    log = [Fraction(0), *(Fraction((-1) ** (i + 1), i) for i in range(1, _SERIES + 1))]
    power, moments = [Fraction(1)] + [Fraction(0)] * _SERIES, []
    for _ in range(ORDER):
        power = [sum((power[i] * log[n - i] for i in range(n + 1)), Fraction(0)) for n in range(_SERIES + 1)]
        moments.append([power[n] * (math.prod(range(1, n, 2)) if n % 2 == 0 else 0) for n in range(_SERIES + 1)])
    cumulants: list[list[Fraction]] = []
    for r, moment in enumerate(moments, 1):
        own = list(moment)
        for j, known in enumerate(cumulants, 1):
            for n in range(_SERIES + 1):
                inner = sum((known[i] * moments[r - j - 1][n - i] for i in range(n + 1)), Fraction(0))
                own[n] -= math.comb(r - 1, j - 1) * inner
        cumulants.append(own)
    return tuple(tuple(float(own[n]) for own in cumulants) for n in range(2, _SERIES + 1, 2))
