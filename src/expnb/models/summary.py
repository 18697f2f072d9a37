"""Draws to the figures that the exact engine states of an effect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from expnb.models import arviz_bridge
from expnb.posterior.exact.arms import FloatArray
from expnb.posterior.exact.quantity import Quantity

HDI_PROB = 0.95
CHART_POINTS = 160
_CHART_SHARE = 0.001  # of the draws left out at either end of a chart
_NORMAL_QUARTILES = 1.349  # between the quartiles of a standard Normal


def quantity(draws: FloatArray, cuts: tuple[float, ...]) -> Quantity:
    """Posterior of one effect, as the only row.

    Parameters
    ----------
    draws : ndarray, shape (chain, draw)
    cuts : tuple of float
        Unit of the effect.

    Returns
    -------
    Quantity
        Draws of exactly no effect, which a prior with a point there makes, count in all figures but not in the density.
    """
    values = np.sort(draws, axis=None)
    low, high = hdi(values)
    some = values[values != 0.0]
    grid, density = smooth(some if len(some) > 1 else values)
    figures = {
        "mean": values.mean(),
        "sd": values.std(),
        "hdi_low": low,
        "hdi_high": high,
        "loss": np.maximum(-values, 0.0).mean(),
        "gain": np.maximum(values, 0.0).mean(),
    }
    return Quantity(
        p_above=np.array([[(values > cut).mean() for cut in cuts]]),
        grid=grid[None],
        density=density[None],
        null=np.array([1.0 - len(some) / len(values)]) if len(some) < len(values) else None,
        **{name: np.array([figure]) for name, figure in figures.items()},
    )


def stacked(rows: Sequence[Quantity]) -> Quantity:
    """Many quantities of one row each as one."""
    parts = [dict(row.parts()) for row in rows]
    return Quantity(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def hdi(values: FloatArray, prob: float = HDI_PROB) -> tuple[float, float]:
    """Shortest interval that holds a share `prob` of the draws.

    References
    ----------
    .. [1] Chen, Shao (1999), Monte Carlo estimation of Bayesian credible and HPD intervals.
    """
    values = np.sort(values)
    inside = math.floor(prob * len(values))
    first = int(np.argmin(values[inside:] - values[: len(values) - inside]))
    return float(values[first]), float(values[first + inside])


def smooth(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Kernel density of sorted draws at even points, for charts; integrates to 1.

    References
    ----------
    .. [1] Silverman (1986), Density Estimation for Statistics and Data Analysis, equation 3.31.
    """
    low, left, right, high = np.quantile(values, [_CHART_SHARE, 0.25, 0.75, 1 - _CHART_SHARE])
    width = 0.9 * min(values.std(), (right - left) / _NORMAL_QUARTILES) * len(values) ** -0.2
    width = max(width, 1e-9 * max(abs(low), abs(high), 1e-300))  # of draws that are all equal
    grid = np.linspace(low - 3 * width, high + 3 * width, CHART_POINTS)
    density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
    return grid, density / (density.sum() * (grid[1] - grid[0]))


def best_shares(rates: FloatArray, *, largest: bool) -> FloatArray:
    """Whether each arm is the best, draw by draw.

    Parameters
    ----------
    rates : ndarray, shape (chain, draw, variant)

    Returns
    -------
    ndarray of 0 and 1, shape (chain, draw, variant)
        Its mean over draws is P(best).
    """
    winner = rates.argmax(axis=2) if largest else rates.argmin(axis=2)
    shares: FloatArray = (winner[..., None] == np.arange(rates.shape[2])).astype(np.float64)
    return shares


def share_ess(happened: FloatArray) -> float:
    """Effective number of draws behind a share.

    Parameters
    ----------
    happened : ndarray of 0 and 1, shape (chain, draw)

    Returns
    -------
    float
        At most the number of draws, which is also returned where all draws are equal.
    """
    if happened.min() == happened.max():
        return float(happened.size)
    return min(float(happened.size), arviz_bridge.ess(happened, "mean"))
