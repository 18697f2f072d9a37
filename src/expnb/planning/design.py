"""A plan before the data: how likely the policy reaches a verdict by each day, which effects it can find, and whether traffic, ladder and margins fit together."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from expnb.decisions.precedence import GUARDRAIL_LATE, code
from expnb.errors import SpecError
from expnb.planning.baseline import Baseline, Given, as_baselines
from expnb.planning.belief import Belief, FloatArray
from expnb.planning.goal import GoalRule
from expnb.planning.judging import BoolArray, judged_metrics
from expnb.planning.rollouts import Rollouts, roll_out
from expnb.planning.simulate import check_simulated
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.policy import Aim
from expnb.spec.policy import GoalRule as GoalsRule

if TYPE_CHECKING:
    import pandas as pd

    from expnb.stats.cells import Cells

POWER = 0.8
"""Probability with which a detectable effect ships, and a margin that can be shown is shown."""
NO_END = 56
"""Days that are planned where no end is agreed."""
WEEK, LITTLE = 7, 0.01
"""Assurance that a week has to add to be worth running."""

_EFFECTS = 16  # of the grid in which the smallest detectable one is looked for
_NEARLY = 0.95  # of the largest possible effect
_LARGEST = 3.0  # log ratio; an effect beyond twenty times as much or as little counts as that
_STRATUM = 25  # draws of which the middle one is taken
_Z_SHOWN = float(ndtri(GUARDRAIL_LATE) + ndtri(POWER))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDay:
    """What is expected by the end of one day.

    Parameters
    ----------
    day : int
        1 for the first.
    enrolled : float
        Percent on that day, if nothing delays the climb.
    units : float
        Units of all arms by then, likewise.
    shipped, concluded_flat, rolled_back, running : float
        Shares of rollouts, 0-1, with true effects drawn from the prior; `shipped` is the assurance.
    detectable : float, optional
        Smallest true relative effect on the goal that ships with probability 0.8 by then, signed as effects are; None where none of the grid does.
    """

    day: int
    enrolled: float
    units: float
    shipped: float
    concluded_flat: float
    rolled_back: float
    running: float
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RungTraffic:
    """What one rung asks of the traffic.

    Parameters
    ----------
    enrolled : float
        Percent.
    units : int
        Per arm that have to come in.
    days : float
        Until they have, at the planned traffic.
    daily_units : float
        Eligible units per day with which they come in within the rung's own time, of a day at least.
    filled : bool
        Whether they come in before `max_hold_days` is over and one rung down is proposed.
    stay : int
        Whole days at the rung at least: its own time, and until the units came in.
    """

    enrolled: float
    units: int
    days: float
    daily_units: float
    filled: bool
    stay: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailMargin:
    """Which margin of a guardrail can be shown.

    Parameters
    ----------
    metric : str
    margin : float
        Relative, as agreed.
    smallest : float, optional
        Relative; shown with probability 0.8 by the last day if there is no effect, and the flag climbs without delay. None where `learn_at` is not reached, from which on margins are shown.
    days : float, optional
        Until the agreed margin is shown with that probability, at the planned traffic; None of a margin of 0, which never is.
    daily_units : float, optional
        Eligible units per day with which it is by the last day.
    """

    metric: str
    margin: float
    smallest: float | None = None
    days: float | None = None
    daily_units: float | None = None

    @property
    def shown(self) -> bool:
        """Whether the agreed margin can be shown."""
        return self.smallest is not None and self.margin >= self.smallest


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExperimentPlan:
    """What to expect of an experiment before it starts.

    Parameters
    ----------
    goal : str
        The goal, or the names of several; `detectable` is then about an improvement of that size on each of them.
    daily_units : float
        Eligible units per day, of all arms.
    treatments : int
    goal_rule : {"all", "any"}, optional
        Of several goals.
    aim : {"superiority", "non_inferiority"}
    distances : mapping of float
        The relative rope of each goal, by name; under non-inferiority its margin.
    better : float
        P(some treatment is as good as it should be) under the priors: beyond the rope, under non-inferiority within the margin; of several goals on each of them, or by `goal_rule` "any" on at least one.
    shipped_if_better : float, optional
        P(shipped by the last day) then; None where none was drawn.
    rows : tuple of PlanDay
        Day by day.
    rungs : tuple of RungTraffic
        Up to `learn_at`.
    guardrails : tuple of GuardrailMargin
    end : date, optional
        Last day of the experiment, where one is agreed.
    end_day : int, optional
        Which day of the plan that is.
    """

    experiment: str
    goal: str
    days: int
    daily_units: float
    verdict_days: int
    learn_at: float
    goal_rule: GoalsRule | None
    aim: Aim
    distances: Mapping[str, float]
    prior: str
    baselines: Mapping[str, Baseline]
    rollouts: int
    seed: int
    treatments: int
    better: float
    shipped_if_better: float | None
    rows: tuple[PlanDay, ...]
    rungs: tuple[RungTraffic, ...]
    guardrails: tuple[GuardrailMargin, ...]
    end: date | None = None
    end_day: int | None = None

    @property
    def assurance(self) -> float:
        """P(shipped by the last day) over the prior: power at a point averaged over what is believed of effects [1]_.

        References
        ----------
        .. [1] O'Hagan, Stevens, Campbell (2005), Assurance in clinical trial design, Pharmaceutical Statistics 4.
        """
        return self.rows[-1].shipped

    @property
    def full_power_day(self) -> int | None:
        """Day from which on one more week adds less than one percentage point of assurance; None where the last week still adds more, nothing ever ships, or ships in the last week alone."""
        added = [later.shipped - row.shipped for row, later in zip(self.rows, self.rows[WEEK:], strict=False)]
        worth = [day for day, more in enumerate(added, 1) if more >= LITTLE]
        return None if not worth or worth[-1] == len(added) else worth[-1] + 1

    @property
    def first_ship_day(self) -> int | None:
        """Day on which the first rollouts ship; None where none does."""
        return next((row.day for row in self.rows if row.shipped), None)

    @property
    def first_rung(self) -> float | None:
        """Percent enrolled of the lowest rung from which on every rung is filled, all of them within the days of the plan; None where no ladder is."""
        fits, days = None, 0
        for rung in reversed(self.rungs):
            days += rung.stay
            if not rung.filled or days > self.days:
                break
            fits = rung.enrolled
        return fits

    def table(self) -> pd.DataFrame:
        """One row per day: percent enrolled, units, shares 0-1 of rollouts, and the smallest detectable relative effect."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s, only when a table is asked for

        names = ("day", "enrolled", "units", "shipped", "concluded_flat", "rolled_back", "running", "detectable")
        table = pd.DataFrame([{name: getattr(row, name) for name in names} for row in self.rows])
        return table.astype({"detectable": "float64"})

    @property
    def sentences(self) -> tuple[str, ...]:
        """The plan in words."""
        return (*self._of_climb(), *self._of_verdicts(), *self._of_effects(), *self._of_guardrails())

    @property
    def footer(self) -> str:
        """What was simulated, in one line."""
        without = ", ".join(f"{name} {each.mean:g}" for name, each in self.baselines.items())
        return f"{self.rollouts:,} rollouts of {self.days} daily looks{f', up to the end on {self.end},' if self.days == self.end_day else ''} with effects drawn from {self.prior}, and as many with effects of a grid; without a change {without}; seed {self.seed}. Guardrails have no effect, and units come once."

    def __str__(self) -> str:
        return "\n".join([f"{self.experiment}:", *(f"  - {each}" for each in self.sentences), f"  {self.footer}"])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        shown = [row for row in self.rows if row.day % self.verdict_days == 0 or row.day == self.days]
        head = "".join(
            f"<th>{name}</th>"
            for name in ("day", "enrolled", "units", "shipped", "concluded flat", "rolled back", "detectable effect")
        )
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(row))}</tr>" for row in shown)
        items = "".join(f"<li>{html.escape(each)}</li>" for each in self.sentences)
        return f"<div><p><strong>{html.escape(self.experiment)}: plan of {self.days} days</strong></p><ul>{items}</ul><table><tr>{head}</tr>{body}</table><p><small>{html.escape(self.footer)}</small></p></div>"

    def _of_climb(self) -> Iterator[str]:
        there = next((row.day for row in self.rows if row.enrolled >= self.learn_at), None)
        if there is None:
            yield f"With {self.daily_units:,.0f} eligible units per day, {self.learn_at:g} percent enrolled is not reached within {_days(self.days)}: nothing can ship."
        else:
            filled = there + max(1, math.ceil(self.rungs[-1].days)) - 1
            yield f"With {self.daily_units:,.0f} eligible units per day, {self.learn_at:g} percent enrolled is reached on day {there} at the earliest, with enough units after {_days(filled)}; {self.rows[-1].units:,.0f} units take part within {_days(self.days)}."
        for rung in self.rungs:
            if not rung.filled:
                yield f"At {rung.enrolled:g} percent it takes {rung.days:.0f} days until {rung.units:,} units per arm came in, longer than it may hold; {_up(rung.daily_units)} units per day would fill it in its own time."
        if not all(rung.filled for rung in self.rungs):
            yield (
                f"No ladder fits this traffic within {_days(self.days)}. Ask for fewer units per rung (min_units), or for more days."
                if self.first_rung is None
                else f"A ladder that starts at {self.first_rung:g} percent fits this traffic."
            )
        if self.end_day is not None and self.days > self.end_day:
            yield f"The experiment ends on day {self.end_day}, {self.end}: what is said of later days holds only if it runs longer."

    def _of_verdicts(self) -> Iterator[str]:
        last = self.rows[-1]
        yield f"By day {self.days} it has shipped with probability {_percent(last.shipped)} (assurance under {self.prior}), concluded that nothing matters with {_percent(last.concluded_flat)} and rolled back with {_percent(last.rolled_back)}."
        if self.shipped_if_better is not None:
            yield f"{self._event()} with probability {_percent(self.better)} under {'this prior' if len(self.distances) == 1 else 'the priors'}; then it has shipped with {_percent(self.shipped_if_better)}."
        first = self.first_ship_day
        if self.full_power_day is not None:
            yield f"From day {self.full_power_day} on, one more week adds less than 1 percentage point."
        elif first is not None and first > self.days - WEEK:
            yield f"The first rollouts ship on day {first}, less than a week before the last day: what one more week adds takes a plan of more days."
        elif last.shipped:
            yield f"The last week still adds 1 percentage point or more: more than {_days(self.days)} would ship more."

    def _event(self) -> str:
        """What the goals ask of a treatment, of some treatment where there are several."""
        distances = list(self.distances.items())
        who = "The effect" if len(distances) == 1 else "The treatment"
        if self.treatments > 1:
            who = f"At least one of {self.treatments} {'effects' if len(distances) == 1 else 'treatments'}"
        within = self.aim == "non_inferiority"
        relation, name = ("is no worse than", "margin") if within else ("is better than", "rope")
        if len(distances) == 1:
            return f"{who} {relation} the {name} of {100 * distances[0][1]:g} %"
        each = ", ".join(f"{metric} {100 * distance:g} %" for metric, distance in distances)
        of = "at least one goal" if self.goal_rule == "any" else "every goal"
        return f"{who} {relation} the {name} on {of} ({each})"

    def _of_effects(self) -> Iterator[str]:
        found = [row for row in self.rows if row.detectable is not None]
        if not found:
            yield f"No effect on {self.goal} ships with probability {_whole(POWER)} by day {self.days}."
            return
        days = {math.ceil(self.days / 4), math.ceil(self.days / 2), self.days}
        chosen = [row for row in found if row.day in days]
        effects = ", ".join(f"{_effect(row.detectable)} by day {row.day}" for row in chosen)
        yield f"Smallest true effect on {self.goal} that ships with probability {_whole(POWER)}: {effects}."

    def _of_guardrails(self) -> Iterator[str]:
        for one in self.guardrails:
            if one.smallest is None:
                yield f"Guardrail {one.metric}: no margin can be shown, because nobody is enrolled at {self.learn_at:g} percent within {self.days} days."
            elif one.shown:
                yield f"Guardrail {one.metric}: its margin of {100 * one.margin:g} % can be shown by day {self.days}; the smallest that can is {_margin(one.smallest)}."
            else:
                ways = f"agree on a margin of {_margin(one.smallest)}"
                if one.days is not None and one.daily_units is not None:
                    ways = f"Either {ways}, run for {_days(one.days)}, or bring {_up(one.daily_units)} units per day"
                yield f"Guardrail {one.metric}: its margin of {100 * one.margin:g} % cannot be shown by day {self.days} with probability {_whole(POWER)}, even where there is no effect, and nothing ships before it is. {ways[0].upper()}{ways[1:]}."


