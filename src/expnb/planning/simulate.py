"""Operating characteristics of a policy: how often it ships, rolls back and holds, by true effect and traffic."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from expnb.decisions.precedence import code
from expnb.errors import NameNotFoundError, SpecError
from expnb.planning.baseline import Baseline, Given, as_baselines
from expnb.planning.belief import FloatArray
from expnb.planning.judging import judged_metrics
from expnb.planning.rollouts import Rollouts, roll_out
from expnb.spec.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

    from expnb.stats.cells import Cells

Effect = float | Mapping[str, float | Mapping[str, float]]
"""True relative effect on the goal; or on metrics by name, under all treatments; or by treatment, each a number for the goal or a mapping by metric. What is not named has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Characteristic:
    """How rollouts of one true effect at one traffic ended.

    Parameters
    ----------
    effect : str
        True relative effects, in words.
    units_per_day : float
        Eligible units of all arms.
    ship, roll_back, conclude_flat, running : float
        Shares of rollouts, 0-1; they add up to 1.
    blocked : float
        Share that the sample ratio held up on some day.
    days_to_ship, days_to_roll_back : float, optional
        Median days of those that did; None where none did.
    days_to_rung : tuple of float, optional each
        Median day on which each rung was reached; None where fewer than half did.
    treated : float
        Units that got a treatment before the verdict, on average.
    harmed : float
        Those of them that got one whose true effect lies beyond a margin.
    stated : float, optional
        P(improvement) of the first goal among the shipped, on average.
    dropped : float
        Share in which a treatment was taken out for harm while others went on; 0 with one treatment.
    """

    effect: str
    units_per_day: float
    ship: float
    roll_back: float
    conclude_flat: float
    running: float
    blocked: float
    days_to_ship: float | None
    days_to_roll_back: float | None
    days_to_rung: tuple[float | None, ...]
    treated: float
    harmed: float
    stated: float | None
    dropped: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OperatingCharacteristics:
    """What a policy does in simulated rollouts.

    Parameters
    ----------
    rungs : tuple of float
        Percent enrolled at each rung.
    rows : tuple of Characteristic
        By traffic, then by effect.
    """

    experiment: str
    policy: tuple[str, ...]
    prior: str
    days: int
    rollouts: int
    seed: int
    rungs: tuple[float, ...]
    baselines: Mapping[str, Baseline]
    rows: tuple[Characteristic, ...]
    treatments: int = 1

    def table(self) -> pd.DataFrame:
        """One row per traffic and true effect; shares 0-1, days from the start, units."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s, only when a table is asked for

        return pd.DataFrame(
            [
                {
                    "units_per_day": row.units_per_day,
                    "effect": row.effect,
                    "ship": row.ship,
                    "roll_back": row.roll_back,
                    "conclude_flat": row.conclude_flat,
                    "running": row.running,
                    "blocked": row.blocked,
                    **({"dropped": row.dropped} if self.treatments > 1 else {}),
                    "days_to_ship": row.days_to_ship,
                    "days_to_roll_back": row.days_to_roll_back,
                    **{f"days_to_{rung:g}": day for rung, day in zip(self.rungs, row.days_to_rung, strict=True)},
                    "treated": row.treated,
                    "harmed": row.harmed,
                    "stated": row.stated,
                }
                for row in self.rows
            ]
        )

    @property
    def footer(self) -> str:
        """What was simulated, in one line."""
        without = ", ".join(
            f"{name} {each.mean:g}"
            + ("" if math.isclose(each.sd**2, each.mean * (1 - each.mean)) else f" (sd {each.sd:g})")
            for name, each in self.baselines.items()
        )
        return f"{self.rollouts:,} rollouts each of {self.days} daily look{'' if self.days == 1 else 's'}; without a change {without}; prior {self.prior}; seed {self.seed}. Metrics are drawn independently, units come once, and of 1,000 verdicts about one differs from that of `decide`."

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.experiment}:", *(f"  {_sentence(row, self.days)}" for row in self.rows), f"  {self.footer}"]
        )

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        shown = self.table().drop(columns=["harmed"])
        texts = {str(name): [_text(str(name), value) for value in shown[name]] for name in shown}
        table = shown.assign(**texts).rename(columns=lambda name: name.replace("_", " ")).to_html(index=False, border=0)
        return f"<div><p><strong>{html.escape(self.experiment)}: operating characteristics</strong></p>{table}<p><small>{html.escape(self.footer)}</small></p></div>"


def _text(column: str, value: object) -> str:
    """A value of the table as it is shown."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    if column in {"ship", "roll_back", "conclude_flat", "running", "blocked", "dropped"}:
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if column == "stated" else f"{value:,.0f}"


