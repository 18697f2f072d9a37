"""Up to when data are complete: the last time in them that can be one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from expnb.cohorts.engine import ask
from expnb.cohorts.sources import Source
from expnb.cohorts.times import as_utc, at_most
from expnb.spec.experiment import Experiment
from expnb.stats import checks
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import ibis.expr.types as ir

# The last day stands alone where it holds so few rows, and the day before it none.
ALONE_SHARE = 0.001
A_DAY = timedelta(days=1, seconds=1)  # a date ends with its day: the second brings us into the one before


@dataclass(frozen=True, slots=True)
class End:
    """Up to when data are complete, and what is odd about it.

    Parameters
    ----------
    as_of : datetime or None
        None where no row has a time.
    checks : tuple of Check
    """

    as_of: datetime | None = None
    checks: tuple[Check, ...] = ()


def end_of(experiment: Experiment, source: Source, table: ir.Table, name: str, *, now: datetime) -> End:
    """The last time of a column that is not later than now; said where there are later ones, and where it stands alone."""
    zone, time = experiment.timezone, table[name]
    known = at_most(time, now, zone)
    first = _row(experiment, source, table.aggregate(last=time.max(where=known), future=(~known).sum()))
    found = [checks.future_times(name, int(first["future"] or 0), min_cell=experiment.min_cell)]
    if first["last"] is None:
        return End(None, tuple(check for check in found if check))
    as_of = min(as_utc(first["last"], zone), now)
    before, until = at_most(time, as_of - A_DAY, zone), at_most(time, as_of, zone)
    second = _row(
        experiment,
        source,
        table.aggregate(rows=until.sum(), before=before.sum(), previous=time.max(where=before)),
    )
    late = int(second["rows"] or 0) - int(second["before"] or 0)
    if second["previous"] is not None and late <= ALONE_SHARE * int(second["rows"]):
        previous = as_utc(second["previous"], zone)
        if as_of - previous > 2 * A_DAY:
            found.append(checks.lonely_end(name, as_of, previous))
    return End(as_of, tuple(check for check in found if check))


def _row(experiment: Experiment, source: Source, statement: ir.Table) -> dict[str, Any]:
    found: dict[str, Any] = ask(source.engine, statement, cost=experiment.cost, what=experiment.name).to_pylist()[0]
    return found
