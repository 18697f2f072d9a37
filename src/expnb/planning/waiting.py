"""What more days of data are worth: how much better the choice is expected to become, what waiting costs, and whether it can still change the verdict."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from expnb.errors import NameNotFoundError, SpecError
from expnb.planning.belief import Belief
from expnb.planning.goal import GoalRule, GoalVerdict, Outlook, indifferent, mean_effect
from expnb.posterior.effect import Effect
from expnb.posterior.posterior import Posterior
from expnb.posterior.priors.past import log_ratio
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.stats.cells import ALL
from expnb.stats.checks import figure

MONTH = 30
"""Days of a month, in which values are stated."""
SETTLED = 0.01
"""P(another verdict) below which more data are said to change nothing."""

_NO_TOTAL = frozenset({"ratio", "quantile"})  # their value per unit, times units, is no sum of anything
_NOTHING = 1e-9  # relative; a gain this small is rounding


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Waiting:
    """More days against a choice now, for one treatment.

    The gain comes in every month after the days; the cost is paid once, while they run. Both rest on the prior and on the present posterior.

    Parameters
    ----------
    metric : Metric
        The goal; of several the first, which alone is looked at.
    variant : str
        The treatment that is judged; of the others nothing is expected to be learnt.
    days : float
        Of further data.
    units : float, optional
        That come in during those days, in all arms that are left.
    gain : float >= 0, optional
        Expected improvement of the choice by those data, as a share of what the goal is without a change; 0.001 is 0.1 %.
    cost : float >= 0, optional
        What the units of those days are expected to miss, as a share of one month of the goal without a change: those that get another arm than the one that looks best now.
    month : float, optional
        The goal's total over a month of all eligible units without a change, in units of the metric; None of a ratio or quantile, which have none.
    verdict : {"ship", "conclude flat", "none"}, optional
        Of the rules on the goal, now; None where they cannot be asked of a relative effect.
    p_change, p_change_by_end : float in [0, 1], optional
        P(those rules say something else) after these days, and after all days to the planned end.
    end : date, optional
        Planned last day, where it lies ahead.
    prior : str
        Under which all this is expected.
    why : str
        Why nothing can be said; empty where something can.
    """

    experiment: str
    metric: Metric
    variant: str
    days: float
    prior: str
    units: float | None = None
    gain: float | None = None
    cost: float | None = None
    month: float | None = None
    verdict: GoalVerdict | None = None
    p_change: float | None = None
    p_change_by_end: float | None = None
    end: date | None = None
    why: str = ""

    @property
    def settled(self) -> bool:
        """Whether more data can hardly change the verdict: with a probability below 0.01 after these days, and by the planned end."""
        known = [p for p in (self.p_change, self.p_change_by_end) if p is not None]
        return bool(known) and max(known) < SETTLED

    @property
    def gain_per_month(self) -> float | None:
        """`gain` in units of the metric, per month after the days."""
        return None if self.gain is None or self.month is None else self.gain * self.month

    @property
    def cost_in_all(self) -> float | None:
        """`cost` in units of the metric, once."""
        return None if self.cost is None or self.month is None else self.cost * self.month

    @property
    def payback_days(self) -> float | None:
        """Days after the wait in which the gain makes up for the cost; None where nothing is gained."""
        if self.gain is None or self.cost is None or self.gain <= _NOTHING:
            return None
        return MONTH * self.cost / self.gain

    @property
    def sentences(self) -> tuple[str, ...]:
        """Gain against cost, and whether the verdict can still change, in words."""
        return (self.why,) if self.why else (*self._of_gain(), *self._of_change())

    def __str__(self) -> str:
        return "\n".join([f"{self.experiment}: {self.title}", *(f"  - {each}" for each in self.sentences)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(each)}</li>" for each in self.sentences)
        return f"<div><p><strong>{html.escape(f'{self.experiment}: {self.title}')}</strong></p><ul>{items}</ul><p><small>prior {html.escape(self.prior)}</small></p></div>"

    @property
    def title(self) -> str:
        """What was asked."""
        return f"{_days(self.days, ' more')} of data on {self.metric.name} under {self.variant}"

    def _of_gain(self) -> Iterator[str]:
        assert self.gain is not None  # noqa: S101 - there is a reason instead
        assert self.cost is not None  # noqa: S101
        what = f"{_days(self.days, ' more')} of data ({self.units:,.0f} units)"
        if self.gain <= _NOTHING:
            yield f"{what} are not expected to improve the choice between treatment and control."
        else:
            yield f"{what} are worth {self._amount(self.gain, better=True)} per month afterwards, by a better choice between treatment and control."
        if self.cost <= _NOTHING:
            yield "Waiting for them costs nothing, because no arm looks better than the others now."
            return
        back = "" if self.payback_days is None else f" The gain makes up for that {_soon(self.payback_days)}."
        yield f"While they run, {self._amount(self.cost, better=False)} are expected than if all units got the arm that looks best now.{back}"

    def _of_change(self) -> Iterator[str]:
        if self.verdict is None or self.p_change is None:
            yield f"Whether they can change the verdict is not known: the goal {self.metric.name} is not judged by a relative effect."
            return
        end = "" if self.p_change_by_end is None else f", all days to {self.end} with {_percent(self.p_change_by_end)}"
        odds = f"{_days(self.days, ' more')} would {'bring one' if self.verdict == 'none' else 'change that'} with probability {_percent(self.p_change)}{end}."
        says = "give no verdict yet" if self.verdict == "none" else f"say to {self.verdict}"
        yield f"Judged today, the rules on the goal would {says}; {odds}"
        if self.settled:
            yield f"{'More data' if self.end else 'So much more data'} can hardly change that."

    def _amount(self, share: float, *, better: bool) -> str:
        """A part of the goal in its own unit, where it has a total."""
        percent = f"{figure(100 * share, 2)} %"
        if self.month is None:
            return f"{percent} {more_or_fewer(self.metric, better=better)} {self.metric.name}"
        return f"{in_unit(self.metric, share * self.month, better=better)} ({percent} of a month's)"


def value_of_waiting(
    experiment: Experiment,
    posterior: Posterior,
    *,
    units_per_day: float | None = None,
    days: float = 7.0,
    enrolled: float = 100.0,
    variant: str | None = None,
    dropped: Collection[str] = (),
) -> Waiting:
    """What more days of data are worth; pure, and exact for the log ratio's bell and the prior.

    Parameters
    ----------
    units_per_day : float, optional
        Eligible units per day, of all arms and of none; that of the experiment when left out, else that of dated data.
    days : float
        Of further data, above 0.
    enrolled : float
        Percent of eligible units that take part in these days, 0 to 100; those of dropped treatments are counted here and get no arm.
    variant : str, optional
        The treatment that is judged, such as `Decision.variant`; the one that is most likely best on the goal when left out.
    dropped : collection of str, optional
        Treatments that were taken out, such as `Decision.to.dropped`: they get no units any more, and are not chosen.

    Returns
    -------
    Waiting
        With the reason and no figures where the goal has no log ratio, the traffic is unknown, or the treatment was dropped.

    Raises
    ------
    SpecError
        If `days` or `units_per_day` are not above 0, or `enrolled` is no percentage.
    NameNotFoundError
        If the posterior has no such treatment.

    Notes
    -----
    What the data say is a bell around ``log(1 + effect_rel)``, recovered from the raw effect and its confidence interval (`log_ratio`), so clusters and covariates are counted. Each new unit of an arm is taken to bring as much information as those so far; they come in by the weights, whatever came in before.
    The gain is the expected value of sample information for two choices, treatment or control, by their mean effect: ``E max(0, E[effect | new data]) - max(0, E[effect])``, a preposterior analysis [1]_, here in closed form (`Outlook`).

    References
    ----------
    .. [1] Raiffa and Schlaifer (1961), Applied Statistical Decision Theory, chapters 4 and 5.
    """
    for name, value in (("days", days), ("units_per_day", units_per_day)):
        if value is not None and not 0 < value < math.inf:
            raise SpecError(f"{name} is {value:g}; it must be above 0. Write days=7 and units_per_day=6000.")
    if not 0 <= enrolled <= 100:
        raise SpecError(f"enrolled is {enrolled:g}; it is a percentage from 0 to 100. Write enrolled=50 for half.")
    for name in dropped:
        if name not in experiment.treatments:
            raise NameNotFoundError("treatment", name, list(experiment.treatments))
    live = tuple(name for name in experiment.treatments if name not in dropped)
    best = posterior.effect(experiment.goal.name, variant) if variant else _best(experiment, posterior, live)
    blank = Waiting(
        experiment=experiment.name,
        metric=experiment.goal,
        variant=best.variant if best else (*live, *experiment.treatments)[0],
        days=days,
        prior=experiment.prior_on(experiment.goal.name).id,
    )
    if blank.variant not in live:
        return replace(blank, why=f"Waiting teaches nothing about {blank.variant}: it was dropped and gets no units.")
    bell = log_ratio(best) if best else None
    if best is None or bell is None or best.mean_control is None:
        why = (best.note if best else "") or "one of its arms has too few units to be shown, or a mean of 0"
        return replace(
            blank, why=f"What waiting is worth is not known: {experiment.goal.name} has no log ratio ({why})."
        )
    traffic = units_per_day or _traffic(experiment, posterior, enrolled, live)
    if traffic is None:
        return replace(
            blank,
            why=f"What waiting is worth is not known: {experiment.name} has no traffic and its data no dates. Pass units_per_day=6000, or add [traffic] units_per_day to its file.",
        )
    if enrolled <= 0:
        return replace(blank, why="Waiting teaches nothing: at 0 percent enrolled no units come in.")
    return _value(experiment, posterior, best, bell, blank, _Inflow(experiment, posterior, live, traffic, enrolled))


@dataclass(frozen=True, slots=True)
class _Inflow:
    """Units that still come in."""

    experiment: Experiment
    posterior: Posterior
    live: tuple[str, ...]
    traffic: float
    enrolled: float

    def per_day(self, *arms: str) -> float:
        """Units per day of some arms; the weights of dropped treatments count, because their units stay outside."""
        return self.traffic * self.enrolled / 100 * sum(map(self.experiment.share, arms))

    def growth(self, treatment: str, days: float) -> float:
        """By which factor the information on the log ratio of one treatment to control grows.

        Its variance is the sum of both arms', each of which falls with the arm's own units. However unevenly these grow, the present estimate and the later one have the covariance of a sum of independent increments, so `Outlook.after` holds.
        """
        counts, arms = self.posterior.counts, (self.posterior.control, treatment)
        return sum(1 / counts[arm] for arm in arms) / sum(1 / (counts[arm] + days * self.per_day(arm)) for arm in arms)

    @property
    def missed(self) -> float:
        """What a unit misses on average while it gets its arm instead of the one that looks best now, relative to control; units outside get control."""
        goal = self.experiment.goal
        sign = 1.0 if goal.direction == "increase" else -1.0
        goals = _goals(self.experiment, self.posterior, self.live)
        means = {one.variant: sign * (one.effect_rel_post or 0.0) for one in goals}
        inside = sum(self.experiment.share(name) * mean for name, mean in means.items()) * self.enrolled / 100
        return max(0.0, *means.values()) - inside


def _value(
    experiment: Experiment,
    posterior: Posterior,
    best: Effect,
    bell: tuple[float, float],
    blank: Waiting,
    inflow: _Inflow,
) -> Waiting:
    estimate, error = bell
    up, grown = best.direction == "increase", inflow.growth(best.variant, blank.days)
    known = Belief.of(experiment.prior_on(best.metric)).given(np.array(estimate), np.array(error))
    outlook = Outlook.after(known, estimate, error, grown)
    then = error / math.sqrt(grown)
    better = float(mean_effect(known)) * (1 if up else -1)
    gain = outlook.gain_of_choosing(indifferent(then), increase=up) - max(0.0, better)
    # Of a triggered experiment the effect is on those units alone.
    reached = (best.n_control + best.n_treatment) / (
        posterior.counts[posterior.control] + posterior.counts[best.variant]
    )
    month = MONTH * inflow.traffic * (reached if experiment.trigger else 1.0) * (best.mean_control or 0.0)
    found = replace(
        blank,
        units=inflow.per_day(posterior.control, *inflow.live) * blank.days,
        gain=max(0.0, gain),
        cost=inflow.missed * blank.days / MONTH,
        month=None if best.kind in _NO_TOTAL else month,
    )
    rule = GoalRule.of(experiment)
    verdict = None if rule is None else _verdict_now(rule, best)
    if rule is None or verdict is None:
        return found
    left = _days_left(experiment, posterior)
    growths = [inflow.growth(best.variant, days) for days in (blank.days, left) if days]
    odds = [
        1.0 - Outlook.after(known, estimate, error, growth).chances(rule, error / math.sqrt(growth))[verdict]
        for growth in growths
    ]
    return replace(
        found,
        verdict=verdict,
        p_change=odds[0],
        p_change_by_end=odds[1] if left else None,
        end=experiment.end if left else None,
    )


def _goals(experiment: Experiment, posterior: Posterior, live: tuple[str, ...]) -> list[Effect]:
    """Effects on the goal, of all units, under the treatments that are left."""
    goals = (one for one in posterior.main if one.metric == experiment.goal.name and one.segment == ALL)
    return [one for one in goals if one.variant in live]


def _best(experiment: Experiment, posterior: Posterior, live: tuple[str, ...]) -> Effect | None:
    """The goal's effect that is most likely the best arm."""
    goals = _goals(experiment, posterior, live)
    return max(goals, key=lambda one: -1.0 if one.p_best is None else one.p_best, default=None)


