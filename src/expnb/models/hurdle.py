"""Revenue as a PyMC model of two steps: who pays, and how much, LogNormal. It explains an effect; it does not judge it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from expnb.errors import PosteriorError
from expnb.models.environment import prepare
from expnb.models.tied import Data, Slope, coords_of, standard, standardised, tie
from expnb.posterior.exact.arms import FloatArray
from expnb.spec.prior import Prior
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import pymc as pm

LEAST_PAYERS = 30  # with a handful the spread of payments, and so their mean, is anybody's guess
MOST_BIAS = 0.05  # of the mean per payer, as a share of it
_SURE = 3.0  # standard errors


@dataclass(frozen=True, slots=True)
class Payers:
    """Who paid, and the logarithms of how much, per arm; each of shape (variant,).

    Parameters
    ----------
    units, payers : ndarray
        Payers are units with a value above 0.
    log_mean : ndarray
        Mean of the payers' log values.
    log_squares : ndarray
        Their squared deviations from it.
    per_payer, per_payer_se : ndarray
        Raw mean per payer and its standard error; the model does not see them.

    Raises
    ------
    PosteriorError
        If an arm has fewer than 30 payers, or all of them pay the same.
    """

    units: FloatArray
    payers: FloatArray
    log_mean: FloatArray
    log_squares: FloatArray
    per_payer: FloatArray
    per_payer_se: FloatArray

    def __post_init__(self) -> None:
        if self.payers.min() < LEAST_PAYERS or self.log_squares.min() <= 0:
            raise PosteriorError(
                f"the arms have {[round(n) for n in self.payers.tolist()]} payers; the hurdle model needs at least {LEAST_PAYERS} in each, who do not all pay the same. Leave out family='hurdle'."
            )

    def __len__(self) -> int:
        return len(self.units)

    @property
    def log_sd(self) -> FloatArray:
        """Standard deviation of the log values, shape (variant,)."""
        out: FloatArray = np.sqrt(self.log_squares / (self.payers - 1.0))
        return out


def hurdle_model(arms: Payers, prior: Prior, variants: Sequence[str]) -> pm.Model:
    """The model of revenue per unit as the product of the share of payers and the mean per payer.

    ``payers ~ Binomial(units, share)``, the logarithm of what a payer pays ``~ Normal(log_level, log_sd)``, and so ``mean = share * exp(log_level + log_sd**2 / 2)``. The mean and the squared
    deviations of the logarithms are all that the data say of the last two. ``log_ratio ~ prior`` on the means of each treatment and control; every share is uniform,
    every log_sd has density ``1 / log_sd`` and the control's level is uniform [1]_. With ``prior.family == "flat"`` all levels are.

    Right only where payments are LogNormal; `tail` says whether that may be.

    Parameters
    ----------
    arms : Payers
        Control first.
    prior : Prior
        On the log ratio of the means per unit.
    variants : sequence of str

    Returns
    -------
    pymc.Model
        Coordinates `variant` and `treatment`; all numbers are `pm.Data`. Variables: `mean`, `share` and `per_payer` of each arm; `log_ratio`, `effect_rel` and `effect_abs` of the means,
        `effect_share_rel` and `effect_per_payer_rel`; observed `payers`, `mean_of_logs`, `squares_of_logs`.

    Raises
    ------
    PosteriorError
        If the prior says that some treatments have no effect at all: that is not one of the product alone.

    References
    ----------
    .. [1] Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 3.2.
    """
    if prior.null_share:
        raise PosteriorError(
            f"the hurdle model knows no prior with a point at no effect, and {prior.id} has one. Write prior=Prior(scale={prior.scale:.2g}), or leave out family='hurdle'."
        )
    prepare()
    import pymc as pm  # noqa: PLC0415 - seconds, and flags come first
    import pytensor.tensor as pt  # noqa: PLC0415

    numbers = hurdle_data(arms, prior)
    with pm.Model(coords=coords_of(variants)) as model:
        units = pm.Data("units", numbers["units"], dims="variant")
        observed = pm.Data("observed", numbers["observed"], dims="variant")
        log_mean = standardised(numbers)
        place = [
            pm.Data(f"{name}_centre", numbers[f"{name}_centre"], dims="variant")
            + pm.Data(f"{name}_spread", numbers[f"{name}_spread"], dims="variant")
            * pm.Flat(f"{name}_standardised", dims="variant")
            for name in ("share", "log_sd")
        ]
        log_share, log_miss = -pt.softplus(-place[0]), -pt.softplus(place[0])
        log_sd = pt.exp(place[1])
        log_level = log_mean - log_share - 0.5 * log_sd**2

        pm.Binomial("payers", n=units, p=pt.exp(log_share), observed=observed, dims="variant")
        pm.Normal(
            "mean_of_logs",
            mu=log_level,
            sigma=log_sd / pt.sqrt(observed),
            observed=pm.Data("log_mean", numbers["log_mean"], dims="variant"),
            dims="variant",
        )
        pm.Gamma(
            "squares_of_logs",
            alpha=0.5 * (observed - 1.0),
            beta=0.5 / log_sd**2,
            observed=pm.Data("log_squares", numbers["log_squares"], dims="variant"),
            dims="variant",
        )
        pm.Potential("change_of_variables", (log_share + log_miss).sum())
        tie("mean", log_mean, prior, numbers, without_effect=pt.zeros_like(log_mean[1:]))
        share = pm.Deterministic("share", pt.exp(log_share), dims="variant")
        log_each = log_level + 0.5 * log_sd**2
        pm.Deterministic("per_payer", pt.exp(log_each), dims="variant")
        pm.Deterministic("effect_share_rel", share[1:] / share[0] - 1.0, dims="treatment")
        pm.Deterministic("effect_per_payer_rel", pt.expm1(log_each[1:] - log_each[0]), dims="treatment")
    return model


def hurdle_data(arms: Payers, prior: Prior) -> Data:
    """Every number of the model, by the name of its `pm.Data`."""
    share = (arms.payers + 1.0) / (arms.units + 2.0)
    log_mean = np.log(share) + arms.log_mean + 0.5 * arms.log_sd**2
    var = (1.0 - share) / (arms.units * share) + arms.log_sd**2 / arms.payers * (1.0 + 0.5 * arms.log_sd**2)

    def at(place: FloatArray) -> Slope:
        return Slope((log_mean - place) / var, 1.0 / var, place, np.ones(len(place)))

    return {
        "units": arms.units,
        "observed": arms.payers,
        "log_mean": arms.log_mean,
        "log_squares": arms.log_squares,
        "share_centre": np.log(share) - np.log1p(-share),
        "share_spread": 1.0 / np.sqrt(arms.units * share * (1.0 - share)),
        "log_sd_centre": np.log(arms.log_sd),
        "log_sd_spread": 1.0 / np.sqrt(2.0 * (arms.payers - 1.0)),
    } | standard(at, log_mean, prior)


def tail(metric: str, arms: Payers, variants: Sequence[str]) -> Check:
    """Whether payments may be LogNormal: a LogNormal whose logarithms fit has the mean per payer that was seen.

    With other tails it has not: on Gamma payments it lies 70 % too high, with a few very large payments 5 to 25 % too low. The value is the largest difference, as a share.
    """
    implied = np.exp(arms.log_mean + 0.5 * arms.log_sd**2)
    gap = implied / arms.per_payer - 1.0
    # Of the logarithms of both means: they are seen in the same payers, so that the errors do not add up.
    error = np.hypot(
        arms.per_payer_se / arms.per_payer, arms.log_sd * np.sqrt((1.0 + 0.5 * arms.log_sd**2) / arms.payers)
    )
    off = (np.abs(gap) > MOST_BIAS) & (np.abs(np.log1p(gap)) > _SURE * error)
    worst = int(np.argmax(np.where(off, np.abs(gap), np.abs(gap) - math.ceil(np.abs(gap).max() + 1.0))))
    figures = f"{variants[worst]}: {implied[worst]:.4g} per payer by the model, {arms.per_payer[worst]:.4g} in the data ({gap[worst]:+.0%})"
    if not off.any():
        return Check(f"tail:{metric}", float(gap[worst]), "ok", f"{metric}: payments may be LogNormal; {figures}.")
    return Check(
        f"tail:{metric}",
        float(gap[worst]),
        "warn",
        f"{metric}: payments are not LogNormal, and the hurdle model is wrong about their mean ({figures}). Read shares of payers from it, not amounts; leave out family='hurdle' for the effect.",
    )
