"""An experiment: what was agreed before the data."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from typing import Literal, get_args

from expnb.errors import NameNotFoundError, SpecError, check_choice
from expnb.spec.canonical import digest
from expnb.spec.flag import UNIT, Eligibility, Exposure
from expnb.spec.metric import Metric
from expnb.spec.policy import Policy
from expnb.spec.prior import Prior

ROW_UNIT = "row"
TRIGGER_KEY = "(trigger)"
"""Among the segments of cells: "true" for units that met what the experiment changed, "false" for the others; no column is called so."""
LEAST_ALPHA = 1e-4
"""Share of false roll backs below which a policy is asked whether it can roll back at all."""
Shape = Literal["unit", "rows", "events", "totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Eligible units per day, for planning."""

    units_per_day: float

    def __post_init__(self) -> None:
        if self.units_per_day <= 0:
            raise SpecError(
                f"units_per_day is {self.units_per_day}; it must be above 0. Leave [traffic] out when it is unknown."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The `[events]` table: what units did, one row per event; the source of the experiment then holds the assignments.

    Parameters
    ----------
    source : str
        Path or glob, relative to the workspace; or `table` or `sql` in the experiment's connection.
    at : str
        Column of the time of an event.
    kind : str
        Column of the kind of an event.
    value : str
        Column of the value of an event; empty where events are only counted.
    exposure : str
        Kind of event that exposes a unit; when given, the first one counts as the exposure, and units without one are left out.
    pre_days : float
        Days before the exposure that make up the pre-period.
    window_days : float, optional
        Days after the exposure in which events count, for metrics that say nothing else. Without it all events after the exposure count.
    lateness_days : float
        Days that events may take to arrive; a window is over only after them.
    """

    at: str
    kind: str
    source: str = ""
    table: str = ""
    sql: str = ""
    value: str = ""
    exposure: str = ""
    pre_days: float = 0.0
    window_days: float | None = None
    lateness_days: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The `[totals]` table: rows that are sums over units, one per arm, or per arm and day or segment.

    Parameters
    ----------
    units : str
        Column of the number of units.
    cumulative : bool
        Whether each row counts all units so far; then only the last row of an arm is read.
    """

    units: str
    cumulative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One `[[expect]]` table: what has to hold for every exposed unit, such as being in the audience.

    Parameters
    ----------
    name : str
        Such as ``"audience"``, ``"gate"`` or ``"environment"``.
    sql, ibis : str
        Yes or no, per row; one of the two, as in a metric.
    tolerate : float
        Share of units that may break it before a step up is blocked, 0 to 1.
    """

    name: str
    sql: str = ""
    ibis: str = ""
    tolerate: float = 0.001

    def __post_init__(self) -> None:
        if bool(self.sql) == bool(self.ibis):
            raise SpecError(f"expectation {self.name!r} has one of sql and ibis. Write `sql = \"country = 'DE'\"`.")
        if not 0 <= self.tolerate < 1:
            raise SpecError(f"expectation {self.name!r}: tolerate is {self.tolerate}; it is a share from 0 to below 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One `[[epochs]]` table: the weights of the flag from a day on."""

    start: date
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The `[cost]` table: what one reading of the data may cost.

    Parameters
    ----------
    max_seconds : float, optional
        A query that runs longer is stopped.
    max_rows : int, optional
        A source with more rows is refused before it is read.
    query_tag : str
        Name under which the warehouse shows our queries.
    """

    max_seconds: float | None = None
    max_rows: int | None = None
    query_tag: str = "expnb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The `[experiment]` table: who asks what, of which units.

    Parameters
    ----------
    unit : str
        Column of the randomisation unit; ``"row"`` when each row is a unit and there is no id.
    variant : str
        Column that holds the arm.
    control : str
        The arm that means "nothing new".
    weights : mapping of str to float
        Relative weight of every arm, control included.
    segments : tuple of str
        Columns by which effects are also shown.
    exposed_at : str
        Column of the first exposure; empty where rows carry no time.
    trigger : str
        Column that says whether a unit met what the experiment changed, the same way in all arms; effects are then those on such units, and are also stated diluted to all.
    start, end : date, optional
        First and last day of the cohort; stand in for `exposed_at`.
    shape : {"unit", "rows", "events", "totals"}
        What a row of the source is: one unit; one of many rows of a unit, which are summed to the unit; an assignment, with `[events]` beside it; or sums over units.
    experiment_column : str
        Column that holds the experiment's name, in a table that many experiments share.
    source : str
        Path or glob of the cohort, relative to the workspace.
    connection : str
        Name of an environment variable that holds a connection string; then `table` or `sql` says what to read.
    table, sql : str
        In a connection: a table, or a query.
    audience : mapping of str to tuple of str
        Attribute of a unit and the values that are let in, such as ``{"country": ("DE", "AT")}``; all must match, at the flag and in the column of that name. That of `unit` is an allow-list of units.
    layer : str
        Experiments of one layer never share a unit; empty for an experiment in none.
    slice : tuple of float
        The percent of the layer, from and to, that belong to this experiment; all of it by default.
    review_after : date, optional
        Day after which somebody should look at it again.
    expires : date, optional
        Day by which the flag should be gone.
    """

    name: str
    hypothesis: str
    owner: str
    flag: str
    unit: str
    variant: str
    control: str
    weights: Mapping[str, float]
    segments: tuple[str, ...] = ()
    exposed_at: str = ""
    trigger: str = ""
    start: date | None = None
    end: date | None = None
    shape: Shape = "unit"
    experiment_column: str = ""
    source: str = ""
    connection: str = ""
    table: str = ""
    sql: str = ""
    audience: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layer: str = ""
    slice: tuple[float, float] = (0.0, 100.0)
    review_after: date | None = None
    expires: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Experiment(Question):
    """One experiment with its metrics, its policy and what the workspace resolved for it.

    Parameters
    ----------
    metrics : tuple of Metric
        At least one of them is a goal; several need `Policy.goal_rule`.
    timezone : str
        In which days are counted.
    min_cell : int
        Segments in which an arm has fewer units are not shown.
    holdout : float
        Percent of all units that the workspace keeps out of every experiment.

    Raises
    ------
    SpecError
        If the parts contradict each other.
    """

    metrics: tuple[Metric, ...]
    policy: Policy = field(default_factory=Policy)
    prior: Prior = field(default_factory=Prior)
    traffic: Traffic | None = None
    events: Events | None = None
    totals: Totals | None = None
    expect: tuple[Expectation, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    cost: Cost = field(default_factory=Cost)
    timezone: str = "UTC"
    min_cell: int = 20
    holdout: float = 0.0

    def __post_init__(self) -> None:
        _check_arms(self.weights, self.control)
        _check_timezone(self.timezone)
        _check_metrics(self.metrics, self.policy)
        _check_shape(self)
        _check_connection(self)
        _check_epochs(self)
        _check_control_share(self)
        _check_eligible(self)
        if (self.start is None) != (self.end is None):
            raise SpecError("start and end come together; give both dates, or neither.")
        if self.start and self.end and self.start > self.end:
            raise SpecError(f"start {self.start} lies after end {self.end}. Swap them.")
        if self.policy.min_days > 0 and not self.exposed_at and self.start is None:
            raise SpecError(
                f"policy asks for min_days = {self.policy.min_days}, but the experiment has neither exposed_at nor start and end, so days cannot be counted. "
                "Name the column of the first exposure, give both dates, or set min_days = 0."
            )

    @property
    def variants(self) -> tuple[str, ...]:
        """All arms, control first."""
        return (self.control, *self.treatments)

    @property
    def treatments(self) -> tuple[str, ...]:
        """All arms but control, in the order of the file."""
        return tuple(name for name in self.weights if name != self.control)

    @property
    def goals(self) -> tuple[Metric, ...]:
        """The metrics that decide; where there are several, by `Policy.goal_rule`."""
        return tuple(metric for metric in self.metrics if metric.role == "goal")

    @property
    def goal(self) -> Metric:
        """The first of the goals: the one that is shown where there is room for one."""
        return self.goals[0]

    def metric(self, name: str) -> Metric:
        """The metric of that name.

        Raises
        ------
        NameNotFoundError
            If the experiment has no such metric.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise NameNotFoundError("metric", name, [metric.name for metric in self.metrics])

    def prior_on(self, metric: str) -> Prior:
        """The prior on the effect on a metric: its own, else that of the experiment.

        Raises
        ------
        NameNotFoundError
            If the experiment has no such metric.
        """
        return self.metric(metric).prior or self.prior

    @property
    def priors(self) -> dict[str, Prior]:
        """The prior on the effect on every metric, by name."""
        return {metric.name: self.prior_on(metric.name) for metric in self.metrics}

    def share(self, variant: str) -> float:
        """Share of enrolled units that get `variant`, 0 to 1."""
        return self.weights[variant] / sum(self.weights.values())

    def exposure(self, enrolled: float = 0.0) -> Exposure:
        """The split of this experiment at a percent enrolled."""
        return Exposure(weights=self.weights, control=self.control, enrolled=enrolled, eligibility=self.eligibility)

    @property
    def eligibility(self) -> Eligibility:
        """Who can be exposed, as the flag has to be told."""
        audience = {UNIT if name == self.unit else name: values for name, values in self.audience.items()}
        return Eligibility(audience=audience, layer=self.layer, slice=self.slice, holdout=self.holdout)

    @property
    def harm_threshold(self) -> float:
        """Probability of harm at which the gate closes, by `Policy.harm_threshold`: each treatment is judged on the goal and on every guardrail."""
        judged = sum(metric.role in {"goal", "guardrail"} for metric in self.metrics)
        return self.policy.harm_threshold(judged * len(self.treatments))

    @property
    def asked_hash(self) -> str:
        """SHA-256 of what a posterior answers: metrics with their ropes and margins, priors, arms, segments and the audience."""
        asked = {name: getattr(self, name) for name in ("metrics", "prior", "weights", "control", "segments")}
        return digest(asked | ({"audience": self.eligibility.audience} if self.audience else {}))

    @property
    def policy_hash(self) -> str:
        """SHA-256 of everything that decides: policy, metrics, arms, prior, dates, and who is eligible."""
        parts = ("policy", "metrics", "weights", "control", "prior", "start", "end")
        decides = {name: getattr(self, name) for name in parts}
        return digest(decides | ({"eligibility": self.eligibility} if self.eligibility.needs else {}))

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the whole experiment."""
        return digest(self)

    def questions(self) -> Iterator[str]:
        """What a careful reader would ask about this specification."""
        words = self.hypothesis.lower()
        if self.policy.aim == "superiority" and any(
            phrase in words for phrase in ("not hurt", "n't hurt", "no worse", "not harm", "n't harm")
        ):
            yield 'the hypothesis says that the change does not hurt, the policy asks for superiority. Is aim = "non_inferiority" meant?'
        if not any(metric.role == "guardrail" for metric in self.metrics):
            yield "no guardrail is named: nothing but the goal can stop this ramp. Which metric must not get worse?"
        if self.policy.aim == "superiority" and self.goal.rope is None and self.policy.ship.expected_loss_abs is None:
            yield f"this policy can never ship: the goal {self.goal.name!r} has no relative rope, and without ship.expected_loss_abs its expected loss is unknown. How much may shipping cost, in units of the metric?"
        if self.policy.harm_alpha < LEAST_ALPHA:
            yield f"this policy can hardly ever roll back: harm has to be {100 * self.harm_threshold:.10g} % certain (harm_alpha = {self.policy.harm_alpha:g}). Should the gate not close earlier?"
        yield from self._questions_of_time()

    def _questions_of_time(self) -> Iterator[str]:
        """Whether the ladder can be climbed with the traffic, and before the end."""
        if self.traffic is None:
            yield "no [traffic] is given, so nothing can be said about how long the ramp takes."
            return
        policy, share = self.policy, min(self.share(name) for name in self.variants)
        needed = 0.0
        for rung in map(policy.rung, policy.percents):
            if rung.enrolled > policy.learn_at:
                break
            days = (rung.units or 0) / (self.traffic.units_per_day * rung.enrolled / 100 * share)
            if rung.max_hold_days and days > rung.max_hold_days and rung.enrolled < policy.learn_at:
                yield (
                    f"at {rung.enrolled:g} % it takes {days:.0f} days until {rung.units:,} units per arm came in, and after {rung.max_hold_days:g} days one rung down is proposed. "
                    "Should the ladder start higher, or fewer units be enough?"
                )
            least = days if rung.enrolled == policy.learn_at else max(days, rung.days or 0)
            needed += max(1.0, math.ceil(least))
        if self.start and self.end:
            there = (self.end - self.start).days + 1
            if max(needed, policy.min_days) > there:
                yield f"this policy can never ship: {policy.learn_at:g} % with enough units is reached after {needed:.0f} days at the earliest, {policy.min_days} days of data are needed, and the experiment ends after {there}. Should it run longer, or the ladder be shorter?"

    def __repr__(self) -> str:
        metrics = ", ".join(f"{metric.name} ({metric.role})" for metric in self.metrics)
        return f"experiment {self.name}: {self.hypothesis} Arms {', '.join(self.variants)}; metrics {metrics}; flag {self.flag}."

    def _repr_html_(self) -> str:
        rows = [
            ("hypothesis", self.hypothesis),
            ("owner", self.owner),
            ("flag", self.flag),
            ("arms", ", ".join(f"{name} {self.share(name):.1%}" for name in self.variants)),
            *([("eligible", str(self.eligibility))] if self.eligibility.needs else []),
            ("metrics", "; ".join(f"{metric.name} ({metric.role}, {metric.direction})" for metric in self.metrics)),
            ("policy", " ".join(self.policy.sentences())),
            (
                "prior",
                "; ".join(
                    [
                        self.prior.id,
                        *(f"{metric.name}: {metric.prior.id}" for metric in self.metrics if metric.prior),
                    ]
                ),
            ),
        ]
        body = "".join(
            f"<tr><th style='text-align:left;vertical-align:top'>{key}</th><td style='text-align:left'>{html.escape(text)}</td></tr>"
            for key, text in rows
        )
        return f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>experiment {html.escape(self.name)}</caption>{body}</table>"


def _check_arms(weights: Mapping[str, float], control: str) -> None:
    if control not in weights:
        raise SpecError(f"control is {control!r}, which is no arm; weights name {list(weights)}. Name one of them.")
    if len(weights) < 2:
        raise SpecError(f"weights name only {list(weights)}; a comparison needs at least two arms. Add the treatment.")
    for name, weight in weights.items():
        if not isinstance(name, str) or isinstance(weight, bool | str):
            raise SpecError(
                f'weights name the arm {name!r} with {weight!r}; an arm is text and its weight a number. Write {{"{name}": 50}}.'
            )
        if not 0 < weight < float("inf"):
            raise SpecError(f"weight of {name!r} is {weight}; it must be above 0. Remove an arm that gets no units.")
        if name == "off":
            raise SpecError(
                "an arm is called 'off', which means outside the gate. Choose another name, such as 'control'."
            )


def _check_control_share(experiment: Experiment) -> None:
    needed = experiment.policy.control_share
    if needed is not None and abs(experiment.share(experiment.control) - needed) > 1e-9:
        arms = len(experiment.treatments)
        raise SpecError(
            f"the policy keeps {100 * needed:g} % of enrolled units on control, the weights {100 * experiment.share(experiment.control):.4g} %. "
            f"Give control the weight {100 * needed:g} and {'the treatment' if arms == 1 else 'each treatment'} {100 * (1 - needed) / arms:g}."
        )


def _check_epochs(experiment: Experiment) -> None:
    """Weights that changed midway hold from one day on; without days nobody can tell which held for a unit."""
    for epoch in experiment.epochs:
        _check_arms(epoch.weights, experiment.control)
        if set(epoch.weights) != set(experiment.weights):
            raise SpecError(
                f"the epoch from {epoch.start} has the arms {list(epoch.weights)}, the experiment {list(experiment.weights)}; an arm stays an arm. Name the same ones."
            )
    for before, after in pairwise(experiment.epochs):
        if after.start <= before.start:
            raise SpecError(
                f"the epoch from {after.start} stands after the one from {before.start}; epochs stand in the order of their days, each on a day of its own. Reorder them."
            )
    if experiment.epochs and not (experiment.exposed_at or experiment.events or experiment.totals):
        raise SpecError(
            f"the weights change on {experiment.epochs[0].start}, and the experiment has no exposed_at, so nobody can tell which weights a unit was split by. Name the column of the first exposure."
        )


def _check_eligible(experiment: Experiment) -> None:
    """Who is eligible can be told at the flag and in the data alike."""
    for name in experiment.audience:
        if name == ROW_UNIT == experiment.unit or (name == UNIT != experiment.unit):
            raise SpecError(
                f"the audience names {name!r}, and the unit is {experiment.unit!r}; an allow-list of units carries the name of their column. Write audience = {{ {'userid' if experiment.unit == ROW_UNIT else experiment.unit} = [...] }}{' and name that column as the unit' if experiment.unit == ROW_UNIT else ''}."
            )
        if name == experiment.variant:
            raise SpecError(
                f"the audience names {name!r}, the column that holds the arm; who is let in is known before a unit has an arm. Name another attribute."
            )
    if experiment.expires and experiment.end and experiment.expires < experiment.end:
        raise SpecError(
            f"the flag expires on {experiment.expires}, before the experiment ends on {experiment.end}. Write a later day for expires."
        )
    who = experiment.eligibility  # refuses what contradicts itself
    # The same audience has the same hash, in whatever order it was written.
    column = {UNIT: experiment.unit} if experiment.unit in experiment.audience else {}
    audience = {column.get(name, name): values for name, values in who.audience.items()}
    object.__setattr__(experiment, "audience", {name: audience[name] for name in sorted(audience)})
    object.__setattr__(experiment, "slice", who.slice)
    object.__setattr__(experiment, "holdout", who.holdout)


def _check_connection(experiment: Experiment) -> None:
    """A specification is written to the ledger, so it holds no password."""
    if re.search(r"://[^@]*:[^@]*@|password=", experiment.connection):
        raise SpecError(
            "connection holds a password, which would be written to the ledger and shown to everybody who reads the experiment. Put the URL into an environment variable, and name the variable."
        )
    if experiment.connection and bool(experiment.table) == bool(experiment.sql):
        raise SpecError("a connection needs table or sql, one of the two, to say what to read.")


def _check_shape(experiment: Experiment) -> None:
    check_choice("shape", experiment.shape, get_args(Shape))
    for shape, table in (("events", experiment.events), ("totals", experiment.totals)):
        if (experiment.shape == shape) != (table is not None):
            raise SpecError(
                f'shape is {experiment.shape!r} and there is {"a" if table else "no"} [{shape}] table; the two come together. Write shape = "{shape}" and a [{shape}] table, or neither.'
            )
    if experiment.shape in {"rows", "events"} and experiment.unit == ROW_UNIT:
        raise SpecError(
            f'shape is {experiment.shape!r} and unit is "row"; rows are summed to a unit, which needs a column. Name the column of the unit that was randomised.'
        )
    if experiment.shape == "events" and not (
        experiment.exposed_at or (experiment.events and experiment.events.exposure)
    ):
        raise SpecError(
            "events count from the first exposure on, and the experiment has no exposed_at. Name the column of the assignment's time, or the kind of event that exposes: [events] exposure."
        )
    for metric in experiment.metrics:
        if experiment.shape == "events" and not (metric.event or metric.kind == "ratio"):
            raise SpecError(
                f'metric {metric.name!r} names no event; in events a metric counts or sums one kind. Write event = "purchase".'
            )
        if metric.at and (experiment.shape not in {"unit", "rows"} or not experiment.exposed_at):
            raise SpecError(
                f"metric {metric.name!r} has at = {metric.at!r}, shape is {experiment.shape!r} and exposed_at {experiment.exposed_at!r}; the time of an outcome is compared with that of the exposure, in rows of units that have both. Name the column of the first exposure, or remove it."
            )
        if experiment.shape != "events" and metric.event:
            raise SpecError(
                f'metric {metric.name!r} names an event, and shape is {experiment.shape!r}. Write shape = "events", or remove it.'
            )


def _check_timezone(name: str) -> None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - needed for this check alone

    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SpecError(
            f"timezone is {name!r}, which is no zone of the IANA list. Write 'UTC' or 'Europe/Berlin'."
        ) from error


def _check_metrics(metrics: tuple[Metric, ...], policy: Policy) -> None:
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"metric {name!r} is named twice. Keep one of the two.")
    goals = [metric.name for metric in metrics if metric.role == "goal"]
    if not goals:
        raise SpecError('no metric is the goal; at least one decides. Give it role = "goal".')
    if len(goals) > 1 and policy.goal_rule is None:
        raise SpecError(
            f'the goals are {goals}, and nothing says how they decide together. Write goal_rule = "all" (each must improve) or "any" under [policy], or make the others guardrail or info.'
        )
    if len(goals) == 1 and policy.goal_rule is not None:
        raise SpecError(
            f'goal_rule is {policy.goal_rule!r}, and {goals[0]!r} is the only goal; the rule says how several decide. Remove it, or give another metric role = "goal".'
        )