def _traffic(experiment: Experiment, posterior: Posterior, enrolled: float, live: tuple[str, ...]) -> float | None:
    """Eligible units per day: as agreed, else as the data show them, taken to be of the present share."""
    if experiment.traffic:
        return experiment.traffic.units_per_day
    if posterior.first_day is None or posterior.last_day is None or enrolled <= 0:
        return None
    days = (posterior.last_day - posterior.first_day).days + 1
    # A smaller arm may not be told from the total, and a dropped one stopped growing.
    shown = {
        arm: n for arm, n in posterior.counts.items() if n >= experiment.min_cell and arm in (posterior.control, *live)
    }
    return sum(shown.values()) / sum(map(experiment.share, shown)) / days * 100 / enrolled if shown else None


def _verdict_now(rule: GoalRule, effect: Effect) -> GoalVerdict | None:
    """What the rules on the goal say, from the figures that `decide` reads; None where they are not of a relative effect."""
    policy = rule.policy
    if effect.scale != "relative":
        return None
    if policy.aim == "non_inferiority":
        safe = None if effect.p_harm_flat is None else 1 - effect.p_harm_flat
        return None if safe is None else "ship" if safe >= rule.needed else "none"
    if effect.p_rope is None or effect.p_above_rope is None or effect.expected_loss_rel is None:
        return None
    if effect.p_rope >= policy.conclude_flat.p_rope:
        return "conclude flat"
    return (
        "ship"
        if effect.p_above_rope >= rule.needed and effect.expected_loss_rel <= policy.ship.expected_loss
        else "none"
    )


