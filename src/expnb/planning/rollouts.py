"""Thousands of rollouts of one policy at once: at every look there are more units, and the policy acts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from expnb.decisions.precedence import Conditions, code, first_action
from expnb.planning.baseline import Baseline
from expnb.planning.belief import FloatArray
from expnb.planning.judging import BoolArray, IntArray, Judge, Known, Verdict, any_arm, judged_metrics
from expnb.spec.experiment import Experiment

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
        The treatment that was best on the goals, 0 for the first.
    treated : ndarray of float, shape (rollout, treatment)
        Units that got each treatment until then.
    reached : ndarray of float, shape (rollout, rung)
        Day on which each rung was first reached; ``inf`` where it was not.
    blocked : ndarray of bool, shape (rollout,)
        Whether the sample ratio blocked it on any day.
    stated : ndarray of float, shape (rollout,)
        P(improvement) of the first goal at the last verdict; NaN without one.
    dropped : ndarray of bool, shape (rollout, treatment)
        Treatments that were taken out for harm while others went on.
    """

    action: IntArray
    day: IntArray
    arm: IntArray
    treated: FloatArray
    reached: FloatArray
    blocked: BoolArray
    stated: FloatArray
    dropped: BoolArray


@dataclass(frozen=True, slots=True)
class Look:
    """What was known and done at one look at the rollouts that still ran.

    Parameters
    ----------
    day : int
        Number of the look; in simulations the day.
    rows : ndarray of int, shape (row,)
        Which rollouts.
    enrolled : ndarray of float, shape (row,)
        Percent, until then.
    days_at_rung : ndarray of int, shape (row,)
    units, units_at_rung : ndarray of float, shape (row, arm)
        Since the start, and since this rung was reached; control first.
    sums : ndarray of float, shape (row, metric, arm)
        Of the values since the start.
    live : ndarray of bool, shape (row, treatment)
        Treatments that were not dropped before.
    action : ndarray of int, shape (row,)
        `code` of what the policy did.
    dropping : ndarray of bool, shape (row, treatment)
        Treatments that a roll back took out while others go on; none where it closed the gate.
    verdict : Verdict, optional
        What the goals say at this look, whether or not they were due to be judged; None where nothing was asked.
    """

    day: int
    rows: IntArray
    enrolled: FloatArray
    days_at_rung: IntArray
    units: FloatArray
    units_at_rung: FloatArray
    sums: FloatArray
    live: BoolArray
    action: IntArray
    dropping: BoolArray
    verdict: Verdict | None


class Feed(Protocol):
    """Where units and their values come from."""

    def __len__(self) -> int:
        """Rollouts."""

    def there(self, rows: IntArray, look: int) -> IntArray:
        """Those of some rollouts that have data at a look, 1 for the first."""

    def take(self, rows: IntArray, look: int, enrolled: FloatArray, live: BoolArray) -> Known:
        """Data of these rollouts up to a look, before which so many percent were enrolled in these treatments."""


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
        feed = Draws(experiment, truth[start : start + _CHUNK], baselines, units_per_day, [seed, number])
        run = Run(experiment, feed)
        for _ in run.looks(days):
            pass
        parts.append(run.ended())
    return Rollouts(*(np.concatenate(each) for each in zip(*map(_fields, parts), strict=True)))


def _fields(part: Rollouts) -> tuple[NDArray[np.generic], ...]:
    return (
        part.action,
        part.day,
        part.arm,
        part.treated,
        part.reached,
        part.blocked,
        part.stated,
        part.dropped,
    )


