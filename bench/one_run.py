"""One measurement in a process of its own: `python -m bench.one_run KIND FOLDER SMALL_FOLDER RESULT [CACHE]`.

The work is done once on the small folder first, so that imports are not measured. Prints CPU seconds, wall seconds and the peak memory of the whole process;
writes the numbers to RESULT, so that the caller can compare them.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from expnb.spec.experiment import Experiment
    from expnb.stats.cells import Cells

Numbers = dict[str, np.ndarray]
EXPERIMENT = """
schema = 1
[experiment]
name = "{name}"
hypothesis = "The treatments raise revenue."
owner = "bench"
flag = "bench"
unit = "{unit}"
variant = "variant"
control = "control"
weights = {{ control = 1, treat_a = 1, treat_b = 1 }}
{more}

[[metrics]]
name = "converted"
kind = "conversion"
role = "goal"
rope = 0.005

[[metrics]]
name = "revenue"
kind = "{revenue}"
covariate = "pre_revenue"

[[metrics]]
name = "sessions"
kind = "mean"

[[metrics]]
name = "revenue_per_session"
kind = "ratio"
numerator = "revenue"
denominator = "sessions"

[policy]
min_days = 0
"""
BY_CELL = 'exposed_at = "exposure_ts"\nsegments = ["segment"]'


@cache
def experiment(
    name: str = "bench", *, unit: str = "user_id", more: str = BY_CELL, revenue: str = "revenue"
) -> Experiment:
    """The experiment of the benchmark; read once, so that reading it is not measured."""
    import expnb as xb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.toml"
        path.write_text(EXPERIMENT.format(name=name, unit=unit, more=more, revenue=revenue))
        return xb.read_experiment(path)


def ours(folder: Path, kept: Path | None = None) -> Numbers:
    """Cells with everything that `load_cohort` does."""
    import expnb as xb

    cohort = xb.load_cohort(experiment(), str(folder / "*.parquet"), **({"cache": kept} if kept else {}))
    return numbers_of(cohort.cells)


def ours_by_variant(folder: Path) -> Numbers:
    """Moments, ranges and counts of values per variant alone, without logarithms, days, segments and a look at units."""
    import expnb as xb

    cohort = xb.load_cohort(experiment(unit="row", more="", revenue="mean"), str(folder / "*.parquet"))
    return numbers_of(cohort.cells)


def ours_of_20(folder: Path) -> Numbers:
    """Cells of 20 experiments on one table."""
    import expnb as xb
    from bench.cohort_data import EXPERIMENTS

    more = f'{BY_CELL}\nexperiment_column = "experiment"'
    cohorts = xb.load_cohorts([experiment(name, more=more) for name in EXPERIMENTS], str(folder / "*.parquet"))
    units = [float(cohorts[name].cells.units) for name in EXPERIMENTS]
    return {"n": np.array(units)}


def hand_written(folder: Path) -> Numbers:
    """The same cells from hand-written SQL."""
    from bench import hand_written as by_hand

    global _connection  # noqa: PLW0603 - one connection per process, as ours has
    _connection = _connection or by_hand.connect()
    return by_hand.cells(_connection, str(folder / "*.parquet"))


_connection = None


def tea_tasting(folder: Path) -> Numbers:
    """The statistics of `ours_by_variant` with tea-tasting on Ibis and DuckDB, and one more statement for those that it does not give: counts of values, and ranges."""
    table = _rows(folder)
    names = ("converted", "revenue", "sessions")
    more = {f"ok_{name}": table[name].count() for name in (*names, "pre_revenue")}
    more |= {f"low_{name}": table[name].min() for name in names} | {f"high_{name}": table[name].max() for name in names}
    found = table.group_by("variant").aggregate(**more).order_by("variant").to_pyarrow().to_pydict()
    ranges = {
        f"{name}.{part}": np.array(found[f"{part}_{name}"], dtype=float)
        for name in names
        for part in ("ok", "low", "high")
    }
    return _by_variant(table) | ranges


def tea_tasting_alone(folder: Path) -> Numbers:
    """Counts of rows, means, variances and covariances per variant from tea-tasting on Ibis and DuckDB, nothing else."""
    return _by_variant(_rows(folder))


def _rows(folder: Path) -> ir.Table:
    import ibis

    return ibis.duckdb.connect().read_parquet(str(folder / "*.parquet"))


def _by_variant(table: ir.Table) -> Numbers:
    from tea_tasting.aggr import read_aggregates

    columns = ["converted", "revenue", "sessions", "pre_revenue"]
    found = read_aggregates(
        table,
        "variant",
        has_count=True,
        mean_cols=columns,
        var_cols=columns,
        cov_cols=[("revenue", "pre_revenue"), ("revenue", "sessions")],
    )
    arms = [found[name] for name in sorted(found)]
    n = np.array([arm.count() for arm in arms], dtype=float)
    numbers = {"n": n}
    for name, own in (("converted",) * 2, ("revenue",) * 2, ("sessions",) * 2, ("revenue.covariate", "pre_revenue")):
        dot = "_" if "." in name else "."
        numbers[f"{name}{dot}mean"] = np.array([arm.mean(own) for arm in arms])
        numbers[f"{name}{dot}squares"] = np.array([arm.var(own) for arm in arms]) * (n - 1)
    for name, other in (
        ("revenue.covariate_cross", "pre_revenue"),
        ("revenue_per_session.denominator_cross", "sessions"),
    ):
        numbers[name] = np.array([arm.cov("revenue", other) for arm in arms]) * (n - 1)
    return numbers


def pandas(folder: Path) -> Numbers:
    """The same cells from pandas: read what is needed, sums by group."""
    import pandas as pd

    names = ["variant", "segment", "exposure_ts", "converted", "revenue", "sessions", "pre_revenue"]
    frame = pd.read_parquet(folder, columns=names)
    frame["day"] = frame.pop("exposure_ts").dt.floor("D")
    revenue, earlier, sessions = (frame[name].astype("float64") for name in ("revenue", "pre_revenue", "sessions"))
    y, x, z = revenue - revenue.head(1000).mean(), earlier - earlier.head(1000).mean(), sessions - 2.0
    log = np.log(revenue.where(revenue > 0))
    frame = frame.assign(y1=y, y2=y * y, x1=x, x2=x * x, xy=x * y, z1=z, z2=z * z, yz=y * z, log_1=log, log_2=log * log)
    groups = frame.groupby(["variant", "segment", "day"], observed=True)
    sums = groups[["converted", "y1", "y2", "x1", "x2", "xy", "z1", "z2", "yz", "log_1", "log_2"]].sum()
    values = groups[["converted", "revenue", "sessions", "pre_revenue"]]
    low, high, there, logs = values.min(), values.max(), values.count(), groups["log_1"].count()
    n = groups.size().to_numpy().astype(float)
    moments = {name: sums[name].to_numpy().astype(float) for name in sums}
    assert (there.to_numpy() == n[:, None]).all()  # noqa: S101 - a benchmark
    return {
        "n": n,
        "converted.mean": moments["converted"] / n,
        "revenue.squares": moments["y2"] - moments["y1"] ** 2 / n,
        "revenue.low": low["revenue"].to_numpy(),
        "revenue.high": high["revenue"].to_numpy(),
        "revenue.log_n": logs.to_numpy().astype(float),
        "revenue.log_1": moments["log_1"],
        "revenue.log_2": moments["log_2"],
        "revenue.covariate_squares": moments["x2"] - moments["x1"] ** 2 / n,
        "revenue.covariate_cross": moments["xy"] - moments["x1"] * moments["y1"] / n,
        "sessions.squares": moments["z2"] - moments["z1"] ** 2 / n,
        "revenue_per_session.denominator_cross": moments["yz"] - moments["y1"] * moments["z1"] / n,
    }


def numbers_of(cells: Cells) -> Numbers:
    """Statistics that do not depend on shifts, in the order of the keys."""
    order = np.lexsort((cells.day, *(cells.segments[name] for name in cells.segments), cells.variant))
    numbers = {"n": cells.n}
    for name, own in cells.metrics.items():
        n = own.n_ok
        numbers |= {
            f"{name}.ok": n,
            f"{name}.null": own.n_null,
            f"{name}.nan": own.n_nan,
            f"{name}.infinite": own.n_infinite,
            f"{name}.mean": own.shift + own.s1 / n,
            f"{name}.squares": own.s2 - own.s1**2 / n,
            f"{name}.low": own.low,
            f"{name}.high": own.high,
        }
        if own.logs:
            numbers |= {f"{name}.log_n": own.logs.n, f"{name}.log_1": own.logs.s1, f"{name}.log_2": own.logs.s2}
        for part in ("covariate", "denominator"):
            second = getattr(own, part)
            if second is not None:
                numbers |= {
                    f"{name}.{part}_missing": second.n_missing,
                    f"{name}.{part}_mean": second.shift + second.s1 / n,
                    f"{name}.{part}_squares": second.s2 - second.s1**2 / n,
                    f"{name}.{part}_cross": second.cross - second.s1 * own.s1 / n,
                }
    return {name: np.asarray(values, dtype=float)[order] for name, values in numbers.items()}


KINDS: dict[str, Callable[..., Numbers]] = {
    one.__name__: one
    for one in (ours, ours_by_variant, ours_of_20, hand_written, tea_tasting, tea_tasting_alone, pandas)
}


def main(kind: str, folder: str, small: str, result: str, *kept: str) -> None:
    """Warm up, measure, print."""
    KINDS[kind](Path(small))
    before, begin = cpu_seconds(), time.perf_counter()
    numbers = KINDS[kind](Path(folder), *map(Path, kept))
    wall, cpu = time.perf_counter() - begin, cpu_seconds() - before
    np.savez(result, **numbers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu, "wall": wall, "peak_mb": peak}))


def cpu_seconds() -> float:
    """Processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
