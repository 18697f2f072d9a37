"""Log density of the difference of two means, under the same joint posterior as their log ratio.

With a prior on ``lam = log(m_t / m_c)`` the density of ``d = m_t - m_c`` is ``int L_c(m) L_t(m + d) prior(log1p(d / m)) / (m + d) dm``; without one it is ``int L_c(m) L_t(m + d) dm``.
The integral runs over the log odds (rates) or the log (means) of what the smaller mean has above its bound, by the trapezoidal rule around the peak of each integrand [1]_.

References
----------
.. [1] Trefethen, Weideman (2014), The exponentially convergent trapezoidal rule; Stenger (1993), Numerical methods based on sinc and analytic functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from expnb.posterior.exact.arms import Binomial, FloatArray, IntArray, NormalMean
from expnb.posterior.exact.grid import LogDensity
from expnb.posterior.exact.ratio import CONTROL_FLOOR, blocks, log_prior
from expnb.spec.prior import Prior

_NEAR = np.linspace(-6.5, 6.5, 19)
_FAR = np.sinh(np.linspace(-8.5, 8.5, 137))  # a Student-t prior leaves algebraic tails, hence the long reach
_FLAT_TOP = np.sinh(np.linspace(-8.5, 8.5, 257))  # without any success the integrand may be level over many log odds
_TAILS = np.sinh(np.linspace(-4.1, 4.1, 67))  # reaches exponential tails, which is all there is without a prior
_MIDDLE = np.sinh(np.linspace(-2.85, 2.85, 29))  # reaches as far as ten successes and failures need
_MANY = 200
_FEW = 10
_SMALL_ERROR = 1 / 30  # se / mean up to which the integrand is close to a bell
_PEAK_STEPS = 60
_NEAR_PEAK = 0.03  # in widths of the integrand: nodes around it reach further than that
_FAR_ODDS = 34.0  # log odds that a float still tells from certainty
_LEAST = -1.0 + 2.0**-52

Slopes: TypeAlias = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""Slope and (negative) bend of a log integrand at y."""


def normal_difference(control: NormalMean, treatment: NormalMean) -> LogDensity:
    """Density of the difference of two independent Normal means, around the difference of the estimates."""
    var = control.se**2 + treatment.se**2

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        return -0.5 * x**2 / var[rows, None]

    return log_density


def normal_difference_with_prior(control: NormalMean, treatment: NormalMean, prior: Prior) -> LogDensity:
    """The same, with a prior on the log ratio of the means; x as before."""
    bell = np.maximum(control.se / control.mean, treatment.se / treatment.mean) < _SMALL_ERROR

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        out = np.empty_like(x)
        for chosen, nodes in ((bell[rows], _NEAR), (~bell[rows], _FAR)):
            for where in blocks(np.flatnonzero(chosen), x.shape[1] * len(nodes)):
                some = rows[where]
                out[where] = _normal_integral(control.take(some), treatment.take(some), prior, x[where], nodes)
        return out

    return log_density


