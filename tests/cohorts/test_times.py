"""Times: days are those of the experiment's zone, whatever the zone of a session, a frame or a file."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlglot
from tests.cohorts.test_kinds import experiment_of, metric_of

import expnb as xb
from expnb.cohorts.cohort import load_cohort
from expnb.cohorts.sources import Source
from expnb.cohorts.times import WALL_CLOCKS, day_of, moment_of
from expnb.errors import CohortError, SourceError
from expnb.spec.experiment import Events, Totals

ZONES = {"America/New_York": "2026-03-01", "Asia/Tokyo": "2026-03-02"}  # of 23:30 UTC on 1 March
LATE = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
EVENTS = Events(at="at", kind="what", value="amount")
BUYS = xb.Metric(name="goal", kind="conversion", role="goal", rope=0.01, event="buy", window_days=1)


def units(seen=LATE, n=40):
    kind = pa.timestamp("us", "UTC") if seen.tzinfo else pa.timestamp("us")
    rows = {"user": list(range(n)), "arm": ["a", "b"] * (n // 2), "yes": [0, 1, 1, 0] * (n // 4)}
    return pa.table({**rows, "y": np.arange(n) * 1.0, "seen": pa.array([seen] * n, kind)})


def own_table(frame, zone):
    """A table in a DuckDB of the user's own, whose session counts days in another zone."""
    con = ibis.duckdb.connect()
    con.raw_sql(f"SET TimeZone = '{zone}'")
    return con, con.create_table("cohort", frame)


def days(cells):
    return {str(day) for day in cells.day}


@pytest.mark.parametrize("session", ["UTC", "Pacific/Auckland"])
@pytest.mark.parametrize("shape", ["unit", "rows"])
@pytest.mark.parametrize("zone", ZONES)
def test_days_of_a_users_own_connection_are_those_of_the_experiment(zone, shape, session):
    con, table = own_table(units(), session)
    experiment = experiment_of(metric_of("mean"), exposed_at="seen", timezone=zone, shape=shape)
    assert days(load_cohort(experiment, table).cells) == {ZONES[zone]}
    assert con.raw_sql("SELECT current_setting('TimeZone')").fetchone() == (session,)


@pytest.mark.parametrize("zone", ZONES)
def test_chosen_days_of_a_users_own_connection_are_those_of_the_experiment(zone):
    _, table = own_table(units(), "Pacific/Auckland")
    day = date.fromisoformat(ZONES[zone])
    chosen = experiment_of(exposed_at="seen", timezone=zone, start=day, end=day)
    assert load_cohort(chosen, table).cells.units == 40
    other = day + timedelta(days=1 if zone == "America/New_York" else -1)
    with pytest.raises(CohortError):
        load_cohort(experiment_of(exposed_at="seen", timezone=zone, start=other, end=other), table)


@pytest.mark.parametrize("zone", ZONES)
def test_days_of_events_and_totals_in_a_users_own_connection_are_those_of_the_experiment(zone):
    con, table = own_table(units(), "Pacific/Auckland")
    log = con.create_table("log", log_of(LATE))
    experiment = experiment_of(BUYS, shape="events", exposed_at="seen", timezone=zone, events=EVENTS)
    assert days(load_cohort(experiment, table, events=log, as_of=LATE + timedelta(days=9)).cells) == {ZONES[zone]}
    rows = pa.table({"arm": ["a", "b"], "n": [100, 100], "yes": [10, 20], "seen": [LATE, LATE]})
    totals = experiment_of(shape="totals", unit="row", exposed_at="seen", timezone=zone, totals=Totals(units="n"))
    assert days(load_cohort(totals, con.create_table("daily", rows)).cells) == {ZONES[zone]}


def test_times_without_a_zone_keep_their_day_in_any_session():
    _, table = own_table(units(LATE.replace(tzinfo=None)), "Pacific/Auckland")
    experiment = experiment_of(exposed_at="seen", timezone="America/New_York")
    assert days(load_cohort(experiment, table).cells) == {"2026-03-01"}


def test_a_frame_whose_zone_is_an_offset_has_days_too():
    frame = pd.DataFrame(units().to_pydict()).astype({"user": int})
    frame["seen"] = frame.seen.dt.tz_convert(timezone(timedelta(hours=-5)))
    experiment = experiment_of(exposed_at="seen", start=date(2026, 3, 1), end=date(2026, 3, 1))
    assert days(load_cohort(experiment, frame).cells) == {"2026-03-01"}


@pytest.mark.parametrize("dialect", sorted(WALL_CLOCKS))
def test_every_engine_is_told_the_zone(dialect):
    table = ibis.table({"seen": "timestamp('UTC')"}, name="t")

    class Engine:
        name = dialect

    day = day_of(table.seen, "Asia/Tokyo", Source(table, Engine(), "there"))
    sql = ibis.to_sql(table.select(day=day), dialect=dialect)
    assert "'Asia/Tokyo'" in sql
    assert isinstance(sqlglot.parse_one(sql, dialect=dialect), sqlglot.exp.Query)


