"""Which experiment to run next: what each proposal is expected to bring, from what is known of such ideas, whom it reaches and what it costs."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from scipy.special import ndtr, ndtri

from expnb.errors import PathNotFoundError, SpecError, check_choice
from expnb.planning.belief import Belief, FloatArray
from expnb.planning.goal import GoalRule
from expnb.planning.waiting import MONTH
from expnb.spec.metric import Direction, Metric
from expnb.spec.policy import Policy
from expnb.spec.prior import Prior
from expnb.stats.checks import figure

if TYPE_CHECKING:
    import pandas as pd

LIKELY = 0.8
"""Probability with which a typical good idea has to ship by the days that are called needed."""

_NEEDED = ("name", "metric", "mean", "reach")
_LARGEST = math.log(2)
_SMALLEST, _POINTS = 1e-7, 1_500  # of the grid of log ratios, on each side
_TURN = 9.0  # standard errors around the cut, in which the chance to ship turns from none to certainty
_LONGEST = 3_650.0  # days


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An experiment that could be run.

    Parameters
    ----------
    name : str
    metric : str
        What it should improve.
    mean : float
        Of that metric per unit, without a change; the share of units of a conversion.
    sd : float, optional
        Its standard deviation per unit; left out of a share.
    reach : float
        Eligible units per day.
    cost : float
        Of building and running it, once: in money with `value_per_unit`, else in units of the metric.
    value_per_unit : float, optional
        Money per unit of the metric, such as the margin of one order.
    direction : {"increase", "decrease"}
        What is better.
    rope : float
        Smallest relative difference that matters.
    weeks : float, optional
        That it would run; the `days` of `prioritise` when left out.
    prior : Prior, optional
        On its effect; that of `prioritise` when left out.
    treatment_share : float
        Of units that get the treatment, 0 to 1.

    Raises
    ------
    SpecError
        If a number is out of its range.
    """

    name: str
    metric: str
    mean: float
    reach: float
    sd: float | None = None
    cost: float = 0.0
    value_per_unit: float | None = None
    direction: Direction = "increase"
    rope: float = 0.005
    weeks: float | None = None
    prior: Prior | None = None
    treatment_share: float = 0.5

    def __post_init__(self) -> None:
        check_choice(f"proposal {self.name!r}: direction", self.direction, get_args(Direction))
        for field in ("mean", "sd", "reach", "value_per_unit", "weeks"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, Real) or not 0 < float(value) < math.inf):
                raise SpecError(f"proposal {self.name!r}: {field} is {value!r}; it is a number above 0.")
        for field, example in (
            ("cost", "0 for none"),
            ("rope", "0.005 for 0.5 %"),
            ("treatment_share", "0.5 for half"),
        ):
            if not isinstance(getattr(self, field), Real):
                raise SpecError(
                    f"proposal {self.name!r}: {field} is {getattr(self, field)!r}; it is a number. Write {example}."
                )
        if not 0 <= self.rope < 1:
            raise SpecError(
                f"proposal {self.name!r}: rope is {self.rope:g}; it lies between 0 and 1. Write 0.005 for 0.5 %."
            )
        if self.prior is not None and not isinstance(self.prior, Prior):
            raise SpecError(
                f"proposal {self.name!r}: prior is {self.prior!r}; it is an xb.Prior, which a file cannot hold. Write prior=xb.Prior(scale=0.02) in Python, or leave the column out."
            )
        if self.sd is None and self.mean >= 1:
            raise SpecError(
                f"proposal {self.name!r}: mean is {self.mean:g} and there is no sd; a share lies between 0 and 1, and other metrics have a standard deviation per unit. Add sd."
            )
        if not 0 <= self.cost < math.inf:
            raise SpecError(f"proposal {self.name!r}: cost is {self.cost}; it cannot be negative. Write 0 for none.")
        if not 0 < self.treatment_share < 1:
            raise SpecError(
                f"proposal {self.name!r}: treatment_share is {self.treatment_share}; it lies between 0 and 1. Write 0.5 for half."
            )

    def error(self, days: FloatArray) -> FloatArray:
        """Standard error of the log ratio after so many days."""
        sd = math.sqrt(self.mean * (1 - self.mean)) if self.sd is None else self.sd
        arms = 1 / self.treatment_share + 1 / (1 - self.treatment_share)
        return np.asarray(sd / self.mean * np.sqrt(arms / (self.reach * days)))

    @property
    def unit(self) -> str:
        """In which its value is counted: money, or its metric."""
        return "money" if self.value_per_unit is not None else self.metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A proposal with what is expected of it.

    Parameters
    ----------
    days : float
        That it runs.
    chance : float in [0, 1]
        P(it ships after those days).
    gain : float
        Expected relative improvement by running it and shipping what the rule ships, 0 where it does not ship; mistakes counted.
    per_month : float
        `gain` in units of the metric, or in money, per month of 30 days after it shipped.
    value : float
        `per_month` over the months of the backlog, less the cost.
    per_cost : float, optional
        `per_month` over those months, by the cost; None without a cost.
    days_needed : float, optional
        Days until a typical good idea ships with probability 0.8: the median of effects better than the rope. None where ten years are too few.
    prior : str
        On its effect.
    """

    proposal: Proposal
    days: float
    chance: float
    gain: float
    per_month: float
    value: float
    per_cost: float | None
    days_needed: float | None
    prior: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Backlog:
    """Proposals, those of highest expected value first.

    Parameters
    ----------
    unit : str
        Of all values: ``"money"``, or the name of the one metric.
    months : float
        In which what ships is counted.
    """

    rows: tuple[Ranked, ...]
    unit: str
    months: float

    def table(self) -> pd.DataFrame:
        """One row per proposal, in order of value; columns as in `Ranked`."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s, only when a table is asked for

        names = ("days", "chance", "per_month", "value", "per_cost", "days_needed")
        return pd.DataFrame(
            [
                {"rank": rank, "name": row.proposal.name, "metric": row.proposal.metric}
                | {name: getattr(row, name) for name in names}
                | {"cost": row.proposal.cost, "prior": row.prior}
                for rank, row in enumerate(self.rows, 1)
            ]
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every proposal in words."""
        return tuple(self._sentence(row) for row in self.rows)

    @property
    def footer(self) -> str:
        """What was counted, in one line."""
        return f"Values in {self.unit}, over {self.months:g} months from shipping on, less the cost. Effects beyond half or double are left out."

    def __str__(self) -> str:
        lines = [f"{rank}. {each}" for rank, each in enumerate(self.sentences, 1)]
        return "\n".join([*lines, self.footer])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = ("", "proposal", "chance to ship", "value per month", f"value in {self.months:g} months", "by its cost", "days", "days needed")  # fmt: skip
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(rank, row))}</tr>"
            for rank, row in enumerate(self.rows, 1)
        )
        heads = "".join(f"<th>{name}</th>" for name in head)
        return f"<div><table><tr>{heads}</tr>{body}</table><p><small>{html.escape(self.footer)}</small></p></div>"

    def _sentence(self, row: Ranked) -> str:
        own = row.proposal
        cost = f", less a cost of {figure(own.cost, 3)}" if own.cost else ""
        verdict = "" if row.value > 0 else " It is not worth its cost."
        needed = (
            "more than ten years"
            if row.days_needed is None
            else f"{math.ceil(row.days_needed):,} day{'' if row.days_needed <= 1 else 's'}"
        )
        return f"{own.name}: worth {figure(row.value, 3)} on average ({figure(row.per_month, 3)} per month over {self.months:g} months{cost}); it ships with probability {100 * row.chance:.1f} % after {row.days:g} day{'' if row.days == 1 else 's'}, and a typical good idea needs {needed}.{verdict}"


def prioritise(
    proposals: pd.DataFrame | Sequence[Proposal],
    *,
    prior: Prior | None = None,
    days: float = 28,
    months: float = 12,
    policy: Policy | None = None,
) -> Backlog:
    """Proposed experiments by the expected value of running each.

    Parameters
    ----------
    proposals : DataFrame or sequence of Proposal
        A frame has the fields of `Proposal` as columns; empty cells are left out.
    prior : Prior, optional
        On the effect of proposals that have none of their own, such as `learn_prior` gives it; a Student-t(4) of 3 % when left out.
    days : float
        That each runs with all eligible units, unless it says `weeks`.
    months : float
        Of 30 days, in which what ships is counted.
    policy : Policy, optional
        Whose ship rule is asked, once, on the last day; the default one when left out.

    Returns
    -------
    Backlog

    Raises
    ------
    SpecError
        If a column or cell is unknown or missing, a name given twice, a number out of range, a prior flat, or the values cannot be compared.

    Notes
    -----
    The gain is ``E[effect x P(ship | effect)]``: the estimate of the log ratio is a bell around the truth, and the treatment ships where it lies beyond the cut of the ship rule (`GoalRule.cut`), as in preposterior analysis with a given rule [1]_.
    Ladder, guardrails and the harm rule are left out: they delay all proposals alike. Ratios of a heavy-tailed prior have no mean, so true effects beyond half or double count as none.

    References
    ----------
    .. [1] Azevedo, Deng, Montiel Olea, Rao, Weyl (2020), A/B testing with fat tails, JPE 128, on the production function of an experiment.
    """
    for name, value in (("days", days), ("months", months)):
        if not 0 < value < math.inf:
            raise SpecError(f"{name} is {value}; it must be above 0. Write days=28 and months=12.")
    given = _read(proposals) if not isinstance(proposals, Sequence) else tuple(proposals)
    _check_names(given)
    unit = _unit(given)
    rows = [_ranked(one, one.prior or prior or Prior(), days, months, policy or Policy()) for one in given]
    return Backlog(rows=tuple(sorted(rows, key=lambda row: -row.value)), unit=unit, months=months)


def read_proposals(file: Path) -> tuple[Proposal, ...]:
    """Proposals from a CSV file with the fields of `Proposal` as columns, but for `prior`, which is no cell.

    Raises
    ------
    PathNotFoundError
        If there is no such file.
    SpecError
        If a column is unknown or missing, or a number cannot be used.
    """
    import pandas as pd  # noqa: PLC0415 - 0.3 s, only when a file is read

    if not file.is_file():
        raise PathNotFoundError(str(file), "CSV of proposals", [other.name for other in file.parent.glob("*.csv")])
    try:
        frame = pd.read_csv(file, dtype={"name": str, "metric": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{file.name} cannot be read as CSV ({error}). Write a line of column names and one line per proposal."
        ) from error
    if len(frame.columns) == 1 and ";" in str(frame.columns[0]):
        raise SpecError(
            f"{file.name} is separated by semicolons, and is read by commas. Save it as CSV with commas, and with a point in numbers."
        )
    if "prior" in frame.columns:
        raise SpecError(
            f"{file.name} has a column 'prior', and a file cannot hold a prior: the command takes those that the workspace learnt. Remove the column, or rank in Python: xb.Proposal(…, prior=xb.Prior(scale=0.02))."
        )
    found = _read(frame)
    _check_names(found)
    return found


def _read(frame: pd.DataFrame) -> tuple[Proposal, ...]:
    known = [field.name for field in fields(Proposal)]
    for column in frame.columns:
        check_choice("a column of the proposals", column, known)
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise SpecError(f"the proposals have no column {missing[0]!r}. Add it; they have {list(frame.columns)}.")
    rows = [
        {str(key): value for key, value in row.items() if value is not None and value == value}  # noqa: PLR0124 - false of NaN alone
        for row in frame.to_dict("records")
    ]
    for place, row in enumerate(rows, 1):
        empty = [name for name in _NEEDED if name not in row]
        if empty:
            who = f"proposal {row['name']!r}" if "name" in row else f"proposal number {place}"
            raise SpecError(f"{who} has no {empty[0]}: its cell is empty. Fill it in, or remove the line.")
    return tuple(Proposal(**row) for row in rows)


def _check_names(proposals: Sequence[Proposal]) -> None:
    """Raise where a name stands twice: nobody could tell the two rows apart."""
    names = [one.name for one in proposals]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two proposals are called {twice!r}. Give each a name of its own, or remove one.")


def _unit(proposals: Sequence[Proposal]) -> str:
    """In which all values are counted."""
    units = list(dict.fromkeys(one.unit for one in proposals))
    if not units:
        raise SpecError("there are no proposals. Name at least one.")
    if len(units) > 1:
        raise SpecError(
            f"proposals are counted in {' and in '.join(units)}, which cannot be compared. Give each a value_per_unit, or rank those on one metric."
        )
    return units[0]


def _ranked(one: Proposal, prior: Prior, days: float, months: float, policy: Policy) -> Ranked:
    if prior.family == "flat":
        raise SpecError(
            f"the prior on proposal {one.name!r} is flat, which expects nothing about effects. Pass prior=xb.Prior(), or one that was learnt."
        )
    runs = days if one.weeks is None else 7 * one.weeks
    metric = Metric(
        name=one.metric, kind="mean", role="goal", direction=one.direction, rope=one.rope
    )  # of any kind: the rule reads rope and direction
    rule = GoalRule(policy, metric, Belief.of(prior))
    error = one.error(np.array([runs]))
    cut = float(rule.cut(error)[0])
    gain = expected_gain(rule, float(error[0]), cut)
    per_month = gain * one.mean * one.reach * MONTH * (one.value_per_unit or 1.0)
    return Ranked(
        proposal=one,
        days=runs,
        chance=chance_to_ship(rule, float(error[0]), cut),
        gain=gain,
        per_month=per_month,
        value=per_month * months - one.cost,
        per_cost=per_month * months / one.cost if one.cost else None,
        days_needed=_days_needed(one, rule),
        prior=prior.id,
    )


def chance_to_ship(rule: GoalRule, error: float, cut: float) -> float:
    """P(estimate beyond the cut) over the prior; in closed form, as both are mixtures of Normals."""
    spread = np.sqrt(rule.belief.variance + error**2)
    return float((np.exp(rule.belief.log_weight) * ndtr((-cut if rule.up else cut) / spread)).sum())


def expected_gain(rule: GoalRule, error: float, cut: float) -> float:
    """Mean of the improvement times P(estimate beyond the cut | effect) over the prior, between half and double; by the trapezoidal rule on points that lie as dense near no effect as far from it, and densest where the verdict turns."""
    side = np.geomspace(_SMALLEST, _LARGEST, _POINTS)
    turn = cut + error * np.linspace(-_TURN, _TURN, _POINTS) if math.isfinite(cut) else np.zeros(0)
    lam = np.unique(np.concatenate([-side, side, turn[np.abs(turn) <= _LARGEST]]))
    sign = 1.0 if rule.up else -1.0
    value = sign * np.expm1(lam) * ndtr(sign * (lam - cut) / error) * _density(rule.belief, lam)
    return float(np.trapezoid(value, lam))


def _density(belief: Belief, lam: FloatArray) -> FloatArray:
    """Density of a belief at log ratios, its point at no effect left out."""
    spread = belief.variance > 0
    variance, weight = belief.variance[spread], np.exp(belief.log_weight[spread])
    each = np.exp(-0.5 * lam[:, None] ** 2 / variance) / np.sqrt(2 * math.pi * variance)
    return np.asarray(each @ weight)


def _days_needed(one: Proposal, rule: GoalRule) -> float | None:
    """Days until the median of the effects that are better than the rope ships with probability 0.8; None beyond ten years."""
    typical = _typical(rule)
    days = np.geomspace(1.0, _LONGEST, 200)
    error = one.error(days)
    sure = (1.0 if rule.up else -1.0) * rule.cut(error) + ndtri(LIKELY) * error <= typical
    return float(days[int(np.argmax(sure))]) if sure.any() else None


def _typical(rule: GoalRule) -> float:
    """Median of the log ratios of effects that are better than the rope, in the direction of improvement."""
    rope = abs(math.log1p((1 if rule.up else -1) * (rule.metric.rope or 0.0)))
    side = rope + np.geomspace(_SMALLEST, _LARGEST, _POINTS)
    mass = np.cumsum(_density(rule.belief, side) * np.gradient(side))
    return float(side[int(np.searchsorted(mass, 0.5 * mass[-1]))])


def _cells(rank: int, row: Ranked) -> tuple[str, ...]:
    return (
        str(rank),
        row.proposal.name,
        f"{100 * row.chance:.1f} %",
        figure(row.per_month, 3),
        figure(row.value, 3),
        "–" if row.per_cost is None else f"{row.per_cost:.2g}",
        f"{row.days:g}",
        "–" if row.days_needed is None else f"{math.ceil(row.days_needed):,}",
    )
