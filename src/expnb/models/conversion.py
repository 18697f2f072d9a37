"""A conversion as a PyMC model: one rate per arm, and a prior on the log ratio of every treatment to control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from expnb.models.environment import prepare
from expnb.models.tied import Data, Slope, coords_of, standard, standardised, tie
from expnb.posterior.exact.arms import Binomial, FloatArray
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    import pymc as pm


def conversion_model(arms: Binomial, prior: Prior, variants: Sequence[str]) -> pm.Model:
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
    arms : Binomial
        One row per variant, control first. Units in clusters count as fewer independent ones; counts that are not whole are a potential
        ``conversions`` instead of an observed variable.
    prior : Prior
        On the log ratio.
    variants : sequence of str

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

    numbers = conversion_data(arms, prior)
    with pm.Model(coords=coords_of(variants)) as model:
        units = pm.Data("units", numbers["units"], dims="variant")
        observed = pm.Data("observed", numbers["observed"], dims="variant")

        log_odds = standardised(numbers)
        log_rate, log_miss = -pt.softplus(-log_odds), -pt.softplus(log_odds)
        if is_whole(arms):
            pm.Binomial("conversions", n=units, p=pt.sigmoid(log_odds), observed=observed, dims="variant")
        else:
            pm.Potential("conversions", (observed * log_rate + (units - observed) * log_miss).sum())

        uniform = log_rate + log_miss  # of a rate with its own Beta(1, 1)
        pm.Potential("change_of_variables", uniform.sum() if prior.family == "flat" else log_rate[0] + log_miss.sum())
        hits, misses = observed[1:], (units - observed)[1:]
        same = hits * (log_rate[0] - log_rate[1:]) + misses * (log_miss[0] - log_miss[1:])
        tie("rate", log_rate, prior, numbers, without_effect=same)
    return model


def conversion_data(arms: Binomial, prior: Prior) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    hits = arms.successes + _own(len(arms), prior)
    misses = arms.failures + 1.0

    def at(log_odds: FloatArray) -> Slope:
        rate = 1.0 / (1.0 + np.exp(-log_odds))
        return Slope(
            hits * (1.0 - rate) - misses * rate,
            (hits + misses) * rate * (1.0 - rate),
            -np.logaddexp(0.0, -log_odds),
            1.0 - rate,
        )

    start = np.log((arms.successes + 0.5) / (arms.failures + 0.5))
    return {"units": arms.units, "observed": arms.successes} | standard(at, start, prior)


def is_whole(arms: Binomial) -> bool:
    """Whether the counts are those of independent units."""
    return bool((arms.successes == np.round(arms.successes)).all() and (arms.units == np.round(arms.units)).all())


def _own(size: int, prior: Prior) -> FloatArray:
    """One where an arm has a reference prior of its own: the control, and without a prior on the effect all arms."""
    return np.where(np.arange(size) == 0, 1.0, 1.0 if prior.family == "flat" else 0.0)
