"""Rows to units: whatever a row is, one row per unit comes out, with columns whose names are ours."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from expnb.cohorts.audience import in_audience
from expnb.cohorts.ends import End, end_of
from expnb.cohorts.engine import ask
from expnb.cohorts.expressions import from_ibis, with_sql
from expnb.cohorts.sources import Source, check_size, is_partitioned
from expnb.cohorts.times import (
    between,
    check_time,
    day_of,
    has_zone,
    is_before,
    later_than,
    moment_of,
    span,
    start_of,
)
from expnb.errors import CohortError, ColumnNotFoundError, MetricValuesError, UnitError
from expnb.spec.experiment import ROW_UNIT, Events, Experiment
from expnb.spec.metric import Metric
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import ibis.expr.datatypes as dt
    import ibis.expr.types as ir

PRE_PERIOD = "pre_period"
TRIGGERED = "triggered"  # our name of the key that says whether a unit was
ODD_TRIGGER = "odd_trigger"  # and of the flag of those whose answer is neither yes nor no
EMPTY_TRIGGER = "empty_trigger"  # and of those without an answer
NO_ANSWER = "trigger:empty"  # name of those in `Cells.broken`
# Row-level means of these kinds become ratios of unit totals when a unit has many rows.
ROW_MEANS = frozenset({"conversion", "mean", "duration"})
# Of these kinds a unit's value in events is the mean of its own, and a unit without events has none.
TYPICAL = frozenset({"duration", "quantile"})


@dataclass(frozen=True, slots=True)
class Measure:
    """What one metric reads of the unit table.

    Parameters
    ----------
    metric : Metric
    value : str
        Name of the column with its values, or with the numerator of a ratio.
    other, covariate, immature : str
        Names of the columns with the denominator, the covariate, and whether the window is not over; empty where there is none.
    odd : str
        Name of the column with the number of rows of a unit that are neither 0 nor 1, where rows of a share are summed.
    """

    metric: Metric
    value: str
    other: str = ""
    covariate: str = ""
    immature: str = ""
    odd: str = ""

    @property
    def is_share(self) -> bool:
        """Whether every value is 0 or 1."""
        return self.metric.is_share and not self.other

    @property
    def logs(self) -> bool:
        """Whether logarithms of the positive part are summed."""
        return self.metric.kind in {"revenue", "duration"} and not self.other

    @property
    def binned(self) -> bool:
        """Whether a histogram is needed, for a cap, a quantile, or counts."""
        return not self.other and (self.metric.cap is not None or self.metric.kind in {"count", "duration", "quantile"})


@dataclass(frozen=True, slots=True)
class Units:
    """One row per unit, columns under our own names: `arm`, `unit`, `segment_0` …, `day`, `triggered`, `v0` …, `late_0` …, `expect_0` …, `early_0` …, `crossed`, `nameless`, `odd_0` …, `blank_0` …, `varied_0` …, `empty_trigger`.

    Parameters
    ----------
    table : ibis Table
    measures : tuple of Measure
    grouped : bool
        Whether rows were summed to units; then no unit occurs twice, `crossed` marks those seen in two arms, and `nameless` counts rows without a unit.
    as_of : datetime or None
        Up to when the data are complete, where windows need it.
    segments : ibis Table or None
        The segment columns of the source, before rows are summed; None where there are none.
    checks : tuple of Check
        What is odd about the times that say up to when the data are complete.
    """

    table: ir.Table
    measures: tuple[Measure, ...]
    grouped: bool
    as_of: datetime | None
    segments: ir.Table | None = None
    checks: tuple[Check, ...] = ()


def units_of(
    experiment: Experiment,
    source: Source,
    events: Source | None = None,
    *,
    as_of: datetime | None = None,
    now: datetime | None = None,
) -> Units:
    """The unit table of a source.

    Parameters
    ----------
    as_of : datetime, optional
        Up to when the data are complete; the last time in them that is not later than `now` when left out.
    now : datetime, optional
        The clock's when left out.

    Raises
    ------
    ColumnNotFoundError, UnitError, MetricValuesError, CohortError
        If the columns cannot hold what the experiment asks for.
    """
    check_columns(experiment, source.table)
    for metric in experiment.metrics:
        if metric.covariate and metric.kind in {"ratio", "quantile"}:
            raise MetricValuesError(
                metric.name, f"a {metric.kind} takes no covariate; only means can be adjusted. Remove the covariate."
            )
    table = _with_expressions(experiment, source, of_events=events is not None)
    table = in_audience(experiment, in_window(experiment, table))
    if events is not None and experiment.experiment_column:  # before its units are taken for those of another
        table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
    _check_days(experiment, source, table)
    _check_windows(experiment)
    end = End(as_of) if as_of else _complete_until(experiment, table, source, events, now or datetime.now(UTC))
    if events is not None:
        units = _from_events(experiment, table, source, events, end.as_of)
    elif experiment.shape == "rows":
        units = _from_rows(experiment, table, source, end.as_of)
    else:
        units = _from_units(experiment, table, source, end.as_of)
    segments = {name: value for name, value in _keys(experiment, table, source).items() if name.startswith("segment_")}
    return replace(units, segments=table.select(**segments) if segments else None, checks=end.checks)


# --- one row per unit -------------------------------------------------------------------------


def _from_units(experiment: Experiment, table: ir.Table, source: Source, as_of: datetime | None) -> Units:
    columns = _keys(experiment, table, source)
    if experiment.unit != ROW_UNIT:
        columns["unit"] = table[experiment.unit]
    names: dict[str, str] = {}  # a column that several metrics read is summed once

    def read(name: str, owner: str) -> str:
        value = _column(table, name, owner)
        columns[names.setdefault(name, f"v{len(names)}")] = value
        return names[name]

    measures = []
    for number, metric in enumerate(experiment.metrics):
        late = metric.window_days is not None
        if metric.window_days is not None:
            columns[f"late_{number}"] = _late(experiment, table[experiment.exposed_at], metric.window_days, as_of)
        measures.append(
            Measure(
                metric,
                read(metric.numerator if metric.kind == "ratio" else _own(metric, number), metric.name),
                read(metric.denominator, metric.name) if metric.kind == "ratio" else "",
                read(metric.covariate, metric.name) if metric.covariate else "",
                f"late_{number}" if late else "",
            )
        )
    columns |= _flags(experiment, table)
    columns |= {
        early: is_before(table[at], table[experiment.exposed_at], experiment.timezone, source).fill_null(False)
        for early, at in _outcomes(experiment).items()
    }
    return Units(table.select(**columns), tuple(measures), grouped=False, as_of=as_of)


# --- many rows per unit -----------------------------------------------------------------------


def _from_rows(experiment: Experiment, table: ir.Table, source: Source, as_of: datetime | None) -> Units:
    """Rows summed to the unit that was randomised: their errors are those of units, not of rows."""
    keys, flags = _keys(experiment, table, source), _flags(experiment, table)
    rows: dict[str, ir.Value] = {"unit": table[experiment.unit], **keys, **flags}
    if experiment.exposed_at:
        rows["exposed"] = table[experiment.exposed_at]
    for number, metric in enumerate(experiment.metrics):
        rows |= _row_values(table, metric, number)
    times = {f"at_{early}": table[at] for early, at in _outcomes(experiment).items()}
    flat = table.select(**rows, **times)
    own = ["unit", *(name for name in ("experiment",) if name in keys)]  # a unit may be in many experiments
    sums = _of_unit(flat, [name for name in keys if name not in own], list(flags))
    for early in _outcomes(experiment):
        first = flat[f"at_{early}"].min()
        sums[early] = is_before(first, flat.exposed.min(), experiment.timezone, source).fill_null(False)
    measures = []
    for number, metric in enumerate(experiment.metrics):
        value = flat[f"value_{number}"]
        ratio = metric.kind == "ratio" or metric.kind in ROW_MEANS
        sums[f"value_{number}"] = value.max() if metric.kind == "retention" else value.sum()
        if ratio:
            sums[f"other_{number}"] = (
                flat[f"other_{number}"].sum() if metric.kind == "ratio" else _nonzero(value.count())
            )
        if metric.covariate:
            sums[f"covariate_{number}"] = flat[f"covariate_{number}"].mean()
        sums[f"blank_{number}"] = flat[f"blank_{number}"].sum().fill_null(0)
        if metric.is_share:
            sums[f"odd_{number}"] = flat[f"odd_{number}"].sum().fill_null(0)
        if metric.window_days is not None:
            sums[f"late_{number}"] = _late(experiment, flat.exposed.min(), metric.window_days, as_of)
        measures.append(_numbered(metric, number, sums))
    grouped = flat.group_by(own).aggregate(**sums)
    return Units(grouped, tuple(measures), grouped=True, as_of=as_of)


def _row_values(table: ir.Table, metric: Metric, number: int) -> dict[str, ir.Value]:
    """What a metric reads of a row whose unit has more."""
    if metric.kind == "quantile":
        raise MetricValuesError(
            metric.name,
            'a quantile of rows that share units has no honest error here. Make one value per unit where the data is made, and set shape = "unit".',
        )
    if metric.kind in ROW_MEANS and (metric.cap is not None or metric.covariate):
        raise MetricValuesError(
            metric.name,
            f'a {metric.kind} of rows that share units is a ratio of sums, and takes neither a cap nor a covariate. Remove it, or make one value per unit where the data is made, and set shape = "unit".',
        )
    rows: dict[str, ir.Value] = {}
    first = metric.numerator if metric.kind == "ratio" else _own(metric, number)
    column = _column(table, first, metric.name)
    # Of a mean what is no number is left out with its row; of a sum it stays, and makes that of the unit so: counted by its cause.
    value = usable(column) if metric.is_share or metric.kind in {*ROW_MEANS, "ratio"} else as_number(column)
    if metric.is_share:
        rows[f"odd_{number}"] = (value != 0) & (value != 1)
    if metric.kind == "ratio":
        second = usable(_column(table, metric.denominator, metric.name))
        value, second = _where(second.notnull(), value), _where(value.notnull(), second)
        rows[f"other_{number}"] = second
    rows[f"value_{number}"] = value
    rows[f"blank_{number}"] = value.isnull()
    if metric.covariate:
        rows[f"covariate_{number}"] = usable(_column(table, metric.covariate, metric.name))
    return rows


# --- assignments and events -------------------------------------------------------------------


def _from_events(
    experiment: Experiment, table: ir.Table, source: Source, events: Source, as_of: datetime | None
) -> Units:
    """Assignments and events: each unit once, dated by its first exposure, with what it did in its window."""
    spec = experiment.events
    assert spec is not None  # noqa: S101 - the specification has checked it
    _check_events(experiment, spec)
    amounts = _amounts(experiment, spec)
    log = _log(experiment, spec, events, amounts)
    _check_ids(experiment.unit, table[experiment.unit].type(), log.log_unit.type())
    log = _until_last_window(experiment, spec, log)
    _check_days(experiment, events, log)
    if experiment.exposed_at and has_zone(table[experiment.exposed_at]) != has_zone(log["at"]):
        seen = moment_of(table[experiment.exposed_at], experiment.timezone, source)
        table = table.mutate(**{experiment.exposed_at: seen})
        log = log.mutate(at=moment_of(log["at"], experiment.timezone, events))
    people = _first_exposures(experiment, spec, table, source, log)
    if experiment.start is not None and experiment.end is not None:  # the exposure may be an event
        first, last = between(people.exposed, experiment.start, experiment.end, experiment.timezone)
        people = people.filter((first & last) | people.exposed.isnull())  # as in in_window
    joined = people.inner_join(log, people.unit == log.log_unit)
    sums: dict[str, ir.Value] = {"happened": joined.count()}
    for number, metric in enumerate(experiment.metrics):
        sums |= _did(joined, metric, number, spec, amounts)
    done = joined.group_by("unit").aggregate(**sums)
    left = people.left_join(done, people.unit == done.unit)
    columns: dict[str, ir.Value] = {name: people[name] for name in people.columns if name != "exposed"}
    columns["day"] = day_of(people.exposed, experiment.timezone, source)
    columns["quiet"] = left.happened.isnull()
    measures = []
    for number, metric in enumerate(experiment.metrics):
        for name in (f"value_{number}", f"other_{number}", f"covariate_{number}"):
            if name in sums:
                missing_is_zero = metric.kind not in TYPICAL or name.startswith("other")
                total = _unless_none(left.happened, left[name]) if missing_is_zero else left[name]
                # Without a date nobody knows what came after it.
                columns[name] = _where(people.exposed.notnull(), total)
        window = _window(metric, spec)
        if window is not None:
            columns[f"late_{number}"] = _late(experiment, people.exposed, window + spec.lateness_days, as_of)
        measures.append(_numbered(metric, number, columns))
    return Units(left.select(**columns), tuple(measures), grouped=True, as_of=as_of)


def _check_events(experiment: Experiment, spec: Events) -> None:
    """Refuse what events cannot give."""
    for metric in experiment.metrics:
        if metric.sql or metric.ibis:
            raise MetricValuesError(
                metric.name,
                "an expression is read from the rows of a cohort, and in events a metric counts or sums one kind of event. Make the value a column of the events, and name it: column.",
            )
        sums = metric.kind in {"mean", "revenue", *TYPICAL} or (metric.kind == "ratio" and metric.column)
        if sums and not (metric.column or spec.value):
            raise MetricValuesError(
                metric.name,
                f'a {metric.kind} needs the value of an event, and no column holds it. Write value = "amount" under [events].',
            )
        if metric.covariate == PRE_PERIOD and spec.pre_days <= 0:
            raise MetricValuesError(
                metric.name,
                f"its covariate is the pre-period, and pre_days is {spec.pre_days:g}. Write pre_days = 14 under [events].",
            )


def _amounts(experiment: Experiment, spec: Events) -> dict[str, str]:
    """Our name of every column that holds values of events."""
    columns = [spec.value, *(metric.column for metric in experiment.metrics)]
    return {name: f"amount_{number}" for number, name in enumerate(dict.fromkeys(filter(None, columns)))}


def _log(experiment: Experiment, spec: Events, events: Source, amounts: Mapping[str, str]) -> ir.Table:
    names = events.table.schema().names
    for name in (experiment.unit, spec.at, spec.kind):
        if name not in names:
            raise ColumnNotFoundError(name, names)
    check_time(spec.at, events.table)
    table = events.table
    log: dict[str, ir.Value] = {
        "log_unit": table[experiment.unit],
        "at": table[spec.at],
        "kind": table[spec.kind].cast("string"),
    }
    # NaN and infinity stay, and make those of a unit so: what is missing is counted by its cause.
    log |= {own: as_number(_column(table, name, name)) for name, own in amounts.items()}
    flat = table.select(**log)
    if experiment.start is None:
        return flat
    first = experiment.start - timedelta(days=math.ceil(spec.pre_days))
    return flat.filter(flat["at"] >= start_of(first, flat["at"], experiment.timezone))


def _check_ids(column: str, first: dt.DataType, second: dt.DataType) -> None:
    """Refuse ids that are text on one side and numbers on the other: 7 and "007" would be the same to one engine, and not to another."""
    kinds = ["text" if one.is_string() else "numbers" if one.is_numeric() else "" for one in (first, second)]
    if set(kinds) == {"text", "numbers"}:
        raise UnitError(
            f"unit column {column!r} holds {kinds[0]} in the assignments ({first}) and {kinds[1]} in the events ({second}). Make both text, or both whole numbers, where the data is made."
        )


def log_of(experiment: Experiment, spec: Events, events: Source) -> ir.Table:
    """The events that an exposure or a window may read, under our own names."""
    return _until_last_window(experiment, spec, _log(experiment, spec, events, {}))


def _until_last_window(experiment: Experiment, spec: Events, log: ir.Table) -> ir.Table:
    """Without the events that are too late for the window of any exposure that was agreed."""
    windows = [_window(metric, spec) for metric in experiment.metrics]
    if experiment.end is None or any(window is None for window in windows):
        return log
    last = experiment.end + timedelta(days=1 + math.ceil(max(window or 0.0 for window in windows)))
    return log.filter(log["at"] < start_of(last, log["at"], experiment.timezone))


def _first_exposures(experiment: Experiment, spec: Events, table: ir.Table, source: Source, log: ir.Table) -> ir.Table:
    """One row per unit: its arm, its segments, and when it was first exposed; units that were not are left out."""
    keys = {name: value for name, value in _keys(experiment, table, source).items() if name != "day"}
    flags = _flags(experiment, table)
    covariates = {
        f"covariate_{number}": usable(_column(table, metric.covariate, metric.name))
        for number, metric in enumerate(experiment.metrics)
        if metric.covariate not in {"", PRE_PERIOD}
    }
    rows: dict[str, ir.Value] = {"unit": table[experiment.unit], **keys, **flags, **covariates}
    if experiment.exposed_at:
        rows["exposed"] = table[experiment.exposed_at]
    flat = table.select(**rows)
    sums = _of_unit(flat, list(keys), list(flags))
    sums |= {name: flat[name].mean() for name in covariates}
    if experiment.exposed_at:
        sums["exposed"] = flat.exposed.min()
    people = flat.group_by("unit").aggregate(**sums)
    if not spec.exposure:
        return people
    shown = log.filter(log.kind == spec.exposure)
    if not experiment.exposed_at:
        first = shown.group_by("log_unit").aggregate(exposed=shown["at"].min())
        return people.inner_join(first, people.unit == first.log_unit).drop("log_unit")
    both = people.inner_join(shown, (people.unit == shown.log_unit) & (shown["at"] >= people.exposed))
    first = both.group_by("unit").aggregate(shown_at=both["at"].min())
    reached = people.inner_join(first, people.unit == first.unit)
    return reached.select(
        **{name: people[name] for name in people.columns if name != "exposed"}, exposed=first.shown_at
    )


def _did(
    joined: ir.Table, metric: Metric, number: int, spec: Events, amounts: Mapping[str, str]
) -> dict[str, ir.Value]:
    """What a unit did in its window, and before its exposure; unknown where the amount of an event is missing."""
    window = _window(metric, spec)
    begin = joined.exposed if metric.from_days == 0 else joined.exposed + span(metric.from_days)
    within = joined["at"] >= begin
    if window is not None:
        within &= joined["at"] < joined.exposed + span(window)
    before = (joined["at"] < joined.exposed) & (joined["at"] >= joined.exposed - span(spec.pre_days))
    if metric.kind == "ratio":
        top = _summed(joined, within & (joined.kind == metric.numerator), amounts.get(metric.column, ""))
        return {
            f"value_{number}": top,
            f"other_{number}": _summed(joined, within & (joined.kind == metric.denominator), ""),
        }
    chosen = joined.kind == metric.event
    amount = amounts.get(metric.column or spec.value, "")
    sums = {f"value_{number}": _folded(joined, within & chosen, metric, amount)}
    if metric.covariate == PRE_PERIOD:
        sums[f"covariate_{number}"] = _folded(joined, before & chosen, metric, amount)
    return sums


def _folded(joined: ir.Table, chosen: ir.BooleanColumn, metric: Metric, amount: str) -> ir.Value:
    if metric.is_share:
        return as_number(chosen.any().fill_null(False))
    if metric.kind in TYPICAL:
        return _known(_where(chosen, joined[amount]).mean(), chosen & joined[amount].isnull())
    return _summed(joined, chosen, "" if metric.kind == "count" and not metric.column else amount)


def _summed(joined: ir.Table, chosen: ir.BooleanColumn, amount: str) -> ir.Value:
    if not amount:
        return as_number(chosen).sum().fill_null(0.0)
    return _known(_where(chosen, joined[amount]).sum().fill_null(0.0), chosen & joined[amount].isnull())


def _known(total: ir.Value, missing: ir.BooleanColumn) -> ir.Value:
    """A total, NULL where a part of it is missing."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.cases((missing.any().fill_null(False), ibis.null("float64")), else_=total)


