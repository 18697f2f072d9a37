"""The rules of a policy, asked of the data of many rollouts at once; the same for made-up data and for recorded ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr

from expnb.decisions.precedence import GUARDRAIL_EARLY, GUARDRAIL_LATE
from expnb.planning.belief import Belief, FloatArray, Posteriors
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import HARM_PRIOR
from expnb.stats.anytime import CONCENTRATIONS
from expnb.stats.sample_ratio import SAMPLE_RATIO_BLOCK

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

RELATIVE_FROM = 5.0  # standard errors of the control mean, from which on a relative effect is stated


@dataclass(frozen=True, slots=True)
class Known:
    """Data of some rollouts up to one look.

    Parameters
    ----------
    days : ndarray of int, shape (row,)
        Complete days of data.
    units : ndarray of float, shape (row, arm)
        Since the start; control first.
    sums : ndarray of float, shape (row, metric, arm)
        Of the values since the start, goals first.
    sd : ndarray of float, shape (metric, 1) or (row, metric, arm)
        Standard deviation of the values; not read for shares.
    valued : ndarray of float, shape (row, metric, arm), optional
        Units with a value, where they are not all units.
    shares : ndarray of float, shape (arm,) or (row, arm), optional
        Of units that each arm was promised; None where nobody knows, and the sample ratio is then not judged.
    """

    days: IntArray
    units: FloatArray
    sums: FloatArray
    sd: FloatArray
    valued: FloatArray | None = None
    shares: FloatArray | None = None

    @property
    def fewest(self) -> FloatArray:
        """Units per arm of the metric that has the fewest, shape (row, arm)."""
        return self.units if self.valued is None else np.minimum(self.units, self.valued.min(axis=1))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the goals say.

    Parameters
    ----------
    flat : ndarray of bool, shape (row, treatment)
        The treatment is shown not to matter.
    better : ndarray of bool, shape (row,)
        The best live treatment may ship.
    arm : ndarray of int, shape (row,)
        Which one that is, 0 for the first treatment.
    p_improvement, p_above_rope, p_harm : ndarray of float, shape (row,)
        Of the first goal under that treatment.
    """

    flat: BoolArray
    better: BoolArray
    arm: IntArray
    p_improvement: FloatArray
    p_above_rope: FloatArray
    p_harm: FloatArray


def judged_metrics(experiment: Experiment) -> tuple[Metric, ...]:
    """Goals first, then the guardrails: what a policy asks about."""
    return (*experiment.goals, *(metric for metric in experiment.metrics if metric.role == "guardrail"))


