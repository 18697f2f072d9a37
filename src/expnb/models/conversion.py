"""A conversion as a PyMC model: one rate per arm, and a prior on the log ratio of every treatment to control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from expnb.models.environment import prepare
from expnb.posterior.arms import FloatArray
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    import pymc as pm

Data: TypeAlias = dict[str, FloatArray]

_STEPS = 200
_LONGEST_STEP = 1.0  # in log odds


@dataclass(frozen=True, slots=True)
class Counts:
    """Units and conversions of control and some treatments.

    Parameters
    ----------
    variants : sequence of str
        Control first.
    units, conversions : ndarray, shape (variant,)
    """

    variants: Sequence[str]
    units: FloatArray
    conversions: FloatArray


def conversion_model(counts: Counts, prior: Prior) -> pm.Model:
    """The model of one conversion metric, with everything the exact engine knows and nothing else.

    ``control_rate ~ Beta(1, 1)``, ``log_ratio ~ prior`` for each treatment, ``rate = control_rate * exp(log_ratio)``
    below 1, ``conversions ~ Binomial(units, rate)``;
    with ``prior.family == "flat"`` every rate has its own Beta(1, 1) instead.

    The sampler moves in the log odds of all arms, where no rate can reach 1 and no wall has to be met. The density
    there is the one above times the derivative of (control rate, log ratios) by the log
    odds [1]_, which is the potential `change_of_variables`. The log odds are shifted and scaled so that their posterior
    is about a standard Normal, with 100 units as with 10 million.

    Parameters
    ----------
    counts : Counts
    prior : Prior
        On the log ratio.

    Returns
    -------
    pymc.Model
        Coordinates `variant` and `treatment`; all numbers are `pm.Data`. Variables: `rate`, `log_ratio`, `effect_rel`,
        `effect_abs`, and observed `conversions`.

    References
    ----------
    .. [1] Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 1.8 (transformation of variables).
    """
    prepare()
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    numbers = conversion_data(counts, prior)
    with pm.Model(coords={"variant": list(counts.variants), "treatment": list(counts.variants[1:])}) as model:
        units = pm.Data("units", numbers["units"], dims="variant")
        observed = pm.Data("observed", numbers["observed"], dims="variant")
        centre = pm.Data("centre", numbers["centre"], dims="variant")
        spread = pm.Data("spread", numbers["spread"])

        standardised = pm.Flat("standardised", dims="variant")
        log_odds = centre + (spread * standardised).sum(axis=1)
        log_rate, log_miss = -pt.softplus(-log_odds), -pt.softplus(log_odds)
        rate = pm.Deterministic("rate", pt.sigmoid(log_odds), dims="variant")
        log_ratio = pm.Deterministic("log_ratio", log_rate[1:] - log_rate[0], dims="treatment")
        pm.Deterministic("effect_rel", pt.expm1(log_ratio), dims="treatment")
        pm.Deterministic("effect_abs", rate[1:] - rate[0], dims="treatment")

        if prior.family == "flat":
            pm.Potential("change_of_variables", (log_rate + log_miss).sum())
        else:
            scale = pm.Data("prior_scale", numbers["prior_scale"])
            if prior.family == "student_t":
                believed = pm.StudentT.dist(nu=pm.Data("prior_df", numbers["prior_df"]), mu=0.0, sigma=scale)
            else:
                believed = pm.Normal.dist(mu=0.0, sigma=scale)
            pm.Potential("prior_on_log_ratio", pm.logp(believed, log_ratio).sum())
            pm.Potential("change_of_variables", log_rate[0] + log_miss.sum())
        pm.Binomial("conversions", n=units, p=rate, observed=observed, dims="variant")
    return model


def conversion_data(counts: Counts, prior: Prior) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    centre, spread = standard(counts, prior)
    numbers = {"units": counts.units, "observed": counts.conversions, "centre": centre, "spread": spread}
    if prior.family != "flat":
        numbers["prior_scale"] = np.array(prior.scale)
    if prior.family == "student_t":
        numbers["prior_df"] = np.array(prior.df)
    return numbers


def standard(counts: Counts, prior: Prior) -> tuple[FloatArray, FloatArray]:
    """Where the log odds lie, and a triangular matrix that makes them from independent standard Normals.

    The mode of the posterior and the curvature there, by Newton steps in which the Student-t is a Normal whose
    precision follows from the last step [1]_. Only the sampler's ease depends on it.

    Returns
    -------
    centre : ndarray, shape (variant,)
    spread : ndarray, shape (variant, variant)

    References
    ----------
    .. [1] Lange, Little, Taylor (1989), Robust statistical modeling using the t distribution.
    """
    own = 1.0 if prior.family == "flat" else 0.0  # treatments have a prior of their own only then
    hits = counts.conversions + np.where(np.arange(len(counts.units)) == 0, 1.0, own)
    misses = counts.units - counts.conversions + 1.0
    log_odds = np.log((counts.conversions + 0.5) / (counts.units - counts.conversions + 0.5))
    for _ in range(_STEPS):
        slope, precision = _curvature(log_odds, hits, misses, prior)
        step = np.linalg.solve(precision, slope)
        log_odds = log_odds + step * min(1.0, _LONGEST_STEP / np.abs(step).max(initial=1e-300))
        if np.abs(slope @ step) < 1e-12:  # squared distance to the mode, in posterior sd
            break
    _, precision = _curvature(log_odds, hits, misses, prior)
    return log_odds, np.linalg.cholesky(np.linalg.inv(precision))


def _curvature(
    log_odds: FloatArray, hits: FloatArray, misses: FloatArray, prior: Prior
) -> tuple[FloatArray, FloatArray]:
    """Slope of the log density, and minus its curvature, at some log odds."""
    rate = 1.0 / (1.0 + np.exp(-log_odds))
    slope = hits * (1.0 - rate) - misses * rate
    precision = np.diag((hits + misses) * rate * (1.0 - rate))
    if prior.family == "flat":
        return slope, precision
    log_rate = -np.logaddexp(0.0, -log_odds)
    log_ratio = log_rate[1:] - log_rate[0]
    weight = (
        np.full(len(log_ratio), prior.scale**-2)
        if prior.family == "normal"
        else (prior.df + 1) / (prior.df * prior.scale**2 + log_ratio**2)
    )
    turn = np.eye(len(rate))[1:] * (1.0 - rate)  # derivative of the log ratios by the log odds
    turn[:, 0] = rate[0] - 1.0
    return slope - turn.T @ (weight * log_ratio), precision + turn.T @ (weight[:, None] * turn)
