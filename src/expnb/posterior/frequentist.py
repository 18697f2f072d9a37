"""p-values and intervals as other tools print them, for comparison, and one interval that may be looked at as often as wanted.

The confidence sequence is the asymptotic one of [1]_, theorem 2.2: with the effect's estimate d and its standard error s after t units of both arms,

    d  +-  s * sqrt((t rho^2 + 1) / (t rho^2) * log((t rho^2 + 1) / alpha^2)),

covers the true effect at all t together with probability ``1 - alpha``, once t is large enough for the central limit theorem at the first look. It is Robbins' normal mixture [2]_, [3]_ with the variance estimated; its width falls like ``sqrt(log t / t)``. `rho`
has to be chosen before the data. It is narrowest, against the fixed interval, where ``t rho^2 = log((t rho^2 + 1) / alpha^2)``, which is 8.21 for alpha = 5 %; so ``rho^2 = 8.21 / planned``, with the units after which the policy first
asks for a verdict as `planned`. There it is 1.55 times as wide as the fixed interval, at a tenth of that 1.95 times, at a hundred times 1.82 times.

References
----------
.. [1] Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), Time-uniform central limit theory and asymptotic confidence sequences, arXiv:2103.06476.
.. [2] Robbins (1970), Statistical methods related to the law of the iterated logarithm.
.. [3] Howard, Ramdas, McAuliffe and Sekhon (2021), Time-uniform, nonparametric, nonasymptotic confidence sequences, section 3.
"""

from __future__ import annotations

import math

import numpy as np

from expnb.posterior.exact.arms import FloatArray, IntArray
from expnb.posterior.table import Samples, Table

Z95 = 1.959963984540054
ALPHA = 0.05
NARROWEST = 8.212  # t rho^2 that solves x = log((x + 1) / alpha^2)


def pooled_z(control: Samples, treatment: Samples) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Two-sided p-value of the pooled two-proportion z-test, and the unpooled 95 % Wald interval of the difference.

    Returns
    -------
    p, low, high : ndarray, shape (row,)
        NaN where every unit, or no unit, converted.

    References
    ----------
    .. [1] Agresti (2013), Categorical Data Analysis, 3.2.
    """
    n_c, n_t = np.maximum(control.n, 1), np.maximum(treatment.n, 1)
    rate = (control.mean * n_c + treatment.mean * n_t) / (n_c + n_t)
    pooled = np.sqrt(np.maximum(rate * (1 - rate), 0.0) * (1 / n_c + 1 / n_t))
    known = (pooled > 0) & (control.n > 0) & (treatment.n > 0)
    gap = treatment.mean - control.mean
    spreads = [np.maximum(arm.mean * (1 - arm.mean), 0.0) / n for arm, n in ((control, n_c), (treatment, n_t))]
    half = np.where(known, Z95 * np.sqrt(spreads[0] + spreads[1]), np.nan)
    z = np.abs(gap) / np.where(known, pooled, 1.0)
    p_value = np.array([math.erfc(value) for value in (z / math.sqrt(2)).tolist()])
    return np.where(known, p_value, np.nan), gap - half, gap + half


def welch(control: Samples, treatment: Samples) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Two-sided p-value and 95 % interval of Welch's t-test of the difference of means.

    Returns
    -------
    p, low, high : ndarray, shape (row,)
        NaN where a variance is missing or both are zero.

    References
    ----------
    .. [1] Welch (1947), The generalization of Student's problem.
    """
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415 - 0.5 s, only for means

    a, b = control.variance / np.maximum(control.n, 1), treatment.variance / np.maximum(treatment.n, 1)
    known = (control.n > 1) & (treatment.n > 1) & (a + b > 0)
    a, b = np.where(known, a, 1.0), np.where(known, b, 1.0)
    part = a / (a + b)  # squares of variances themselves may be out of range
    df = 1 / (part**2 / np.maximum(control.n - 1, 1) + (1 - part) ** 2 / np.maximum(treatment.n - 1, 1))
    gap, se = treatment.mean - control.mean, np.sqrt(a + b)
    half = np.where(known, stdtrit(df, 0.975) * se, np.nan)
    return np.where(known, 2 * stdtr(df, -np.abs(gap) / se), np.nan), gap - half, gap + half


def confidence_sequence(
    effect: FloatArray, se: FloatArray, units: FloatArray, planned: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Ends of an interval that covers the true effect at all looks together with probability 95 %.

    Parameters
    ----------
    effect, se : ndarray, shape (row,)
        Raw difference of means and its standard error.
    units : ndarray, shape (row,)
        Units of both arms so far.
    planned : ndarray, shape (row,)
        Units of both arms at which it is narrowest, chosen before the data.

    Returns
    -------
    low, high : ndarray, shape (row,)
        See the head of this module.
    """
    clock = NARROWEST * units / planned
    half = se * np.sqrt((clock + 1) / clock * np.log((clock + 1) / ALPHA**2))
    return effect - half, effect + half


def figures(table: Table) -> dict[str, FloatArray]:
    """p-value, interval and confidence sequence of every row; NaN where a figure is missing or may not be shown."""
    shown = np.flatnonzero(~table.hidden)
    names = ("p_value", "ci_low", "ci_high", "cs_low", "cs_high")
    out = {name: np.full(len(table), np.nan) for name in names}
    share = table.independent[shown]
    for rows, test in ((shown[share], pooled_z), (shown[~share], welch)):
        if len(rows):
            found = test(table.control.take(rows), table.treatment.take(rows))
            for name, values in zip(names, found, strict=False):
                out[name][rows] = values
    rows = shown[np.minimum(table.control.n, table.treatment.n)[shown] > 1]
    control, treatment = table.control.take(rows), table.treatment.take(rows)
    planned = table.planned[rows]
    se = np.hypot(_sequence_se(control, table, rows, 0), _sequence_se(treatment, table, rows, 1))
    known = se > 0
    low, high = confidence_sequence(treatment.mean - control.mean, se, control.n + treatment.n, planned)
    out["cs_low"][rows], out["cs_high"][rows] = np.where(known, low, np.nan), np.where(known, high, np.nan)
    return out


def _sequence_se(arm: Samples, table: Table, rows: IntArray, side: int) -> FloatArray:
    """Standard error of a mean; a share or count of which nothing, or everything, was seen has that of half a unit more."""
    rate = (arm.mean * arm.n + 0.5) / (arm.n + 1)
    of_share = np.sqrt(np.maximum(rate * (1 - rate), 0.0) / arm.n)
    return np.where(arm.m2 > 0, arm.se, np.where(table.is_share[rows], of_share, table.ses[side][rows]))