def _unless_none(happened: ir.Column, total: ir.Column) -> ir.Value:
    """A total of events, 0 where there was none at all."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.cases((happened.isnull(), 0.0), else_=total)


def _window(metric: Metric, spec: Events) -> float | None:
    return spec.window_days if metric.window_days is None else metric.window_days


# --- parts ------------------------------------------------------------------------------------


def as_number(value: ir.Value) -> ir.Value:
    """The value as float64; yes and no by way of whole numbers, because PostgreSQL knows no other."""
    return (value.cast("int32") if value.type().is_boolean() else value).cast("float64")


def comparable(value: ir.Value) -> ir.Value:
    """The value as it is, if an engine can find the smallest one; yes and no as whole numbers, decimals as float64."""
    kind = value.type()
    if kind.is_boolean():
        return value.cast("int32")
    return value if kind.is_integer() or kind.is_floating() else value.cast("float64")


def usable(column: ir.Column) -> ir.Column:
    """The values as float64, NULL where they are NaN or infinite."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    value = as_number(column)
    if column.type().is_integer() or column.type().is_boolean():
        return value
    return ibis.cases((value.isnan() | infinite(value), ibis.null("float64")), else_=value)


def infinite(value: ir.Value) -> ir.BooleanValue:
    """Whether a value is infinite, perhaps also of NaN: some engines take it for the largest. Ibis 12 writes its own test as FALSE for Spark."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return value.abs() > ibis.literal(sys.float_info.max, "float64")


def _where(condition: ir.BooleanColumn, value: ir.Value) -> ir.Value:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.cases((condition, value), else_=ibis.null("float64"))


def _nonzero(count: ir.Value) -> ir.Value:
    """A count, NULL where there is nothing to count."""
    return count.cast("float64").nullif(0.0)


def _of_unit(flat: ir.Table, keys: Sequence[str], flags: Sequence[str]) -> dict[str, ir.Value]:
    """What is known of a unit from its rows, and what is wrong with them."""
    sums: dict[str, ir.Value] = {name: flat[name].any() if name == TRIGGERED else flat[name].min() for name in keys}
    sums |= {name: flat[name].any() for name in flags}
    sums |= {
        name.replace("segment_", "varied_"): (flat[name].min() != flat[name].max()).fill_null(False)
        for name in keys
        if name.startswith("segment_")
    }
    return sums | {
        "crossed": (flat.arm.min() != flat.arm.max()) & ~flat.unit.isnull().any(),
        "nameless": flat.unit.isnull().sum(),
    }


def _numbered(metric: Metric, number: int, columns: Mapping[str, ir.Value]) -> Measure:
    """The measure of a metric whose columns carry its number."""
    names = {part: f"{part}_{number}" for part in ("value", "other", "covariate", "late", "odd")}
    return Measure(metric, *(name if name in columns else "" for name in names.values()))


def _late(experiment: Experiment, exposed: ir.Value, window: float, as_of: datetime | None) -> ir.BooleanValue:
    """Whether a window is not over, or nobody knows: a unit without a date has no known one."""
    if as_of is None:
        return exposed.isnull() | exposed.notnull()
    return later_than(exposed, as_of - timedelta(days=window), experiment.timezone).fill_null(True)


def _own(metric: Metric, number: int) -> str:
    return f"expnb_value_{number}" if metric.sql or metric.ibis else metric.column


def _column(table: ir.Table, name: str, owner: str) -> ir.Column:
    if name not in table.schema().names:
        raise ColumnNotFoundError(name, [known for known in table.schema().names if not known.startswith("expnb_")])
    dtype = table.schema()[name]
    if not (dtype.is_numeric() or dtype.is_boolean()):
        found = "its expression gives" if name.startswith("expnb_value_") else f"column {name!r} holds"
        raise MetricValuesError(owner, f"{found} {dtype}, not numbers. Convert it, or name another column.")
    return table[name]


def _keys(experiment: Experiment, table: ir.Table, source: Source) -> dict[str, ir.Value]:
    keys: dict[str, ir.Value] = {"arm": table[experiment.variant].cast("string")}
    if experiment.experiment_column:
        keys["experiment"] = table[experiment.experiment_column].cast("string")
    for number, name in enumerate(experiment.segments):
        keys[f"segment_{number}"] = table[name].cast("string")
    if experiment.trigger:
        keys[TRIGGERED] = _answer(table[experiment.trigger], 1)
    if experiment.exposed_at:
        keys["day"] = day_of(table[experiment.exposed_at], experiment.timezone, source)
    return keys


def _answer(column: ir.Column, wanted: int) -> ir.BooleanValue:
    """Whether a column says yes (1) or no (0); an empty answer is neither."""
    if column.type().is_boolean():
        return (column if wanted else ~column).fill_null(False)
    return (usable(column) == wanted).fill_null(False)


def _flags(experiment: Experiment, table: ir.Table) -> dict[str, ir.Value]:
    """What may be wrong with a row: it breaks an expectation, also by an unknown answer, or says neither yes nor no of the trigger."""
    flags: dict[str, ir.Value] = {
        f"expect_{number}": ~table[f"expnb_expect_{number}"].cast("boolean").fill_null(False)
        for number, _ in enumerate(experiment.expect)
    }
    if experiment.trigger:
        value = table[experiment.trigger]
        flags[EMPTY_TRIGGER] = usable(value).isnull()
        if not value.type().is_boolean():
            flags[ODD_TRIGGER] = ~_answer(value, 0) & ~_answer(value, 1) & usable(value).notnull()
    return flags


def _outcomes(experiment: Experiment) -> dict[str, str]:
    """Columns of the unit table that tell an outcome before the exposure, each to the column of the outcome's time."""
    return {f"early_{number}": metric.at for number, metric in enumerate(experiment.metrics) if metric.at}


