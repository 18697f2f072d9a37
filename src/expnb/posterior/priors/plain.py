"""What a probability means where many ideas do nothing: the arithmetic of a share of nulls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from expnb.errors import PosteriorError

Under = Literal["sceptical", "flat"]

TYPICAL_WORKS = 0.2
"""Share of ideas that work, where nothing was learnt: between a tenth and a third do at companies that counted [1]_.

.. [1] Kohavi, Deng, Vermeer (2022), A/B testing intuition busters, table 2.
"""

_TYPICAL_KEPT = 0.5  # prior and data weigh alike
_LARGEST_BELOW = 10  # "1 in 5" rather than "20 %", up to that


def null_probability(log_at_null: float, log_integral: float, null_share: float) -> float:
    """Posterior probability of exactly no effect.

    Parameters
    ----------
    log_at_null : float
        Log marginal likelihood at no effect: of the data, given ``lam = 0``.
    log_integral : float
        Log of the integral over lam of that marginal likelihood times the prior's continuous part, which integrates to 1 (`Prior.log_density` less `Prior.log_mass`).
    null_share : float in [0, 1]
        Prior probability of exactly no effect.

    Returns
    -------
    float in [0, 1]
        ``null_share L_0 / (null_share L_0 + (1 - null_share) L_1)``.

    Raises
    ------
    PosteriorError
        If `null_share` is no probability, or a likelihood is not a number.

    References
    ----------
    .. [1] Jeffreys (1961), Theory of Probability, 5.0.

    Examples
    --------
    >>> null_probability(0.0, 0.0, 0.6)
    0.6
    """
    if not 0 <= null_share <= 1:
        raise PosteriorError(f"null_share is {null_share}; it is a probability from 0 to 1. Write 0.6 for 60 %.")
    if null_share in {0.0, 1.0}:
        return float(null_share)
    log_odds = math.log(null_share) - math.log1p(-null_share) + log_at_null - log_integral
    if math.isnan(log_odds):
        raise PosteriorError(
            f"the log likelihoods are {log_at_null} and {log_integral}; at least one of them must be finite. Check the data of this comparison."
        )
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds > 0 else math.exp(log_odds) / (1.0 + math.exp(log_odds))


@dataclass(frozen=True, slots=True)
class PlainOdds:
    """A probability, and what it means at a share of working ideas.

    Parameters
    ----------
    stated : float in [0, 1]
        P(effect > 0) as a prior without nulls states it.
    works : float in (0, 0.5]
        Share of ideas that work.
    value : float in [0, 1]
        P(effect > 0) at that share.
    """

    stated: float
    works: float
    value: float

    @property
    def sentence(self) -> str:
        """Such as ``"If 1 in 5 ideas of this kind works, this 0.98 means about 0.78."``."""
        stated, value = _short(self.stated), _short(self.value)
        if stated == value:
            return f"This probability of {stated} holds even if only {_often(self.works)}."
        return f"If {_often(self.works)}, this {stated} means {_about(self.value)}."

    def __str__(self) -> str:
        return self.sentence


def plain_odds(
    p: float,
    works: float,
    *,
    under: Under = "sceptical",
    bayes_factor: float | None = None,
    kept: float = _TYPICAL_KEPT,
) -> PlainOdds:
    """What a stated P(effect > 0) means when a share `works` of ideas works, as many do harm, and the rest does nothing.

    With the Bayes factor of the data this is exact; without, it is a rule of thumb, because `p` alone does not say how much the prior weighs.

    Parameters
    ----------
    p : float in [0, 1]
        P(effect > 0), stated without a point at no effect.
    works : float in (0, 0.5]
        Share of ideas that improve the metric. At 0.5 nothing is null, and `p` means what it says. Of a learnt prior it is ``(1 - null_share) / 2``.
    under : {"sceptical", "flat"}
        Whether a prior on the effect, centred at none, is in `p` already.
    bayes_factor : float above 0, optional
        Of an effect against none: the integral of the likelihood over the prior of effects, by the likelihood at no effect. Where it is left out, it follows from `p` and `kept`.
    kept : float in (0, 1)
        Share of the raw effect that the prior of effects keeps, ``tau**2 / (tau**2 + se**2)``; a half where both weigh alike. Used only without a Bayes factor.

    Returns
    -------
    PlainOdds

    Raises
    ------
    PosteriorError
        If a number is out of range.

    Notes
    -----
    With ``nulls = 1 - 2 * works``, P(effect > 0) is ``(1 - nulls) B p / ((1 - nulls) B + nulls)``. For a Normal estimate and a Normal prior of effects the Bayes factor is
    ``B = sqrt(1 - kept) exp(z**2 / 2)``, where z is the posterior mean in posterior standard deviations, ``p = Phi(z)`` [1]_; of a flat `p`, z is the raw one times ``sqrt(kept)``, and the
    probability given an effect is ``Phi(z)`` of the smaller z.

    References
    ----------
    .. [1] Wakefield (2009), Bayes factors for genome-wide association studies: comparison with p-values.
    .. [2] Kohavi, Deng, Vermeer (2022), A/B testing intuition busters, on false positive risk.

    Examples
    --------
    >>> print(plain_odds(0.98, 0.2))
    If 1 in 5 ideas of this kind works, this 0.98 means about 0.78.
    >>> plain_odds(0.98, 0.5).value
    0.98
    """
    _check(p, works, kept, bayes_factor)
    z = _quantile(p) * (math.sqrt(kept) if under == "flat" else 1.0)
    given_effect = p if under == "sceptical" else 0.5 * math.erfc(-z / math.sqrt(2))
    nulls = 1.0 - 2.0 * works
    if nulls == 0:
        return PlainOdds(p, works, given_effect)
    log_factor = math.log(bayes_factor) if bayes_factor else 0.5 * math.log1p(-kept) + 0.5 * z * z
    return PlainOdds(p, works, (1.0 - null_probability(0.0, log_factor, nulls)) * given_effect)


def counted_odds(p: float, works: float, p_null: float) -> str:
    """What a probability says that already counts the share of ideas that work, as one does under a learnt prior.

    Parameters
    ----------
    p : float in [0, 1]
        P(improvement).
    works : float in (0, 0.5]
        Share of ideas that improve the metric.
    p_null : float in [0, 1]
        P(exactly no effect), of the same posterior.

    Examples
    --------
    >>> counted_odds(0.74, 0.2, 0.24)
    'That 1 in 5 ideas of this kind works is counted in this 0.74; if every idea did something, it would be about 0.97.'
    """
    given = min(1.0, p / (1.0 - p_null)) if p_null < 1 else 0.5
    other = "it would be the same if every idea did something"
    if _short(given) != _short(p):
        other = f"if every idea did something, it would be {_about(given)}"
    return f"That {_often(works)} is counted in this {_short(p)}; {other}."


def check_works(works: float) -> None:
    """Raise `PosteriorError` unless that share of ideas can work."""
    if not 0 < works <= 0.5:
        raise PosteriorError(
            f"works is {works}; it is the share of ideas that work, above 0 and at most 0.5, since as many are taken to do harm. Write 0.2 for 1 in 5."
        )


def _check(p: float, works: float, kept: float, bayes_factor: float | None) -> None:
    if not 0 <= p <= 1:
        raise PosteriorError(f"p is {p}; it is a probability from 0 to 1. Write 0.98 for 98 %.")
    check_works(works)
    if not 0 < kept < 1:
        raise PosteriorError(
            f"kept is {kept}; it is the share of the raw effect that stays, between 0 and 1. Write 0.5 if unsure."
        )
    if bayes_factor is not None and not 0 < bayes_factor < math.inf:
        raise PosteriorError(
            f"bayes_factor is {bayes_factor}; it lies above 0 and is finite. Leave it out to have it from p."
        )


def _quantile(p: float) -> float:
    """Standard Normal quantile; far out, but finite, at 0 and 1."""
    from statistics import NormalDist  # noqa: PLC0415 - needed here alone

    return NormalDist().inv_cdf(min(max(p, 1e-300), 1.0 - 1e-16))


def _often(share: float) -> str:
    """A share as people say it."""
    near = Fraction(share).limit_denominator(_LARGEST_BELOW)
    if near and abs(float(near) - share) <= 0.05 * share:
        number = f"{near.numerator} in {near.denominator}"
        return f"{number} ideas of this kind {'works' if near.numerator == 1 else 'work'}"
    return f"{100 * share:.2g} % of ideas of this kind work"


def _about(p: float) -> str:
    text = _short(p)
    return text if text[0].isalpha() else f"about {text}"


def _short(p: float) -> str:
    """Two decimals, more near certainty; never rounded to 0 or 1."""
    room = min(p, 1.0 - p)
    if room <= 0.00005:
        return "over 0.9999" if p > 0.5 else "under 0.0001"
    digits = 2 if room >= 0.01 else 3 if room >= 0.001 else 4
    return f"{p:.{digits}f}"
