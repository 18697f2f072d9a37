"""Which kinds of events there are, and how many of those assigned were never exposed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expnb.cohorts.audience import in_audience
from expnb.cohorts.engine import ask
from expnb.cohorts.reduce import NOTHING_IN_COMMON
from expnb.cohorts.sources import Source
from expnb.cohorts.units import in_window, log_of, used_kinds
from expnb.errors import CohortError, EmptyCohortError
from expnb.spec.experiment import Experiment
from expnb.stats import checks
from expnb.stats.cells import Cells
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import ibis.expr.types as ir

MOST_KINDS = 1_000  # more are hardly kinds, and are not looked at


def kinds_checks(experiment: Experiment, events: Source) -> list[Check]:
    """What is said of kinds of events that never occur.

    Raises
    ------
    CohortError
        If the exposure never occurs, or nothing that the experiment reads does.
    """
    spec = experiment.events
    assert spec is not None  # noqa: S101 - asked only in that shape
    statement = log_of(experiment, spec, events).select("kind").distinct().limit(MOST_KINDS + 1)
    rows = ask(events.engine, statement, cost=experiment.cost, what=experiment.name)
    kinds = sorted(kind for kind in rows.column("kind").to_pylist() if kind is not None)
    if rows.num_rows > MOST_KINDS:
        return []
    if not kinds:
        raise EmptyCohortError(events.name)
    used = used_kinds(experiment, spec)
    if used and not used.keys() & set(kinds):
        kind, reader = next(iter(used.items()))
        raise CohortError(f"{checks.absent_words(kind, reader, kinds)} No kind that the experiment reads does.")
    found = [checks.absent_kind(kind, reader, kinds) for kind, reader in used.items()]
    if spec.exposure and spec.exposure not in kinds:
        raise CohortError(
            f"{checks.absent_words(spec.exposure, 'the exposure', kinds)} Nobody was exposed, so there is nothing to compare."
        )
    return [check for check in found if check]


def explain_empty(experiment: Experiment, source: Source, events: Source) -> None:
    """Say why nobody is left, where the events tell.

    Raises
    ------
    CohortError
    """
    spec = experiment.events
    assert spec is not None  # noqa: S101 - asked only in that shape
    table, log = in_audience(experiment, in_window(experiment, source.table)), log_of(experiment, spec, events)

    def some(rows: ir.Table) -> bool:
        return bool(ask(source.engine, rows.limit(1), cost=experiment.cost, what=experiment.name).num_rows)

    if not some(table.select(experiment.unit)):
        return
    met = table.semi_join(log, table[experiment.unit] == log.log_unit)
    if not some(met.select(experiment.unit)):
        raise CohortError(NOTHING_IN_COMMON.format(unit=experiment.unit))
    if spec.exposure:
        raise CohortError(
            f"no assigned unit has an event {spec.exposure!r} after its assignment and in the days of the experiment, so nobody was exposed. Check the times of both, and which event is the exposure."
        )


def unexposed(experiment: Experiment, source: Source, cells: Cells) -> Iterator[Check]:
    """How many of those assigned were never exposed, by arm."""
    spec = experiment.events
    if spec is None or not spec.exposure:
        return
    table = source.table
    if experiment.experiment_column:
        table = table.filter(table[experiment.experiment_column].cast("string") == experiment.name)
    table = in_audience(experiment, in_window(experiment, table))
    flat = table.select(arm=table[experiment.variant].cast("string"), unit=table[experiment.unit])
    rows = ask(
        source.engine,
        flat.group_by("arm").aggregate(n=flat.unit.nunique()),
        cost=experiment.cost,
        what=experiment.name,
    )
    assigned = dict(zip(rows.column("arm").to_pylist(), rows.column("n").to_pylist(), strict=True))
    units = {arm: int(assigned.get(arm, 0)) for arm in experiment.variants}
    lost = {arm: max(0, n - cells.count(arm)) for arm, n in units.items()}
    check = checks.never_exposed(spec.exposure, lost, units, min_cell=experiment.min_cell)
    if check:
        yield check