def broken_columns(experiment: Experiment) -> dict[str, str]:
    """What may be wrong with a unit, by its name in `Cells.broken`, to its column of the unit table."""
    expected = {part.name: f"expect_{number}" for number, part in enumerate(experiment.expect)}
    early = zip((metric for metric in experiment.metrics if metric.at), _outcomes(experiment), strict=True)
    blank = {blank_rows(metric): f"blank_{number}" for number, metric in enumerate(experiment.metrics)}
    varied = {varied_segment(name): f"varied_{number}" for number, name in enumerate(experiment.segments)}
    return (
        expected
        | {before_exposure(metric): column for metric, column in early}
        | (blank if experiment.shape == "rows" else {})
        | (varied if varies(experiment) else {})
        | ({NO_ANSWER: EMPTY_TRIGGER} if experiment.trigger else {})
    )


def varies(experiment: Experiment) -> bool:
    """Whether the segments of a unit may vary, because it has many rows."""
    return experiment.shape in {"rows", "events"}


def varied_segment(name: str) -> str:
    """Name in `Cells.broken` of the units with more than one value of a segment."""
    return f"varied:{name}"


def before_exposure(metric: Metric) -> str:
    """Name in `Cells.broken` of the units whose outcome lies before their exposure."""
    return f"before:{metric.name}"