class Draws:
    """Random units: every day some come in at the rung of each rollout.

    Parameters
    ----------
    truth, baselines, units_per_day
        As in `roll_out`.
    seed : sequence of int
        Of the random numbers.
    """

    def __init__(
        self,
        experiment: Experiment,
        truth: FloatArray,
        baselines: Mapping[str, Baseline],
        units_per_day: float,
        seed: Sequence[int],
    ) -> None:
        self.metrics = judged_metrics(experiment)
        own = [baselines[metric.name] for metric in self.metrics]
        self.sd = np.array([[each.sd] for each in own])
        self.shares = np.array([experiment.share(name) for name in experiment.variants])
        self.units_per_day, self.rng = units_per_day, np.random.default_rng(list(seed))
        means = np.array([each.mean for each in own])
        growth = np.concatenate([np.zeros((len(truth), 1, len(means))), truth], axis=1)
        self.means = np.moveaxis(means * (1.0 + growth), 1, 2)  # (rollout, metric, arm)
        self.units = np.zeros((len(truth), len(self.shares)))
        self.sums = np.zeros((len(truth), len(means), len(self.shares)))

    def __len__(self) -> int:
        return len(self.means)

    def there(self, rows: IntArray, look: int) -> IntArray:  # noqa: ARG002 - every day has units
        """All of them."""
        return rows

    def take(self, rows: IntArray, look: int, enrolled: FloatArray, live: BoolArray) -> Known:
        """The units of one more day and their values; those of a dropped treatment get nothing new and are not counted."""
        left = self.rng.poisson(self.units_per_day * enrolled / 100)
        new = np.zeros((len(rows), len(self.shares)), dtype=np.int64)
        rest = 1.0
        for arm, share in enumerate(self.shares[:-1]):
            new[:, arm] = self.rng.binomial(left, min(1.0, share / rest))
            left, rest = left - new[:, arm], rest - share
        new[:, -1] = left
        new[:, 1:] *= live
        self.units[rows] += new
        for place, (metric, sd) in enumerate(zip(self.metrics, self.sd[:, 0], strict=True)):
            mean = self.means[rows, place]
            if metric.is_share:
                drawn = self.rng.binomial(new, np.clip(mean, 0.0, 1.0)).astype(np.float64)
            else:
                drawn = new * mean + np.sqrt(new) * sd * self.rng.standard_normal(new.shape)
            self.sums[rows, place] += drawn
        days = np.full(len(rows), look, dtype=np.intp)
        return Known(days, self.units[rows], self.sums[rows], self.sd, shares=self.shares)


