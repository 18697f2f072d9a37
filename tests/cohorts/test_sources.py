"""What can be bound, and what is said of what cannot."""

import duckdb
import pandas as pd
import polars as pl
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


@pytest.mark.parametrize("slashes", ["//{name}", "///{name}", "///{folder}/{name}", "////{folder}/{name}"])
def test_three_slashes_are_relative_four_absolute_and_two_either(tmp_path, monkeypatch, slashes):
    duckdb.connect(tmp_path / "a.duckdb").execute("CREATE TABLE cohort AS SELECT 1 AS x").close()
    monkeypatch.chdir(tmp_path)
    url = "duckdb:" + slashes.format(name="a.duckdb", folder=str(tmp_path)[1:])
    bound = bind(Warehouse(url, "cohort"), timezone="UTC")
    assert ask(bound.engine, bound.table).to_pylist() == [{"x": 1}]


@pytest.mark.parametrize(
    ("url", "looked"), [("duckdb:///b.duckdb", "{here}/b.duckdb"), ("duckdb:////no/b.duckdb", "/no/b.duckdb")]
)
def test_the_duckdb_file_that_was_looked_for_is_named(tmp_path, monkeypatch, url, looked):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.PathNotFoundError) as caught:
        bind(Warehouse(url, "x"), timezone="UTC")
    assert str(caught.value) == f"no DuckDB file at {looked.format(here=tmp_path)!r}. Check the path."


def test_a_folder_is_no_file_and_the_pattern_of_its_files_is_named(parquet, tmp_path):
    with pytest.raises(
        errors.SourceError, match=r"is a folder, and a cohort is read from files. Write '.*/\*\.parquet'\."
    ):
        bind(str(tmp_path), timezone="UTC")
    (tmp_path / "days" / "one").mkdir(parents=True)
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "days" / "one" / "a.csv")
    with pytest.raises(errors.SourceError, match=r"Write '.*/days/\*/\*\.csv'\."):
        bind(tmp_path / "days", timezone="UTC")


def test_a_pattern_matches_one_kind_of_files(parquet, tmp_path):
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "part_3.csv")
    with pytest.raises(errors.SourceError, match=r"matches 2 kinds of files, \.csv and \.parquet"):
        bind(tmp_path / "part_*", timezone="UTC")


@pytest.mark.parametrize(
    ("path", "said"), [("no.parquet", "; it is taken relative to the working directory."), ("/no/no.parquet", ".")]
)
def test_a_path_that_is_missing_says_what_it_is_relative_to(path, said):
    with pytest.raises(errors.PathNotFoundError) as caught:
        bind(path, timezone="UTC")
    assert str(caught.value) == f"no cohort file at {path!r}. Check the path{said}"


def written(folder, *texts):
    for number, text in enumerate(texts):
        (folder / f"{number}.csv").write_text(text, encoding="latin-1")
    return str(folder / "*.csv")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a,b\n1,2\n", "a\n3\n"], "1.csv' has no column 'b', and .*0.csv' has one"),
        (["a,b\n" + "1,2\n" * 30_000 + "1,2,3\n"], "line 30002 of .* has more or fewer values than the file has columns"),
        (["a,b\n1,x\n1,\xe4\n"], "0.csv' is not written in UTF-8"),
        (["a,b\n" + "1,2\n" * 30_000 + "1,no\n"], "column 'b' holds 'no' in line 30002 of .*, and the lines .* hold BIGINT"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_without_the_words_of_the_engine(tmp_path, texts, said):
    def read():
        bound = bind(written(tmp_path, *texts), timezone="UTC")
        ask(bound.engine, bound.table.aggregate(bound.table["b"].max()))

    with pytest.raises(errors.SourceError, match=said) as caught:
        read()
    assert "Error" not in str(caught.value)
    assert caught.value.__cause__ is None  # which would show a row


def test_files_of_unlike_types_and_texts_that_are_no_numbers_are_named(tmp_path):
    for number, values in enumerate(([1, 2], ["yes", "no"])):
        pd.DataFrame({"x": values}).to_parquet(tmp_path / f"{number}.parquet")
    bound = bind(tmp_path / "*.parquet", timezone="UTC")
    with pytest.raises(
        errors.ColumnValueError, match=r"column 'x' holds 'yes' \(VARCHAR\) in .*, and BIGINT in the first"
    ):
        ask(bound.engine, bound.table.x.max())
    texts = bind(pd.DataFrame({"x": ["y" * 99]}), timezone="UTC")
    with pytest.raises(errors.ColumnValueError, match=r"column 'x' holds 'y{40}…', which is no DOUBLE. Write TRY_CAST"):
        ask(texts.engine, texts.table.x.cast("float64").max())


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (
            pd.DataFrame({"x": [1, 2, "yes"]}),
            r"column 'x' holds 'yes' \(str\) among values of type int. Give the column one",
        ),
        (pd.DataFrame({"x": [2**70]}), "column 'x' holds values of type int that no column can hold"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "the frame has more than one column 'x'"),
        (pl.DataFrame({"x": [object()]}), "column 'x' holds Python objects"),
    ],
)
def test_a_column_without_a_type_of_its_own_is_named(frame, said):
    with pytest.raises(errors.SourceError, match=said):
        bind(frame, timezone="UTC")


def test_a_variable_that_holds_no_url_is_not_offered_as_its_own_remedy(monkeypatch):
    monkeypatch.setenv("EXPNB_TEST_URL", "x")
    with pytest.raises(errors.SourceError) as caught:
        bind(Warehouse("EXPNB_TEST_URL", "x"), timezone="UTC")
    assert "'EXPNB_TEST_URL' holds no URL (there is no :// in it)" in str(caught.value)
    assert "Did you mean" not in str(caught.value)


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