def blank_rows(metric: Metric) -> str:
    """Name in `Cells.broken` of the rows without a value, where rows are summed to units."""
    return f"blank:{metric.name}"


def _check_days(experiment: Experiment, source: Source, table: ir.Table) -> None:
    """Refuse days of a table in partitions with more rows than allowed; others were looked at when they were bound."""
    if is_partitioned(source):
        check_size(replace(source, table=table), experiment.cost)


def _with_expressions(experiment: Experiment, source: Source, *, of_events: bool) -> ir.Table:
    """The table with the values of SQL and Ibis expressions as columns."""
    owners = [
        (f"expnb_expect_{number}", part.name, part.sql, part.ibis) for number, part in enumerate(experiment.expect)
    ]
    if not of_events:
        owners += [
            (f"expnb_value_{number}", metric.name, metric.sql, metric.ibis)
            for number, metric in enumerate(experiment.metrics)
        ]
    table = with_sql(source, {column: (owner, sql) for column, owner, sql, _ in owners if sql})
    added = {column: from_ibis(table, text, owner) for column, owner, _, text in owners if text}
    return table.mutate(**added) if added else table


def in_window(experiment: Experiment, table: ir.Table) -> ir.Table:
    """Units exposed from the first to the last day that was agreed; a partitioned table then reads those days alone."""
    if not experiment.exposed_at or experiment.start is None or experiment.end is None:
        return table
    seen = table[experiment.exposed_at]
    first, last = between(seen, experiment.start, experiment.end, experiment.timezone)
    return table.filter((first & last) | seen.isnull())  # units without a date are counted and said, not lost


