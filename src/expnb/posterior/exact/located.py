"""Log densities of the ratio and of the difference of two means whose likelihoods are humps, not bells: Student's t, and ratios with a weak denominator.

Seen from a pair of means, the integrand over the control's mean m has two humps, at m = a with width s and at m = b with width t, near or far from each other. ``u = asinh((m - a) / s) + asinh((m - b) / t)`` opens up both
at once; m follows from u in closed form, and Gauss-Legendre panels in u converge exponentially [1]_.

References
----------
.. [1] Trefethen (2019), Approximation Theory and Approximation Practice, chapters 19 and 22 (transplanted quadrature).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from expnb.posterior.exact.arms import FloatArray, IntArray, Located
from expnb.posterior.exact.grid import LogDensity
from expnb.posterior.exact.ratio import CONTROL_FLOOR, log_prior
from expnb.spec.prior import Prior

_T, _W = np.polynomial.legendre.leggauss(16)
_PANEL = 2.0  # length of a panel in u
_DROP = 37.0
_FAR_OUT = 60.0  # log ratio
_EDGE_STEPS = np.geomspace(1e-30, 1.0, 25)  # towards a mean of zero, where the prior has an algebraic pole
_FEW_POINTS = 1024  # (row, point) pairs at a time


@dataclass(frozen=True, slots=True)
class _Humps:
    """Both humps of the integrand over m, in distances of m from the first, all of shape (row, 1) or (row, point).

    Parameters
    ----------
    first, second : ndarray
        Widths.
    gap : ndarray
        Place of the second hump.
    low, high : ndarray
        Where the integrand matters.
    """

    first: FloatArray
    second: FloatArray
    gap: FloatArray
    low: FloatArray
    high: FloatArray

    def nodes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Both distances in widths, and the weight of each node, shape (row, point, node)."""
        ends = [np.arcsinh(m / self.first) + np.arcsinh((m - self.gap) / self.second) for m in (self.low, self.high)]
        count = max(1, int(np.ceil((ends[1] - ends[0]).max() / _PANEL)))
        step = (ends[1] - ends[0]) / count
        starts = ends[0][..., None] + step[..., None] * (np.arange(count) + 0.5)
        u = (starts[..., None] + 0.5 * step[..., None, None] * _T).reshape(*step.shape, -1)
        s, t, gap = (part[..., None] for part in (self.first, self.second, self.gap))
        up = np.exp(u)
        down = 1.0 / up
        w = gap / np.sqrt(s * s + t * t + s * t * (up + down))
        long = np.sqrt(1.0 + w * w) + np.abs(w)
        grown = np.sqrt((s + t * up) / (s + t * down)) * np.where(w > 0, long, 1.0 / long)  # exp(asinh of the first)
        other = up / grown
        weight = (0.25 * step)[..., None] * np.tile(_W, count)
        weight = weight / (1.0 / (s * (grown + 1.0 / grown)) + 1.0 / (t * (other + 1.0 / other)))
        return 0.5 * (grown - 1.0 / grown), 0.5 * (other - 1.0 / other), weight


def located_marginal(control: Located, treatment: Located, *, flat: bool) -> LogDensity:
    """``log M`` around the log ratio of the estimates."""
    rel_c, rel_t = control.se / control.mean, treatment.se / treatment.mean
    reach_c, reach_t = control.reach(_DROP), treatment.reach(_DROP)

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        far = np.clip(x, -_FAR_OUT, _FAR_OUT)  # further out the treatment's mean is as good as 0, or impossible
        first, second = rel_c[rows, None] + 0.0 * x, rel_t[rows, None] * np.exp(-far)
        gap = np.expm1(-far)
        low = np.maximum(
            np.minimum(-reach_c[rows, None] * first, gap - reach_t[rows, None] * second), CONTROL_FLOOR - 1.0
        )
        high = np.maximum(np.maximum(reach_c[rows, None] * first, gap + reach_t[rows, None] * second), low + first)
        z_c, z_t, weight = _Humps(first, second, gap, low, high).nodes()
        log_f = control.log_likelihood(rows, z_c) + treatment.log_likelihood(rows, z_t)
        if not flat:
            return _log_total(log_f, weight)
        log_f += np.log1p(np.maximum(first[..., None] * z_c, CONTROL_FLOOR - 1.0))
        return _log_total(log_f, weight) + x

    return _in_pieces(log_density)


