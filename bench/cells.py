"""Cells of 1, 10 and 100 million rows: what `load_cohort` costs against hand-written SQL, tea-tasting and pandas.

The processor is measured, not the clock, where others may use the machine; every comparison alternates fresh processes, and compares the numbers of both as well.
EXPNB_BENCH_ROWS sets the largest size (default 100 million, which takes half an hour; a million is a quick run whose figures are printed and not kept).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.cohort_data import DAYS, write_cohort
from bench.figure import Figure

LARGEST = 100_000_000
SMALL = 20_000
TOLERANCE = 1e-9
ROOT = Path(__file__).parents[1]
DUCKDB_2 = "2.0.0"


@dataclass(frozen=True, slots=True)
class Run:
    """What one process needed."""

    cpu: float  # seconds, all threads
    wall: float  # seconds
    peak_mb: float  # of the whole process, imports included


def figures() -> Iterator[Figure]:
    """The figures of the second part."""
    largest = int(float(os.environ.get("EXPNB_BENCH_ROWS", LARGEST)))
    with tempfile.TemporaryDirectory(prefix="expnb-bench-") as name:
        folder = Path(name)
        bench = Bench(folder, write_cohort(folder / "small", SMALL))
        sizes = [rows for rows in (1_000_000, 10_000_000, LARGEST) if rows <= largest] or [largest]
        for rows in sizes:
            write_cohort(bench.data(rows), rows)
        yield from duckdb_figures(bench, sizes)
        middle = sizes[min(1, len(sizes) - 1)]
        yield from other_tools_figures(bench, middle)
        for rows in sizes[1:] or sizes:
            yield from many_experiments_figures(bench, rows, largest=sizes[-1])
        yield from cache_figures(bench, sizes[-1])
        yield from newer_duckdb_figures(bench, middle)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things lie."""

    folder: Path
    small: Path

    def data(self, rows: int) -> Path:
        """The folder of a cohort."""
        return self.folder / f"rows-{rows}"

    def run(
        self, kind: str, data: Path, *, cache: Path | None = None, python: str = sys.executable, same: bool = True
    ) -> Run:
        """One measurement in a fresh process.

        Parameters
        ----------
        same : bool
            Whether its numbers have to agree with those of earlier kinds on the same data.

        Raises
        ------
        ValueError
            If they do not.
        """
        result = self.folder / f"{data.name}-{kind}.npz"
        command = [python, "-m", "bench.one_run", kind, data, self.small, result, *([cache] if cache else [])]
        search = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        done = subprocess.run(
            [str(part) for part in command],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": search},
        )
        run = Run(**json.loads(done.stdout.splitlines()[-1]))
        print(f"  {kind} {data.name}: {run.cpu:.2f} CPU s, {run.wall:.2f} s, {run.peak_mb:.0f} MB", flush=True)
        if same:
            reference = self.folder / f"{data.name}-hand_written.npz"
            if reference.is_file():
                compare(loaded(result), loaded(reference))
        return run

    def alternate(self, kinds: Sequence[str], data: Path, times: int, *, same: bool = True) -> dict[str, list[Run]]:
        """Runs of every kind in turn, so that a drift of the machine meets all of them."""
        runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
        for _ in range(times):
            for kind in kinds:
                runs[kind].append(self.run(kind, data, same=same))
        return runs


def loaded(path: Path) -> dict[str, np.ndarray]:
    """The numbers that a run left; read at once, because the next run writes them anew."""
    with np.load(path) as numbers:
        return dict(numbers)


