"""What the policy says of the goal, and what its choice is worth, where the data are one log ratio with a standard error.

Everything here is in closed form or by bisection: `Belief` makes posteriors mixtures of Normals, and the rule to ship only gets easier as the estimate improves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from expnb.planning.belief import Belief, FloatArray, Posteriors
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.policy import Policy

BoolArray = NDArray[np.bool_]
GoalVerdict = Literal["ship", "conclude flat", "none"]

_FURTHEST = 12.0  # standard errors, or standard deviations; an estimate further out has a probability below 1e-32
_HIGHEST = 50.0  # log ratio that nothing reaches
_HALVINGS = 48  # of a range of 24 standard errors: to what a float can hold


@dataclass(frozen=True, slots=True)
class GoalRule:
    """The rules that judge the goal, on its log ratio.

    Parameters
    ----------
    policy : Policy
    metric : Metric
        With a relative rope, and under non-inferiority a relative margin.
    belief : Belief
        The prior.
    goals : int
        Of the experiment, this one included: `Policy.sure_enough`.
    """

    policy: Policy
    metric: Metric
    belief: Belief
    goals: int = 1

    @classmethod
    def of(cls, experiment: Experiment, metric: Metric | None = None) -> GoalRule | None:
        """That of a goal of an experiment, the first one when left out; None where its distances are not relative."""
        policy, metric = experiment.policy, metric or experiment.goal
        needed = metric.rope if policy.aim == "superiority" else metric.margin
        if needed is None:
            return None
        return cls(policy, metric, Belief.of(experiment.prior_on(metric.name)), len(experiment.goals))

    @property
    def up(self) -> bool:
        """Whether an increase is better."""
        return self.metric.direction == "increase"

    @property
    def needed(self) -> float:
        """Probability that the rule to ship asks of this goal."""
        ship = self.policy.ship
        asked = ship.p_above_rope if self.policy.aim == "superiority" else ship.p_above_margin
        return self.policy.sure_enough(asked, self.goals)

    @property
    def worst(self) -> float:
        """Log ratio at which shipping would be a mistake by the aim: no effect under superiority, the margin under non-inferiority."""
        if self.policy.aim == "superiority":
            return 0.0
        margin = self.metric.margin or 0.0
        return float(np.log1p(-margin if self.up else margin))

    def ships(self, estimate: FloatArray, error: FloatArray) -> BoolArray:
        """Whether the rule to ship is met, of the shape of the estimates of the log ratio and their standard errors."""
        if self.policy.aim == "non_inferiority":
            safe = ndtr((estimate - self.worst) / error * (1.0 if self.up else -1.0))
            return np.asarray(safe >= self.needed)
        known = self.belief.given(estimate, error)
        loss = known.expected_loss(increase=self.up)
        return np.asarray((self._above_rope(known) >= self.needed) & (loss <= self.policy.ship.expected_loss))

    def flat(self, estimate: FloatArray, error: FloatArray) -> BoolArray:
        """Whether the rule to conclude that nothing matters is met; under non-inferiority never, because a flat effect ships there."""
        if self.policy.aim == "non_inferiority":
            return np.zeros(np.shape(estimate), dtype=np.bool_)
        known, rope = self.belief.given(estimate, error), self.metric.rope or 0.0
        inside = known.above(np.log1p(-rope)) - known.above(np.log1p(rope))
        return np.asarray(inside >= self.policy.conclude_flat.p_rope)

    def cut(self, error: FloatArray) -> FloatArray:
        """Estimate of the log ratio from which on the treatment ships, of the shape of the standard errors.

        Infinite, in the direction of improvement, where no estimate is enough that the prior leaves any probability.

        Notes
        -----
        A bell has a monotone likelihood ratio, so a better estimate makes the posterior stochastically better [1]_: P(improvement > rope) rises with it and the expected loss falls, and there is one such estimate.

        References
        ----------
        .. [1] Karlin and Rubin (1956), The theory of decision procedures for distributions with monotone likelihood ratio.
        """
        sign = 1.0 if self.up else -1.0
        if self.policy.aim == "non_inferiority":
            return np.asarray(self.worst + sign * error * ndtri(self.needed))
        edge, far = self._brackets(error)
        low = edge - _FURTHEST * error
        reached = _first(lambda gap: self.ships(sign * gap, error), low, edge + _FURTHEST * error, far)
        return np.where(np.isfinite(reached), sign * reached, sign * np.inf)

    def flat_range(self, error: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest estimate at which it concludes that nothing matters, of the shape of the standard errors; the same one where there is none.

        P(inside the rope) is largest for an estimate of no effect, around which prior and rope lie, and falls on both sides.
        """
        rope, far = self.metric.rope or 0.0, self._brackets(error)[1]
        ends = []
        for side in (-1.0, 1.0):
            edge = abs(math.log1p(side * rope))
            low = np.maximum(0.0, edge - _FURTHEST * error)

            def outside(gap: FloatArray, side: float = side) -> BoolArray:
                return ~self.flat(side * gap, error)

            end = _first(outside, low, edge + _FURTHEST * error, far)
            ends.append(side * np.minimum(end, np.maximum(far, edge + _FURTHEST * error)))
        some = self.flat(np.zeros(error.shape), error)
        return np.where(some, ends[0], 0.0), np.where(some, ends[1], 0.0)

    def _brackets(self, error: FloatArray) -> tuple[float, FloatArray]:
        """Distance of the rope from no effect in the direction of improvement, and how far estimates can be at all: 12 standard deviations under the widest part of the prior."""
        edge = abs(math.log1p((1.0 if self.up else -1.0) * (self.metric.rope or 0.0)))
        widest = float(self.belief.variance.max())
        return edge, np.minimum(_FURTHEST * np.sqrt(widest + error**2), _HIGHEST)

    def _above_rope(self, known: Posteriors) -> FloatArray:
        rope = self.metric.rope or 0.0
        return known.above(np.log1p(rope)) if self.up else 1.0 - known.above(np.log1p(-rope))


