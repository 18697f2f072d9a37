"""One small cohort in every place that rows can lie in; servers are real, on loopback, and end with the session."""

import datetime as dt
import math
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tests.servers import ended, free_port, install, postgres_server, untested, wait_for_port, wait_for_words

ROWS = 400
SOURCES = [
    "pandas",
    "polars",
    "polars lazy",
    "arrow",
    "parquet",
    "parquet glob",
    "csv",
    "duckdb relation",
    "duckdb file",
    "ibis table",
    "postgres",
    "postgres sql",
    "spark",
]


@dataclass(frozen=True)
class Small:
    """The cohort, and what is true of it."""

    table: pa.Table

    def reference(self, column: str, arm: str) -> tuple[int, float, float]:
        """Count, mean and variance of a column in an arm, summed without rounding."""
        rows = zip(self.table["variant; drop table"].to_pylist(), self.table[column].to_pylist(), strict=True)
        values = [float(value) for name, value in rows if name == arm and value is not None]
        mean = math.fsum(values) / len(values)
        return len(values), mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def make_table() -> pa.Table:
    rng = np.random.default_rng(20)
    index = np.arange(ROWS)
    start = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    return pa.table(
        {
            "unit": pa.array([f"u{number}-é" for number in index]),
            "variant; drop table": pa.array(["control", 'it\'s "new"'][number % 2] for number in index),
            "select": pa.array(["DE", "größer", "it's", None][number % 4] for number in index),
            "exposed at": pa.array(
                [start + dt.timedelta(hours=int(number % 72)) for number in index], pa.timestamp("us", "UTC")
            ),
            "day": pa.array([(start + dt.timedelta(hours=int(number % 72))).date() for number in index]),
            "größe": pa.array(
                [None if number % 10 == 3 else float(x) for number, x in enumerate(rng.normal(-5, 40, ROWS))]
            ),
            "large": pa.array(1e9 + (index % 3 - 1.0)),
            "order": pa.array(np.full(ROWS, 100), pa.int8()),
            "bool": pa.array([bool(number % 3 == 0) for number in index]),
        }
    )


