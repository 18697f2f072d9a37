"""What every source promises: the same rows give the same numbers, and the same mistakes the same sentence."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bad_input import BAD_COHORTS
from tests.contracts.conftest import PASSWORD, spark_environment

import expnb as xb
from expnb import errors
from expnb.cohorts.engine import ask
from expnb.cohorts.sources import Cost, Source, bind, estimate, is_partitioned
from expnb.cohorts.warehouse import Warehouse

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


def test_days_are_counted_in_the_zone_of_the_experiment(kind, source, experiment):
    if kind == "ibis table":
        pytest.skip("the session belongs to the caller, and so does its zone")
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


def test_a_table_with_too_many_rows_is_refused_before_it_is_read(postgres, spark):
    assert estimate(bind(Warehouse(postgres.url, "cohort"), timezone="UTC")) == 400
    for url in (postgres.url, spark):
        with pytest.raises(errors.TooManyRowsError, match="about 400 rows; .* max_rows is 399"):
            bind(Warehouse(url, "cohort"), timezone="UTC", cost=Cost(max_rows=399))


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