def _first(holds: Callable[[FloatArray], BoolArray], low: FloatArray, near: FloatArray, far: FloatArray) -> FloatArray:
    """Distance at which something begins to hold, by bisection: between `low` and `near`, else up to `far`, else infinite.

    Close to the rope a posterior turns within a few standard errors; a narrow prior pulls that point away, by any number of them.
    """
    far = np.maximum(near, far)
    soon, ever = holds(near), holds(far)
    low, high = np.where(soon, low, near), np.where(soon, near, far)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        found = holds(middle)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return np.where(soon | ever, high, np.inf)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of an estimate that is still to come, and of the log ratio behind it.

    Parameters
    ----------
    weight, mean, sd : ndarray, shape (part,)
        Of the log ratio, a mixture of Normals.
    center, spread : ndarray, shape (part,)
        Mean and standard deviation of the estimate, by part.
    covariance : ndarray, shape (part,)
        Of the log ratio and the estimate, by part.
    """

    weight: FloatArray
    mean: FloatArray
    sd: FloatArray
    center: FloatArray
    spread: FloatArray
    covariance: FloatArray

    @classmethod
    def after(cls, known: Posteriors, estimate: float, error: float, growth: float) -> Outlook:
        """Of the estimate from all data, when there are `growth` times as many as now.

        The estimate is the mean of the present one and that of the new data, weighted by information, so its variance around the truth shrinks to ``error^2 / growth`` [1]_.

        Parameters
        ----------
        known : Posteriors
            Of one log ratio, given `estimate` and `error`.
        growth : float
            Above 1.

        References
        ----------
        .. [1] Raiffa and Schlaifer (1961), Applied Statistical Decision Theory, chapter 5.
        """
        new = 1.0 - 1.0 / growth  # share of the information that is still to come
        noise = error**2 / growth * new  # of the new data's mean, error^2 / (growth - 1), times new^2
        spread = np.sqrt(new**2 * known.sd**2 + noise)
        center = (1.0 - new) * estimate + new * known.mean
        return cls(known.weight, known.mean, known.sd, center, spread, new * known.sd**2)

    def above(self, cut: FloatArray | float) -> FloatArray:
        """P(estimate > cut), of the shape of `cut`."""
        gap = self.center - np.asarray(cut)[..., None]
        return np.asarray((self.weight * ndtr(gap / self.spread)).sum(axis=-1))

    def chances(self, rule: GoalRule, error: float) -> dict[GoalVerdict, float]:
        """Probability of each verdict on the estimate that is to come, whose standard error is `error`."""
        spread = np.array(error)
        beyond = float(self.above(rule.cut(spread)))
        low, high = rule.flat_range(spread)
        flat = float(self.above(low) - self.above(high))
        ship = beyond if rule.up else 1.0 - beyond
        return {"ship": ship, "conclude flat": flat, "none": max(0.0, 1.0 - ship - flat)}

    def gain_of_choosing(self, cut: float, *, increase: bool) -> float:
        """Mean improvement if the treatment is taken where the estimate is better than `cut`, and control, with none, elsewhere.

        Of the relative effect, ``exp(log ratio) - 1``: under one bell the mean of ``exp(L)`` where ``X > c`` is ``exp(mean + sd^2 / 2) P(X + cov(L, X) > c)``.
        """
        sign = 1.0 if increase else -1.0
        gap = sign * (self.center - cut)
        grown = np.exp(self.mean + 0.5 * self.sd**2)
        parts = grown * ndtr((gap + sign * self.covariance) / self.spread) - ndtr(gap / self.spread)
        return float(sign * (self.weight * parts).sum())


def indifferent(error: float) -> float:
    """Estimate of the log ratio at which the mean relative effect is 0: ``-error^2 / 2``.

    Under every mixture of Normals around no effect: a part that keeps the share k of the estimate has mean ``k x`` and variance ``k error^2``, and so the mean effect ``exp(k (x + error^2 / 2)) - 1``, of the sign of ``x + error^2 / 2`` whatever k.
    """
    return -0.5 * error**2


def mean_effect(known: Posteriors) -> FloatArray:
    """Mean of ``exp(log ratio) - 1``."""
    return np.asarray((known.weight * np.expm1(known.mean + 0.5 * known.sd**2)).sum(axis=-1))
