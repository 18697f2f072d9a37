"""A cohort: a source bound to an experiment, and what can be said of it at once."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from expnb.cohorts.audience import audience_checks, check_totals, explain_nobody, strangers, unchecked
from expnb.cohorts.cache import Cache
from expnb.cohorts.engine import ask
from expnb.cohorts.happened import explain_empty, kinds_checks, unexposed
from expnb.cohorts.quality import check_arms, check_units, check_values, quality
from expnb.cohorts.reduce import Reduced, reduce
from expnb.cohorts.sources import Source, bind, files_of, is_partitioned
from expnb.cohorts.totals import totals_cells
from expnb.cohorts.units import Units, in_window, log_of, outside, units_of
from expnb.cohorts.warehouse import Warehouse
from expnb.errors import CohortError, ColumnValueError, EmptyCohortError, FullScanError, SourceError, SpecError
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.stats.arrays import BoolArray
from expnb.stats.cells import Cells
from expnb.stats.checks import Check, counts_of, outside_days, percent
from expnb.stats.sample_ratio import MANY_ARMS

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

FIRST_ROWS = 10_000
MARKS = {"block": "✗", "warn": "⚠", "ok": "✓"}  # in the order of their weight
NUMBER = "text-align:right;white-space:nowrap"


@dataclass(frozen=True, slots=True)
class Cohort:
    """A source bound to an experiment; holds statistics and checks, never rows.

    Parameters
    ----------
    experiment : Experiment
    cells : Cells
    note : str
        How the cells were come by, where that is worth a sentence; no part of the evidence.
    """

    experiment: Experiment
    cells: Cells
    note: str = ""

    @property
    def checks(self) -> tuple[Check, ...]:
        """What is right or wrong with the data."""
        return self.cells.checks

    def count(self, variant: str) -> str:
        """Units of an arm in words; a number under `min_cell` is not shown, nor one that would give it away."""
        counts = {name: self.cells.count(name) for name in self.experiment.variants}
        return counts_of(counts, min_cell=self.experiment.min_cell)[variant]

    def until(self, day: date, *, as_of: datetime | None = None) -> Cohort:
        """The cohort of the units that were exposed up to a day, and those without a day, checked again.

        Parameters
        ----------
        as_of : datetime, optional
            Up to when the data are complete, as it was given to `load_cohort`.

        Raises
        ------
        ArmsError
            If an arm has no unit up to then.
        """
        late = self.cells.day > np.datetime64(day, "D")
        if not late.any():
            return self
        # What only the loading could check is about all units; the rest is asked again.
        asked = {check.name for check in quality(self.experiment, self.cells, as_of=as_of)}
        kept = [check for check in self.checks if check.name not in asked]
        cells = self.cells.where(~late)
        check_arms(self.experiment, cells)
        cells = _capped(self.experiment, cells)
        found = (*quality(self.experiment, cells, as_of=as_of), *kept)
        return replace(self, cells=replace(cells, checks=found))

    def _urgent_first(self) -> list[Check]:
        """Checks in the order in which they are shown: those that block, those that warn, the others."""
        return sorted(self.checks, key=lambda check: tuple(MARKS).index(check.outcome))

    def __repr__(self) -> str:
        arms = self.experiment.variants
        sizes = ", ".join(f"{name} {self.count(name)}" for name in arms)
        if len(arms) > MANY_ARMS:
            sizes = f"{len(arms)} arms"
        lines = [f"cohort of {self.experiment.name}: {self.cells.units:,} units from {self.cells.source} ({sizes})"]
        lines += [f"{MARKS[check.outcome]} {check.sentence}" for check in self._urgent_first()]
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td style='{NUMBER}'>{self.count(name)}</td><td style='{NUMBER}'>{percent(self.experiment.share(name), 1)}</td></tr>"
            for name in self.experiment.variants
        )
        notes = "".join(
            f"<li>{MARKS[check.outcome]} {html.escape(check.sentence)}</li>" for check in self._urgent_first()
        )
        notes += f"<li>{html.escape(self.note)}</li>" if self.note else ""
        caption = (
            f"{html.escape(self.experiment.name)}: {self.cells.units:,} units from {html.escape(self.cells.source)}"
        )
        return f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>{caption}</caption><tr><th style='text-align:left'>arm</th><th style='{NUMBER}'>units</th><th style='{NUMBER}'>promised</th></tr>{rows}</table><ul style='list-style:none;padding-left:0'>{notes}</ul>"


def load_cohort(
    experiment: Experiment,
    source: object = None,
    *,
    events: object = None,
    as_of: datetime | None = None,
    cache: str | Path | None = None,
    exact_units: bool = False,
) -> Cohort:
    """The cohort of an experiment, checked: sample ratio, arms, units, values, days, windows.

    Parameters
    ----------
    experiment : Experiment
    source : str, Path, Warehouse, pandas or Polars frame, Arrow table, DuckDB relation, or Ibis table, optional
        What a row is says `experiment.shape`. A path may hold wildcards; parquet and CSV are known. The experiment's own when left out.
    events : same kinds, optional
        The events of shape ``"events"``; the experiment's own when left out.
    as_of : datetime with a time zone, optional
        Up to when the data are complete, for metrics with a window. The last time in the data when left out, which leaves more units out than a later one.
    cache : str or Path, optional
        Folder that keeps the cells of every file of a path or glob; a file that did not change is not read again.
    exact_units : bool
        Whether every unit is counted to find those that occur twice. Above 4 million rows only one in 257 is looked at otherwise, and every one if that finds anything.

    Returns
    -------
    Cohort
        Its statistics come from one statement that runs where the data is.

    Raises
    ------
    PathNotFoundError, SourceError, ColumnNotFoundError, EmptyCohortError, ArmsError, NullArmError, UnitError, MetricValuesError, CohortError
        Each with the value found, the rule and the next step.
    """
    if not isinstance(experiment, Experiment):
        raise SourceError(
            f"load_cohort takes (experiment, source); the first is a {type(experiment).__name__}. "
            "Read the experiment first: ws.experiment(name)."
        )
    if as_of is not None and as_of.tzinfo is None:
        raise CohortError(f"as_of is {as_of}, without a time zone. Write datetime(2026, 11, 1, tzinfo=UTC).")
    source = _own_source(experiment) if source is None else source
    known = _unchanged(experiment, source, as_of=as_of, cache=cache, exact_units=exact_units)
    if known is not None:
        return _checked(experiment, known, as_of=as_of)
    with _without_ids(experiment):
        bound = _bind(experiment, source)
        if experiment.shape == "totals":
            missing = check_totals(experiment, bound)
            totals = replace(totals_cells(experiment, bound), outside=outside(experiment, bound), unchecked=missing)
            return _checked(experiment, totals)
        happened = (
            _bind(experiment, _own_events(experiment) if events is None else events) if experiment.events else None
        )
        return _load(experiment, bound, happened, as_of=as_of, cache=cache, exact_units=exact_units)


def load_cohorts(
    experiments: Sequence[Experiment], source: object, *, as_of: datetime | None = None, exact_units: bool = False
) -> dict[str, Cohort]:
    """The cohorts of many experiments on one table, by name; those that read the same columns share one scan.

    Parameters
    ----------
    experiments : sequence of Experiment
        Each names the `experiment_column` that tells whose row it is.
    source, as_of, exact_units
        As in `load_cohort`.

    Raises
    ------
    SpecError
        If an experiment has no experiment_column, or two give one metric name two meanings.
    """
    groups: dict[tuple[object, ...], list[Experiment]] = {}
    for experiment in experiments:
        if not experiment.experiment_column or experiment.shape in {"events", "totals"}:
            raise SpecError(
                f'experiment {experiment.name!r} has shape {experiment.shape!r} and experiment_column {experiment.experiment_column!r}; experiments share a table of units or rows in which a column says whose row it is. Write experiment_column = "experiment".'
            )
        groups.setdefault(_columns(experiment, as_of), []).append(experiment)
    cohorts: dict[str, Cohort] = {}
    for group in groups.values():
        together = _together(group)
        with _without_ids(together):
            bound = _bind(together, source)
            parted = is_partitioned(bound)
            afterwards = bool(together.exposed_at) and not parted and not _own_days(group[0], as_of)
            if afterwards:  # days are chosen
                together = replace(together, start=None, end=None)
            units = units_of(together, bound, as_of=as_of)
            run = _runner(together, bound)
            units = _only(units, {experiment.name for experiment in group}, run)
            reduced = reduce(together, units, bound)
            check_units(together, units, reduced, run, exact=exact_units)
        for experiment in group:
            own = _own_part(experiment, reduced, bound)
            own = own if afterwards else replace(own, outside=outside(experiment, bound))
            own = _with_strangers(experiment, bound, None, own)
            cohorts[experiment.name] = _checked(experiment, own, as_of=units.as_of, told=units.checks)
    return {experiment.name: cohorts[experiment.name] for experiment in experiments}


@contextmanager
def _without_ids(experiment: Experiment) -> Iterator[None]:
    """Errors about the column of units do not show what it holds."""
    try:
        yield
    except ColumnValueError as error:
        if error.column.casefold() != experiment.unit.casefold():
            raise
        raise ColumnValueError(error.column, "", error.problem) from None


def _unchanged(
    experiment: Experiment, source: object, *, as_of: datetime | None, cache: str | Path | None, exact_units: bool
) -> Reduced | None:
    """Cells of files that are all known and unchanged: no engine is started for them."""
    windows = any(metric.window_days is not None for metric in experiment.metrics)
    if cache is None or experiment.shape != "unit" or not isinstance(source, str | Path) or (windows and as_of is None):
        return None
    until = as_of if windows else None
    return Cache(Path(cache), experiment, until, exact=exact_units).unchanged(files_of(source), Path(source).name)


def _load(
    experiment: Experiment,
    source: Source,
    events: Source | None,
    *,
    as_of: datetime | None,
    cache: str | Path | None,
    exact_units: bool,
) -> Cohort:
    told = kinds_checks(experiment, events) if events is not None else []
    units = _units(experiment, source, events, as_of)
    told += units.checks
    run = _runner(experiment, source)
    if cache is None or events is not None or units.grouped or not source.files:
        try:
            reduced = _with_left_out(experiment, source, events, reduce(experiment, units, source))
        except EmptyCohortError:
            explain_nobody(experiment, _strangers(experiment, source, events))
            if events is not None:
                explain_empty(experiment, source, events)
            raise
        check_units(experiment, units, reduced, run, exact=exact_units)
    else:
        reduced = Cache(Path(cache), experiment, units.as_of, exact=exact_units).reduced(
            source,
            lambda path: _of_file(experiment, path, units.as_of),
            lambda whole: check_units(experiment, units, whole, run, exact=exact_units),
            lambda whole: _with_left_out(experiment, source, None, whole),
        )
    told += unexposed(experiment, source, reduced.cells)
    return _checked(experiment, reduced, as_of=units.as_of, told=told)


def _with_left_out(experiment: Experiment, source: Source, events: Source | None, reduced: Reduced) -> Reduced:
    """With the rows and units that the agreed days and the audience left out."""
    reduced = replace(reduced, outside=outside(experiment, source))
    return _with_strangers(experiment, source, events, reduced)


def _with_strangers(experiment: Experiment, source: Source, events: Source | None, reduced: Reduced) -> Reduced:
    missing = unchecked(experiment, source.table)
    return replace(reduced, strangers=_strangers(experiment, source, events), unchecked=missing)


def _strangers(experiment: Experiment, source: Source, events: Source | None) -> dict[str, int]:
    """Exposed units outside of the audience, per arm."""
    spec, shown = experiment.events, None
    if not experiment.audience:
        return {}
    if events is not None and spec is not None and spec.exposure:
        log = log_of(experiment, spec, events)
        shown = log.filter(log.kind == spec.exposure).select("log_unit").distinct()
    return strangers(experiment, source, in_window(experiment, source.table), shown)


def _of_file(experiment: Experiment, path: str, as_of: datetime | None) -> Reduced:
    part = _bind(experiment, path)
    return reduce(experiment, _units(experiment, part, None, as_of), part)


def _units(experiment: Experiment, source: Source, events: Source | None, as_of: datetime | None) -> Units:
    units = units_of(experiment, source, events, as_of=as_of)
    if not experiment.experiment_column:
        return units
    own = units.table.filter(units.table.experiment == experiment.name)
    return replace(units, table=own.drop("experiment"))


def _runner(experiment: Experiment, source: Source) -> Callable[[ir.Table], pa.Table]:
    return lambda statement: ask(source.engine, statement, cost=experiment.cost, what=experiment.name)


def _checked(
    experiment: Experiment, reduced: Reduced, *, as_of: datetime | None = None, told: Sequence[Check] = ()
) -> Cohort:
    """Refuse what cannot be used, move caps to where they belong, and look at the rest; `told` is what was found before."""
    check_arms(experiment, reduced.cells)
    check_values(experiment, reduced)
    cells = _capped(experiment, reduced.cells)
    found = [*cells.checks, *quality(experiment, cells, as_of=as_of), *told, *_left_out(experiment, reduced)]
    found += audience_checks(experiment, cells, reduced.strangers, reduced.unchecked)
    return Cohort(experiment, replace(cells, checks=tuple(found)), reduced.note)


def _capped(experiment: Experiment, cells: Cells) -> Cells:
    """Cells with every cap where these units put it."""
    for metric in experiment.metrics:
        if metric.cap is not None and cells.metrics[metric.name].bins is not None:
            cells = cells.capped(metric.name, metric.cap)
    return cells


def _left_out(experiment: Experiment, reduced: Reduced) -> Iterator[Check]:
    """What the agreed days left out."""
    if experiment.start is None or experiment.end is None:
        return
    check = outside_days(
        reduced.outside,
        reduced.cells.units,
        experiment.start,
        experiment.end,
        what="units" if experiment.shape == "unit" else "rows",
        min_cell=1 if experiment.totals else experiment.min_cell,  # rows of totals are no units
    )
    if check is not None:
        yield check


def _bind(experiment: Experiment, source: object) -> Source:
    bound = bind(source, timezone=experiment.timezone, cost=experiment.cost)
    if is_partitioned(bound) and not (experiment.start and experiment.end and experiment.exposed_at):
        raise FullScanError(bound.name)
    return bound


def _own_source(experiment: Experiment) -> object:
    if experiment.connection:
        return Warehouse(experiment.connection, experiment.table, experiment.sql)
    if experiment.source:
        return experiment.source
    raise SpecError(
        f'experiment {experiment.name!r} names no source; pass the data to load_cohort, or add `source = "cohort.parquet"`.'
    )


def _own_events(experiment: Experiment) -> object:
    spec = experiment.events
    assert spec is not None  # noqa: S101 - asked only in that shape
    if experiment.connection and (spec.table or spec.sql):
        return Warehouse(experiment.connection, spec.table, spec.sql)
    if spec.source:
        return spec.source
    raise SpecError(
        f'experiment {experiment.name!r} names no events; pass them to load_cohort(…, events=…), or add `source = "events.parquet"` under [events].'
    )


# --- many experiments on one table ------------------------------------------------------------


def _own_days(experiment: Experiment, as_of: datetime | None) -> bool:
    """Whether days have to be chosen before rows are summed, or before the last of them says up to when the data are complete."""
    return bool(experiment.exposed_at) and (experiment.shape == "rows" or _own_end(experiment, as_of))


def _own_end(experiment: Experiment, as_of: datetime | None) -> bool:
    """Whether its own data say up to when they are complete."""
    return as_of is None and any(metric.window_days is not None for metric in experiment.metrics)


def _columns(experiment: Experiment, as_of: datetime | None) -> tuple[object, ...]:
    """What experiments have to share to share a scan."""
    days = (experiment.start, experiment.end) if _own_days(experiment, as_of) else ()
    own = experiment.name if _own_end(experiment, as_of) else ""
    names = (
        "shape",
        "unit",
        "variant",
        "segments",
        "trigger",
        "exposed_at",
        "experiment_column",
        "expect",
        "epochs",
        "timezone",
    )
    return (*(getattr(experiment, name) for name in names), tuple(experiment.audience.items()), days, own)


def _only(units: Units, names: set[str], run: Callable[[ir.Table], pa.Table]) -> Units:
    """Without the rows of other experiments, where the first rows show any: a filter on text costs a tenth of the scan, and cells of others are left out anyway."""
    first = run(units.table.select("experiment").limit(FIRST_ROWS)).column("experiment").to_pylist()
    if names >= set(first):
        return units
    return replace(units, table=units.table.filter(units.table.experiment.isin(sorted(names))))


def _together(group: Sequence[Experiment]) -> Experiment:
    """One experiment with the metrics of all, from the first to the last day that any of them agreed on, where all did."""
    metrics = {metric.name: metric for metric in group[0].metrics}
    for experiment in group[1:]:
        for metric in experiment.metrics:
            known = metrics.setdefault(metric.name, replace(metric, role="info"))
            chosen = {
                "role": "info",
                "rope": None,
                "rope_abs": None,
                "margin": None,
                "margin_abs": None,
                "direction": "increase",
            }
            if replace(known, **chosen) != replace(metric, **chosen):  # type: ignore[arg-type]  # names of its own fields
                raise SpecError(
                    f"metric {metric.name!r} means one thing in experiment {group[0].name!r} and another in {experiment.name!r}; in one scan a name has one meaning. Give one of them another name, or define it in the catalogue."
                )
    starts, ends = ([getattr(one, name) for one in group] for name in ("start", "end"))
    agreed = None not in starts
    return replace(
        group[0],
        name=f"{group[0].name} and {len(group) - 1} more" if len(group) > 1 else group[0].name,
        metrics=tuple(metrics.values()),
        start=min(starts) if agreed else None,
        end=max(ends) if agreed else None,
    )


def _own_part(experiment: Experiment, reduced: Reduced, source: Source) -> Reduced:
    own: BoolArray = reduced.experiment == experiment.name
    every = int(reduced.cells.n[own].sum())
    if experiment.exposed_at and experiment.start and experiment.end:
        first, last = np.datetime64(experiment.start, "D"), np.datetime64(experiment.end, "D")
        day = reduced.cells.day
        own = own & ((day >= first) & (day <= last) | np.isnat(day))  # units without a day are said, not lost
    if not own.any():
        raise EmptyCohortError(f"{source.name} for experiment {experiment.name!r}")
    names = [metric.name for metric in experiment.metrics]
    cells = reduced.cells.where(own, names)
    odd: Mapping[str, int] = {name: n for name, n in reduced.odd.items() if name in {*names, TRIGGER_KEY}}
    lost = every - cells.units if experiment.shape == "unit" else 0
    return Reduced(cells, reduced.experiment[own], None, reduced.crossed[own], odd, outside=lost)