def outside(experiment: Experiment, source: Source) -> int:
    """How many rows are dated outside of the agreed days; 0 where nobody counts them.

    Counted in DuckDB alone, where it takes one column: a warehouse would read the table a second time.
    """
    dated = experiment.exposed_at and experiment.start is not None and experiment.end is not None
    if not dated or source.engine.name != "duckdb":
        return 0
    table = source.table
    if table[experiment.exposed_at].type().is_numeric():  # running totals may count time in numbers
        return 0
    if experiment.experiment_column:
        table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
    table = in_audience(experiment, table)
    counts = (one.count() for one in (table, in_window(experiment, table)))
    every, inside = (
        int(ask(source.engine, count, cost=experiment.cost, what=experiment.name).as_py()) for count in counts
    )
    return every - inside


def _check_windows(experiment: Experiment) -> None:
    """Refuse a window of units whose exposure has no time."""
    windows = [metric.name for metric in experiment.metrics if metric.window_days is not None]
    if windows and experiment.events is None and not experiment.exposed_at:
        raise CohortError(
            f"metric {windows[0]!r} has a window, and the experiment has no exposed_at, so nobody can tell whose window is over. Name the column of the first exposure."
        )


def _complete_until(
    experiment: Experiment, table: ir.Table, source: Source, events: Source | None, now: datetime
) -> End:
    """Up to when the data are complete: the last exposure in them, or the last event of a kind that the experiment uses."""
    if events is None:
        if all(metric.window_days is None for metric in experiment.metrics):
            return End()
        if experiment.experiment_column:
            table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
        return end_of(experiment, source, table, experiment.exposed_at, now=now)
    spec = experiment.events
    if spec is None or all(_window(metric, spec) is None for metric in experiment.metrics):
        return End()
    log = _log(experiment, spec, events, {})
    log = log.filter(log.kind.isin(sorted(used_kinds(experiment, spec))))
    return end_of(experiment, events, log.select(**{spec.at: log["at"]}), spec.at, now=now)