def compare(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> int:
    """How many columns agree to nine digits.

    Raises
    ------
    ValueError
        If one does not.
    """
    shared = sorted(set(ours) & set(theirs))
    for name in shared:
        size = float(np.abs(theirs[name]).max())
        if not np.allclose(ours[name], theirs[name], rtol=TOLERANCE, atol=TOLERANCE * size):
            worst = float(np.abs(ours[name] - theirs[name]).max())
            raise ValueError(f"{name} differs by {worst:.3g} of {size:.3g}; a comparison of other numbers is none.")
    return len(shared)


def duckdb_figures(bench: Bench, sizes: Sequence[int]) -> Iterator[Figure]:
    """Against hand-written SQL on the same DuckDB, per size; memory and slope come along."""
    medians = {}
    for rows in sizes:
        times = 3 if rows >= LARGEST else 5
        runs = bench.alternate(["hand_written", "ours"], bench.data(rows), times)
        ratio = cpu_ratio(runs["ours"], runs["hand_written"])
        medians[rows] = statistics.median(run.cpu for run in runs["ours"])
        yield Figure(
            f"cells_cpu_ratio_to_duckdb_{short(rows)}",
            ratio,
            "ratio",
            f"the fastest hand-written SQL with the same numbers and checks on DuckDB {version('duckdb')}, {short(rows)} rows, CPU, median of {times} pairs",
            kept=rows >= 10_000_000,
        )
        yield Figure(
            f"cells_cpu_seconds_{short(rows)}",
            medians[rows],
            "seconds",
            f"nothing; CPU of load_cohort, median of {times}",
            kept=rows >= 10_000_000,
        )
    peak = max(run.peak_mb for run in runs["ours"])
    yield Figure(
        f"cells_peak_mb_{short(rows)}", peak, "MB", f"nothing; most of {times} whole processes", kept=rows >= 10_000_000
    )
    high = sizes[-1]
    for name, low in (("cells_scaling_exponent", sizes[0]), ("cells_scaling_exponent_from_10m", 10_000_000)):
        if low in medians and low < high:
            yield Figure(
                named(name, high),
                math.log(medians[high] / medians[low]) / math.log(high / low),
                "exponent",
                f"log-log slope of CPU from {short(low)} to {short(high)} rows",
                kept=high >= LARGEST,
            )


def other_tools_figures(bench: Bench, rows: int) -> Iterator[Figure]:
    """Against tea-tasting and pandas, which give the same statistics."""
    data, times, kept = bench.data(rows), 5, rows >= 10_000_000
    runs = bench.alternate(["ours_by_variant", "tea_tasting", "tea_tasting_alone"], data, times, same=False)
    found = [loaded(bench.folder / f"{data.name}-{kind}.npz") for kind in ("ours_by_variant", "tea_tasting")]
    compare(*found)
    tea = f"tea-tasting {version('tea-tasting')} on DuckDB {version('duckdb')}, rows, means, variances, covariances by variant"
    for name, kind, how in (
        ("", "tea_tasting", "and one more statement for the ranges and counts of values that ours gives too"),
        ("_alone", "tea_tasting_alone", "alone; ours also gives ranges and counts of values"),
    ):
        yield Figure(
            f"cells_cpu_ratio_to_tea_tasting_{short(rows)}{name}",
            cpu_ratio(runs["ours_by_variant"], runs[kind]),
            "ratio",
            f"{tea}, {how}; CPU, median of {times} pairs",
            kept=kept,
        )
    runs = bench.alternate(["ours", "pandas"], data, 5)
    yield Figure(
        f"cells_cpu_speedup_over_pandas_{short(rows)}",
        cpu_ratio(runs["pandas"], runs["ours"]),
        "ratio",
        f"pandas {version('pandas')}: read_parquet and groupby for the same sums by cell, CPU, median of 5 pairs",
        kept=kept,
    )


def many_experiments_figures(bench: Bench, rows: int, *, largest: int) -> Iterator[Figure]:
    """20 experiments on one fact table, against one scan of it."""
    times = 3 if rows >= LARGEST else 5
    runs = bench.alternate(["ours", "ours_of_20"], bench.data(rows), times, same=False)
    total = loaded(bench.folder / f"rows-{rows}-ours_of_20.npz")["n"].sum()
    if total != rows:
        raise ValueError(f"20 experiments have {total:,.0f} units together; the table has {rows:,}.")
    name = "cells_20_experiments_ratio_to_one_scan"
    yield Figure(
        name if rows == largest == LARGEST else f"{name}_{short(rows)}",
        cpu_ratio(runs["ours_of_20"], runs["ours"]),
        "ratio",
        f"the cells of one experiment that has all {short(rows)} rows, CPU, median of {times} pairs",
        kept=rows >= 10_000_000,
    )


def cache_figures(bench: Bench, rows: int) -> Iterator[Figure]:
    """A new day beside 13 that were read before, and nothing new at all."""
    days = bench.folder / "days"
    days.mkdir()
    files = sorted(bench.data(rows).glob("*.parquet"))
    for path in files[:-1]:
        os.link(path, days / path.name)
    kept, cache = bench.folder / "cache", bench.folder / "cache-used"
    bench.run("ours", days, cache=kept, same=False)
    os.link(files[-1], days / files[-1].name)
    pairs, opened = [], []
    for _ in range(3):
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(kept, cache)
        scratch = bench.run("ours", days, same=False)
        whole = loaded(bench.folder / "days-ours.npz")
        compare(whole, loaded(bench.folder / f"{bench.data(rows).name}-hand_written.npz"))
        new_day = bench.run("ours", days, cache=cache, same=False)
        compare(loaded(bench.folder / "days-ours.npz"), whole)
        pairs.append(scratch.wall / new_day.wall)
        opened += [bench.run("ours", days, cache=cache, same=False).wall for _ in range(3)]
        compare(loaded(bench.folder / "days-ours.npz"), whole)
    yield Figure(
        named("cells_new_day_speedup", rows),
        statistics.median(pairs),
        "ratio",
        f"all {DAYS} days of {short(rows)} rows from scratch, wall, median of 3 pairs",
        kept=rows >= LARGEST,
    )
    yield Figure(
        named("cells_cached_open_seconds", rows),
        statistics.median(opened),
        "seconds",
        f"nothing; load_cohort with all {DAYS} days of {short(rows)} rows cached, wall after imports, median of {len(opened)}",
        kept=rows >= LARGEST,
    )


def newer_duckdb_figures(bench: Bench, rows: int) -> Iterator[Figure]:
    """Against DuckDB 2, which expnb does not allow yet, in an environment of its own; nothing where it cannot be installed."""
    try:
        python = newer_duckdb(bench.folder)
        bench.run("hand_written", bench.data(rows), python=python)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"left out: DuckDB {DUCKDB_2} cannot be installed or run here ({error})", flush=True)
        return
    ours, theirs = [], []
    for _ in range(5):
        theirs.append(bench.run("hand_written", bench.data(rows), python=python))
        ours.append(bench.run("ours", bench.data(rows)))
    kept = rows >= 10_000_000
    yield Figure(
        f"cells_cpu_ratio_to_duckdb_{short(rows)}_duckdb2",
        cpu_ratio(ours, theirs),
        "ratio",
        f"the same hand-written SQL on DuckDB {DUCKDB_2}, ours on {version('duckdb')}, CPU, median of 5 pairs",
        kept=kept,
    )
    try:
        pairs = [
            (bench.run("pandas", bench.data(rows)), bench.run("ours", bench.data(rows), python=python))
            for _ in range(3)
        ]
    except subprocess.CalledProcessError as error:
        print(f"left out: ours does not run on DuckDB {DUCKDB_2} ({error})", flush=True)
        return
    yield Figure(
        f"cells_cpu_speedup_over_pandas_{short(rows)}_duckdb2",
        cpu_ratio(*zip(*pairs, strict=True)),
        "ratio",
        f"pandas {version('pandas')}, ours on DuckDB {DUCKDB_2}, which expnb does not allow yet; CPU, median of 3 pairs",
        kept=kept,
    )


def newer_duckdb(folder: Path) -> str:
    """The Python of a temporary environment with DuckDB 2 and what `load_cohort` needs."""
    uv, place = Path(sys.executable).with_name("uv"), folder / "duckdb2"
    names = ("ibis-framework", "numpy", "pandas", "pyarrow", "sqlglot", "scipy", "pydantic", "tzdata")
    wanted = [
        f"{name}[duckdb]=={version(name)}" if name.startswith("ibis") else f"{name}=={version(name)}" for name in names
    ]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, place], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", place / "bin" / "python", f"duckdb=={DUCKDB_2}", *wanted],
        check=True,
    )
    return str(place / "bin" / "python")


def cpu_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """Median over pairs that ran one after the other."""
    return statistics.median(one.cpu / other.cpu for one, other in zip(ours, theirs, strict=True))


def short(rows: int) -> str:
    """A number of rows in a name: 10m."""
    return f"{rows // 1_000_000}m" if rows % 1_000_000 == 0 else str(rows)


def named(name: str, rows: int) -> str:
    """The name of a figure that is promised for 100 million rows; another size says so."""
    return name if rows == LARGEST else f"{name}_{short(rows)}"
