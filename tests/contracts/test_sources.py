"""What every source promises: the same rows give the same numbers, and the same mistakes the same sentence."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bad_input import BAD_COHORTS
from tests.contracts.conftest import connected, spark_environment
from tests.servers import PASSWORD

import expnb as xb
from expnb import errors
from expnb.cohorts.engine import ask
from expnb.cohorts.sources import Cost, Source, bind, estimate, is_partitioned
from expnb.cohorts.warehouse import Warehouse, connect
from expnb.spec.experiment import TRIGGER_KEY

ARMS = ("control", 'it\'s "new"')
MEANS = ("größe", "large", "order")


@pytest.fixture
def experiment():
    """An experiment whose names are as bad as names can be."""
    means = [xb.Metric(name=f"m{number}", column=name, kind="mean", role="info") for number, name in enumerate(MEANS)]
    goal = xb.Metric(name="bool", kind="conversion", role="goal", rope=0.01)
    return xb.Experiment(
        name="small",
        hypothesis="It works.",
        owner="us",
        flag="small",
        unit="unit",
        variant="variant; drop table",
        control=ARMS[0],
        weights={ARMS[0]: 50, ARMS[1]: 50},
        segments=("select",),
        exposed_at="exposed at",
        metrics=(goal, *means),
        policy=replace(xb.Policy(), min_days=0),
    )


def sums(bound: Source) -> dict:
    table = bound.table
    value = table["größe"].cast("float64")
    shifted = table["large"].cast("float64") - 1e9
    rows = table.group_by(arm=table["variant; drop table"]).aggregate(
        n=table.count(),
        ok=value.count(),
        s1=value.sum(),
        s2=(shifted * shifted).sum(),
        true=table["bool"].cast("int32").sum(),
    )
    return {row["arm"]: row for row in ask(bound.engine, rows).to_pylist()}


def test_every_source_binds_with_the_same_sums(source, small):
    found = sums(bind(source, timezone="UTC"))
    for arm in ARMS:
        n, mean, _ = small.reference("größe", arm)
        of_large, _, variance = small.reference("large", arm)
        assert found[arm]["n"] == of_large
        assert found[arm]["ok"] == n
        assert found[arm]["s1"] == pytest.approx(n * mean, rel=1e-12)
        assert found[arm]["s2"] == sum((number % 3 - 1) ** 2 for number in range(ARMS.index(arm), 400, 2))
        assert variance > 0
        assert found[arm]["true"] == small.reference("bool", arm)[0] * small.reference("bool", arm)[1]


def test_every_source_gives_the_same_moments(source, small, experiment):
    cells = xb.load_cohort(experiment, source).cells
    for arm in ARMS:
        for metric in experiment.metrics:
            n, mean, variance = small.reference(metric.column or metric.name, arm)
            moments = total(cells, metric.name, arm)
            assert moments.n == n
            assert moments.mean == pytest.approx(mean, rel=1e-12)
            assert moments.m2 / (n - 1) == pytest.approx(variance, rel=1e-12, abs=1e-300)


def total(cells, metric: str, arm: str):
    return cells.metrics[metric].moments(cells.variant == arm)


def test_every_source_counts_the_same_days_and_segments(source, small, experiment):
    cells = xb.load_cohort(experiment, source).cells
    days = {str(day) for day in cells.day}
    assert days == {str(day) for day in small.table["day"].to_pylist()}
    assert set(cells.segments["select"]) == {"DE", "größer", "it's", "(none)"}


def test_days_are_counted_in_the_zone_of_the_experiment(source, experiment):
    far = replace(experiment, timezone="Pacific/Auckland")
    found = {str(day) for day in xb.load_cohort(far, source).cells.day}
    assert found == {"2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"}


@pytest.mark.parametrize("mistake", BAD_COHORTS)
def test_every_source_gives_the_same_sentence_for_bad_input(kind, offer, mistake, gate_position, players):
    spoil, error, sentence = BAD_COHORTS[mistake]
    if kind in {"polars", "polars lazy", "duckdb relation", "parquet glob", "postgres sql"}:
        pytest.skip("the same engine as another source")
    if kind == "csv" and mistake in {"empty", "float units", "all null metric", "text metric"}:
        pytest.skip("CSV has no types to hold this")
    if kind == "postgres" and len(players) > 1000 and mistake not in {"missing column", "null arms", "crossed units"}:
        pytest.skip("said by the same code; 90,189 rows are copied for three of them")
    frame = spoil(players)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.cast(
        pa.schema([pa.field(f.name, pa.float64() if pa.types.is_null(f.type) else f.type) for f in table.schema])
    )
    with pytest.raises(error) as caught:
        xb.load_cohort(gate_position, offer(table, f"bad_{mistake}".replace(" ", "_")))
    assert sentence in str(caught.value)


# --- connections -----------------------------------------------------------------------------


def everything_said(error: BaseException) -> str:
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def test_a_wrong_password_is_said_without_the_password(postgres):
    url = postgres.url.replace(PASSWORD, "hunter2-wrong")
    with pytest.raises(errors.SourceError, match="password authentication failed") as caught:
        bind(Warehouse(url, "cohort"), timezone="UTC")
    assert "hunter2" not in everything_said(caught.value)


def test_a_failing_query_is_said_without_the_password(postgres):
    bound = bind(Warehouse(postgres.url, sql="SELECT 1/(x-1) AS y FROM parted WHERE x = 1"), timezone="UTC")
    with pytest.raises(errors.SourceError, match="division by zero") as caught:
        ask(bound.engine, bound.table)
    assert "4711" not in everything_said(caught.value)


def test_a_connection_may_be_the_name_of_a_variable(postgres, monkeypatch):
    monkeypatch.setenv("EXPNB_TEST_WAREHOUSE", postgres.url)
    source = Warehouse("EXPNB_TEST_WAREHOUSE", "public.cohort")
    bound = bind(source, timezone="UTC")
    assert ask(bound.engine, bound.table.count()).as_py() == 400
    assert "4711" not in repr(source) + repr(bound) + str(bound.engine)


def test_a_missing_table_names_the_nearest_one(postgres):
    with pytest.raises(errors.NameNotFoundError, match="no table is called 'cohrot'. Did you mean 'cohort'"):
        bind(Warehouse(postgres.url, "cohrot"), timezone="UTC")


def test_a_missing_table_in_spark_names_the_nearest_one(spark):
    with pytest.raises(errors.NameNotFoundError, match="Did you mean 'cohort'"):
        bind(Warehouse(spark, "cohrot"), timezone="UTC")


def test_a_query_that_takes_too_long_is_stopped_in_postgres(postgres):
    bound = bind(Warehouse(postgres.url, sql="SELECT pg_sleep(60)::text AS x"), timezone="UTC")
    with pytest.raises(errors.QueryTooLongError, match="1 s"):
        ask(bound.engine, bound.table, cost=Cost(max_seconds=1))
    assert ask(bound.engine, bind(Warehouse(postgres.url, "cohort"), timezone="UTC").table.count()).as_py() == 400


def test_stopping_the_cell_stops_the_query_in_postgres(postgres, interrupt):
    bound = bind(Warehouse(postgres.url, sql="SELECT pg_sleep(60)::text AS x"), timezone="UTC")
    with pytest.raises(KeyboardInterrupt), interrupt(0.5):
        ask(bound.engine, bound.table)
    running = "SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%'"
    again = bind(Warehouse(postgres.url, sql=f"{running} AND pid <> pg_backend_pid()"), timezone="UTC")
    assert ask(again.engine, again.table).to_pylist() == [{"n": 0}]


def test_stopping_the_cell_stops_the_query_in_spark(spark, interrupt):
    bound = bind(
        Warehouse(spark, sql="SELECT sum(sqrt(a.id * b.id)) AS x FROM range(1000000) a CROSS JOIN range(1000000) b"),
        timezone="UTC",
    )
    with pytest.raises(KeyboardInterrupt), interrupt(2.5):
        ask(bound.engine, bound.table)
    assert bound.engine._session.sparkContext.statusTracker().getActiveJobsIds() == []


def test_a_query_that_takes_too_long_is_stopped_in_spark(spark):
    bound = bind(
        Warehouse(spark, sql="SELECT sum(sqrt(a.id * b.id)) AS x FROM range(1000000) a CROSS JOIN range(1000000) b"),
        timezone="UTC",
    )
    with pytest.raises(errors.QueryTooLongError):
        ask(bound.engine, bound.table, cost=Cost(max_seconds=2))
    assert bound.engine._session.sparkContext.statusTracker().getActiveJobsIds() == []


def test_the_warehouse_shows_queries_under_their_tag(postgres):
    sql = "SELECT current_setting('application_name') AS tag, current_setting('transaction_read_only') AS ro"
    bound = bind(Warehouse(postgres.url, sql=sql), timezone="UTC")
    found = ask(bound.engine, bound.table, cost=Cost(query_tag="checkout")).to_pylist()
    assert found == [{"tag": "checkout", "ro": "on"}]


def test_a_query_cannot_write(postgres):
    for sql, found in (("DROP TABLE cohort", "DROP"), ("SELECT 1; DELETE FROM cohort", "2 statements")):
        with pytest.raises(errors.SourceError, match=found):
            bind(Warehouse(postgres.url, sql=sql), timezone="UTC")


def test_partitioned_tables_are_known(postgres, spark):
    assert is_partitioned(bind(Warehouse(postgres.url, "parted"), timezone="UTC"))
    assert not is_partitioned(bind(Warehouse(postgres.url, "cohort"), timezone="UTC"))
    assert is_partitioned(bind(Warehouse(spark, "parted"), timezone="UTC"))
    assert not is_partitioned(bind(Warehouse(spark, "cohort"), timezone="UTC"))


QUERIES = [
    ("SELECT * FROM parted", True),
    ("SELECT x, day FROM (SELECT * FROM parted) AS q WHERE x > 1", True),
    ("WITH few AS (SELECT * FROM parted WHERE x < 9) SELECT few.* FROM few JOIN cohort ON true", True),
    ("SELECT 1 AS x", False),
    ("SELECT day FROM cohort", False),
    ("WITH parted AS (SELECT day FROM cohort) SELECT * FROM parted", False),
]


@pytest.mark.parametrize(("sql", "parted"), [*QUERIES, ('SELECT * FROM "public"."parted"', True)])
def test_a_query_over_a_partitioned_table_is_known_in_postgres(postgres, sql, parted):
    assert is_partitioned(bind(Warehouse(postgres.url, sql=sql), timezone="UTC")) == parted


def test_a_view_over_a_partitioned_table_is_known(postgres):
    with connected(postgres) as con:
        con.execute("CREATE OR REPLACE VIEW few AS SELECT * FROM parted WHERE x < 9")
        con.execute("CREATE OR REPLACE VIEW fewer AS SELECT * FROM few WHERE x < 5")
    assert is_partitioned(bind(Warehouse(postgres.url, "fewer"), timezone="UTC"))
    assert is_partitioned(bind(Warehouse(postgres.url, sql="SELECT x FROM fewer"), timezone="UTC"))


@pytest.mark.parametrize(("sql", "parted"), [*QUERIES, ("SELECT * FROM `default`.`parted`", True)])
def test_a_query_over_a_partitioned_table_is_known_in_spark(spark, sql, parted):
    assert is_partitioned(bind(Warehouse(spark, sql=sql), timezone="UTC")) == parted


def test_a_table_with_too_many_rows_is_refused_before_it_is_read(postgres, spark):
    assert estimate(bind(Warehouse(postgres.url, "cohort"), timezone="UTC")) == 400
    for url in (postgres.url, spark):
        with pytest.raises(errors.TooManyRowsError, match="about 400 rows; .* max_rows is 399"):
            bind(Warehouse(url, "cohort"), timezone="UTC", cost=Cost(max_rows=399))


def parted_experiment(experiment, first, last, **cost):
    """Units of a partitioned table, from one day to another."""
    return replace(
        experiment,
        unit="x",
        variant="arm",
        segments=(),
        exposed_at="day",
        start=date(2026, 3, first),
        end=date(2026, 3, last),
        metrics=(xb.Metric(name="yes", kind="conversion", role="goal", rope=0.01),),
        cost=Cost(**cost),
    )


@pytest.fixture(params=["postgres", "spark"])
def parted_units(request):
    """A table of units, partitioned by day, and how to read it: a table or a query."""
    server = request.getfixturevalue(request.param)
    url = server if request.param == "spark" else server.url
    source = Warehouse(url, "parted_units")
    if request.param == "spark":
        session = connect(server, "UTC")._session
        if session.catalog.tableExists("parted_units"):
            return source
        rows = [
            (x, date(2026, 3, 1 + x % 30), ARMS[x % 2], x % 3 // 2, ("one", "two")[x % 4 // 2]) for x in range(1, 1001)
        ]
        frame = session.createDataFrame(rows, "x INT, day DATE, arm STRING, yes INT, test STRING")
        frame.coalesce(1).write.partitionBy("day").saveAsTable("parted_units")
        return source
    first, second = (arm.replace("'", "''") for arm in ARMS)
    made = f"SELECT g, date '2026-03-01' + g % 30, CASE WHEN g % 2 = 0 THEN '{first}' ELSE '{second}' END, g % 3 / 2, CASE WHEN g % 4 < 2 THEN 'one' ELSE 'two' END FROM generate_series(1, 1000) g"  # noqa: S608 - names of ours
    with connected(server) as con:
        if con.execute("SELECT to_regclass('parted_units')").fetchone()[0]:
            return source
        con.execute(
            "CREATE TABLE parted_units (x int, day date, arm text, yes int, test text) PARTITION BY RANGE (day)"
        )
        for number in range(1, 31):
            last = date(2026, 3, number) + timedelta(days=1)
            con.execute(
                f"CREATE TABLE parted_units_{number} PARTITION OF parted_units FOR VALUES FROM ('2026-03-{number}') TO ('{last}')"
            )
        con.execute(f"INSERT INTO parted_units {made}")
        con.execute("ANALYZE")
    return source


@pytest.mark.parametrize("how", ["table", "query"])
def test_the_days_of_a_partitioned_table_may_have_too_many_rows(parted_units, experiment, how):
    source = parted_units
    if how == "query":
        source = Warehouse(source.connection, sql="SELECT x, day, arm, yes FROM parted_units")
    assert is_partitioned(bind(source, timezone="UTC"))
    cells = xb.load_cohort(parted_experiment(experiment, 1, 3, max_rows=300), source).cells
    assert 90 <= cells.units <= 110
    with pytest.raises(errors.FullScanError):
        xb.load_cohort(replace(parted_experiment(experiment, 1, 3), start=None, end=None), source)
    if how == "query" and "postgres" not in source.connection:  # Spark counts the rows of a query by no plan
        return
    with pytest.raises(errors.TooManyRowsError, match="max_rows is 50"):
        xb.load_cohort(parted_experiment(experiment, 1, 3, max_rows=50), source)
    with pytest.raises(errors.TooManyRowsError, match="max_rows is 300"):
        xb.load_cohort(parted_experiment(experiment, 1, 30, max_rows=300), source)


@pytest.mark.parametrize("how", ["table", "query"])
def test_experiments_on_a_partitioned_table_read_the_days_of_all_of_them(parted_units, experiment, how):
    source = parted_units
    if how == "query":
        source = Warehouse(source.connection, sql="SELECT * FROM parted_units")
    both = [
        replace(parted_experiment(experiment, first, last, max_rows=400), name=name, experiment_column="test")
        for name, first, last in (("one", 2, 4), ("two", 4, 9))
    ]
    found = xb.load_cohorts(both, source)
    for one in both:
        alone = xb.load_cohort(one, source)
        assert found[one.name].cells.fingerprint == alone.cells.fingerprint
        assert found[one.name].cells.days() == (one.start, one.end)
        assert [check.sentence for check in found[one.name].checks] == [check.sentence for check in alone.checks]
    with pytest.raises(errors.TooManyRowsError, match="max_rows is 100"):
        xb.load_cohorts([replace(one, cost=Cost(max_rows=100)) for one in both], source)
    with pytest.raises(errors.FullScanError):
        xb.load_cohorts([both[0], replace(both[1], start=None, end=None)], source)


# --- cells of every source ---------------------------------------------------------------------


def test_every_source_knows_who_was_triggered_and_keeps_the_digits_of_arms_far_apart(offer, experiment):
    n = 800
    index = np.arange(n)
    gap = np.resize([-1.0, 0.0, 1.0, 1.0, 0.0], n)
    far = index % 2 == 1
    table = pa.table(
        {
            "unit": pa.array([f"u{number}" for number in index]),
            "variant; drop table": pa.array([ARMS[number % 2] for number in index]),
            "yes": pa.array((index % 3 == 0).astype(np.int64)),
            "saw": pa.array([bool(number % 5 == 0) for number in index]),
            "y": pa.array(gap + np.where(far, 1e9, 0.0)),
        }
    )
    goal = xb.Metric(name="yes", kind="conversion", role="goal", rope=0.01)
    asked = replace(
        experiment,
        segments=(),
        exposed_at="",
        metrics=(goal, xb.Metric(name="y", kind="mean", role="info")),
        trigger="saw",
    )
    cells = xb.load_cohort(asked, offer(table, "triggered")).cells
    for place, arm in enumerate(ARMS):
        for answer, own in (("true", index % 5 == 0), ("false", index % 5 != 0)):
            chosen = (cells.variant == arm) & (cells.segments[TRIGGER_KEY] == answer)
            values = gap[own & (index % 2 == place)]
            found = cells.metrics["y"].moments(chosen)
            assert int(cells.n[chosen].sum()) == found.n == values.size
            assert found.mean == pytest.approx(1e9 * place + values.mean(), rel=1e-14, abs=1e-12)
            assert found.variance == pytest.approx(values.var(ddof=1), rel=1e-12)


def test_every_source_counts_rows_without_a_value(kind, offer, experiment):
    n, infinite = 900, math.inf if kind != "csv" else 1.0  # which CSV reads as text
    index = np.arange(n)
    values = [None if number % 7 == 0 else infinite if number % 300 == 1 else float(number % 5) for number in index]
    table = pa.table(
        {
            "unit": pa.array([f"u{number // 3}" for number in index]),
            "variant; drop table": pa.array([ARMS[number // 3 % 2] for number in index]),
            "yes": pa.array((index % 2).astype(np.int64)),
            "y": pa.array(values, pa.float64()),
        }
    )
    goal = xb.Metric(name="n", kind="count", column="yes", role="goal", rope=0.01)
    asked = replace(
        experiment,
        segments=(),
        exposed_at="",
        metrics=(goal, xb.Metric(name="y", kind="revenue", role="info")),
        shape="rows",
    )
    cohort = xb.load_cohort(asked, offer(table, "blank_rows"))
    assert int(cohort.cells.broken["blank:y"].sum()) == sum(value is None for value in values)
    column = cohort.cells.metrics["y"]
    assert int(column.n_infinite.sum()) == (0 if kind == "csv" else 2)
    whole = [
        sum(value or 0.0 for value in values[start : start + 3])
        for start in range(0, n, 3)
        if math.inf not in values[start : start + 3]
    ]
    assert cohort.cells.roll_up().metrics["y"].moments().mean == pytest.approx(sum(whole) / len(whole), rel=1e-12)


AUCKLAND = {"2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"}


def test_days_in_a_users_own_postgres_session_are_those_of_the_experiment(postgres, experiment):
    import ibis

    own = ibis.connect(postgres.url)
    own.con.execute("SELECT set_config('TimeZone', 'America/New_York', false)")
    found = xb.load_cohort(replace(experiment, timezone="Pacific/Auckland"), own.table("cohort")).cells
    assert {str(day) for day in found.day} == AUCKLAND
    assert own.con.execute("SELECT current_setting('TimeZone')").fetchone() == ("America/New_York",)
    own.con.close()


def test_days_in_a_spark_session_of_another_zone_are_refused(spark, experiment):
    table = connect(spark, "UTC").table("cohort")
    assert {str(day) for day in xb.load_cohort(experiment, table).cells.day} != AUCKLAND
    with pytest.raises(
        errors.CohortError, match="counted in Pacific/Auckland, and the session of Spark counts them in UTC"
    ):
        xb.load_cohort(replace(experiment, timezone="Pacific/Auckland"), table)


def test_a_server_that_ends_is_said_and_a_new_one_is_connected_to(session_folder, small):
    from tests.contracts.conftest import fill_postgres, postgres_server

    pytest.importorskip("psycopg")
    with postgres_server(session_folder / "ending") as server:
        fill_postgres(server, "cohort", small.table)
        source = Warehouse(server.url, "cohort")
        bound = bind(source, timezone="UTC")
    with pytest.raises(errors.SourceError) as caught:
        ask(bound.engine, bound.table.count())
    assert "4711" not in everything_said(caught.value)
    with pytest.raises(errors.SourceError, match="no connection to postgresql://.*refused") as caught:
        bind(source, timezone="UTC")
    assert "4711" not in everything_said(caught.value)


CLUSTER = """
import json, sys
from expnb.cohorts.engine import ask
from expnb.cohorts.sources import bind
from expnb.cohorts.warehouse import Warehouse, connect
from expnb.spec.experiment import TRIGGER_KEY
url, path = sys.argv[1:]
engine = connect(url + "?spark.executor.memory=512m&spark.ui.enabled=false&spark.sql.shuffle.partitions=2", "UTC")
engine._session.read.parquet(path).createOrReplaceTempView("cohort")
bound = bind(Warehouse(url + "?spark.executor.memory=512m&spark.ui.enabled=false&spark.sql.shuffle.partitions=2", "cohort"), timezone="UTC")
table = bound.table
shifted = table["large"].cast("float64") - 1e9
rows = table.group_by(arm=table["variant; drop table"]).aggregate(n=table.count(), s1=table["größe"].sum(), s2=(shifted * shifted).sum())
executors = engine._session.sparkContext._jsc.sc().statusTracker().getExecutorInfos()
print(json.dumps([ask(engine, rows).to_pylist(), len(executors) - 1, engine._session.sparkContext.master]))
engine._session.stop()
"""


def test_a_spark_cluster_of_two_workers_gives_the_same_sums(spark_cluster, small, tmp_path):
    pq.write_table(small.table, tmp_path / "cohort.parquet", coerce_timestamps="us")
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, spark_cluster, str(tmp_path / "cohort.parquet")],
        env=os.environ | spark_environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows, workers, master = json.loads(done.stdout.strip().splitlines()[-1])
    assert master == spark_cluster
    assert workers >= 1
    for row in rows:
        n, mean, _ = small.reference("größe", row["arm"])
        assert row["s1"] == pytest.approx(n * mean, rel=1e-12)
        assert row["n"] == small.reference("large", row["arm"])[0]