def used_kinds(experiment: Experiment, spec: Events) -> dict[str, str]:
    """Kinds of events that the experiment reads, each to what reads it."""
    kinds = {spec.exposure: "the exposure"} if spec.exposure else {}
    for metric in experiment.metrics:
        for name in filter(None, (metric.event, metric.numerator, metric.denominator)):
            kinds.setdefault(name, f"metric {metric.name!r}")
    return kinds


def check_columns(experiment: Experiment, table: ir.Table) -> None:
    """Refuse a table whose columns cannot hold what the experiment asks for.

    Raises
    ------
    ColumnNotFoundError, UnitError, CohortError
    """
    schema = table.schema()
    folded = [name.casefold() for name in schema.names]
    twins = [name for name in schema.names if folded.count(name.casefold()) > 1]
    if twins:
        raise CohortError(
            f"columns {twins} differ only in upper and lower case; engines take one for the other. Rename one of them."
        )
    wanted: Sequence[str] = [experiment.variant, *experiment.segments]
    wanted = [*wanted, *filter(None, (experiment.exposed_at, experiment.experiment_column, experiment.trigger))]
    wanted = [*wanted, *(metric.at for metric in experiment.metrics if metric.at)]
    wanted = [*wanted, experiment.unit] if experiment.unit != ROW_UNIT else wanted
    for name in wanted:
        if name not in schema.names:
            raise ColumnNotFoundError(name, schema.names)
    if experiment.unit != ROW_UNIT and (schema[experiment.unit].is_floating() or schema[experiment.unit].is_decimal()):
        raise UnitError(
            f"unit column {experiment.unit!r} holds decimal numbers ({schema[experiment.unit]}); an id is text or a whole number, because 7 and 7.0 would hash to different variants. "
            "Cast it to integer or text where the data is made."
        )
    if experiment.trigger and not (schema[experiment.trigger].is_boolean() or schema[experiment.trigger].is_numeric()):
        raise CohortError(
            f"trigger column {experiment.trigger!r} holds {schema[experiment.trigger]}, not yes or no. Make it a boolean, or 0 and 1, where the data is made."
        )
    for name in filter(None, (experiment.exposed_at, *(metric.at for metric in experiment.metrics))):
        check_time(name, table)