def _normal_integral(
    control: NormalMean, treatment: NormalMean, prior: Prior, x: FloatArray, nodes: FloatArray
) -> FloatArray:
    unit = control.mean[:, None]  # all means in units of the control's
    se_c, se_t = control.se[:, None] / unit, treatment.se[:, None] / unit
    x = x / unit
    d = (treatment.mean[:, None] - control.mean[:, None]) / unit + x
    base = np.maximum(CONTROL_FLOOR, -d)
    precision = 1.0 / se_c**2 + 1.0 / se_t**2

    def slopes(v: FloatArray) -> tuple[FloatArray, FloatArray]:
        over = np.exp(v)
        m_c = base + over
        m_t = np.maximum(m_c + d, over)
        miss = m_c - 1.0
        pull, stiff = prior_slopes(prior, np.log(m_t) - np.log(m_c))
        turn = -over * d / (m_t * m_c)
        slope = 1.0 - over * (miss / se_c**2 + (miss + x) / se_t**2) - over / m_t + pull * turn
        return slope, over**2 * precision + stiff * turn**2 + 0.05

    guess = 1.0 - x / se_t**2 / precision - base
    v = peak_of(slopes, np.log(np.maximum(guess, 1e-3)), low=-60.0, high=6.0 + np.log(np.maximum(1.0, -guess + 1.0)))
    width = 1.0 / np.sqrt(slopes(v)[1])
    at = np.exp(v)[..., None]
    offset = np.clip(width[..., None] * nodes, -600.0, 300.0)
    over = at * np.expm1(offset)
    above = np.where(offset < -1.0, np.exp(v[..., None] + offset), at + over)  # at + over would round to 0
    m_c = base[..., None] + above
    m_t = np.where(d >= -CONTROL_FLOOR, base + d, 0.0)[..., None] + above
    miss = (base[..., None] - 1.0 + at) + over
    lam = np.where(
        np.abs(d[..., None]) < 0.5 * m_c, np.log1p(np.maximum(d[..., None] / m_c, -0.5)), np.log(m_t) - np.log(m_c)
    )
    log_f = -0.5 * (miss / se_c[..., None]) ** 2 - 0.5 * ((miss + x[..., None]) / se_t[..., None]) ** 2
    log_f += v[..., None] + offset - np.log(m_t) + log_prior(prior, lam)
    return log_sum(log_f, nodes, sinh=nodes is not _NEAR) + np.log(width)


def binomial_difference(control: Binomial, treatment: Binomial, prior: Prior, centre: FloatArray) -> LogDensity:
    """Density of the difference of two rates at ``centre + x``."""
    smallest = np.minimum.reduce([control.successes, control.failures, treatment.successes, treatment.failures])
    level = (control.successes + treatment.successes == 0) & (prior.family != "flat")
    kinds = (
        (smallest >= _MANY, _NEAR),
        ((smallest >= _FEW) & (smallest < _MANY), _MIDDLE),
        ((smallest < _FEW) & ~level, _TAILS if prior.family == "flat" else _FAR),
        (level, _FLAT_TOP),
    )

    def log_density(rows: IntArray, x: FloatArray) -> FloatArray:
        out = np.empty_like(x)
        for chosen, nodes in kinds:
            for where in blocks(np.flatnonzero(chosen[rows]), x.shape[1] * len(nodes)):
                some = rows[where]
                d = centre[some, None] + x[where]
                out[where] = _rate_integral(control.take(some), treatment.take(some), prior, d, nodes)
        return out

    return log_density


