"""Cohorts of any size for the benchmarks: one row per unit, 14 day files, the same bytes on every run."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

DAYS = 14
EXPERIMENTS = tuple(f"experiment_{number:02d}" for number in range(20))
VARIANTS = ("control", "treat_a", "treat_b")
SEGMENTS = tuple(f"segment_{number}" for number in range(8))
COUNTRIES = tuple(f"country_{number:02d}" for number in range(20))
FIRST_DAY = np.datetime64("2026-01-01T00:00:00", "us")
MICROSECONDS = 86_400_000_000  # of a day
CHUNK = 500_000  # rows of a row group, and what a process holds at a time
SEED = 7
LIFT = np.array([0.0, 0.004, 0.010])


def write_cohort(folder: Path, rows: int, *, days: int = DAYS) -> Path:
    """The folder with one parquet file per day of exposure; `rows` are spread evenly over the days.

    Parameters
    ----------
    folder : Path
        Made when it is not there; a temporary one, since 100 million rows take a gigabyte.
    rows : int
        Units in all files together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(folder, rows, day, days) for day in range(days)]
    if rows < CHUNK:
        for task in tasks:
            _write_day(task)
    else:
        with ProcessPoolExecutor() as pool:
            list(pool.map(_write_day, tasks))
    return folder


def _write_day(task: tuple[Path, int, int, int]) -> None:
    import pyarrow.parquet as pq

    folder, rows, day, days = task
    low, high = rows * day // days, rows * (day + 1) // days
    random = np.random.default_rng([SEED, rows, day])
    writer = None
    for first in range(low, high, CHUNK):
        table = _units(random, first, min(CHUNK, high - first), day)
        writer = writer or pq.ParquetWriter(
            folder / f"day_{day:02d}.parquet",
            table.schema,
            compression="zstd",
            use_dictionary=["experiment", "variant", "segment", "country", "converted", "sessions"],
        )
        writer.write_table(table)
    if writer:
        writer.close()


def _units(random: np.random.Generator, first: int, n: int, day: int) -> pa.Table:
    """Rows of one chunk. What a unit is follows from its id alone; what it does is random."""
    import pyarrow as pa

    unit = np.arange(first, first + n, dtype=np.uint64)
    code = _mixed(unit)
    variant = (code % np.uint64(3)).astype(np.int8)
    segment = ((code >> np.uint64(8)) % np.uint64(8)).astype(np.int8)
    country = np.minimum(((code >> np.uint64(16)) % np.uint64(210)).astype(np.int64) // 10, 19).astype(np.int8)
    experiment = ((code >> np.uint64(32)) % np.uint64(len(EXPERIMENTS))).astype(np.int8)
    moment = day * MICROSECONDS + ((code >> np.uint64(24)) % np.uint64(MICROSECONDS)).astype(np.int64)

    liking = random.standard_normal(n, dtype=np.float32)
    earlier = np.where(random.random(n, dtype=np.float32) < 0.30, _rounded(np.exp(2.5 + 0.9 * liking), 2), 0.0)
    chance = 0.05 + 0.01 * segment / 8 + LIFT[variant] + 0.03 * (earlier > 0)
    converted = (random.random(n, dtype=np.float32) < chance).astype(np.int8)
    buyers = np.flatnonzero(converted)
    revenue = np.zeros(n)
    noise = random.standard_normal(buyers.size, dtype=np.float32)
    revenue[buyers] = _rounded(np.exp(3.0 + 0.02 * variant[buyers] + 0.5 * liking[buyers] + 0.8 * noise), 2)
    latency = _rounded(np.exp(5.2 - 0.01 * variant + 0.45 * random.standard_normal(n, dtype=np.float32)), 1)
    sessions = random.poisson(2.2 + 0.05 * variant).astype(np.int32)

    def names(codes: npt.NDArray[np.int8], words: tuple[str, ...]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(words))

    return pa.table(
        {
            "user_id": unit.astype(np.int64),
            "experiment": names(experiment, EXPERIMENTS),
            "variant": names(variant, VARIANTS),
            "exposure_ts": pa.array(FIRST_DAY + np.sort(moment).astype("timedelta64[us]")),
            "segment": names(segment, SEGMENTS),
            "country": names(country, COUNTRIES),
            "converted": converted,
            "revenue": revenue,
            "sessions": sessions,
            "latency_ms": latency,
            "pre_revenue": earlier,
        }
    )


def _mixed(unit: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64 [1]_.

    References
    ----------
    .. [1] Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators.
    """
    code = unit + np.uint64(0x9E3779B97F4A7C15)
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return code ^ (code >> np.uint64(31))


def _rounded(values: npt.NDArray[np.floating], digits: int) -> npt.NDArray[np.float64]:
    return np.round(values.astype(np.float64), digits)
