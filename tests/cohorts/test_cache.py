"""The cache: the same cells, read once."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.cohorts.test_kinds import experiment_of, metric_of

import expnb as xb
from expnb.cohorts import cohort as cohorts
from expnb.cohorts.cohort import load_cohort
from expnb.errors import UnitError

METRICS = (
    metric_of("revenue", cap=0.95, covariate="x"),
    xb.Metric(name="median", kind="quantile", q=0.5, column="y"),
    xb.Metric(name="rate", kind="ratio", numerator="y", denominator="views"),
    xb.Metric(name="goal", kind="conversion", role="goal", column="yes", rope=0.01),
)


def day_of(number, n=400):
    """One day of units with ids that could be found again."""
    rng = np.random.default_rng(number)
    return pd.DataFrame(
        {
            "user": [f"marker-{number}-{unit}" for unit in range(n)],
            "arm": np.resize(["a", "b"], n),
            "yes": rng.integers(0, 2, n),
            "y": np.where(rng.random(n) < 0.3, rng.lognormal(3, 1, n), 0.0),
            "x": np.where(rng.random(n) < 0.1, np.nan, rng.normal(number, 3, n)),
            "views": rng.poisson(4, n) + 1,
            "city": np.resize(["de", "fr", None], n),
            "seen": pd.Timestamp("2026-03-01") + pd.Timedelta(days=number, hours=12),
        }
    )


@pytest.fixture
def folder(tmp_path):
    """Three files, one a day."""
    for number in range(3):
        write(tmp_path, number, day_of(number))
    return tmp_path


def write(folder, number, frame):
    (folder / "days").mkdir(exist_ok=True)
    frame.to_parquet(folder / "days" / f"day-{number}.parquet")


EXPERIMENT = experiment_of(*METRICS, exposed_at="seen", segments=("city",))


@pytest.fixture
def read(folder, monkeypatch):
    """Load through the cache, and say which files were read for their cells."""
    seen = []
    real = cohorts._of_file

    def watched(experiment, path, as_of):
        seen.append(Path(path).stem)
        return real(experiment, path, as_of)

    monkeypatch.setattr(cohorts, "_of_file", watched)

    def load(experiment=EXPERIMENT, **options):
        seen.clear()
        found = load_cohort(experiment, folder / "days" / "*.parquet", cache=folder / "cache", **options)
        return found, list(seen)

    return load


def note(cohort):
    return cohort.note


def direct(folder, experiment=EXPERIMENT, **options):
    return load_cohort(experiment, folder / "days" / "*.parquet", **options)


def same(first, second):
    """Everything that is said of an effect is the same."""
    assert first.cells.fingerprint == second.cells.fingerprint
    for name in ("m", "median", "rate", "goal"):
        for arm in ("a", "b"):
            one, other = first.cells.moments(name, arm), second.cells.moments(name, arm)
            assert one.mean == pytest.approx(other.mean, rel=1e-11)
            assert one.m2 == pytest.approx(other.m2, rel=1e-9)
    assert first.cells.metrics["m"].cap == second.cells.metrics["m"].cap
    for arm in ("a", "b"):
        one, other = first.cells.adjusted("m")[arm], second.cells.adjusted("m")[arm]
        assert (one.mean, one.m2) == (pytest.approx(other.mean, rel=1e-10), pytest.approx(other.m2, rel=1e-8))
    assert [check.sentence for check in first.checks] == [check.sentence for check in second.checks]


def test_cells_are_the_same_with_and_without_a_cache(read, folder):
    for expected in (["day-0", "day-1", "day-2"], []):
        cohort, files = read()
        assert files == expected
        same(cohort, direct(folder))


def test_one_new_file_reads_one_file(read, folder):
    read()
    write(folder, 3, day_of(3))
    cohort, files = read()
    assert files == ["day-3"]
    assert "3 of 4 files did not change" in note(cohort)
    same(cohort, direct(folder))


def test_a_changed_file_is_read_again_and_named(read, folder):
    read()
    write(folder, 1, day_of(1).assign(y=1.0))
    cohort, files = read()
    assert files == ["day-1"]
    assert "day-1.parquet changed since it was read" in note(cohort)
    same(cohort, direct(folder))
    kept = {path.name.split(".")[0] for path in (folder / "cache").rglob("*.parquet")} - {"all"}
    left = {path.name.split(".")[0] for path in (folder / "cache").rglob("*.units")}
    assert len(kept) == 3
    assert left <= kept
    assert len(list((folder / "cache").rglob("*.units"))) == 3


def test_a_file_of_the_same_size_and_date_is_another_one(read, folder):
    read()
    path = folder / "days" / "day-1.parquet"
    before = path.stat()
    write(folder, 1, day_of(1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read()[1] == ["day-1"]


def test_a_file_that_is_gone_is_left_out(read, folder):
    read()
    (folder / "days" / "day-1.parquet").unlink()
    cohort, files = read()
    assert files == []
    same(cohort, direct(folder))


def test_how_a_metric_is_judged_or_capped_reads_nothing_again(read, folder):
    read()
    judged = {"role": "guardrail", "margin": 0.1, "direction": "decrease", "description": "money", "unit": "EUR"}
    for change in ({"cap": 0.5}, {"cap": 20.0}, judged):
        experiment = replace(EXPERIMENT, metrics=(replace(METRICS[0], **change), *METRICS[1:]))
        cohort, files = read(experiment)
        assert files == []
        same(cohort, direct(folder, experiment))


def test_another_question_is_read_anew(read, folder):
    read()
    changes = (
        {"segments": ()},
        {"metrics": (replace(METRICS[0], covariate="views"), *METRICS[1:])},
        {"metrics": (METRICS[0], replace(METRICS[1], q=0.9), *METRICS[2:])},
        {"timezone": "Asia/Tokyo"},
        {"start": date(2026, 3, 2), "end": date(2026, 3, 3)},
    )
    for change in changes:
        experiment = replace(EXPERIMENT, **change)
        cohort, files = read(experiment)
        assert len(files) == 3
        assert "reads other columns than before" in note(cohort)
        same(cohort, direct(folder, experiment))


def age(path, days):
    """As if a file had been written some days ago."""
    state = path.stat()
    os.utime(path, (state.st_atime, state.st_mtime - days * 86_400))


def test_cells_that_nobody_used_for_a_week_are_deleted(read, folder):
    read()
    cache = folder / "cache" / EXPERIMENT.name
    old = set(cache.iterdir())
    assert len(old) == 7  # three files of cells, three of units, one of all
    other = replace(EXPERIMENT, segments=())
    read(other)
    assert old < set(cache.iterdir())  # another version of the experiment may still be in use
    own = set(cache.iterdir()) - old
    torn = cache / ".torn.parquet.0"
    torn.write_bytes(b"")
    for path in (*old, torn):
        age(path, 8)
    write(folder, 3, day_of(3))
    cohort, files = read(other)
    assert files == ["day-3"]
    left = set(cache.iterdir())
    assert not left & {*old, torn}
    assert {path for path in own if not path.name.startswith("all.")} < left
    same(cohort, direct(folder, other))


def test_cells_of_files_that_are_gone_are_deleted_after_a_week_and_known_ones_stay(read, folder):
    read()
    (folder / "days" / "day-1.parquet").unlink()
    for path in (folder / "cache").rglob("*"):
        if path.is_file():
            age(path, 30)
    write(folder, 3, day_of(3))
    cohort, files = read()
    assert files == ["day-3"]
    assert len(list((folder / "cache").rglob("*.units"))) == 3
    same(cohort, direct(folder))
    assert read()[1] == []


def test_rows_outside_of_the_agreed_days_are_counted_also_from_the_cache(read, folder):
    experiment = replace(EXPERIMENT, start=date(2026, 3, 2), end=date(2026, 3, 3))
    for _ in range(2):
        cohort, _ = read(experiment)
        check = next(check for check in cohort.checks if check.name == "outside")
        assert check.sentence == "400 units are dated outside of 2026-03-02 to 2026-03-03 and were left out."
        same(cohort, direct(folder, experiment))


TORN = [("all", "cut"), *(("one by one", spoil) for spoil in ("cut", "empty", "foreign", "other table", "no units"))]


@pytest.mark.parametrize(("which", "spoil"), TORN)
def test_a_torn_file_is_read_again(spoil, which, read, folder):
    read()
    files = [path for path in (folder / "cache").rglob("*.parquet") if path.name.startswith("all.") == (which == "all")]
    assert len(files) == (1 if which == "all" else 3)
    for path in files:
        if spoil == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif spoil == "empty":
            path.write_bytes(b"")
        elif spoil == "foreign":
            pd.DataFrame({"x": [1]}).to_parquet(path)
        elif spoil == "other table":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(
                pa.table({"x": [1]}).replace_schema_metadata({"expnb": '{"as_of": null, "metrics": []}'}), path
            )
        else:
            path.with_suffix(".units").unlink(missing_ok=True)
    if which != "all":
        for path in (folder / "cache").rglob("all.*"):
            path.unlink()
    cohort, files = read()
    assert len(files) == (0 if which == "all" else 3)
    if files:
        assert "could not be read back" in note(cohort)
    same(cohort, direct(folder))


def test_no_id_stands_in_any_cache_file(read, folder):
    read()
    files = [path for path in (folder / "cache").rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        assert b"marker" not in path.read_bytes()
        assert "marker" not in pd.read_parquet(path).to_csv()
    assert b"marker" in (folder / "days" / "day-0.parquet").read_bytes()


def test_a_unit_that_occurs_in_a_new_and_in_a_known_file_is_found(read, folder):
    read()
    write(folder, 3, pd.concat([day_of(3), day_of(0).head(5)]))
    for _ in range(2):
        with pytest.raises(UnitError, match="5 units of column 'user' occur more than once"):
            read()
    write(folder, 3, day_of(3))
    same(read()[0], direct(folder))


def test_counting_every_unit_is_not_skipped_because_a_sample_was_looked_at(read, monkeypatch):
    asked = []
    real = cohorts.check_units
    monkeypatch.setattr(cohorts, "check_units", lambda *a, exact: (asked.append(exact), real(*a, exact=exact))[1])
    read()
    read()
    read(exact_units=True)
    read(exact_units=True)
    assert asked == [False, True]


WINDOWED = replace(
    EXPERIMENT, metrics=(*METRICS, xb.Metric(name="kept", kind="retention", column="yes", from_days=1, window_days=2))
)


def test_time_that_passes_closes_windows_and_reads_only_files_that_had_open_ones(read, folder):
    when = [datetime(2026, 3, day, 12, tzinfo=UTC) for day in (3, 4, 9, 10)]
    cohort, files = read(WINDOWED, as_of=when[0])
    assert len(files) == 3
    assert cohort.cells.metrics["kept"].n_immature.sum() == 800
    cohort, files = read(WINDOWED, as_of=when[1])
    assert files == ["day-1", "day-2"]
    assert "Windows that were open have moved on" in note(cohort)
    assert cohort.cells.metrics["kept"].n_immature.sum() == 400
    same(cohort, direct(folder, WINDOWED, as_of=when[1]))
    assert read(WINDOWED, as_of=when[2])[1] == ["day-2"]
    assert read(WINDOWED, as_of=when[3])[1] == []
    cohort, files = read(WINDOWED, as_of=when[0])
    assert files == ["day-1", "day-2"]  # in the first day no window was open then, nor is one now
    assert cohort.cells.metrics["kept"].n_immature.sum() == 800


PROCESS = """
import sys
from pathlib import Path
from tests.cohorts.test_cache import EXPERIMENT
from expnb.cohorts.cohort import load_cohort
folder = Path(sys.argv[1])
print(load_cohort(EXPERIMENT, folder / "days" / "*.parquet", cache=folder / "cache").cells.fingerprint)
"""


def test_two_processes_at_once_read_the_same(folder):
    wanted = direct(folder).cells.fingerprint
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]
    assert [one.communicate(timeout=120)[0].strip() for one in both] == [wanted, wanted]
    assert list((folder / "cache").rglob(".*")) == []