class Judge:
    """The policy of one experiment; each question is asked of all rollouts at once."""

    def __init__(self, experiment: Experiment) -> None:
        self.policy, self.metrics = experiment.policy, judged_metrics(experiment)
        self.goals = len(experiment.goals)
        self.beliefs = [Belief.of(experiment.prior_on(metric.name)) for metric in self.metrics]
        self.harm_belief = Belief.of(HARM_PRIOR)
        self.harm_threshold = experiment.harm_threshold

    def likelihoods(self, data: Known) -> list[Likelihood]:
        """What the data say of each metric."""
        return [
            Likelihood.of(
                metric,
                data.units if data.valued is None else data.valued[:, place],
                data.sums[:, place],
                data.sd[place] if data.sd.ndim == 2 else data.sd[:, place],
            )
            for place, metric in enumerate(self.metrics)
        ]

    def harmed(self, likelihoods: list[Likelihood]) -> BoolArray:
        """Whether the harm rule fires on a goal or guardrail, shape (row, treatment)."""
        out = np.zeros(likelihoods[0].estimate.shape, dtype=np.bool_)
        for metric, like in zip(self.metrics, likelihoods, strict=True):
            if metric.margin is not None:
                p_wide = like.harm(self.harm_belief.given(like.estimate, like.error), metric.margin)
                out |= like.known & (p_wide >= self.harm_threshold)
        return out

    def unsafe(self, likelihoods: list[Likelihood], learnt: BoolArray, live: BoolArray) -> BoolArray:
        """Whether something is unknown, or a guardrail is not within its margin, under each live treatment; shape (row, treatment)."""
        out = np.zeros(live.shape, dtype=np.bool_)
        for like in likelihoods:
            out |= ~like.known
        for metric, belief, like in list(zip(self.metrics, self.beliefs, likelihoods, strict=True))[self.goals :]:
            assert metric.margin is not None  # noqa: S101 - a guardrail has a margin
            p_harm = like.harm(belief.given(like.estimate, like.error), metric.margin)
            worst = np.maximum(p_harm, like.flat_harm(metric.margin))
            safe = 1.0 - np.where(learnt[:, None], worst, p_harm)
            out |= safe < np.where(learnt, GUARDRAIL_LATE, 1.0 - GUARDRAIL_EARLY)[:, None]
        return out & live

    def verdict(self, likelihoods: list[Likelihood], live: BoolArray) -> Verdict:
        """What the goals say together, by the policy's rule for several."""
        policy, any_one = self.policy, self.policy.goal_rule == "any"
        flat, better, score = [], [], []
        stated: list[FloatArray] = []
        for metric, belief, like in list(zip(self.metrics, self.beliefs, likelihoods, strict=True))[: self.goals]:
            own = belief.given(like.estimate, like.error)
            inside, outside = self._flat_and_better(metric, own, like)
            flat.append(like.known & inside)
            better.append(like.known & outside)
            side = like.estimate if like.up else -like.estimate
            score.append(side if self.goals == 1 else side / like.error)
            if not stated:
                stated = _stated(metric, own, like)
        lowest = np.max if any_one else np.min
        best = np.argmax(np.where(live, lowest(score, axis=0), -np.inf), axis=1)
        pick = np.arange(len(best)), best
        # One goal that is shown not to matter ends a search for a treatment that improves all of them.
        enough = np.any if policy.goal_rule == "all" and policy.aim == "superiority" else np.all
        may_ship = (np.any if any_one else np.all)(better, axis=0)
        return Verdict(
            enough(flat, axis=0),
            may_ship[pick],
            best,
            *(each[pick] for each in stated),
        )

    def _flat_and_better(self, metric: Metric, own: Posteriors, like: Likelihood) -> tuple[BoolArray, BoolArray]:
        """Whether one goal is inside its rope, and whether it meets the rules to ship; each of shape (row, treatment)."""
        policy, rope = self.policy, metric.rope or 0.0
        inner, outer = (own.above(np.log1p(side * rope)) for side in (1.0, -1.0))
        if policy.aim == "non_inferiority":
            better = 1.0 - like.flat_harm(metric.margin or 0.0) >= policy.sure_enough(
                policy.ship.p_above_margin, self.goals
            )
        else:
            loss = own.expected_loss(increase=like.up)
            better = (
                (inner if like.up else 1.0 - outer) >= policy.sure_enough(policy.ship.p_above_rope, self.goals)
            ) & (loss <= policy.ship.expected_loss)
        return outer - inner >= policy.conclude_flat.p_rope, better

    def sample_ratio_blocks(self, data: Known, live: BoolArray) -> BoolArray:
        """Whether the live arms do not have the sizes that they were promised, shape (row,)."""
        if data.shares is None:
            return np.zeros(len(data.units), dtype=np.bool_)
        if live.all():
            return sample_ratio_blocks(data.units, data.shares)
        kept = np.concatenate([np.ones((len(live), 1), dtype=np.bool_), live], axis=1)
        shares = np.where(kept, data.shares, 0.0)
        return sample_ratio_blocks(np.where(kept, data.units, 0.0), shares / shares.sum(axis=1, keepdims=True))


def any_arm(each: BoolArray) -> BoolArray:
    """Whether it holds for any arm, shape (row,)."""
    out: BoolArray = np.any(each, axis=1)
    return out


def _stated(metric: Metric, own: Posteriors, like: Likelihood) -> list[FloatArray]:
    """P(improvement), P(above the rope) and P(harm) of one goal, each of shape (row, treatment)."""
    cuts = (0.0, like.cut(-(metric.rope or 0.0)))
    better = [own.above(cut) if like.up else 1.0 - own.above(cut) for cut in cuts]
    harm = np.full(like.estimate.shape, np.nan) if metric.margin is None else like.harm(own, metric.margin)
    return [np.where(like.known, each, np.nan) for each in (*better, harm)]


