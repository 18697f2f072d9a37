"""The prior on the effect, as PyTensor sees it and as numbers."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from expnb.posterior.exact.arms import FloatArray, IntArray
from expnb.spec.prior import Prior

Data: TypeAlias = dict[str, FloatArray | IntArray]
Tensor: TypeAlias = Any  # the types of PyTensor 2 and 3 differ


def kind_of(prior: Prior) -> str:
    """What of a prior is compiled in: its family, and whether it holds a point at no effect."""
    return f"{prior.family} with a point" if prior.null_share else prior.family


def belief_data(prior: Prior) -> Data:
    """Every number of the prior, by the name of its `pm.Data`."""
    if prior.family == "flat":
        return {}
    if prior.family == "normal":
        return {"prior_scale": np.array(prior.scale)}
    if prior.family == "student_t":
        return {"prior_scale": np.array(prior.scale), "prior_df": np.array(prior.df)}
    scales, weights = _parts(prior)
    return {"prior_scales": scales, "prior_weights": weights / weights.sum(), "prior_df": np.array(prior.df)}


def log_belief(prior: Prior, numbers: Data, log_ratio: Tensor) -> Tensor:
    """Log density of the prior at log ratios, its point at no effect left out; integrates to 1."""
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    if prior.family == "normal":
        return pm.logp(pm.Normal.dist(mu=0.0, sigma=pm.Data("prior_scale", numbers["prior_scale"])), log_ratio)
    df = pm.Data("prior_df", numbers["prior_df"])
    if prior.family == "student_t":
        scale = pm.Data("prior_scale", numbers["prior_scale"])
        return pm.logp(pm.StudentT.dist(nu=df, mu=0.0, sigma=scale), log_ratio)
    scales = pm.Data("prior_scales", numbers["prior_scales"])
    weights = pm.Data("prior_weights", numbers["prior_weights"])
    each = pm.logp(pm.StudentT.dist(nu=df, mu=0.0, sigma=scales), log_ratio[..., None])
    return pt.logsumexp(pt.log(weights) + each, axis=-1)


def pull(prior: Prior, log_ratio: FloatArray) -> FloatArray:
    """Precision of the Normal around no effect that pulls as the prior does at `log_ratio`; 0 of a flat prior.

    A Student-t is a mixture of Normals; the precision is the mean of theirs given the log ratio [1]_.

    References
    ----------
    .. [1] Lange, Little, Taylor (1989), Robust statistical modeling using the t distribution.
    """
    if prior.family == "flat":
        return np.zeros_like(log_ratio)
    if prior.family == "normal":
        return np.full_like(log_ratio, prior.scale**-2)
    scales, weights = _parts(prior)
    far = (log_ratio[..., None] / scales) ** 2
    log_height = np.log(weights / scales) - 0.5 * (prior.df + 1.0) * np.log1p(far / prior.df)
    share = np.exp(log_height - log_height.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    out: FloatArray = (share * (prior.df + 1.0) / (scales**2 * (prior.df + far))).sum(axis=-1)
    return out


def log_odds_of_none(prior: Prior) -> FloatArray:
    """Log odds of exactly no effect before the data."""
    return np.array(math.log(prior.null_share) - math.log1p(-prior.null_share))


def _parts(prior: Prior) -> tuple[FloatArray, FloatArray]:
    scales, weights = np.array(prior.parts).T
    some = weights > 0
    return scales[some], weights[some]
