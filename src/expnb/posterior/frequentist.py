"""p-values and intervals as other tools print them, for comparison."""

from __future__ import annotations

import math

from expnb.stats.moments import Moments

Z95 = 1.959963984540054


def pooled_z(control: Moments, treatment: Moments) -> tuple[float | None, float | None, float | None]:
    """Two-sided p-value of the pooled two-proportion z-test, and the unpooled 95 % Wald interval of the difference.

    Returns
    -------
    p, low, high : float
        None where every unit, or no unit, converted.

    References
    ----------
    .. [1] Agresti (2013), Categorical Data Analysis, 3.2.
    """
    n_c, n_t = control.n, treatment.n
    if not n_c or not n_t:
        return None, None, None
    rate = (control.mean * n_c + treatment.mean * n_t) / (n_c + n_t)
    pooled = math.sqrt(rate * (1 - rate) * (1 / n_c + 1 / n_t))
    if pooled == 0:
        return None, None, None
    gap = treatment.mean - control.mean
    half = Z95 * math.sqrt(control.mean * (1 - control.mean) / n_c + treatment.mean * (1 - treatment.mean) / n_t)
    return math.erfc(abs(gap) / pooled / math.sqrt(2)), gap - half, gap + half


def welch(control: Moments, treatment: Moments) -> tuple[float | None, float | None, float | None]:
    """Two-sided p-value and 95 % interval of Welch's t-test of the difference of means.

    Returns
    -------
    p, low, high : float
        None where a variance is missing or both are zero.

    References
    ----------
    .. [1] Welch (1947), The generalization of Student's problem.
    """
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415 - 0.5 s, only for means

    if control.n < 2 or treatment.n < 2:
        return None, None, None
    a, b = control.variance / control.n, treatment.variance / treatment.n
    if a + b == 0:
        return None, None, None
    df = (a + b) ** 2 / (a**2 / (control.n - 1) + b**2 / (treatment.n - 1))
    gap, se = treatment.mean - control.mean, math.sqrt(a + b)
    half = float(stdtrit(df, 0.975)) * se
    return float(2 * stdtr(df, -abs(gap) / se)), gap - half, gap + half