def plan_experiment(
    experiment: Experiment,
    *,
    baseline: Mapping[str, Given] | Given | Cells,
    daily_units: float | None = None,
    days: int | None = None,
    rollouts: int = 2000,
    seed: int = 0,
) -> ExperimentPlan:
    """How many units and days it takes until the policy can act: assurance under the prior by day, smallest detectable effects, traffic per rung and margins that can be shown.

    Parameters
    ----------
    baseline : mapping, number, pair or Cells
        Per metric, what it is without a change, as in `simulate_policy`.
    daily_units : float, optional
        Eligible units per day, of all arms together; the traffic of the experiment when left out.
    days : int, optional
        Daily looks at most; those from the experiment's start to its end when left out, 56 without dates.
    rollouts : int
        With effects drawn from the prior, and again as many over a grid of effects.

    Returns
    -------
    ExperimentPlan

    Raises
    ------
    SpecError, NameNotFoundError
        If something is missing, out of range or unknown, or a goal's prior is flat.

    Notes
    -----
    Rollouts hold the whole policy: ladder, waiting times, harm, guardrails, sample ratio and verdicts. Effects of the treatments are drawn independently, and those on different goals too, each in strata of its prior; guardrails have none. Where goals move together, "all" is met more often than is said here, and "any" less often.
    Detectable effects are read off the isotonic regression of shipping on the effect, day by day [1]_.
    Whether a guardrail's margin m can be shown follows in closed form: an estimate of the log ratio with standard error s shows it without a prior from ``log(1 - m) + 1.64 s`` on, which it exceeds with probability 0.8 if ``-log(1 - m) >= (1.64 + 0.84) s``. The prior, being
    centred on no effect, only makes that easier.

    References
    ----------
    .. [1] Barlow, Bartholomew, Bremner, Brunk (1972), Statistical Inference under Order Restrictions, for the max-min formula.
    """
    metrics = judged_metrics(experiment)
    baselines = as_baselines(experiment, metrics, baseline)
    end_day = (experiment.end - experiment.start).days + 1 if experiment.start and experiment.end else None
    days = end_day or NO_END if days is None else days
    check_simulated(experiment, days, rollouts)
    traffic = _traffic(experiment, daily_units)
    for goal in experiment.goals:
        if experiment.prior_on(goal.name).family == "flat":
            raise SpecError(
                f"the prior on goal {goal.name!r} is flat, which expects nothing about effects, so no assurance can be stated. Write [prior] scale = 0.03 for effects of about 3 %."
            )
    given = _Setting(experiment, metrics, baselines, traffic, days, seed)
    truth = _drawn(given, rollouts)
    found = given.roll_out(truth)
    shipped = found.action == code("ship")
    goal = experiment.goal
    better = _as_asked(experiment, truth).any(axis=1)
    enrolled = climb(experiment, traffic, days)
    units = np.cumsum(traffic * enrolled / 100)
    ended = {action: _share_by_day(found, code(action), days) for action in ("ship", "conclude_flat", "roll_back")}
    effects = _detectable(given, units, max(1, rollouts // _EFFECTS))
    return ExperimentPlan(
        experiment=experiment.name,
        goal=" and ".join(each.name for each in experiment.goals),
        days=days,
        daily_units=traffic,
        verdict_days=experiment.policy.verdict_days,
        learn_at=experiment.policy.learn_at,
        goal_rule=experiment.policy.goal_rule,
        aim=experiment.policy.aim,
        distances={each.name: _distance(experiment, each) for each in experiment.goals},
        prior=experiment.prior_on(goal.name).id,
        baselines=baselines,
        rollouts=rollouts,
        seed=seed,
        treatments=len(experiment.treatments),
        better=float(better.mean()),
        shipped_if_better=float(shipped[better].mean()) if better.any() else None,
        rows=tuple(
            PlanDay(
                day=day + 1,
                enrolled=float(enrolled[day]),
                units=float(units[day]),
                shipped=float(ended["ship"][day]),
                concluded_flat=float(ended["conclude_flat"][day]),
                rolled_back=float(ended["roll_back"][day]),
                running=float(1.0 - sum(each[day] for each in ended.values())),
                detectable=effects[day],
            )
            for day in range(days)
        ),
        rungs=tuple(rung_traffic(experiment, traffic)),
        guardrails=tuple(_margins(given, enrolled, units)),
        end=experiment.end,
        end_day=end_day,
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all rollouts of a plan share."""

    experiment: Experiment
    metrics: tuple[Metric, ...]
    baselines: Mapping[str, Baseline]
    daily_units: float
    days: int
    seed: int

    def roll_out(self, truth: FloatArray) -> Rollouts:
        return roll_out(
            self.experiment,
            truth,
            baselines=self.baselines,
            units_per_day=self.daily_units,
            days=self.days,
            seed=self.seed,
        )

    def error(self, metric: Metric, units: FloatArray) -> FloatArray:
        """Standard error of the log ratio of the smallest treatment, with so many units in all arms."""
        experiment, base = self.experiment, self.baselines[metric.name]
        control = experiment.share(experiment.control)
        treatment = min(map(experiment.share, experiment.treatments))
        return np.asarray(base.sd / base.mean * np.sqrt((1 / control + 1 / treatment) / units))


def climb(experiment: Experiment, daily_units: float, days: int) -> FloatArray:
    """Percent enrolled on each day, shape (day,), if nothing speaks against a step up: each rung takes its own time, and until its units came in."""
    policy = experiment.policy
    out: list[float] = []
    for rung, traffic in zip(
        map(policy.rung, policy.percents), rung_traffic(experiment, daily_units, all_rungs=True), strict=True
    ):
        stay = traffic.stay if rung.enrolled != policy.percents[-1] else days
        stuck = not traffic.filled and rung.enrolled != policy.percents[0]
        out += [rung.enrolled] * min(days, days if stuck else stay)
        if len(out) >= days:
            break
    return np.array(out[:days])


def rung_traffic(experiment: Experiment, daily_units: float, *, all_rungs: bool = False) -> Iterator[RungTraffic]:
    """What each rung asks of the traffic, up to `learn_at` or of the whole ladder."""
    policy, smallest = experiment.policy, min(map(experiment.share, experiment.variants))
    for rung in map(policy.rung, policy.percents):
        if rung.enrolled > policy.learn_at and not all_rungs:
            return
        units, per_unit = rung.units or 0, rung.enrolled / 100 * smallest
        days = units / (daily_units * per_unit)
        limited = rung.enrolled < policy.learn_at and bool(rung.max_hold_days)
        yield RungTraffic(
            enrolled=rung.enrolled,
            units=units,
            days=days,
            daily_units=units / (max(1.0, rung.days or 0) * per_unit),
            filled=not limited or days <= (rung.max_hold_days or 0),
            stay=max(1, math.ceil(rung.days or 0), math.ceil(days)),
        )


def _traffic(experiment: Experiment, given: float | None) -> float:
    if given is None and experiment.traffic is None:
        raise SpecError(
            f"the traffic of {experiment.name!r} is unknown. Pass daily_units=6000, or add [traffic] units_per_day to its file."
        )
    units = experiment.traffic.units_per_day if given is None and experiment.traffic else float(given or 0)
    if not 0 < units < math.inf:
        raise SpecError(
            f"daily_units is {units:g}; it must be above 0. Write 6000 for six thousand eligible units per day."
        )
    return units


def _sign(metric: Metric) -> float:
    return 1.0 if metric.direction == "increase" else -1.0


def _drawn(given: _Setting, rollouts: int) -> FloatArray:
    """True relative effects under the priors, shape (rollout, treatment, metric); the middle of each stratum of many draws, so that few rollouts stand for the whole prior."""
    experiment, rng = given.experiment, np.random.default_rng([given.seed, 1])
    truth = np.zeros((rollouts, len(experiment.treatments), len(given.metrics)))
    for place, goal in enumerate(experiment.goals):
        belief = Belief.of(experiment.prior_on(goal.name))
        for treatment in range(truth.shape[1]):
            part = rng.choice(len(belief.variance), rollouts * _STRATUM, p=np.exp(belief.log_weight))
            drawn = np.sort(rng.standard_normal(len(part)) * np.sqrt(belief.variance[part]))
            middle = drawn.reshape(rollouts, _STRATUM)[:, _STRATUM // 2]
            truth[:, treatment, place] = np.expm1(np.clip(rng.permutation(middle), -_LARGEST, _LARGEST))
    return truth


def _distance(experiment: Experiment, goal: Metric) -> float:
    """Relative rope of a goal; under non-inferiority its margin."""
    return (goal.rope if experiment.policy.aim == "superiority" else goal.margin) or 0.0


def _as_asked(experiment: Experiment, truth: FloatArray) -> BoolArray:
    """Whether true effects are what the policy asks of the goals, shape (rollout, treatment)."""
    least = 1.0 if experiment.policy.aim == "superiority" else -1.0
    each = [
        _sign(goal) * truth[:, :, place] > least * _distance(experiment, goal)
        for place, goal in enumerate(experiment.goals)
    ]
    return np.asarray((np.any if experiment.policy.goal_rule == "any" else np.all)(each, axis=0))


def _most(given: _Setting, metric: Metric) -> float:
    """Largest relative increase that a metric can have; of a decrease nobody comes near it."""
    bounded = metric.is_share and metric.direction == "increase"
    return 1 / given.baselines[metric.name].mean - 1 if bounded else math.inf


def _share_by_day(found: Rollouts, action: int, days: int) -> FloatArray:
    """Share of rollouts that ended so by each day, shape (day,)."""
    ended = np.bincount(found.day[found.action == action], minlength=days + 1)[1 : days + 1]
    return np.asarray(ended.cumsum() / len(found.action))


def _detectable(given: _Setting, units: FloatArray, rollouts: int) -> list[float | None]:
    """Smallest effect that ships with probability 0.8 by each day."""
    effects = _grid(given, units)
    truth = np.zeros((len(effects), rollouts, len(given.experiment.treatments), len(given.metrics)))
    for place in range(len(given.experiment.goals)):
        truth[..., place] = effects[:, place, None, None]
    found = given.roll_out(truth.reshape(-1, *truth.shape[2:]))
    shipped = (found.action == code("ship")).reshape(len(effects), rollouts)
    day = found.day.reshape(len(effects), rollouts)
    share = np.array([(shipped & (day <= last)).mean(axis=1) for last in range(1, given.days + 1)])
    return [_crossing(effects[:, 0], one) for one in isotonic(share)]


def _grid(given: _Setting, units: FloatArray) -> FloatArray:
    """Rising improvements, shape (effect, goal), around those that the rules on the goals would find between the first day and the last; the same on every goal."""
    experiment = given.experiment
    first = min(max(experiment.policy.min_days, 1), given.days)
    rules = [rule for rule in (GoalRule.of(experiment, goal) for goal in experiment.goals) if rule is not None]
    needed = []
    for rule in rules:
        error = given.error(rule.metric, units[[first - 1, -1]])
        needed.append(np.abs(rule.cut(error) - rule.worst) + ndtri(POWER) * error)
    most = min(math.log1p(min(_NEARLY * _most(given, rule.metric), math.expm1(_LARGEST))) for rule in rules)
    far = np.minimum(np.concatenate(needed), most)
    steps = np.geomspace(0.6 * far.min(), min(1.6 * far.max(), most), _EFFECTS)
    return np.stack([np.expm1(rule.worst + _sign(rule.metric) * steps) for rule in rules], axis=1)


def isotonic(share: FloatArray) -> FloatArray:
    """The rising shares that are closest to the given ones along the last axis, by the max-min formula."""
    length = share.shape[-1]
    sums = np.concatenate([np.zeros((*share.shape[:-1], 1)), share.cumsum(axis=-1)], axis=-1)
    first, last = np.arange(length)[:, None], np.arange(length)
    mean = (sums[..., 1:][..., None, :] - sums[..., :-1][..., :, None]) / np.maximum(last - first + 1, 1)
    mean = np.where(last >= first, mean, np.inf)  # of the block from `first` to `last`
    lowest = np.minimum.accumulate(mean[..., ::-1], axis=-1)[..., ::-1]  # over all ends from here on
    lowest = np.where(last >= first, lowest, -np.inf)
    return np.asarray(lowest.max(axis=-2))


def _crossing(effects: FloatArray, share: FloatArray) -> float | None:
    """The effect at which a rising share reaches 0.8; None where it does not, or already has at the smallest."""
    above = np.flatnonzero(share >= POWER)
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return float(effects[0])
    part = (POWER - share[at - 1]) / (share[at] - share[at - 1])
    return float(effects[at - 1] + part * (effects[at] - effects[at - 1]))


def _margins(given: _Setting, enrolled: FloatArray, units: FloatArray) -> Iterator[GuardrailMargin]:
    """What can be shown of each guardrail by the last day; see the notes of `plan_experiment`."""
    policy = given.experiment.policy
    for metric in given.metrics[len(given.experiment.goals) :]:
        margin, sign = metric.margin or 0.0, _sign(metric)
        if enrolled[-1] < policy.learn_at:
            yield GuardrailMargin(metric=metric.name, margin=margin)
            continue
        far = _Z_SHOWN * float(given.error(metric, units[-1:])[0])
        times = (far / abs(math.log1p(-sign * margin))) ** 2 if margin else None  # as many units as by the last day
        full = given.daily_units * policy.percents[-1] / 100
        yield GuardrailMargin(
            metric=metric.name,
            margin=margin,
            smallest=abs(math.expm1(-sign * far)),
            days=None if times is None else given.days + (times - 1) * float(units[-1]) / full,
            daily_units=None if times is None else given.daily_units * times,
        )


def _cells(row: PlanDay) -> tuple[str, ...]:
    shares = (row.shipped, row.concluded_flat, row.rolled_back)
    return (
        str(row.day),
        f"{row.enrolled:g} %",
        f"{row.units:,.0f}",
        *map(_percent, shares),
        "–" if row.detectable is None else _effect(row.detectable),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def _effect(value: float | None) -> str:
    return f"{100 * (value or 0.0):+.2g} %"


def _margin(value: float) -> str:
    """Rounded up, so that it can be shown."""
    digits = 1 - math.floor(math.log10(100 * value))
    return f"{math.ceil(100 * value * 10**digits) / 10**digits:g} %"


def _up(units: float) -> str:
    """A number of units, rounded up to two digits."""
    step = 10 ** max(0, math.floor(math.log10(max(units, 1.0))) - 1)
    return f"{math.ceil(units / step) * step:,}"


def _days(days: float) -> str:
    return f"{math.ceil(days):,} day{'' if days <= 1 else 's'}"
