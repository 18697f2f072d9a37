"""Posteriors of many log ratios at once, for simulations: the likelihood is a bell, the prior a mixture of bells.

A Student-t is a Normal with an uncertain variance. On an even grid of the logarithm of that variance the mixture is exact to many digits after some twenty terms, because the integrand is smooth and vanishes at both ends [1]_; and
of Normals everything is known in closed form.

References
----------
.. [1] Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from expnb.spec.prior import Prior

FloatArray = NDArray[np.float64]

_FLAT_SD = 1e3
_LOWEST, _HIGHEST, _STEP = -2.6, 9.0, 0.6  # of the logarithm of df / chi-square(df), which is 1 on average
_LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class Belief:
    """A prior on ``log(1 + effect_rel)`` as a mixture of Normals around no effect.

    Parameters
    ----------
    variance, log_weight : ndarray, shape (part,)
        A variance of 0 is the point at no effect.
    """

    variance: FloatArray
    log_weight: FloatArray

    @classmethod
    def of(cls, prior: Prior) -> Belief:
        """The mixture that stands for a prior; a flat one is a very wide Normal."""
        if prior.family == "flat":
            return cls(np.array([_FLAT_SD**2]), np.zeros(1))
        variances, weights = [np.zeros(1)], [np.array([prior.null_share])]
        for scale, weight in prior.parts:
            factor, share = (np.ones(1), np.ones(1)) if prior.family == "normal" else _student_t(prior.df)
            variances.append(scale**2 * factor)
            weights.append((1 - prior.null_share) * weight * share)
        variance, mass = np.concatenate(variances), np.concatenate(weights)
        kept = mass > 0
        return cls(variance[kept], np.log(mass[kept] / mass.sum()))

    def given(self, estimate: FloatArray, error: FloatArray) -> Posteriors:
        """Posteriors of log ratios, given estimates and their standard errors, of any one shape."""
        total = self.variance + error[..., None] ** 2
        log_weight = self.log_weight - 0.5 * (np.log(total) + estimate[..., None] ** 2 / total)
        weight = np.exp(log_weight - log_weight.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        pull = self.variance / total
        return Posteriors(weight, pull * estimate[..., None], np.sqrt(pull) * error[..., None])


@dataclass(frozen=True, slots=True)
class Posteriors:
    """Mixtures of Normals, one per log ratio.

    Parameters
    ----------
    weight, mean, sd : ndarray, shape (..., part)
    """

    weight: FloatArray
    mean: FloatArray
    sd: FloatArray

    def above(self, cut: float | FloatArray) -> FloatArray:
        """P(log ratio > cut); of shape (...) like the estimates, to which `cut` is broadcast."""
        gap = self.mean - np.asarray(cut)[..., None]
        out: FloatArray = (self.weight * ndtr(gap / np.maximum(self.sd, _LEAST))).sum(axis=-1)
        return out

    def expected_loss(self, *, increase: bool) -> FloatArray:
        """Mean of ``max(0, -effect_rel)``, or of ``max(0, effect_rel)`` where a decrease is better."""
        sd = np.maximum(self.sd, _LEAST)
        z = self.mean / sd
        grown = np.exp(self.mean + 0.5 * sd**2)  # mean of exp(log ratio)
        part = ndtr(-z) - grown * ndtr(-z - sd) if increase else grown * ndtr(z + sd) - ndtr(z)
        out: FloatArray = np.maximum((self.weight * part).sum(axis=-1), 0.0)
        return out


def _student_t(df: float) -> tuple[FloatArray, FloatArray]:
    """Variances, as shares of the squared scale, and their weights."""
    factor = np.exp(np.arange(_LOWEST, _HIGHEST, _STEP))
    chi_square = df / factor
    log_weight = 0.5 * df * np.log(chi_square) - 0.5 * chi_square - math.lgamma(0.5 * df)
    weight = np.exp(log_weight - log_weight.max())
    return factor, weight / weight.sum()