def _sentence(row: Characteristic, days: int) -> str:
    """One world in words."""
    ends = {
        "ships": row.ship,
        "rolls back": row.roll_back,
        "concludes flat": row.conclude_flat,
        "still runs": row.running,
    }
    parts = [f"{verb} {100 * share:.1f} %" for verb, share in ends.items() if share]
    when = [
        f"{verb} after {day:g} day{'' if day == 1 else 's'} (median)"
        for verb, day in (("ships", row.days_to_ship), ("rolls back", row.days_to_roll_back))
        if day is not None
    ]
    if row.dropped:
        when.append(f"a treatment is dropped in {100 * row.dropped:.1f} %")
    return f"{row.units_per_day:,.0f} units per day, true effect {row.effect}: {', '.join(parts)} within {days} day{'' if days == 1 else 's'}; {''.join(each + '; ' for each in when)}{row.treated:,.0f} units treated."


def simulate_policy(
    experiment: Experiment,
    *,
    baseline: Mapping[str, Given] | Given | Cells,
    effects: Sequence[Effect] = (0.0,),
    traffic: float | Sequence[float] | None = None,
    days: int = 28,
    rollouts: int = 2000,
    seed: int = 0,
) -> OperatingCharacteristics:
    """What the policy of an experiment would do, before any data: thousands of rollouts on made-up units, with every rule, look and rung.

    Parameters
    ----------
    baseline : mapping, number, pair or Cells
        Per metric, what it is without a change: the share of units of a conversion, or mean and standard deviation; one for all metrics, or the cells of an earlier experiment, of which the control is taken.
    effects : sequence of float or mapping
        True relative effects, 0.03 is +3 %: on the goal; on metrics by name, under all treatments (``{"bought": 0.03, "returned": 0.1}``); or by treatment (``{"large": 0.03, "red": {"bought": 0.01, "returned": 0.5}}``). With several goals they are named.
    traffic : float or sequence of float, optional
        Eligible units per day, of all arms together; that of the experiment when left out.
    days : int
        Daily looks at most.
    rollouts : int
        Per effect and traffic.

    Returns
    -------
    OperatingCharacteristics

    Raises
    ------
    SpecError, NameNotFoundError
        If something is missing, out of range or unknown.
    """
    metrics = judged_metrics(experiment)
    baselines = as_baselines(experiment, metrics, baseline)
    check_simulated(experiment, days, rollouts)
    rows = []
    for units_per_day in _traffic(experiment, traffic):
        for place, effect in enumerate(effects):
            truth = _truth(experiment, effect, baselines)
            found = roll_out(
                experiment,
                np.broadcast_to(truth, (rollouts, *truth.shape)),
                baselines=baselines,
                units_per_day=units_per_day,
                days=days,
                seed=seed + 1000 * place,
            )
            rows.append(_characteristic(experiment, effect, truth, units_per_day, found))
    return OperatingCharacteristics(
        experiment=experiment.name,
        policy=tuple(experiment.policy.sentences()),
        prior=experiment.prior_on(experiment.goal.name).id,
        days=days,
        rollouts=rollouts,
        seed=seed,
        rungs=experiment.policy.percents,
        baselines=baselines,
        rows=tuple(rows),
        treatments=len(experiment.treatments),
    )


