"""The yardstick: the fastest SQL we know for the cells of the benchmark, as a careful person would write it for DuckDB alone.

It takes values as complete and proves it afterwards: a count per column that equals the rows says that nothing is NULL, so that a ratio and a covariate need no mask of their own;
a finite sum of squares says that nothing is NaN or infinite; the range of a whole number says that it is 0 or 1. Only then the numbers count. Sums are made once per column, not per metric.
Imports DuckDB and NumPy alone, so that it runs on any version of DuckDB.
"""

from __future__ import annotations

import duckdb
import numpy as np

SETTINGS = "SET TimeZone = 'UTC'; SET disabled_optimizers = 'statistics_propagation,filter_pushdown'"
SAMPLE_ONE_IN = 256
PILOT = "SELECT revenue, sessions, pre_revenue FROM read_parquet('{path}') LIMIT 1000"
CELLS = """
SELECT variant, segment, day, count(*) AS n,
  count(converted) AS converted_n, sum(converted) AS converted_1, min(converted) AS converted_low, max(converted) AS converted_high,
  count(revenue) AS revenue_n, sum(y) AS y1, sum(y * y) AS y2, min(revenue) AS revenue_low, max(revenue) AS revenue_high,
  count(log) AS log_n, sum(log) AS log_1, sum(log * log) AS log_2,
  count(pre_revenue) AS pre_n, sum(x) AS x1, sum(x * x) AS x2, sum(x * y) AS xy,
  count(sessions) AS sessions_n, sum(z) AS z1, sum(z * z) AS z2, min(sessions) AS sessions_low, max(sessions) AS sessions_high, sum(y * z) AS yz
FROM (
  SELECT variant, coalesce(segment, '(none)') AS segment, CAST(exposure_ts AS DATE) AS day, converted, revenue, sessions, pre_revenue,
    revenue - CAST({revenue} AS DOUBLE) AS y, pre_revenue - CAST({pre_revenue} AS DOUBLE) AS x, CAST(sessions AS DOUBLE) - CAST({sessions} AS DOUBLE) AS z,
    CASE WHEN revenue > 0 THEN ln(revenue) END AS log
  FROM read_parquet('{path}')
)
GROUP BY variant, segment, day
"""
SAMPLE = "SELECT variant, hash(user_id) AS unit FROM read_parquet('{path}') WHERE hash(user_id) % {one_in} = 0"

Numbers = dict[str, np.ndarray]


class DirtyDataError(Exception):
    """The short statement does not apply; a longer one with masks would be needed."""


def connect() -> duckdb.DuckDBPyConnection:
    """A connection with the settings of ours, under which NaN is counted rightly."""
    connection = duckdb.connect()
    connection.execute(SETTINGS)
    return connection


def cells(connection: duckdb.DuckDBPyConnection, path: str) -> Numbers:
    """Every statistic of the benchmark per variant x segment x day, in the order of the keys.

    Raises
    ------
    DirtyDataError
        If a value is missing or no number, or a unit occurs twice.
    """
    pilot = connection.execute(PILOT.format(path=path)).fetchnumpy()
    shifts = {name: _near(values) for name, values in pilot.items()}
    rows = {
        name: np.ma.filled(column, 0)  # no logarithm in a cell without revenue
        for name, column in connection.execute(CELLS.format(path=path, **shifts)).fetchnumpy().items()
    }
    _prove_complete(rows)
    sample = connection.execute(SAMPLE.format(path=path, one_in=SAMPLE_ONE_IN)).fetchnumpy()
    if np.unique(sample["unit"]).size < sample["unit"].size:
        raise DirtyDataError("a unit occurs twice")
    order = np.lexsort((rows["day"], rows["segment"].astype(str), rows["variant"].astype(str)))
    return _numbers({name: column[order] for name, column in rows.items()}, shifts)


def _near(values: np.ndarray) -> float:
    """A short number near the mean."""
    values = np.ma.compressed(np.ma.asarray(values, dtype=float))
    return float(f"{values[np.isfinite(values)].mean():.3g}")


def _prove_complete(rows: Numbers) -> None:
    for name in ("converted", "revenue", "pre", "sessions"):
        if (rows[f"{name}_n"] != rows["n"]).any():
            raise DirtyDataError(f"{name} is sometimes missing")
    if not all(np.isfinite(rows[name]).all() for name in ("y2", "x2")):
        raise DirtyDataError("NaN or infinite values")
    if rows["converted_low"].min() < 0 or rows["converted_high"].max() > 1:
        raise DirtyDataError("converted is not 0 or 1")


def _numbers(rows: Numbers, shifts: dict[str, float]) -> Numbers:
    n, none = rows["n"].astype(float), np.zeros(rows["n"].size)
    hits = rows["converted_1"].astype(float)
    numbers = {"n": n}

    def add(metric: str, **parts: np.ndarray) -> None:
        numbers.update({f"{metric}.{name}": np.asarray(values, dtype=float) for name, values in parts.items()})

    missing = {"ok": n, "null": none, "nan": none, "infinite": none}
    add(
        "converted",
        **missing,
        mean=hits / n,
        squares=hits - hits**2 / n,
        low=rows["converted_low"],
        high=rows["converted_high"],
    )
    revenue = {
        **missing,
        "mean": shifts["revenue"] + rows["y1"] / n,
        "squares": rows["y2"] - rows["y1"] ** 2 / n,
        "low": rows["revenue_low"],
        "high": rows["revenue_high"],
    }
    add("revenue", **revenue, log_n=rows["log_n"], log_1=rows["log_1"], log_2=rows["log_2"])
    add(
        "revenue",
        covariate_missing=none,
        covariate_mean=shifts["pre_revenue"] + rows["x1"] / n,
        covariate_squares=rows["x2"] - rows["x1"] ** 2 / n,
        covariate_cross=rows["xy"] - rows["x1"] * rows["y1"] / n,
    )
    mean, squares = shifts["sessions"] + rows["z1"] / n, rows["z2"] - rows["z1"] ** 2 / n
    add("sessions", **missing, mean=mean, squares=squares, low=rows["sessions_low"], high=rows["sessions_high"])
    add("revenue_per_session", **revenue, denominator_missing=none, denominator_mean=mean, denominator_squares=squares)
    add("revenue_per_session", denominator_cross=rows["yz"] - rows["y1"] * rows["z1"] / n)
    return numbers