@pytest.fixture(scope="session")
def small():
    return Small(make_table())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """One loud line for all tests that had no server: pytest folds skips that have one place."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and "NOT TESTED" in report.longrepr[2]:
        report.longrepr = (__file__, 1, report.longrepr[2])
    return report


@pytest.fixture(scope="session")
def session_folder():
    """A folder that other users may enter, which pytest's own is not."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="expnb-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def postgres(session_folder, small):
    """A server that holds the cohort, and a partitioned table of it."""
    pytest.importorskip("psycopg")
    with postgres_server(session_folder / "postgres") as server:
        fill_postgres(server, "cohort", small.table)
        with connected(server) as con:
            con.execute("CREATE TABLE parted (day date, x int) PARTITION BY RANGE (day)")
            con.execute("CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
            con.execute("INSERT INTO parted SELECT date '2026-03-01' + g % 30, g FROM generate_series(1, 1000) g")
            con.execute("ANALYZE")
        yield server


@contextmanager
def connected(server):
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as con:
        yield con


TYPES = {
    "string": "text",
    "large_string": "text",
    "double": "float8",
    "int8": "smallint",
    "int64": "bigint",
    "bool": "boolean",
    "date32[day]": "date",
    "timestamp[us, tz=UTC]": "timestamptz",
}


def fill_postgres(server, name: str, table: pa.Table) -> None:
    quoted = ['"' + column.replace('"', '""') + '"' for column in table.column_names]
    columns = ", ".join(f"{column} {TYPES[str(kind)]}" for column, kind in zip(quoted, table.schema.types, strict=True))
    with connected(server) as con:
        con.execute(f'DROP TABLE IF EXISTS "{name}"')
        con.execute(f'CREATE TABLE "{name}" ({columns})')
        with con.cursor() as cursor, cursor.copy(f'COPY "{name}" FROM STDIN') as copy:
            for row in zip(*(table[column].to_pylist() for column in table.column_names), strict=True):
                copy.write_row(row)


# --- Spark -----------------------------------------------------------------------------------


def need_java() -> None:
    if not shutil.which("java"):
        install("default-jre-headless")
    if not shutil.which("java"):
        untested("cohorts in Spark", "no java here. Install default-jre-headless.")


def spark_environment() -> dict[str, str]:
    import pyspark

    return {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_NO_DAEMONIZE": "1",
    }


@pytest.fixture(scope="session")
def spark(session_folder, small):
    """URL of Spark in this process, which has the cohort as a table."""
    pytest.importorskip("pyspark")
    need_java()
    os.environ.update(spark_environment())
    from expnb.cohorts.warehouse import connect

    folder = session_folder / "spark"
    folder.mkdir()
    url = f"spark-local://2?spark.sql.warehouse.dir={folder}&spark.ui.enabled=false&spark.driver.memory=1g&spark.sql.shuffle.partitions=2"
    engine = connect(url, "UTC")
    pq.write_table(small.table, folder / "cohort.parquet", coerce_timestamps="us")
    engine._session.catalog.createTable("cohort", path=str(folder / "cohort.parquet"), source="parquet")
    engine._session.sql("CREATE TABLE parted (x INT, day DATE) USING parquet PARTITIONED BY (day)")
    yield url
    engine._session.stop()


@pytest.fixture(scope="session")
def spark_cluster(session_folder):
    """URL of a master with two workers, each a process of its own."""
    pytest.importorskip("pyspark")
    need_java()
    environment = os.environ | spark_environment() | {"SPARK_DAEMON_MEMORY": "256m", "SPARK_WORKER_MEMORY": "1g"}
    run = Path(environment["SPARK_HOME"], "bin", "spark-class")
    folder, port = session_folder / "cluster", free_port()
    folder.mkdir()
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen:
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen([run, *arguments], env=environment, stdout=log, stderr=log, cwd=folder)
            stack.callback(ended, process)
            return process

        place = "org.apache.spark.deploy"
        master = start(
            "master",
            f"{place}.master.Master",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--webui-port",
            str(free_port()),
        )
        wait_for_port(port, master, folder / "master.log")
        for number in (1, 2):
            start(
                f"worker{number}", f"{place}.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", str(free_port()), "-d", str(folder / f"w{number}"), f"spark://127.0.0.1:{port}",
            )  # fmt: skip
        wait_for_words(folder / "master.log", "Registering worker", times=2)
        yield f"spark://127.0.0.1:{port}"


# --- the same rows everywhere ----------------------------------------------------------------


@pytest.fixture(params=SOURCES)
def kind(request):
    """A place that rows can lie in."""
    return request.param


@pytest.fixture
def offer(request, kind, tmp_path):
    """A function that puts a table into that place and returns the source."""
    return lambda table, name="cohort": put(request, kind, table, name, tmp_path)


@pytest.fixture
def source(offer, small):
    """The small cohort, in every place."""
    return offer(small.table)


def put(request, kind: str, table: pa.Table, name: str, folder: Path) -> object:
    import duckdb
    import ibis
    import polars as pl

    from expnb.cohorts.warehouse import Warehouse, connect

    if kind.startswith("postgres"):
        server = request.getfixturevalue("postgres")
        if name != "cohort":
            fill_postgres(server, name, table)
        return (
            Warehouse(server.url, name)
            if kind == "postgres"
            else Warehouse(server.url, sql=f'SELECT * FROM "{name}"; ')  # noqa: S608 - a name of ours
        )
    if kind == "spark":
        url = request.getfixturevalue("spark")
        if name != "cohort":
            pq.write_table(table, folder / "rows.parquet", coerce_timestamps="us")
            session = connect(url, "UTC")._session
            session.sql(f"DROP TABLE IF EXISTS {name}")
            session.catalog.createTable(name, path=str(folder / "rows.parquet"), source="parquet")
        return Warehouse(url, name)
    if kind.startswith("parquet"):
        half = len(table) // 2
        pq.write_table(table.slice(0, half), folder / "cohort_1.parquet")
        pq.write_table(table.slice(half), folder / "cohort_2.parquet")
        if kind == "parquet glob":
            return folder / "cohort_*.parquet"
        pq.write_table(table, folder / "cohort.parquet")
        return str(folder / "cohort.parquet")
    if kind == "csv":
        pyarrow.csv.write_csv(table, folder / "cohort.csv")
        return folder / "cohort.csv"
    if kind == "duckdb file":
        path = folder / "rows.duckdb"
        with duckdb.connect(path) as con:
            con.register("offered", table)
            con.execute(f'CREATE TABLE "{name}" AS SELECT * FROM offered')  # noqa: S608 - a name of ours
        return Warehouse(f"duckdb://{path}", name)
    if kind == "ibis table":
        return ibis.duckdb.connect().create_table(name, table)
    return {
        "pandas": lambda: table.to_pandas(),
        "polars": lambda: pl.from_arrow(table),
        "polars lazy": lambda: pl.from_arrow(table).lazy(),
        "arrow": lambda: table,
        "duckdb relation": lambda: duckdb.connect().from_arrow(table),
    }[kind]()


@pytest.fixture
def interrupt():
    """A context in which the kernel's stop button is pressed after some seconds."""
    import _thread
    import threading

    @contextmanager
    def pressed(seconds: float):
        timer = threading.Timer(seconds, _thread.interrupt_main)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    return pressed
