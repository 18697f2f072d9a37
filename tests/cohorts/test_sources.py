"""What can be bound, and what is said of what cannot."""

import duckdb
import pandas as pd
import pytest

from expnb import errors
from expnb.cohorts.engine import ask
from expnb.cohorts.sources import bind, duckdb_engine, estimate, is_partitioned
from expnb.cohorts.warehouse import Warehouse, public
from expnb.spec.experiment import Cost


@pytest.fixture
def parquet(tmp_path):
    for number in (1, 2):
        pd.DataFrame({"x": range(10)}).to_parquet(tmp_path / f"part_{number}.parquet")
    return tmp_path / "part_*.parquet"


def everything_said(error):
    said = ""
    while error is not None:
        said += f"{error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__
    return said


def test_a_glob_names_its_files_and_knows_its_rows_without_reading(parquet, tmp_path):
    bound = bind(parquet, timezone="UTC")
    assert bound.files == (str(tmp_path / "part_1.parquet"), str(tmp_path / "part_2.parquet"))
    assert estimate(bound) == 20
    assert not is_partitioned(bound)


def test_too_many_rows_are_refused(parquet):
    with pytest.raises(errors.TooManyRowsError, match="about 20 rows; .* max_rows is 19"):
        bind(parquet, timezone="UTC", cost=Cost(max_rows=19))


def test_rows_are_counted_where_nothing_is_known(tmp_path):
    with pytest.raises(errors.TooManyRowsError):
        bind(pd.DataFrame({"x": range(10)}), timezone="UTC", cost=Cost(max_rows=9))


def test_a_large_source_is_announced(parquet, monkeypatch, capsys):
    monkeypatch.setattr("expnb.cohorts.sources.LARGE_ROWS", 10)
    bind(parquet, timezone="UTC")
    assert "has about 20 rows" in capsys.readouterr().err


def test_an_ibis_table_in_memory_has_our_engine():
    import ibis

    bound = bind(ibis.memtable({"x": [1, 2]}), timezone="UTC")
    assert bound.engine is duckdb_engine("UTC")
    assert ask(bound.engine, bound.table.count()).as_py() == 2


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
def test_a_duckdb_file_is_opened_to_read(tmp_path, timezone):
    path = tmp_path / "a.duckdb"
    with duckdb.connect(path) as con:
        con.execute("CREATE TABLE cohort AS SELECT 1 AS x")
    bound = bind(Warehouse(f"duckdb://{path}", "cohort"), timezone=timezone)
    assert ask(bound.engine, bound.table).to_pylist() == [{"x": 1}]
    assert bound.name == "DuckDB table cohort"


def test_a_duckdb_file_that_is_missing_names_the_nearest(tmp_path):
    duckdb.connect(tmp_path / "cohort.duckdb").close()
    with pytest.raises(errors.PathNotFoundError, match="Did you mean 'cohort.duckdb'"):
        bind(Warehouse(f"duckdb://{tmp_path}/cohrot.duckdb", "x"), timezone="UTC")


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        ("EXPNB_NO_SUCH_VARIABLE", "environment variable 'EXPNB_NO_SUCH_VARIABLE' is not set"),
        ("postgresql:/me:geheim@host/db", "neither a URL nor the name of an environment variable"),
        ("postgresql://me:geheim@host:port/db", "host or port cannot be read"),
        ("postgers://me:geheim@host/db", "known are .* Did you mean 'postgres'"),
        ("bigquery://me:geheim@project/set", r"not installed. Install it: pip install 'ibis-framework\[bigquery\]'"),
        ("postgresql://me:geheim@127.0.0.1:1/db", r"no connection to postgresql://\*\*\*@127.0.0.1:1/db"),
    ],
)
def test_a_bad_connection_is_said_without_its_password(connection, said):
    source = Warehouse(connection, "cohort")
    with pytest.raises(errors.SourceError, match=said) as caught:
        bind(source, timezone="UTC")
    assert "geheim" not in everything_said(caught.value) + repr(source) + str(source) + public(connection)


@pytest.mark.parametrize("both", [{}, {"table": "a", "sql": "SELECT 1"}])
def test_a_warehouse_has_a_table_or_a_query(both):
    with pytest.raises(errors.SourceError, match="table or sql, one of the two"):
        bind(Warehouse("X", **both), timezone="UTC")