def sample_ratio_blocks(units: FloatArray, shares: FloatArray) -> BoolArray:
    """`stats.sample_ratio_anytime_p` of many rollouts at once.

    Parameters
    ----------
    units : ndarray, shape (row, arm)
    shares : ndarray, shape (arm,) or (row, arm)
        Adding up to 1; an arm without a share is left out.
    """
    concentration = np.array(CONCENTRATIONS)[:, None, None]
    there = np.where(shares > 0, shares, 1.0)
    prior = concentration * there
    log_e = gammaln(concentration[..., 0]) - gammaln(concentration[..., 0] + units.sum(axis=1))
    each = gammaln(prior + units) - gammaln(prior) - units * np.log(there)
    log_e = log_e + np.where(shares > 0, each, 0.0).sum(axis=2)
    top = log_e.max(axis=0)
    log_mean = top + np.log(np.exp(log_e - top).mean(axis=0))
    blocks: BoolArray = log_mean >= -np.log(SAMPLE_RATIO_BLOCK)
    return blocks


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What the data say of the log ratio of each treatment to the control, as a bell.

    Parameters
    ----------
    up : bool
        Whether an increase is better.
    estimate, error : ndarray, shape (row, treatment)
        Before a prior on the effect.
    flat_estimate, flat_error : ndarray, shape (row, treatment)
        With each arm's own reference prior.
    known : ndarray of bool, shape (row, treatment)
        Whether a relative effect exists.
    """

    up: bool
    estimate: FloatArray
    error: FloatArray
    flat_estimate: FloatArray
    flat_error: FloatArray
    known: BoolArray

    @classmethod
    def of(cls, metric: Metric, units: FloatArray, sums: FloatArray, sd: FloatArray) -> Likelihood:
        """Of units and sums of shape (row, arm), and standard deviations that go with them."""
        up = metric.direction == "increase"
        if metric.is_share:
            # Mean and variance of the logarithm of a Beta variable, from the asymptotic series of the digamma functions.
            flat = [_log_beta(sums + 1.0, units - sums + 1.0)] * 2
            own = [flat[0], _log_beta(np.maximum(sums, 0.1), units - sums + 1.0)]
            known = np.ones((len(units), units.shape[1] - 1), dtype=np.bool_)
        else:
            mean = sums / np.maximum(units, 1.0)
            error = sd / np.sqrt(np.maximum(units, 1.0))
            some = (units > 1) & (error > 0)
            sure = some[:, :1] & (mean[:, :1] > RELATIVE_FROM * error[:, :1])
            known = sure & some[:, 1:] & (mean[:, 1:] > 0)
            usable = np.concatenate([sure, known], axis=1)
            safe = np.where(usable, mean, 1.0)
            flat = own = [(np.log(safe), (np.where(usable, error, 1.0) / safe) ** 2)] * 2
        gaps = [
            (treatment[0][:, 1:] - control[0][:, :1], np.sqrt(treatment[1][:, 1:] + control[1][:, :1]))
            for control, treatment in (own, flat)
        ]
        return cls(up, *gaps[0], *gaps[1], known)

    def cut(self, harm: float) -> float:
        """The log ratio at a relative harm; at an improvement, where it is negative."""
        return float(np.log1p(-harm if self.up else harm))

    def harm(self, own: Posteriors, margin: float) -> FloatArray:
        """P(harm beyond a margin) under the posteriors of a prior."""
        above = own.above(self.cut(margin))
        return 1.0 - above if self.up else above

    def flat_harm(self, margin: float) -> FloatArray:
        """P(harm beyond a margin) without a prior on the effect."""
        above: FloatArray = 1.0 - ndtr((self.cut(margin) - self.flat_estimate) / self.flat_error)
        return 1.0 - above if self.up else above


def _log_beta(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the logarithm of a Beta(a, b) variable."""
    return _digamma(a) - _digamma(a + b), _trigamma(a) - _trigamma(a + b)


def _digamma(x: FloatArray) -> FloatArray:
    near = x - 0.5 + 1.0 / (24.0 * (x + 0.3))
    out: FloatArray = np.log(np.maximum(near, 1e-3))
    return out


def _trigamma(x: FloatArray) -> FloatArray:
    out: FloatArray = (x + 0.5) / (x * x) + 1.0 / (6.0 * x**3)
    return out
