"""Times of the data: days in the zone of the experiment, and times that can be compared, whatever zone a session is in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from expnb.cohorts.engine import BACKENDS
from expnb.cohorts.sources import Source
from expnb.errors import CohortError

if TYPE_CHECKING:
    import ibis.expr.types as ir

# What an engine calls the wall clock of a zone at a time that has one; of some the zone is the second argument.
WALL_CLOCKS = {
    "duckdb": "timezone",
    "postgres": "timezone",
    "databricks": "convert_timezone",
    "snowflake": "convert_timezone",
    "trino": "at_timezone",
    "clickhouse": "toTimeZone",
    "bigquery": "datetime",
}
ZONE_SECOND = frozenset({"trino", "clickhouse", "bigquery"})
# Where the same function also turns a wall clock into a time with a zone.
BOTH_WAYS = frozenset({"duckdb", "postgres"})


def has_zone(time: ir.Value) -> bool:
    """Whether a time is a moment, not what some clock showed."""
    return bool(getattr(time.type(), "timezone", None))


def check_time(name: str, table: ir.Table) -> None:
    """Refuse a column that holds no times.

    Raises
    ------
    CohortError
    """
    dtype = table.schema()[name]
    if not (dtype.is_timestamp() or dtype.is_date()):
        raise CohortError(
            f"column {name!r} holds {dtype}, not times; days cannot be counted. Convert it to a timestamp or a date."
        )


def day_of(time: ir.Value, zone: str, source: Source) -> ir.Value:
    """The day of a time in a zone; a time without one already shows the clock of the experiment.

    Raises
    ------
    CohortError
        If the session counts days in another zone, and its engine has no known way to convert.
    """
    if not _is_zoned(time, source) or source.zone == zone:
        return time.cast("date")
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    name = source.engine.name
    if name not in WALL_CLOCKS:
        raise CohortError(
            f"days are to be counted in {zone}, and the session of {BACKENDS.get(name, name)} counts them in {source.zone or 'a zone that nobody knows'}. Set its time zone to {zone}, or add the day as a column of type date in a query of your own, and name it: exposed_at."
        )
    moment, text = "timestamp('UTC')", "string"
    wall_clock = ibis.udf.scalar.builtin(
        _nothing,
        name=WALL_CLOCKS[name],
        signature=((moment, text) if name in ZONE_SECOND else (text, moment), "timestamp"),
    )
    return wall_clock(*((time, zone) if name in ZONE_SECOND else (zone, time))).cast("date")


def alike(first: ir.Value, second: ir.Value, zone: str, source: Source) -> tuple[ir.Value, ir.Value]:
    """Two times as moments where one of them is; a time without a zone shows the clock of `zone`.

    Raises
    ------
    CohortError
        If the session is in another zone, and its engine has no known way to convert.
    """
    if has_zone(first) == has_zone(second):
        return first, second
    return moment_of(first, zone, source), moment_of(second, zone, source)


def moment_of(time: ir.Value, zone: str, source: Source) -> ir.Value:
    """A time as a moment; one without a zone shows the clock of `zone`.

    Raises
    ------
    CohortError
        If the session is in another zone, and its engine has no known way to convert.
    """
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if has_zone(time):
        return time
    if source.zone == zone:
        return time.cast("timestamp").cast("timestamp('UTC')")
    name = source.engine.name
    if name not in BOTH_WAYS:
        raise CohortError(
            f"some times have a time zone and others have none, and {BACKENDS.get(name, name)} reads those in {source.zone or 'a zone that nobody knows'}, not in {zone}. Give all of them a zone, or none, in a query of your own."
        )
    moment = ibis.udf.scalar.builtin(
        _nothing, name=WALL_CLOCKS[name], signature=(("string", "timestamp"), "timestamp('UTC')")
    )
    return moment(zone, time.cast("timestamp"))


def is_before(first: ir.Value, second: ir.Value, zone: str, source: Source) -> ir.BooleanValue:
    """Whether one time lies before another; by days where one of them is a date."""
    if first.type().is_date() or second.type().is_date():
        return day_of(first, zone, source) < day_of(second, zone, source)
    first, second = alike(first, second, zone, source)
    return first < second


def between(seen: ir.Value, first: date, last: date, zone: str) -> tuple[ir.BooleanValue, ir.BooleanValue]:
    """Whether a time lies from the first to the last day."""
    return seen >= start_of(first, seen, zone), seen < start_of(last + timedelta(days=1), seen, zone)


def start_of(day: date, column: ir.Value, zone: str) -> ir.Value:
    """The start of a day, as the kind of time that a column holds."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if column.type().is_date():
        return ibis.literal(day)
    return _literal(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)), column, zone)


def later_than(column: ir.Value, moment: datetime, zone: str) -> ir.BooleanValue:
    """Whether a time lies after a moment; a date does when its day ends after it."""
    if column.type().is_date():
        return column >= start_of(moment.astimezone(ZoneInfo(zone)).date(), column, zone)
    return column > _literal(moment, column, zone)


def at_most(column: ir.Value, moment: datetime, zone: str) -> ir.BooleanValue:
    """Whether a time lies at or before a moment; a date does when its day begins before it."""
    if column.type().is_date():
        return column <= start_of(moment.astimezone(ZoneInfo(zone)).date(), column, zone)
    return column <= _literal(moment, column, zone)


def as_utc(found: datetime | date, zone: str) -> datetime:
    """A time of the data, in `zone` where it carries none."""
    if not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day) + timedelta(days=1)  # noqa: DTZ001 - the zone comes next
    return (found if found.tzinfo else found.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)


def span(days: float) -> ir.Value:
    """A length of time."""
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    return ibis.interval(seconds=round(days * 86_400))


# --- parts ------------------------------------------------------------------------------------


def _is_zoned(time: ir.Value, source: Source) -> bool:
    """Whether the session's zone decides the day of a time; Spark's times with a zone do not say that they have one."""
    return has_zone(time) or (source.engine.name == "pyspark" and time.type().is_timestamp())


def _literal(moment: datetime, column: ir.Value, zone: str) -> ir.Value:
    import ibis  # noqa: PLC0415 - 0.8 s, only when rows are needed

    if has_zone(column):
        return ibis.literal(moment.astimezone(UTC), type="timestamp('UTC')")
    return ibis.literal(moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None))


def _nothing(first: object, second: object) -> None:
    """The body of a function that the engine has."""
