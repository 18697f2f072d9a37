"""Metrics: what is measured, which direction is better, and how much harm is tolerated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from expnb.errors import SpecError, check_choice
from expnb.spec.canonical import digest
from expnb.spec.prior import Prior

MetricKind = Literal["conversion", "mean", "count", "revenue", "duration", "ratio", "quantile", "retention"]
Role = Literal["goal", "guardrail", "info"]
Direction = Literal["increase", "decrease"]


# A share of units with a yes; one number between 0 and 1.
SHARES: frozenset[MetricKind] = frozenset({"conversion", "retention"})
# Values below 0 cannot be.
NEVER_NEGATIVE: frozenset[MetricKind] = frozenset({"count", "duration"})
# The fields that say what is measured; where totals lie, when an outcome was and which covariate sharpens the estimate do not change that.
MEASURES = (
    "kind",
    "direction",
    "column",
    "sql",
    "ibis",
    "numerator",
    "denominator",
    "q",
    "cap",
    "event",
    "from_days",
    "window_days",
    "unit",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsColumns:
    """Where a table of totals holds one metric; either `sum` (with `squares` unless it counts conversions), or `mean` and `variance`.

    Parameters
    ----------
    units : str
        Column of the units behind the totals; that of the experiment's `[totals]` when empty.
    sum, squares : str
        Columns of the sum, or of the number of conversions, and of the sum of squares.
    mean, variance : str
        Columns of the mean and of the unbiased variance.
    """

    units: str = ""
    sum: str = ""
    squares: str = ""
    mean: str = ""
    variance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of an experiment.

    Parameters
    ----------
    name : str
        A catalogue name, or the name of a metric that is defined here.
    kind : {"conversion", "mean", "count", "revenue", "duration", "ratio", "quantile", "retention"}
        ``"conversion"`` and ``"retention"`` are 0 or 1 per unit, the second in a window that has to be over; ``"mean"`` is any number, ``"count"`` whole numbers from 0,
        ``"revenue"`` money, mostly 0, ``"duration"`` a time from 0, ``"ratio"`` a sum over a sum, ``"quantile"`` the value that a share `q` of units stays below.
    role : {"goal", "guardrail", "info"}
        The goal decides, guardrails can stop a ramp, info is only shown.
    direction : {"increase", "decrease"}
        What is better.
    column : str
        Column of the cohort; the metric's name when neither this nor `sql` nor `ibis` is given.
    sql : str
        Instead of `column`: an SQL expression over a row, in the language of the source, such as ``"price * quantity"``.
    ibis : str
        Instead of `column`: an Ibis expression over a row ``_``, the same on every source, such as ``"_.price * _.quantity"``.
    numerator, denominator : str
        Columns of a ratio. In events, kinds of events; the numerator adds up `column` where one is given, and counts otherwise.
    q : float
        Of a quantile, between 0 and 1.
    cap : float, optional
        Values above are set to the cap. Below 1 it is a share: the quantile of the positive values of all arms together; from 1 on a value in units of the metric.
    event : str
        In events: the kind of event that counts.
    from_days, window_days : float
        Time after the first exposure in which a value counts, in days. A unit whose window is not over is left out.
    at : str
        Column of the time of the outcome, where rows have one; an outcome before the exposure is counted and said.
    covariate : str
        Column measured before the exposure, for CUPED; ``"pre_period"`` in events: the same metric over `pre_days`.
    totals : TotalsColumns, optional
        Where a table of totals holds this metric.
    rope, margin : float, optional
        Relative: smallest difference that matters, and harm that is tolerated; 0.005 is 0.5 %. A goal's margin defaults to its rope.
    rope_abs, margin_abs : float, optional
        The same in units of the metric, for metrics without a relative effect.
    prior : Prior, optional
        On the effect on this metric; that of the experiment when left out.
    unit : str
        Unit of the values, such as ``"USD"`` or ``"seconds"``; for display.
    owner, version, description : str
        Of the definition; from the catalogue.
    certified : bool
        Whether the owner of the catalogue vouches for the definition.
    """

    name: str
    kind: MetricKind
    role: Role = "info"
    direction: Direction = "increase"
    column: str = ""
    sql: str = ""
    ibis: str = ""
    numerator: str = ""
    denominator: str = ""
    q: float | None = None
    cap: float | None = None
    event: str = ""
    from_days: float = 0.0
    window_days: float | None = None
    at: str = ""
    covariate: str = ""
    totals: TotalsColumns | None = None
    rope: float | None = None
    rope_abs: float | None = None
    margin: float | None = None
    margin_abs: float | None = None
    prior: Prior | None = None
    unit: str = ""
    owner: str = ""
    version: str = ""
    description: str = ""
    certified: bool = False

    def __post_init__(self) -> None:
        for field, words in (("kind", MetricKind), ("role", Role), ("direction", Direction)):
            check_choice(f"metric {self.name!r}: {field}", getattr(self, field), get_args(words))
        self._check_distances()
        self._check_kind()
        self._check_source()
        if self.role == "goal":
            self._inherit_margin()
            if self.rope is None and self.rope_abs is None:
                raise SpecError(
                    f"goal {self.name!r} has no rope; say which difference matters. Write `rope = 0.005` for 0.5 %."
                )
        if self.role == "guardrail" and self.margin is None and self.margin_abs is None:
            raise SpecError(
                f"guardrail {self.name!r} has no margin; say which harm is tolerated. Write `margin = 0.01` for 1 %."
            )

    @property
    def is_share(self) -> bool:
        """Whether the metric is 0 or 1 per unit."""
        return self.kind in SHARES

    @property
    def definition_hash(self) -> str:
        """SHA-256 of what is measured; a new version, owner or description leaves it as it is."""
        return digest({name: getattr(self, name) for name in MEASURES if getattr(self, name)})

    def _check_kind(self) -> None:
        """Each kind has what it needs, and nothing that it does not read."""
        if (self.kind == "ratio") != bool(self.numerator and self.denominator):
            raise SpecError(
                f'metric {self.name!r} is a {self.kind} with numerator {self.numerator!r} and denominator {self.denominator!r}; a ratio has both, other kinds have neither. Write `numerator = "clicks"` and `denominator = "views"`.'
            )
        if (self.kind == "quantile") != (self.q is not None):
            raise SpecError(
                f"metric {self.name!r} is a {self.kind} with q = {self.q}; a quantile has a q, other kinds have none. Write `q = 0.9` for the value that 90 % of units stay below."
            )
        if self.q is not None and not 0 < self.q < 1:
            raise SpecError(f"metric {self.name!r}: q is {self.q}; it lies between 0 and 1. Write 0.9 for 90 %.")
        if self.kind == "retention" and self.window_days is None:
            raise SpecError(
                f"retention {self.name!r} has no window_days; say when its window ends. Write `from_days = 7` and `window_days = 8` for day 7."
            )
        if self.cap is not None and (self.cap <= 0 or self.kind not in {"mean", "count", "revenue", "duration"}):
            raise SpecError(
                f"metric {self.name!r} is a {self.kind} with cap = {self.cap}; mean, count, revenue and duration can have a cap above 0. Write 0.99 for the 99 % quantile of positive values, or a value in units of the metric."
            )
        if self.from_days < 0 or (self.window_days is not None and self.window_days <= self.from_days):
            end = "the last one" if self.window_days is None else f"day {self.window_days:g}"
            raise SpecError(
                f"metric {self.name!r}: its window runs from day {self.from_days:g} to {end}; it starts at 0 or later and ends after it starts. Write `from_days = 7` and `window_days = 8` for day 7."
            )

    def _check_source(self) -> None:
        given = [name for name in ("column", "sql", "ibis") if getattr(self, name)]
        if len(given) > 1:
            raise SpecError(f"metric {self.name!r} has {' and '.join(given)}; its values have one source. Keep one.")
        if not given and self.kind != "ratio" and not self.event:
            object.__setattr__(self, "column", self.name)

    def _check_distances(self) -> None:
        distances = {"rope": self.rope, "margin": self.margin, "rope_abs": self.rope_abs, "margin_abs": self.margin_abs}
        for field, value in distances.items():
            if value is None:
                continue
            if not 0 <= value < float("inf"):
                raise SpecError(
                    f"metric {self.name!r}: {field} is {value}; it is a distance and cannot be negative. "
                    "Write 0.005 for 0.5 %."
                )
            if not field.endswith("_abs") and value >= 1:
                raise SpecError(
                    f"metric {self.name!r}: {field} is {value}, which means {value:.0%}; "
                    f"a relative {field} lies below 1. Write 0.005 for 0.5 %."
                )

    def _inherit_margin(self) -> None:
        """A goal that gets worse by more than what matters is harmed."""
        if self.margin is None:
            object.__setattr__(self, "margin", self.rope)
        if self.margin_abs is None:
            object.__setattr__(self, "margin_abs", self.rope_abs)
