"""Log densities of the ratio and of the difference of two event rates."""

from __future__ import annotations

import numpy as np

from expnb.posterior.exact.arms import FloatArray, IntArray, Poisson
from expnb.posterior.exact.difference import log_sum, peak_of, prior_slopes
from expnb.posterior.exact.grid import LogDensity
from expnb.posterior.exact.ratio import Location, blocks, log_prior
from expnb.spec.prior import Prior

_NEAR = np.linspace(-6.5, 6.5, 21)
_FAR = np.sinh(np.linspace(-8.5, 8.5, 137))
_FLAT_TOP = np.sinh(np.linspace(-8.5, 8.5, 257))
_MANY = 200


def locate_poisson(control: Poisson, treatment: Poisson) -> Location:
    """Log ratio of the rates, half an event added to each."""
    k_c, k_t = control.total + 0.5, treatment.total + 0.5
    return Location(np.log(k_t / treatment.units) - np.log(k_c / control.units), np.sqrt(1.0 / k_c + 1.0 / k_t))


def poisson_marginal(control: Poisson, treatment: Poisson, *, flat: bool) -> LogDensity:
    """``log M`` of two event rates around `locate_poisson`, in closed form.

    Given all events, those of the treatment are Binomial, with odds ``units_t * exp(lam) / units_c`` [1]_: the control's rate integrates out as a Gamma.

    References
    ----------
    .. [1] Przyborowski, Wilenski (1940), Homogeneity of results in testing samples from Poisson series.
    """
    own = 1.0 if flat else 0.0
    power = treatment.total + own
    total = control.total + treatment.total + 1.0 + own
    share = (treatment.total + 0.5) / (control.total + treatment.total + 1.0)

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        s = share[rows, None]
        # log(1 - s + s exp(x)), without exp(x) where that is large
        inside = np.where(
            x > 0, x + np.log1p((1.0 - s) * np.expm1(-np.abs(x))), np.log1p(s * np.expm1(np.minimum(x, 0.0)))
        )
        out: FloatArray = power[rows, None] * x - total[rows, None] * inside
        return out

    return log_density


def poisson_difference(control: Poisson, treatment: Poisson, prior: Prior, centre: FloatArray) -> LogDensity:
    """Density of the difference of two event rates at ``centre + x``: as `difference.binomial_difference`, with units that never run out."""
    smallest = np.minimum(control.total, treatment.total)
    level = (control.total + treatment.total == 0) & (prior.family != "flat")
    bell, tails = smallest >= _MANY, (smallest < _MANY) & ~level

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        out = np.empty_like(x)
        for chosen, nodes in ((bell[rows], _NEAR), (tails[rows], _FAR), (level[rows], _FLAT_TOP)):
            for where in blocks(np.flatnonzero(chosen), x.shape[1] * len(nodes)):
                some = rows[where]
                d = centre[some, None] + x[where]
                out[where] = _rate_integral(control.take(some), treatment.take(some), prior, d, nodes)
        return out

    return log_density


def _rate_integral(control: Poisson, treatment: Poisson, prior: Prior, d: FloatArray, nodes: FloatArray) -> FloatArray:
    """Log density of the difference d, shape (row, point): the smaller rate is exp(y), the larger one ``exp(y) + abs(d)``."""
    rises, sign = d > 0, np.where(d > 0, 1.0, -1.0)
    own = 0.0 if prior.family == "flat" else 1.0  # the factor 1 / m_t
    e = np.abs(d)
    k_c, k_t = control.total[:, None], treatment.total[:, None] - own
    units = (control.units + treatment.units)[:, None]
    up = np.where(rises, k_c, k_t) + 1.0
    high = np.where(rises, k_t, k_c)

    def slopes(y: FloatArray) -> tuple[FloatArray, FloatArray]:
        q = np.exp(y)
        share = q / (e + q)
        pull, stiff = prior_slopes(prior, sign * (np.log(e + q) - y))
        turn = sign * (share - 1.0)
        slope = up + high * share - units * q + pull * turn
        bend = units * q - np.maximum(high, 0.0) * share * (1.0 - share) + stiff * turn**2
        return slope, np.maximum(bend, 0.05 * np.minimum(1.0, up + 0.0 * bend) + 0.02)

    apart = np.where(rises, treatment.units[:, None], control.units[:, None]) * e
    guess = np.maximum((k_c + k_t + own + 0.5 - apart) / units, 1e-9 / units)
    y = peak_of(
        slopes, np.log(guess), low=-60.0 - float(np.log(units.max())), high=np.log((k_c + k_t + 40.0) / units) + 0.0 * d
    )
    width = 1.0 / np.sqrt(slopes(y)[1])
    q = np.exp(y)
    offset = np.clip(width[..., None] * nodes, -600.0, 300.0)
    growth = np.expm1(offset)
    log_f = up[..., None] * offset - (units * q)[..., None] * growth
    log_f += high[..., None] * np.log1p(np.maximum((q / (e + q))[..., None] * growth, -1.0 + 2.0**-52))
    if prior.family != "flat":
        moved = y[..., None] + offset
        log_f += log_prior(
            prior, sign[..., None] * (np.logaddexp(np.log(np.maximum(e, 1e-300))[..., None], moved) - moved)
        )
    r_c, r_t = np.where(rises, q, q + e), np.where(rises, q + e, q)
    peak = np.log(q) + _log_chance(control.total[:, None], control.units[:, None], r_c)
    peak += _log_chance(treatment.total[:, None], treatment.units[:, None], r_t) - own * np.log(r_t)
    return peak + log_sum(log_f, nodes, sinh=nodes is not _NEAR) + np.log(width)


def _log_chance(total: FloatArray, units: FloatArray, rate: FloatArray) -> FloatArray:
    """Log probability of the events at some rate, against that at their own rate: no large numbers are subtracted."""
    own = np.maximum(total, 0.5) / units
    near = np.abs(rate - own) < 0.5 * own
    log_ratio = np.where(
        near, np.log1p(np.where(near, (rate - own) / own, 0.0)), np.log(np.maximum(rate, 1e-300) / own)
    )
    out: FloatArray = total * log_ratio - units * (rate - own)
    return out
