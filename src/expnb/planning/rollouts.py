"""Thousands of rollouts of one policy at once: every day units come in at the rung of each, and the policy acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr

from expnb.decisions.precedence import GUARDRAIL_EARLY, GUARDRAIL_LATE, Conditions, code, first_action
from expnb.planning.baseline import Baseline
from expnb.planning.belief import Belief, FloatArray, Posteriors
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import HARM_PRIOR
from expnb.stats.anytime import CONCENTRATIONS
from expnb.stats.sample_ratio import SAMPLE_RATIO_BLOCK

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

RELATIVE_FROM = 5.0  # standard errors of the control mean, from which on a relative effect is stated
_CHUNK = 2_000  # rollouts at a time, so that they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Rollouts:
    """How simulated rollouts ended.

    Parameters
    ----------
    action : ndarray of int, shape (rollout,)
        `code` of the last action: ship, conclude flat, roll back, or hold for those that still run.
    day : ndarray of int, shape (rollout,)
        Day of that action, 1 for the first; the last day for those that still run.
    arm : ndarray of int, shape (rollout,)
        The treatment that was best on the goal, 0 for the first.
    treated : ndarray of float, shape (rollout,)
        Units that got a treatment until then.
    reached : ndarray of float, shape (rollout, rung)
        Day on which each rung was first reached; ``inf`` where it was not.
    blocked : ndarray of bool, shape (rollout,)
        Whether the sample ratio blocked it on any day.
    stated : ndarray of float, shape (rollout,)
        P(improvement) of the goal at the last verdict; NaN without one.
    """

    action: IntArray
    day: IntArray
    arm: IntArray
    treated: FloatArray
    reached: FloatArray
    blocked: BoolArray
    stated: FloatArray


@dataclass(frozen=True, slots=True)
class Look:
    """What was known and done on one day in the rollouts that still ran.

    Parameters
    ----------
    day : int
    rows : ndarray of int, shape (row,)
        Which rollouts.
    enrolled : ndarray of float, shape (row,)
        Percent, on that day.
    days_at_rung : ndarray of int, shape (row,)
    units, units_at_rung : ndarray of float, shape (row, arm)
        Since the start, and since this rung was reached; control first.
    sums : ndarray of float, shape (row, metric, arm)
        Of the values since the start.
    action : ndarray of int, shape (row,)
        `code` of what the policy did.
    """

    day: int
    rows: IntArray
    enrolled: FloatArray
    days_at_rung: IntArray
    units: FloatArray
    units_at_rung: FloatArray
    sums: FloatArray
    action: IntArray


def judged_metrics(experiment: Experiment) -> tuple[Metric, ...]:
    """Goal first, then the guardrails: what a policy asks about."""
    return (experiment.goal, *(metric for metric in experiment.metrics if metric.role == "guardrail"))


def roll_out(
    experiment: Experiment,
    truth: FloatArray,
    *,
    baselines: Mapping[str, Baseline],
    units_per_day: float,
    days: int,
    seed: int,
) -> Rollouts:
    """Run the policy of an experiment on simulated data.

    Parameters
    ----------
    truth : ndarray, shape (rollout, treatment, metric)
        True relative effects, in the order of `judged_metrics`.
    units_per_day : float
        Eligible units per day, of all arms; a rung enrols its percent of them.

    Returns
    -------
    Rollouts
    """
    parts = []
    for number, start in enumerate(range(0, len(truth), _CHUNK)):
        run = Run(experiment, truth[start : start + _CHUNK], baselines, units_per_day, [seed, number])
        for _ in run.looks(days):
            pass
        parts.append(run.ended())
    return Rollouts(*(np.concatenate(each) for each in zip(*map(_fields, parts), strict=True)))


def _fields(part: Rollouts) -> tuple[NDArray[np.generic], ...]:
    return part.action, part.day, part.arm, part.treated, part.reached, part.blocked, part.stated


class Run:
    """Rollouts on their way.

    Parameters
    ----------
    seed : sequence of int
        Of the random numbers.
    """

    def __init__(
        self,
        experiment: Experiment,
        truth: FloatArray,
        baselines: Mapping[str, Baseline],
        units_per_day: float,
        seed: list[int],
    ) -> None:
        self.policy, self.metrics = experiment.policy, judged_metrics(experiment)
        self.shares = np.array([experiment.share(name) for name in experiment.variants])
        self.baselines = [baselines[metric.name] for metric in self.metrics]
        self.units_per_day, self.rng = units_per_day, np.random.default_rng(seed)
        rollouts, arms = len(truth), len(self.shares)
        means = np.array([each.mean for each in self.baselines])
        growth = np.concatenate([np.zeros((rollouts, 1, len(means))), truth], axis=1)
        self.means = np.moveaxis(means * (1.0 + growth), 1, 2)  # (rollout, metric, arm)
        self.rungs = [self.policy.rung(enrolled) for enrolled in self.policy.percents]
        self.beliefs = [Belief.of(experiment.prior_on(metric.name)) for metric in self.metrics]
        self.harm_belief = Belief.of(HARM_PRIOR)
        self.harm_threshold = experiment.harm_threshold
        self.live = np.arange(rollouts)
        self.rung, self.days_at_rung = np.zeros(rollouts, dtype=np.intp), np.zeros(rollouts, dtype=np.intp)
        self.units, self.units_at_rung = np.zeros((rollouts, arms)), np.zeros((rollouts, arms))
        self.sums = np.zeros((rollouts, len(means), arms))
        self.action = np.full(rollouts, code("hold"), dtype=np.intp)
        self.day, self.arm = np.zeros(rollouts, dtype=np.intp), np.zeros(rollouts, dtype=np.intp)
        self.reached = np.full((rollouts, len(self.rungs)), np.inf)
        self.flat, self.better = np.zeros(rollouts, dtype=np.bool_), np.zeros(rollouts, dtype=np.bool_)
        self.blocked, self.stated = np.zeros(rollouts, dtype=np.bool_), np.full(rollouts, np.nan)

    def looks(self, days: int) -> Iterator[Look]:
        """One look a day, until no rollout runs any more."""
        for day in range(1, days + 1):
            if not len(self.live):
                return
            yield self._look(day)

    def ended(self) -> Rollouts:
        """How they ended so far."""
        treated = self.units[:, 1:].sum(axis=1)
        return Rollouts(self.action, self.day, self.arm, treated, self.reached, self.blocked, self.stated)

    def _look(self, day: int) -> Look:
        rows = self.live
        rung = self.rung[rows]
        self.reached[rows, rung] = np.minimum(self.reached[rows, rung], day)
        self.day[rows] = day
        self.days_at_rung[rows] += 1
        self._draw(rows, np.array([each.enrolled for each in self.rungs])[rung])
        action = self._act(rows, day)
        look = Look(
            day,
            rows,
            np.array([each.enrolled for each in self.rungs])[rung],
            self.days_at_rung[rows].copy(),
            self.units[rows],
            self.units_at_rung[rows],
            self.sums[rows],
            action,
        )
        self._move(rows, action)
        return look

    def _draw(self, rows: IntArray, enrolled: FloatArray) -> None:
        """The units of one day and their values."""
        left = self.rng.poisson(self.units_per_day * enrolled / 100)
        new = np.zeros((len(rows), len(self.shares)), dtype=np.int64)
        rest = 1.0
        for arm, share in enumerate(self.shares[:-1]):
            new[:, arm] = self.rng.binomial(left, min(1.0, share / rest))
            left, rest = left - new[:, arm], rest - share
        new[:, -1] = left
        self.units[rows] += new
        self.units_at_rung[rows] += new
        for place, (metric, baseline) in enumerate(zip(self.metrics, self.baselines, strict=True)):
            mean = self.means[rows, place]
            if metric.is_share:
                drawn = self.rng.binomial(new, np.clip(mean, 0.0, 1.0)).astype(np.float64)
            else:
                drawn = new * mean + np.sqrt(new) * baseline.sd * self.rng.standard_normal(new.shape)
            self.sums[rows, place] += drawn

    def _act(self, rows: IntArray, day: int) -> IntArray:
        policy, units = self.policy, self.units[rows]
        learnt = np.array([each.enrolled >= policy.learn_at for each in self.rungs])[self.rung[rows]]
        harmed, unsafe = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
        for place, metric in enumerate(self.metrics):
            like = _Likelihood.of(metric, self.baselines[place], units, self.sums[rows, place])
            unsafe |= ~like.known
            cut = None if metric.margin is None else np.log1p(-metric.margin if like.up else metric.margin)
            if cut is not None:
                p_wide = like.beyond(self.harm_belief.given(like.estimate, like.error).above(cut))
                harmed |= (like.known[:, None] & (p_wide >= self.harm_threshold)).any(axis=1)
            own = self.beliefs[place].given(like.estimate, like.error)
            if place == 0:
                goal, goal_like = own, like
                continue
            assert cut is not None  # noqa: S101 - a guardrail has a margin
            p_harm = like.beyond(own.above(cut))
            p_flat = like.beyond(1.0 - ndtr((cut - like.flat_estimate) / like.flat_error))
            safe = 1.0 - np.where(learnt[:, None], np.maximum(p_harm, p_flat), p_harm)
            unsafe |= (safe < np.where(learnt, GUARDRAIL_LATE, 1.0 - GUARDRAIL_EARLY)[:, None]).any(axis=1)
        if day >= policy.min_days and (day == policy.min_days or day % policy.verdict_days == 0):
            self.flat[rows], self.better[rows], self.arm[rows], self.stated[rows] = self._goal(goal, goal_like)
        ratio = self._sample_ratio_blocks(units)
        self.blocked[rows] |= ratio
        least = np.array([each.units or 0 for each in self.rungs])[self.rung[rows]]
        found = Conditions(
            harmed=harmed,
            blocked=unsafe | ratio | (self.units_at_rung[rows].min(axis=1) < least),
            judged=np.full(len(rows), day >= policy.min_days),
            flat=self.flat[rows],
            better=self.better[rows],
            learnt=learnt,
            waited=self.days_at_rung[rows] >= np.array([each.days or 0 for each in self.rungs])[self.rung[rows]],
            top=self.rung[rows] == len(self.rungs) - 1,
        )
        return first_action(policy, found)

    def _goal(self, goal: Posteriors, like: _Likelihood) -> tuple[BoolArray, BoolArray, IntArray, FloatArray]:
        """Whether no treatment matters, whether the best one may ship, which one that is, and its P(improvement)."""
        policy, metric = self.policy, self.metrics[0]
        best = np.argmax(like.estimate if like.up else -like.estimate, axis=1)
        pick = np.arange(len(best)), best
        rope = metric.rope or 0.0
        inner, outer = (goal.above(np.log1p(side * rope)) for side in (1.0, -1.0))
        p_rope = outer - inner
        p_above = inner if like.up else 1.0 - outer
        stated = goal.above(0.0) if like.up else 1.0 - goal.above(0.0)
        if policy.aim == "non_inferiority":
            margin = metric.margin or 0.0
            cut = np.log1p(-margin if like.up else margin)
            p_flat = like.beyond(1.0 - ndtr((cut - like.flat_estimate) / like.flat_error))
            better = 1.0 - p_flat >= policy.ship.p_above_margin
        else:
            loss = goal.expected_loss(increase=like.up)
            better = (p_above >= policy.ship.p_above_rope) & (loss <= policy.ship.expected_loss)
        flat: BoolArray = np.all(p_rope >= policy.conclude_flat.p_rope, axis=1)
        return flat, better[pick], best, stated[pick]

    def _sample_ratio_blocks(self, units: FloatArray) -> BoolArray:
        """`stats.sample_ratio_anytime_p` of many rollouts at once."""
        concentration = np.array(CONCENTRATIONS)[:, None, None]
        prior = concentration * self.shares
        log_e = gammaln(concentration[..., 0]) - gammaln(concentration[..., 0] + units.sum(axis=1))
        log_e = log_e + (gammaln(prior + units) - gammaln(prior) - units * np.log(self.shares)).sum(axis=2)
        top = log_e.max(axis=0)
        log_mean = top + np.log(np.exp(log_e - top).mean(axis=0))
        blocks: BoolArray = log_mean >= -np.log(SAMPLE_RATIO_BLOCK)
        return blocks

    def _move(self, rows: IntArray, action: IntArray) -> None:
        """To the next rung, one down, or out of the simulation."""
        self.action[rows] = action
        hold, up = action == code("hold"), action == code("ramp_up")
        limits = np.array(
            [each.max_hold_days if each.enrolled < self.policy.learn_at else 0 for each in self.rungs], dtype=np.float64
        )[self.rung[rows]]
        down = hold & (limits > 0) & (self.days_at_rung[rows] >= limits) & (self.rung[rows] > 0)
        for chosen, by in ((rows[up], 1), (rows[down], -1)):
            self.rung[chosen] += by
            self.days_at_rung[chosen] = 0
            self.units_at_rung[chosen] = 0.0
        self.action[rows[up]] = code("hold")
        self.live = rows[hold | up]


@dataclass(frozen=True, slots=True)
class _Likelihood:
    """What the data say of the log ratio of each treatment to the control, as a bell.

    Parameters
    ----------
    up : bool
        Whether an increase is better.
    estimate, error : ndarray, shape (row, treatment)
        Before a prior on the effect.
    flat_estimate, flat_error : ndarray, shape (row, treatment)
        With each arm's own reference prior.
    known : ndarray of bool, shape (row,)
        Whether a relative effect exists.
    """

    up: bool
    estimate: FloatArray
    error: FloatArray
    flat_estimate: FloatArray
    flat_error: FloatArray
    known: BoolArray

    @classmethod
    def of(cls, metric: Metric, baseline: Baseline, units: FloatArray, sums: FloatArray) -> _Likelihood:
        up = metric.direction == "increase"
        if metric.is_share:
            # Mean and variance of the logarithm of a Beta variable, from the asymptotic series of the digamma functions.
            flat = [_log_beta(sums + 1.0, units - sums + 1.0)] * 2
            own = [flat[0], _log_beta(np.maximum(sums, 0.1), units - sums + 1.0)]
            known = np.ones(len(units), dtype=np.bool_)
        else:
            mean = sums / np.maximum(units, 1.0)
            error = baseline.sd / np.sqrt(np.maximum(units, 1.0))
            known = (units.min(axis=1) > 1) & (mean[:, 0] > RELATIVE_FROM * error[:, 0]) & (mean[:, 1:] > 0).all(axis=1)
            safe = np.where(known[:, None], mean, 1.0)
            flat = own = [(np.log(safe), (error / safe) ** 2)] * 2
        gaps = [
            (treatment[0][:, 1:] - control[0][:, :1], np.sqrt(treatment[1][:, 1:] + control[1][:, :1]))
            for control, treatment in (own, flat)
        ]
        return cls(up, *gaps[0], *gaps[1], known)

    def beyond(self, above: FloatArray) -> FloatArray:
        """P(harm) from P(log ratio above the margin)."""
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
