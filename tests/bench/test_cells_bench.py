"""The yardstick of the benchmark measures the same thing: hand-written SQL, pandas, tea-tasting and expnb give the same numbers."""

import numpy as np
import pytest
from bench.cells import compare
from bench.cohort_data import DAYS, EXPERIMENTS, write_cohort
from bench.hand_written import DirtyDataError, cells, connect
from bench.one_run import hand_written, ours, ours_by_variant, ours_of_20, pandas, tea_tasting

ROWS = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), ROWS)


def test_hand_written_sql_gives_the_cells_of_expnb(folder):
    found, reference = ours(folder), hand_written(folder)
    assert set(found) == set(reference)
    assert compare(found, reference) == len(reference)
    assert found["n"].size == 3 * 8 * DAYS


def test_pandas_gives_the_cells_of_expnb(folder):
    assert compare(pandas(folder), ours(folder)) == 12


def test_tea_tasting_gives_the_moments_of_expnb(folder):
    pytest.importorskip("tea_tasting")
    assert compare(tea_tasting(folder), ours_by_variant(folder)) == 20


def test_twenty_experiments_share_all_rows(folder):
    units = ours_of_20(folder)["n"]
    assert units.size == len(EXPERIMENTS)
    assert units.sum() == ROWS


def test_a_comparison_of_other_numbers_is_refused():
    with pytest.raises(ValueError, match="differs"):
        compare({"n": np.array([1.0, 2.0])}, {"n": np.array([1.0, 2.1])})


def test_hand_written_sql_refuses_data_that_it_cannot_take_as_complete(folder, tmp_path):
    connection = connect()
    for number, column in enumerate(("NULL", "'nan'::DOUBLE", "'inf'::DOUBLE")):
        path = tmp_path / f"{number}.parquet"
        connection.execute(
            f"COPY (SELECT * REPLACE (CASE WHEN user_id = 7 THEN {column} ELSE revenue END AS revenue) FROM '{folder}/*.parquet') TO '{path}'"  # noqa: S608 - a test's own words
        )
        with pytest.raises(DirtyDataError):
            cells(connection, str(path))


def test_the_same_rows_come_out_of_every_run(folder, tmp_path):
    again = write_cohort(tmp_path, ROWS)
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