def _days_left(experiment: Experiment, posterior: Posterior) -> int:
    """Days of data from the last one to the planned end; 0 where that is past or unknown."""
    if experiment.end is None or posterior.last_day is None:
        return 0
    return max(0, (experiment.end - posterior.last_day).days)


def in_unit(metric: Metric, amount: float, *, better: bool = True) -> str:
    """A change of a metric's total in words, such as ``40 more units with bought`` or ``12 fewer seconds of loading``."""
    name = f"units with {metric.name}" if metric.is_share else metric.name
    unit = f"{metric.unit} of " if metric.unit else ""
    return f"{figure(amount, 3)} {more_or_fewer(metric, better=better)} {unit}{name}"


def more_or_fewer(metric: Metric, *, better: bool) -> str:
    """Which of both is meant by better, or by worse."""
    return "more" if (metric.direction == "increase") == better else "fewer"


def _days(days: float, more: str = "") -> str:
    return f"{figure(days, 3)}{more} day{'' if days == 1 else 's'}"


def _soon(days: float) -> str:
    """A time after which something pays, as exact as it is worth saying."""
    if days < 0.5:
        return "within a day"
    return f"in {_days(round(days))}" if days < 1_000 else "only after years"


def _percent(p: float) -> str:
    """A probability in percent, never rounded to certainty."""
    if p < 0.001:
        return "under 0.1 %"
    return "over 99.9 %" if p > 0.999 else f"{100 * p:.1f} %"