def test_an_engine_whose_zone_nobody_knows_is_refused():
    table = ibis.table({"seen": "timestamp('UTC')", "clock": "timestamp"}, name="t")

    class Engine:
        name = "mssql"

    source = Source(table, Engine(), "there")
    with pytest.raises(
        CohortError, match="counted in Asia/Tokyo, and the session of mssql counts them in a zone that nobody"
    ):
        day_of(table.seen, "Asia/Tokyo", source)
    with pytest.raises(CohortError, match="Give all of them a zone, or none"):
        moment_of(table.clock, "Asia/Tokyo", source)
    assert day_of(table.clock, "Asia/Tokyo", source).type().is_date()


# --- times with a zone and without ----------------------------------------------------------------


def log_of(at, n=40):
    """Every unit of the second half buys at a time; the others never do."""
    kind = pa.timestamp("us", "UTC") if at.tzinfo else pa.timestamp("us")
    half = list(range(n // 2, n))
    return pa.table(
        {"user": half, "at": pa.array([at] * (n // 2), kind), "what": ["buy"] * (n // 2), "amount": [2.0] * (n // 2)}
    )


def bought(seen, at, *, own):
    """Units that bought within a day of their exposure, in Tokyo."""
    experiment = experiment_of(BUYS, shape="events", exposed_at="seen", timezone="Asia/Tokyo", events=EVENTS)
    people, log = units(seen), log_of(at)
    if own:
        con, people = own_table(people, "Pacific/Auckland")
        log = con.create_table("log", log)
    cells = load_cohort(experiment, people, events=log, as_of=datetime(2026, 4, 1, tzinfo=UTC)).cells
    return sum(cells.moments("goal", arm).mean * cells.moments("goal", arm).n for arm in "ab")


@pytest.mark.parametrize("own", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("hours", [-1, 1, 23, 25])
@pytest.mark.parametrize("naive", ["seen", "at", "none"])
def test_times_with_and_without_a_zone_are_compared_as_moments(naive, hours, own):
    seen, at = LATE, LATE + timedelta(hours=hours)
    clock = lambda time: time.astimezone(ZoneInfo("Asia/Tokyo")).replace(tzinfo=None)  # noqa: E731
    seen, at = (clock(seen) if naive == "seen" else seen), (clock(at) if naive == "at" else at)
    assert bought(seen, at, own=own) == (20 if 0 <= hours < 24 else 0)


def test_a_column_that_mixes_times_with_and_without_a_zone_is_refused():
    frame = pd.DataFrame(units().to_pydict())
    frame["seen"] = pd.Series([LATE, LATE.replace(tzinfo=None)] * 20, dtype=object)
    with pytest.raises(SourceError, match="column 'seen' holds times with a time zone and times without one"):
        load_cohort(experiment_of(exposed_at="seen"), frame)


def test_a_column_that_mixes_offsets_is_read_as_moments():
    frame = pd.DataFrame(units().to_pydict())
    tokyo = LATE.astimezone(ZoneInfo("Asia/Tokyo"))
    frame["seen"] = pd.Series([tokyo, LATE, None, LATE.astimezone(timezone(timedelta(hours=-5)))] * 10, dtype=object)
    cells = load_cohort(experiment_of(exposed_at="seen", timezone="America/New_York"), frame).cells
    assert days(cells) == {"2026-03-01", "NaT"}


def test_texts_of_times_are_refused():
    frame = pd.DataFrame(units().to_pydict())
    frame["seen"] = ["2026-03-01T23:30:00-05:00", "2026-03-01T23:30:00+09:00"] * 20
    with pytest.raises(CohortError, match="column 'seen' holds string, not times"):
        load_cohort(experiment_of(exposed_at="seen"), frame)
    experiment = experiment_of(BUYS, shape="events", exposed_at="seen", events=EVENTS)
    log = log_of(LATE).set_column(1, "at", pa.array(["2026-03-01T23:30:00-05:00"] * 20))
    with pytest.raises(CohortError, match="column 'at' holds string, not times"):
        load_cohort(experiment, units(), events=log)


def test_a_zone_in_a_late_row_of_a_csv_file_is_not_dropped(tmp_path):
    n = 30_000  # more than are looked at to tell the types
    rows = [f"{number},{'ab'[number % 2]},{number % 3 // 2},2026-03-01T12:00:00" for number in range(n)]
    rows += [f"{n},a,0,2026-03-01T23:30:00+00:00", f"{n + 1},b,0,2026-03-01T23:30:00-05:00"]
    (tmp_path / "cohort.csv").write_text("user,arm,yes,seen\n" + "\n".join(rows) + "\n")
    experiment = experiment_of(exposed_at="seen", timezone="Asia/Tokyo")
    cells = load_cohort(experiment, tmp_path / "cohort.csv").cells
    found = {day: int(cells.n[cells.day == np.datetime64(day)].sum()) for day in sorted(days(cells))}
    assert found == {"2026-03-01": n, "2026-03-02": 2}
