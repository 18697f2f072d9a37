"""Arms whose means are tied to the control's by a prior on the log ratio: what the models of all kinds share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from expnb.models.belief import Data, Tensor, belief_data, kind_of, log_belief, log_odds_of_none, pull
from expnb.posterior.exact.arms import FloatArray
from expnb.spec.prior import Prior

_STEPS = 200
_LONGEST_STEP = 1.0  # in log odds, or in the logarithm of a mean
_NEAR = 1e-12  # squared distance to the mode, in posterior standard deviations
_TINY = 1e-300

__all__ = ["Data", "Slope", "coords_of", "kind_of", "standard", "standardised", "tie", "tied_data"]


@dataclass(frozen=True, slots=True)
class Slope:
    """A log density without the prior on the effect, at one place of the coordinates of all arms; each of shape (variant,).

    Parameters
    ----------
    slope, precision : ndarray
        Its first derivative, and about minus its second one.
    log_mean, turn : ndarray
        Logarithm of each mean, and its derivative.
    """

    slope: FloatArray
    precision: FloatArray
    log_mean: FloatArray
    turn: FloatArray


def coords_of(variants: Sequence[str]) -> dict[str, list[str]]:
    """Coordinates of a model of some arms, control first."""
    return {"variant": list(variants), "treatment": list(variants[1:])}


def tied_data(prior: Prior, centre: FloatArray, spread: FloatArray, turn: FloatArray, log_mean: FloatArray) -> Data:
    """Numbers of the prior and of the scale that is given to the sampler."""
    numbers: Data = {"centre": centre, "spread": spread, **belief_data(prior)}
    if prior.null_share:
        ratio = np.eye(len(centre))[1:] * turn  # derivative of the log ratios by the coordinates
        ratio[:, 0] = -turn[0]
        numbers["prior_log_odds_of_none"] = log_odds_of_none(prior)
        numbers["likely"] = log_mean[1:] - log_mean[0]
        numbers["likely_sd"] = np.sqrt(((ratio @ spread) ** 2).sum(axis=1))
    return numbers


def standard(at: Callable[[FloatArray], Slope], start: FloatArray, prior: Prior) -> Data:
    """`tied_data` around the mode: where the coordinates lie, and a triangular matrix that makes them from independent standard Normals.

    The mode of the posterior and the curvature there, by Newton steps in which the prior is a Normal whose precision
    follows from the last step. Only the sampler's ease depends on it.
    """
    place = start
    for _ in range(_STEPS):
        slope, precision = _with_prior(at(place), prior)
        step = np.linalg.solve(precision, slope)
        place = place + step * min(1.0, _LONGEST_STEP / max(np.abs(step).max(), _TINY))
        if np.abs(slope @ step) < _NEAR:
            break
    found = at(place)
    _, precision = _with_prior(found, prior)
    return tied_data(prior, place, np.linalg.cholesky(np.linalg.inv(precision)), found.turn, found.log_mean)


def _with_prior(found: Slope, prior: Prior) -> tuple[FloatArray, FloatArray]:
    own = np.diag(found.precision)
    if prior.family == "flat":
        return found.slope, own
    log_ratio = found.log_mean[1:] - found.log_mean[0]
    weight = pull(prior, log_ratio)
    turn = np.eye(len(found.turn))[1:] * found.turn
    turn[:, 0] = -found.turn[0]
    return found.slope - turn.T @ (weight * log_ratio), own + turn.T @ (weight[:, None] * turn)


# --- in a model --------------------------------------------------------------------------------


def standardised(numbers: Data) -> Tensor:
    """Coordinates of all arms, shifted and scaled so that their posterior is about a standard Normal, with 100 units as with 10 million."""
    import pymc as pm  # noqa: PLC0415

    centre = pm.Data("centre", numbers["centre"], dims="variant")
    spread = pm.Data("spread", numbers["spread"])
    return centre + (spread * pm.Flat("standardised", dims="variant")).sum(axis=1)


def tie(
    name: str,
    log_mean: Tensor,
    prior: Prior,
    numbers: Data,
    *,
    without_effect: Tensor,
) -> None:
    """Add the means, the effects and the prior on them to the model.

    A learnt prior says that there is no effect at all with some probability. Whether there is one is summed out: what
    the data say of a treatment is then that of its own mean, or that of the control's mean, as likely as
    ``p_none`` says, draw by draw. Where there is none, the log ratio means nothing; it follows a Normal close to what it is
    otherwise [1]_. `coin` decides for each draw whether there is an effect.

    Parameters
    ----------
    name : str
        Of the means.
    log_mean : tensor, shape (variant,)
        Control first.
    without_effect : tensor, shape (treatment,)
        Log likelihood of each treatment with the control's mean, less that with its own.

    References
    ----------
    .. [1] Carlin, Chib (1995), Bayesian model choice via Markov chain Monte Carlo methods.
    """
    import pymc as pm  # noqa: PLC0415
    import pytensor.tensor as pt  # noqa: PLC0415

    log_ratio = log_mean[1:] - log_mean[0]
    if prior.family != "flat" and not prior.null_share:
        pm.Potential("prior_on_log_ratio", log_belief(prior, numbers, log_ratio).sum())
    if prior.null_share:
        log_odds = pm.Data("prior_log_odds_of_none", numbers["prior_log_odds_of_none"])
        likely = pm.Normal.dist(
            mu=pm.Data("likely", numbers["likely"], dims="treatment"),
            sigma=pm.Data("likely_sd", numbers["likely_sd"], dims="treatment"),
        )
        some = log_belief(prior, numbers, log_ratio)
        none = log_odds + pm.logp(likely, log_ratio) + without_effect
        pm.Potential("prior_on_log_ratio", pt.logaddexp(some, none).sum())
        p_none = pm.Deterministic("p_none", pt.sigmoid(none - some), dims="treatment")
        coin = pm.Uniform("coin", dims="treatment")
        log_ratio = pt.switch(coin < p_none, 0.0, log_ratio)
    mean = pm.Deterministic(name, pt.exp(pt.concatenate([log_mean[:1], log_mean[0] + log_ratio])), dims="variant")
    pm.Deterministic("log_ratio", log_ratio, dims="treatment")
    pm.Deterministic("effect_rel", pt.expm1(log_ratio), dims="treatment")
    pm.Deterministic("effect_abs", mean[1:] - mean[0], dims="treatment")
