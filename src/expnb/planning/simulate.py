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
from expnb.planning.rollouts import Rollouts, judged_metrics, roll_out
from expnb.spec.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

    from expnb.stats.cells import Cells

Effect = float | Mapping[str, float]
"""True relative effect on the goal, or on metrics by name; metrics that are not named have none."""


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
        The same where the true effect lies beyond a margin, else 0.
    stated : float, optional
        P(improvement) of the goal among the shipped, on average.
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
        return f"{self.rollouts:,} rollouts each of {self.days} daily looks; without a change {without}; prior {self.prior}; seed {self.seed}. Metrics are drawn independently, and units come once."

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
    if column in {"ship", "roll_back", "conclude_flat", "running", "blocked"}:
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
        f"{verb} after {day:g} days (median)"
        for verb, day in (("ships", row.days_to_ship), ("rolls back", row.days_to_roll_back))
        if day is not None
    ]
    return f"{row.units_per_day:,.0f} units per day, true effect {row.effect}: {', '.join(parts)} within {days} days; {''.join(each + '; ' for each in when)}{row.treated:,.0f} units treated."


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
        True relative effects: on the goal, or on metrics by name; 0.03 is +3 %. All treatments have the same.
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
    _check(experiment, days, rollouts)
    rows = []
    for units_per_day in _traffic(experiment, traffic):
        for place, effect in enumerate(effects):
            truth = _truth(experiment, effect, baselines)
            found = roll_out(
                experiment,
                np.broadcast_to(truth, (rollouts, len(experiment.treatments), len(metrics))),
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
    )


def _check(experiment: Experiment, days: int, rollouts: int) -> None:
    for name, value in (("days", days), ("rollouts", rollouts)):
        if value < 1:
            raise SpecError(f"{name} is {value}; it must be at least 1.")
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
    """True relative effects, shape (metric,)."""
    metrics = judged_metrics(experiment)
    given = effect if isinstance(effect, Mapping) else {experiment.goal.name: effect}
    for name, value in given.items():
        if name not in baselines:
            raise NameNotFoundError("goal or guardrail", name, list(baselines))
        most = 1 / baselines[name].mean - 1 if experiment.metric(name).is_share else np.inf
        if not -1 < value <= most:
            raise SpecError(
                f"a true effect of {value:+.0%} on {name!r} is impossible; from a mean of {baselines[name].mean:g} it lies between -100 % and {'any size' if most == np.inf else f'{most:+.0%}'}."
            )
    return np.array([float(given.get(metric.name, 0.0)) for metric in metrics])


def _characteristic(
    experiment: Experiment, effect: Effect, truth: FloatArray, units_per_day: float, found: Rollouts
) -> Characteristic:
    def median(chosen: FloatArray) -> float | None:
        return float(np.median(chosen)) if len(chosen) else None

    ended = {action: found.action == code(action) for action in ("ship", "roll_back", "conclude_flat", "hold")}
    harmful = any(
        metric.margin is not None and (value if metric.direction == "increase" else -value) < -metric.margin
        for metric, value in zip(judged_metrics(experiment), truth, strict=True)
    )
    days = np.median(found.reached, axis=0)
    treated = float(found.treated.mean())
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
        treated=treated,
        harmed=treated if harmful else 0.0,
        stated=float(found.stated[ended["ship"]].mean()) if ended["ship"].any() else None,
    )


def _words(experiment: Experiment, effect: Effect) -> str:
    given = effect if isinstance(effect, Mapping) else {experiment.goal.name: effect}
    changed = {name: value for name, value in given.items() if value}
    return ", ".join(f"{name} {100 * value:+.3g} %" for name, value in changed.items()) or "none"
