"""What is stated about one effect per comparison, and how it follows from a density."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from expnb.posterior.exact.arms import FloatArray, IntArray
from expnb.posterior.exact.grid import Panels
from expnb.posterior.exact.hdi import shortest_interval

CHART_POINTS = 160
_LOWEST_LOG = -40.0  # of mean_t / mean_c in a chart


@dataclass(frozen=True, slots=True)
class Quantity:
    """Posterior of one scalar effect in every row.

    Parameters
    ----------
    mean, sd : ndarray, shape (row,)
        Unit of the effect; ``inf`` where the integral diverges, as for a ratio to an arm without successes.
    hdi_low, hdi_high : ndarray, shape (row,)
        Shortest interval that holds 95 % of this very quantity.
    p_above : ndarray, shape (row, cut)
        P(effect > cut), 0-1.
    loss, gain : ndarray, shape (row,)
        ``E[max(0, -effect)]`` and ``E[max(0, effect)]``, unit of the effect; `gain` may be ``inf`` like `mean`.
    grid, density : ndarray, shape (row, point)
        For charts: the density at rising points, which are closer together where it bends; no points without a chart.
    log_factor : ndarray, shape (row,), optional
        Of a relative effect: log of how many times likelier the data are under the effects that the prior expects than under none; None or 0 without a prior.
    null : ndarray, shape (row,), optional
        Probability of exactly no effect, which `grid` and `density` leave out and all other figures hold; None or 0 where the prior has no point.
    """

    mean: FloatArray
    sd: FloatArray
    hdi_low: FloatArray
    hdi_high: FloatArray
    p_above: FloatArray
    loss: FloatArray
    gain: FloatArray
    grid: FloatArray
    density: FloatArray
    log_factor: FloatArray | None = None
    null: FloatArray | None = None

    def take(self, rows: IntArray) -> Quantity:
        """The effects in `rows` only."""
        return Quantity(**{name: part[rows] for name, part in self.parts()})

    def parts(self) -> Iterator[tuple[str, FloatArray]]:
        """Every figure that there is, by name."""
        for field in fields(self):
            part = getattr(self, field.name)
            if part is not None:
                yield field.name, part


def of_log_ratio(
    these: Panels, centre: FloatArray, moment: FloatArray, cuts: FloatArray, *, chart: bool = True
) -> Quantity:
    """Summary of ``exp(centre + x) - 1`` from the densities of x.

    Parameters
    ----------
    these : Panels
        Densities of x.
    centre : ndarray, shape (row,)
        Log ratio at ``x = 0``.
    moment : ndarray, shape (row,)
        How many moments the ratio has, at most 2.
    cuts : ndarray, shape (row, cut) or (cut,)
        Relative effects.
    chart : bool
        Whether a chart is wanted, which costs as much as all figures.
    """
    base, scale = np.expm1(centre), np.exp(centre)
    growth = np.expm1(these.x)
    average = these.integrate(growth).sum(axis=1)
    spread = these.integrate((growth - average[:, None, None]) ** 2).sum(axis=1)
    low, high = shortest_interval(these, log_scale=True)
    loss, gain = _sides(these, np.expm1(centre[:, None, None] + these.x))
    real = cuts > -1.0  # no ratio of positive means lies below
    at = np.where(real, np.log1p(np.where(real, cuts, 0.0)), -np.inf) - centre[:, None]
    point, density = _chart(these, np.maximum(these.x, _LOWEST_LOG - centre[:, None, None]), chart=chart)
    return Quantity(
        mean=np.where(moment >= 1, base + scale * average, np.inf),
        sd=np.where(moment >= 2, scale * np.sqrt(spread), np.inf),
        hdi_low=base + scale * np.expm1(low),
        hdi_high=base + scale * np.expm1(high),
        p_above=_above(these, at),
        loss=loss,
        gain=np.where(moment >= 1, gain, np.inf),
        grid=base[:, None] + scale[:, None] * np.expm1(point),
        density=density * np.exp(-point) / scale[:, None],
    )


def of_difference(these: Panels, centre: FloatArray, cuts: FloatArray, *, chart: bool = True) -> Quantity:
    """Summary of ``centre + x`` from the densities of x; `centre` has shape (row,), `cuts` shape (row, cut) or (cut,)."""
    average = these.integrate(these.x).sum(axis=1)
    spread = these.integrate((these.x - average[:, None, None]) ** 2).sum(axis=1)
    low, high = shortest_interval(these, log_scale=False)
    loss, gain = _sides(these, centre[:, None, None] + these.x)
    point, density = _chart(these, these.x, chart=chart)
    return Quantity(
        mean=centre + average,
        sd=np.sqrt(spread),
        hdi_low=centre + low,
        hdi_high=centre + high,
        p_above=_above(these, cuts - centre[:, None]),
        loss=loss,
        gain=gain,
        grid=centre[:, None] + point,
        density=density,
    )


def _above(these: Panels, x: FloatArray) -> FloatArray:
    return np.clip(1.0 - these.at(x)[0], 0.0, 1.0)


def _sides(these: Panels, effect: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected loss and gain; no panel crosses an effect of zero, since zero is a break."""
    parts = these.integrate(effect)
    return np.maximum(-parts, 0.0).sum(axis=1), np.maximum(parts, 0.0).sum(axis=1)


def _chart(these: Panels, x: FloatArray, *, chart: bool) -> tuple[FloatArray, FloatArray]:
    """As many nodes in every row, thinned where there are more; panels of no width come last and are left out."""
    if not chart:
        return np.empty((len(x), 0)), np.empty((len(x), 0))
    nodes = (these.half > 0).sum(axis=1) * x.shape[2]
    chosen = np.round(np.linspace(0, nodes - 1, CHART_POINTS, axis=1)).astype(np.intp)
    flat = x.reshape(len(x), -1), these.density.reshape(len(x), -1)
    return np.take_along_axis(flat[0], chosen, axis=1), np.take_along_axis(flat[1], chosen, axis=1)


def collect(rows: int, cuts: int, parts: Iterable[tuple[IntArray, Quantity]], *, chart: bool = True) -> Quantity:
    """One Quantity from parts that each know their rows."""
    points = CHART_POINTS if chart else 0
    shapes = {"p_above": (rows, cuts), "grid": (rows, points), "density": (rows, points)}
    out = Quantity(**{field.name: np.zeros(shapes.get(field.name, (rows,))) for field in fields(Quantity)})
    for where, part in parts:
        for name, values in part.parts():
            getattr(out, name)[where] = values
    return out