def _rate_integral(
    control: Binomial, treatment: Binomial, prior: Prior, d: FloatArray, nodes: FloatArray
) -> FloatArray:
    """Log density of the difference d, shape (row, point).

    With ``e = abs(d)``, the smaller rate is ``(1 - e) p`` and the larger one ``e + (1 - e) p``, ``p = q / (1 + q)``; y = log q is the variable of integration.
    """
    rises, sign = d > 0, np.where(d > 0, 1.0, -1.0)
    own = 0.0 if prior.family == "flat" else 1.0  # the factor 1 / m_t
    e = np.minimum(np.abs(d), 1.0)
    rest = np.maximum(1.0 - e, 1e-300)
    k_c, k_t = control.successes[:, None], treatment.successes[:, None]
    f_c, f_t = control.failures[:, None], treatment.failures[:, None]
    up = np.where(rises, k_c, k_t - own) + 1.0
    down = np.where(rises, f_t, f_c) + 1.0
    high = np.where(rises, k_t - own, k_c)
    low = np.where(rises, f_c, f_t)
    total = up + down + high + low

    def slopes(y: FloatArray) -> tuple[FloatArray, FloatArray]:
        q = np.exp(y)
        p, share_high, share_low = q / (1.0 + q), q / (e + q), e * q / (1.0 + e * q)
        pull, stiff = prior_slopes(prior, sign * (np.log((e + q) / q) - np.log(rest)))
        turn = sign * (share_high - 1.0)
        slope = up + high * share_high + low * share_low - total * p + pull * turn
        bend = (
            total * p * (1.0 - p)
            - np.maximum(high, 0.0) * share_high * (1.0 - share_high)
            - low * share_low * (1.0 - share_low)
            + stiff * turn**2
        )
        return slope, np.maximum(bend, 0.05 * np.minimum(1.0, up + 0.0 * bend) + 0.02)

    guess = (
        np.clip(
            (k_c + k_t + 0.5 - np.where(rises, treatment.units[:, None], control.units[:, None]) * e)
            / (control.units + treatment.units)[:, None],
            1e-9,
            rest,
        )
        / rest
    )
    guess = np.clip(guess, 1e-9, 1.0 - 1e-9)
    y = peak_of(slopes, np.log(guess) - np.log1p(-guess), low=-_FAR_ODDS, high=np.full_like(d, _FAR_ODDS))
    width = 1.0 / np.sqrt(slopes(y)[1])
    q = np.exp(y)
    p, small, large = q / (1.0 + q), rest * q / (1.0 + q), (e + q) / (1.0 + q)
    peak = -up * np.log1p(1.0 / q) - down * np.log1p(q) + (up + down - 1.0) * np.log(rest)
    peak += high * np.where(large > 0.5, np.log1p(-np.minimum(rest / (1.0 + q), 0.5)), np.log(large))
    peak += low * np.where(small < 0.5, np.log1p(-np.minimum(small, 0.5)), np.log1p(e * q) - np.log1p(q))
    offset = np.clip(width[..., None] * nodes, -600.0, 600.0)
    growth = np.expm1(offset)
    log_f = up[..., None] * offset - total[..., None] * _log1p(p[..., None] * growth)
    log_f += high[..., None] * _log1p((q / (e + q))[..., None] * growth) + low[..., None] * _log1p(
        (e * q / (1.0 + e * q))[..., None] * growth
    )
    if prior.family != "flat":
        moved = y[..., None] + offset
        log_f += log_prior(
            prior, sign[..., None] * (np.log(e[..., None] + np.exp(moved)) - moved - np.log(rest[..., None]))
        )
    return peak + log_sum(log_f, nodes, sinh=nodes is not _NEAR) + np.log(width)


def prior_slopes(prior: Prior, lam: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope of the log prior, and the stiffness of the bell that touches it from below."""
    if prior.family == "flat":
        return np.zeros_like(lam), np.zeros_like(lam)
    if prior.family == "normal":
        stiff = np.full_like(lam, 1.0 / prior.scale**2)
    else:  # of a mixture: the mean over its parts, each by its share of the density
        total, stiff = np.full_like(lam, 1e-300), np.zeros_like(lam)
        for scale, weight in prior.parts:
            room = prior.df * scale**2 + lam**2
            share = weight / scale * (prior.df * scale**2 / room) ** (0.5 * prior.df + 0.5)
            total += share
            stiff += share * (prior.df + 1.0) / room
        stiff /= total
    return -stiff * lam, stiff


def peak_of(slopes: Slopes, start: FloatArray, low: float, high: FloatArray) -> FloatArray:
    """Where the slope turns from rising to falling, by Newton steps kept inside a shrinking bracket."""
    left, right, y = np.full_like(start, low), high, np.clip(start, low, high)
    for _ in range(_PEAK_STEPS):
        slope, bend = slopes(y)
        left, right = np.where(slope > 0, y, left), np.where(slope > 0, right, y)
        step = slope / bend
        if (np.abs(step) * np.sqrt(bend) < _NEAR_PEAK).all():
            break
        y = np.where((y + step > left) & (y + step < right), y + step, 0.5 * (left + right))
    return y


def _log1p(value: FloatArray) -> FloatArray:
    out: FloatArray = np.log1p(np.maximum(value, _LEAST))
    return out


def log_sum(log_f: FloatArray, nodes: FloatArray, *, sinh: bool) -> FloatArray:
    """Log of the trapezoidal sum over the last axis; `nodes` are even, or sinh of even ones."""
    top = log_f.max(axis=-1, keepdims=True)
    weight = np.sqrt(1.0 + nodes**2) if sinh else np.ones_like(nodes)
    out: FloatArray = np.log(np.exp(log_f - np.maximum(top, -1e300)) @ weight) + top[..., 0]
    return out