def check_simulated(experiment: Experiment, days: int, rollouts: int) -> None:
    """Raise `SpecError` for what cannot be simulated."""
    for name, value, usual in (("days", days, 28), ("rollouts", rollouts, 2000)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise SpecError(f"{name} is {value!r}; it is a whole number from 1 on. Write {name}={usual}.")
    for metric in judged_metrics(experiment):
        if metric.kind in {"ratio", "quantile"}:
            raise SpecError(
                f"metric {metric.name!r} is a {metric.kind}, which cannot be simulated from a mean and a spread. Leave it out of the simulation: give the experiment without it."
            )
        if (metric.margin if metric.role == "guardrail" else metric.rope) is None:
            raise SpecError(
                f"metric {metric.name!r} has no relative {'margin' if metric.role == 'guardrail' else 'rope'}; simulations are of relative effects. Add one."
            )


def _traffic(experiment: Experiment, given: float | Sequence[float] | None) -> list[float]:
    if given is None and experiment.traffic is None:
        raise SpecError(
            f"the traffic of {experiment.name!r} is unknown. Pass traffic=6000 (units per day), or add [traffic] units_per_day to its file."
        )
    units = (
        [experiment.traffic.units_per_day]
        if given is None and experiment.traffic
        else ([float(given)] if isinstance(given, int | float) else [float(each) for each in given or ()])
    )
    for each in units:
        if not each > 0:
            raise SpecError(f"traffic is {each:g} units per day; it must be above 0.")
    return units


def _truth(experiment: Experiment, effect: Effect, baselines: Mapping[str, Baseline]) -> FloatArray:
    """True relative effects, shape (treatment, metric)."""
    out = np.zeros((len(experiment.treatments), len(baselines)))
    for row, given in enumerate(_by_treatment(experiment, effect, list(baselines))):
        for name, value in given.items():
            if name not in baselines:
                raise NameNotFoundError("goal or guardrail", name, list(baselines))
            most = 1 / baselines[name].mean - 1 if experiment.metric(name).is_share else np.inf
            if not -1 < value <= most:
                raise SpecError(
                    f"a true effect of {value:+.0%} on {name!r} is impossible; from a mean of {baselines[name].mean:g} it lies between -100 % and {'any size' if most == np.inf else f'{most:+.0%}'}."
                )
            out[row, list(baselines).index(name)] = value
    return out


def _by_treatment(experiment: Experiment, effect: Effect, metrics: list[str]) -> list[dict[str, float]]:
    """True effects by metric, one mapping per treatment."""
    arms = experiment.treatments
    if not isinstance(effect, Mapping):
        return [_on_goal(experiment, effect)] * len(arms)
    named = [name for name in effect if name in arms]
    for name in named:
        if name in metrics:
            raise SpecError(
                f"{name!r} is a treatment and a metric of {experiment.name!r}, so an effect on it can mean either. Rename one of them."
            )
    if not named:
        plain = {name: value for name, value in effect.items() if not isinstance(value, Mapping)}
        if len(plain) < len(effect):
            raise NameNotFoundError("treatment", next(name for name in effect if name not in plain), list(arms))
        return [plain] * len(arms)
    for name in effect:
        if name not in arms:
            raise NameNotFoundError("treatment", name, list(arms))
    found = {
        name: dict(value) if isinstance(value, Mapping) else _on_goal(experiment, value)
        for name, value in effect.items()
    }
    return [found.get(name, {}) for name in arms]


def _on_goal(experiment: Experiment, value: float) -> dict[str, float]:
    """An effect that names no metric; with several goals it could be on any of them."""
    if value and len(experiment.goals) > 1:
        names = [goal.name for goal in experiment.goals]
        raise SpecError(
            f"a true effect of {value:+.0%} names no metric, and the goals are {names}. Write {{{names[0]!r}: {value:g}}}."
        )
    return {experiment.goal.name: value}


def _characteristic(
    experiment: Experiment, effect: Effect, truth: FloatArray, units_per_day: float, found: Rollouts
) -> Characteristic:
    def median(chosen: FloatArray) -> float | None:
        return float(np.median(chosen)) if len(chosen) else None

    metrics = judged_metrics(experiment)
    ended = {action: found.action == code(action) for action in ("ship", "roll_back", "conclude_flat", "hold")}
    signs = np.array([1.0 if metric.direction == "increase" else -1.0 for metric in metrics])
    margins = np.array([np.inf if metric.margin is None else metric.margin for metric in metrics])
    harmful = (signs * truth < -margins).any(axis=1)
    days = np.median(found.reached, axis=0)
    treated = found.treated.mean(axis=0)
    return Characteristic(
        effect=_words(experiment, effect),
        units_per_day=units_per_day,
        ship=float(ended["ship"].mean()),
        roll_back=float(ended["roll_back"].mean()),
        conclude_flat=float(ended["conclude_flat"].mean()),
        running=float(ended["hold"].mean()),
        blocked=float(found.blocked.mean()),
        days_to_ship=median(found.day[ended["ship"]]),
        days_to_roll_back=median(found.day[ended["roll_back"]]),
        days_to_rung=tuple(float(day) if np.isfinite(day) else None for day in days),
        treated=float(treated.sum()),
        harmed=float(treated[harmful].sum()),
        stated=float(found.stated[ended["ship"]].mean()) if ended["ship"].any() else None,
        dropped=float(found.dropped.any(axis=1).mean()),
    )


def _words(experiment: Experiment, effect: Effect) -> str:
    arms = [
        ", ".join(f"{name} {100 * value:+.3g} %" for name, value in given.items() if value) or "none"
        for given in _by_treatment(experiment, effect, [metric.name for metric in judged_metrics(experiment)])
    ]
    if len(set(arms)) == 1:
        return arms[0]
    return "; ".join(f"{name}: {words}" for name, words in zip(experiment.treatments, arms, strict=True))