def located_difference(control: Located, treatment: Located) -> LogDensity:
    """Density of the difference of two independent means around the difference of the estimates."""
    reach_c, reach_t = control.reach(_DROP), treatment.reach(_DROP)

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        first, second = control.se[rows, None] + 0.0 * x, treatment.se[rows, None] + 0.0 * x
        low = np.minimum(-reach_c[rows, None] * first, -x - reach_t[rows, None] * second)
        high = np.maximum(reach_c[rows, None] * first, -x + reach_t[rows, None] * second)
        z_c, z_t, weight = _Humps(first, second, -x, low, high).nodes()
        return _log_total(control.log_likelihood(rows, z_c) + treatment.log_likelihood(rows, z_t), weight)

    return _in_pieces(log_density)


def located_difference_with_prior(control: Located, treatment: Located, prior: Prior) -> LogDensity:
    """The same, with a prior on the log ratio of the means."""
    reach_c, reach_t = control.reach(_DROP), treatment.reach(_DROP)

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        unit = control.mean[rows, None]  # all means in units of the control's
        first, second = control.se[rows, None] / unit + 0.0 * x, treatment.se[rows, None] / unit + 0.0 * x
        d = (treatment.mean[rows, None] - unit + x) / unit
        base = np.maximum(CONTROL_FLOOR, -d)
        low = np.minimum(-reach_c[rows, None] * first, -x / unit - reach_t[rows, None] * second)
        high = np.maximum(reach_c[rows, None] * first, -x / unit + reach_t[rows, None] * second)
        edge = base - 1.0
        high = np.maximum(high, edge + first + second)
        near = low < edge
        step = np.where(near, 0.25 * np.minimum(first, second), 0.0)
        low = np.where(near, edge + step, low)

        def integrand(z_c: FloatArray, z_t: FloatArray, over: FloatArray) -> FloatArray:
            m_c = base[..., None] + over
            m_t = np.maximum(np.maximum(base + d, 0.0)[..., None] + over, 1e-300)
            lam = np.log(m_t) - np.log(m_c)
            return (
                control.log_likelihood(rows, z_c)
                + treatment.log_likelihood(rows, z_t)
                + log_prior(prior, lam)
                - np.log(m_t)
            )

        z_c, z_t, weight = _Humps(first, second, -x / unit, low, high).nodes()
        over = np.maximum(first[..., None] * z_c - edge[..., None], 0.5 * step[..., None] + 1e-300)
        log_f = integrand(z_c, z_t, over)
        if near.any():
            more, own = _at_edge(integrand, first, second, edge, x / unit, step)
            log_f, weight = np.concatenate([log_f, more], axis=-1), np.concatenate([weight, own], axis=-1)
        return _log_total(log_f, weight)

    return _in_pieces(log_density)


def _at_edge(
    integrand: Callable[[FloatArray, FloatArray, FloatArray], FloatArray],
    first: FloatArray,
    second: FloatArray,
    edge: FloatArray,
    x: FloatArray,
    step: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Log integrand and weights within `step` of the least control mean that can be, on panels that shrink towards it."""
    log_ends = np.log(_EDGE_STEPS)
    half = 0.5 * np.diff(log_ends)
    y = (0.5 * (log_ends[:-1] + log_ends[1:])[:, None] + half[:, None] * _T).ravel()
    over = np.maximum(step[..., None], 1e-200) * np.exp(y)
    at = edge[..., None] + over
    log_f = integrand(at / first[..., None], (at + x[..., None]) / second[..., None], over)
    return np.where(step[..., None] > 0, log_f, -1e9), over * (half[:, None] * _W).ravel()


def _log_total(log_f: FloatArray, weight: FloatArray) -> FloatArray:
    top = log_f.max(axis=-1, keepdims=True)
    total = np.einsum("rpk,rpk->rp", np.exp(log_f - top), weight)
    out: FloatArray = np.log(np.maximum(total, 1e-300)) + top[..., 0]
    return out


def _in_pieces(log_density: LogDensity) -> LogDensity:
    """The same, a few rows at a time: each point holds a few hundred nodes."""

    def in_pieces(rows: IntArray, x: FloatArray) -> FloatArray:
        size = max(1, _FEW_POINTS // max(1, x.shape[1]))
        if len(rows) <= size:
            return log_density(rows, x)
        return np.concatenate(
            [log_density(rows[i : i + size], x[i : i + size]) for i in range(0, len(rows), size)], axis=0
        )

    return in_pieces