class Run:
    """Rollouts on their way.

    Parameters
    ----------
    feed : Feed
        Made-up units, or recorded ones.
    stop : bool
        Whether a rollout ends with its verdict; otherwise it is judged for as long as it has data.
    """

    def __init__(self, experiment: Experiment, feed: Feed, *, stop: bool = True) -> None:
        self.policy, self.judge, self.feed, self.stop = experiment.policy, Judge(experiment), feed, stop
        rungs = [self.policy.rung(enrolled) for enrolled in self.policy.percents]
        self.enrolled = np.array([each.enrolled for each in rungs])
        self.least_units = np.array([each.units or 0 for each in rungs])
        self.least_days = np.array([each.days or 0 for each in rungs])
        self.most_days = np.array(
            [each.max_hold_days if each.enrolled < self.policy.learn_at else 0 for each in rungs], dtype=np.float64
        )
        rollouts, arms = len(feed), len(experiment.variants)
        self.running = np.arange(rollouts)
        self.live = np.ones((rollouts, arms - 1), dtype=np.bool_)
        self.rung, self.days_at_rung = np.zeros(rollouts, dtype=np.intp), np.zeros(rollouts, dtype=np.intp)
        self.units, self.before = np.zeros((rollouts, arms)), np.zeros((rollouts, arms))
        self.action = np.full(rollouts, code("hold"), dtype=np.intp)
        self.day, self.arm = np.zeros(rollouts, dtype=np.intp), np.zeros(rollouts, dtype=np.intp)
        self.reached = np.full((rollouts, len(rungs)), np.inf)
        self.judged = np.full(rollouts, -1, dtype=np.intp)  # complete days at the last verdict
        self.flat, self.better = np.zeros((rollouts, arms - 1), dtype=np.bool_), np.zeros(rollouts, dtype=np.bool_)
        self.blocked, self.stated = np.zeros(rollouts, dtype=np.bool_), np.full(rollouts, np.nan)

    def looks(self, most: int) -> Iterator[Look]:
        """One look after the other, until no rollout has more data."""
        for number in range(1, most + 1):
            rows = self.feed.there(self.running, number)
            if not len(rows):
                return
            yield self._look(rows, number)

    def ended(self) -> Rollouts:
        """How they ended so far."""
        return Rollouts(
            self.action,
            self.day,
            self.arm,
            self.units[:, 1:],
            self.reached,
            self.blocked,
            self.stated,
            ~self.live,
        )

    def _look(self, rows: IntArray, number: int) -> Look:
        rung = self.rung[rows]
        self.reached[rows, rung] = np.minimum(self.reached[rows, rung], number)
        self.day[rows] = number
        self.days_at_rung[rows] += 1
        enrolled, live = self.enrolled[rung], self.live[rows]
        data = self.feed.take(rows, number, enrolled, live)
        self.units[rows] = data.units
        action, dropping, verdict = self._act(rows, data, live)
        look = Look(
            number,
            rows,
            enrolled,
            self.days_at_rung[rows].copy(),
            data.units,
            data.units - self.before[rows],
            data.sums,
            live,
            action,
            dropping,
            verdict,
        )
        self._move(rows, action, dropping)
        return look

    def _act(self, rows: IntArray, data: Known, live: BoolArray) -> tuple[IntArray, BoolArray, Verdict | None]:
        policy, judge, rung = self.policy, self.judge, self.rung[rows]
        learnt = self.enrolled[rung] >= policy.learn_at
        likelihoods = judge.likelihoods(data)
        harmed = judge.harmed(likelihoods) & live
        dropping = harmed & any_arm(live & ~harmed)[:, None]
        due = self._due(rows, data.days)
        verdict = judge.verdict(likelihoods, live) if due.any() or not self.stop else None
        if verdict is not None:
            some = rows[due]
            self.judged[some] = data.days[due]
            self.flat[some], self.better[some] = verdict.flat[due], verdict.better[due]
            self.arm[some], self.stated[some] = verdict.arm[due], verdict.p_improvement[due]
        ratio = judge.sample_ratio_blocks(data, live)
        self.blocked[rows] |= ratio
        fewest = data.fewest - self.before[rows]
        fewest[:, 1:] = np.where(live, fewest[:, 1:], np.inf)
        waits = fewest.min(axis=1) < self.least_units[rung]
        unsafe = judge.unsafe(likelihoods, learnt, live)
        best = unsafe[np.arange(len(rows)), self.arm[rows]]
        found = Conditions(
            harmed=any_arm(harmed),
            blocked=np.where(learnt, best, any_arm(unsafe)) | ratio | waits,
            wary=any_arm(unsafe),
            judged=data.days >= policy.min_days,
            flat=~any_arm(live & ~self.flat[rows]),
            better=self.better[rows],
            learnt=learnt,
            waited=self.days_at_rung[rows] >= self.least_days[rung],
            top=rung == len(self.enrolled) - 1,
        )
        return first_action(policy, found), dropping, verdict

    def _due(self, rows: IntArray, days: IntArray) -> BoolArray:
        """Whether the goals are judged now, as `decisions.rules.is_due` says: every so many complete days, at every look where days are not asked for."""
        policy, judged = self.policy, self.judged[rows]
        if policy.min_days == 0:
            return np.ones(len(rows), dtype=np.bool_)
        more = (judged < 0) | (days // policy.verdict_days > judged // policy.verdict_days)
        due: BoolArray = (days >= policy.min_days) & more
        return due

    def _move(self, rows: IntArray, action: IntArray, dropping: BoolArray) -> None:
        """To the next rung, one down, on without a treatment, or out."""
        hold, up, drops = action == code("hold"), action == code("ramp_up"), dropping.any(axis=1)
        on = hold | up | drops
        self.action[rows] = np.where(on, code("hold"), action)
        limits = self.most_days[self.rung[rows]]
        down = hold & (limits > 0) & (self.days_at_rung[rows] >= limits) & (self.rung[rows] > 0)
        for chosen, by in ((rows[up], 1), (rows[down], -1)):
            self.rung[chosen] += by
            self.days_at_rung[chosen] = 0
            self.before[chosen] = self.units[chosen]
        self.live[rows] &= ~dropping
        self.days_at_rung[rows[drops]] = 0  # the flag was changed; units that came in at the rung stay
        self.better[rows] &= self.live[rows, self.arm[rows]]  # a verdict on a treatment that is gone
        if self.stop:
            self.running = rows[on]
