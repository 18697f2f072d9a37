"""Cells of every file that was read, kept beside the workspace: a file that did not change is not read again.

The cells of one file are one parquet file, written under a temporary name and then renamed, so that two notebooks can share a folder. Its name says what it was made from; one more file
holds the cells of all files together, and is written only when the units of all of them have been checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from expnb.cohorts.reduce import Reduced, Sample
from expnb.cohorts.sources import Source
from expnb.cohorts.units import broken_columns, segments_of
from expnb.errors import EmptyCohortError
from expnb.spec.canonical import digest
from expnb.spec.experiment import Experiment
from expnb.stats.bins import Bins
from expnb.stats.cells import Cells, Logs, MetricCells, join
from expnb.stats.joint import Joint

if TYPE_CHECKING:
    import pyarrow as pa

# Changes whenever cells mean something else than before.
VERSION = 4
DIGITS = 12
# Cells that are not used are left for a week to those who work with another version of the experiment.
KEEP_UNUSED_SECONDS = 7 * 86_400


@dataclass(frozen=True, slots=True)
class File:
    """One file of the source, and what identifies its content.

    Parameters
    ----------
    path : str
    place : str
        Hash of the path.
    content : str
        Hash of size, place on the disk and times of the last change; one of them can be set back, the other cannot.
    """

    path: str
    place: str
    content: str


class Cache:
    """Cells of the files of one experiment, in a folder of its own.

    Parameters
    ----------
    folder : Path
        Of all experiments.
    experiment : Experiment
    as_of : datetime or None
        Up to when the data are complete, where a metric has a window.
    exact : bool
        Whether every unit is counted; files that were checked by a sample alone are then checked again.
    """

    def __init__(self, folder: Path, experiment: Experiment, as_of: datetime | None, *, exact: bool) -> None:
        self.folder = folder / experiment.name
        self.experiment = experiment
        self.as_of = as_of
        self.exact = exact
        self.spec = _spec(experiment)

    def unchanged(self, paths: Sequence[str], source: str) -> Reduced | None:
        """Cells of all files, where all of them have been read and checked before; nothing but their dates is looked at."""
        known = _read(self._whole([_file(path) for path in paths]), self.experiment)
        if known is None:
            return None
        return replace(known[0], cells=replace(known[0].cells, source=source), note=_said(len(paths), 0, ""))

    def reduced(
        self,
        source: Source,
        one: Callable[[str], Reduced],
        check: Callable[[Reduced], None],
        outside: Callable[[], int],
    ) -> Reduced:
        """Cells of all files; those that are known and unchanged are not read.

        Parameters
        ----------
        one : callable
            Cells of one file, from its path.
        check : callable
            Refuses units that occur twice, in all files together.
        outside : callable
            How many rows of all files are dated outside of the agreed days.

        Raises
        ------
        EmptyCohortError
            If no file holds a row.
        """
        known = self.unchanged(source.files, source.name)
        if known is not None:
            return known
        files = [_file(path) for path in source.files]
        whole = self._whole(files)
        parts: list[Reduced] = []
        fresh, why = 0, ""
        for file in files:
            found = self._known(file)
            if found is None:
                why = why or self._why(file)
                fresh += 1
                try:
                    found = one(file.path)
                except EmptyCohortError:
                    continue
                self._keep(file, found)
            parts.append(found)
        if not parts:
            raise EmptyCohortError(source.name)
        together = _together(parts, source.name)
        check(together)
        together = replace(together, outside=outside())
        for old in self.folder.glob(f"all.*.{self.spec}.parquet"):
            old.unlink(missing_ok=True)
        _write(whole, replace(together, sample=None), self.as_of)
        self._drop_unused([whole, *(self._name(file) for file in files)])
        return replace(together, note=_said(len(files), fresh, why))

    def _drop_unused(self, used: Sequence[Path]) -> None:
        """Delete cells that this reading did not use and that are a week older than its own: of files that are gone, of an experiment that read other columns, and drafts that were never finished."""
        kept = {path.stem for path in used}
        limit = used[0].stat().st_mtime - KEEP_UNUSED_SECONDS
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process was faster
                if path.is_file() and path.stem not in kept and path.stat().st_mtime < limit:
                    path.unlink()

    def _whole(self, files: Sequence[File]) -> Path:
        marks = [*(file.place + file.content for file in files), self.as_of.isoformat() if self.as_of else ""]
        return self.folder / f"all.{_short('|'.join([*marks, 'exact' if self.exact else '']))}.{self.spec}.parquet"

    def _name(self, file: File) -> Path:
        return self.folder / f"{file.place}.{file.content}.{self.spec}.parquet"

    def _known(self, file: File) -> Reduced | None:
        found = _read(self._name(file), self.experiment)
        if found is None:
            return None
        reduced, until = found
        if until == self.as_of:
            return reduced
        open_windows = any(column.n_immature.any() for column in reduced.cells.metrics.values())
        later = until is not None and self.as_of is not None and until < self.as_of
        return reduced if later and not open_windows else None

    def _why(self, file: File) -> str:
        """Why a file that was read before is read again; empty for a new one."""
        names = [path.name.split(".") for path in self.folder.glob(f"{file.place}.*.parquet")]
        if self._name(file).is_file() and _read(self._name(file), self.experiment) is None:
            return f" The cells of {Path(file.path).name} could not be read back."
        if self._name(file).is_file():
            return " Windows that were open have moved on."
        if any(spec == self.spec for _, _, spec, _ in names):
            return f" {Path(file.path).name} changed since it was read."
        return (
            " The experiment reads other columns than before, or this version of expnb counts otherwise."
            if names
            else ""
        )

    def _keep(self, file: File, reduced: Reduced) -> None:
        stale = list(self.folder.glob(f"{file.place}.*.{self.spec}.parquet"))
        _write(self._name(file), reduced, self.as_of)
        for path in stale:
            if path != self._name(file):
                path.unlink(missing_ok=True)
                path.with_suffix(".units").unlink(missing_ok=True)


def _spec(experiment: Experiment) -> str:
    """Of everything that decides what a cell holds; how effects are judged does not, nor does where a cap lies."""
    judged = {
        "role": "info",
        "direction": "increase",
        "rope": None,
        "rope_abs": None,
        "margin": None,
        "margin_abs": None,
    }
    shown = {"owner": "", "version": "", "description": "", "certified": False, "unit": ""}
    metrics = [
        replace(metric, **judged, **shown, cap=None if metric.cap is None else 0.5)  # type: ignore[arg-type]  # names of its own fields
        for metric in experiment.metrics
    ]
    names = (
        "name",
        "unit",
        "variant",
        "segments",
        "trigger",
        "exposed_at",
        "start",
        "end",
        "shape",
        "experiment_column",
        "expect",
        "timezone",
    )
    return _short(
        digest(
            {"version": VERSION, "engine": version("duckdb"), "metrics": metrics}
            | {name: getattr(experiment, name) for name in names}
        )
    )


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:DIGITS]


def _file(path: str) -> File:
    state = Path(path).stat()
    return File(
        path,
        _short(str(Path(path).resolve())),
        _short(f"{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}|{state.st_ino}"),
    )


def _together(parts: Sequence[Reduced], source: str) -> Reduced:
    cells = replace(join([part.cells for part in parts]), source=source)
    samples = [part.sample for part in parts if part.sample is not None]
    odd: dict[str, int] = {}
    for part in parts:
        for name, n in part.odd.items():
            odd[name] = odd.get(name, 0) + n
    return Reduced(
        cells,
        np.full(cells.n.size, ""),
        Sample(*(np.concatenate([getattr(sample, name) for sample in samples]) for name in Sample.__slots__))
        if samples
        else None,
        np.zeros(cells.n.size, dtype=np.int64),
        odd,
    )


def _said(files: int, fresh: int, why: str) -> str:
    """What was not read again, and why something was; nothing where all is new."""
    if fresh == files:
        return why.strip()
    if not fresh:
        return "The data did not change since they were read; the cells come from the cache."
    return f"{files - fresh:,} of {files:,} files did not change since they were read; {fresh:,} were read now.{why}"


# --- cells as parquet -------------------------------------------------------------------------


def _write(path: Path, reduced: Reduced, as_of: datetime | None) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only when rows are needed

    cells = reduced.cells
    size = cells.n.size
    columns: dict[str, object] = {
        "variant": cells.variant,
        "day": pa.array(cells.day.astype("datetime64[D]")),
        "n": cells.n,
    }
    columns |= {f"segment_{number}": values for number, values in enumerate(cells.segments.values())}
    columns |= {f"broken_{number}": values for number, values in enumerate(cells.broken.values())}
    until = as_of.isoformat() if as_of else None
    facts: dict[str, object] = {"as_of": until, "odd": dict(reduced.odd), "outside": reduced.outside, "metrics": []}
    for number, column in enumerate(cells.metrics.values()):
        told: dict[str, object] = {"q": column.q}
        columns |= {f"m{number}_{name}": values for name, values in _arrays(column).items()}
        for part in ("logs", "denominator", "covariate"):
            inner = getattr(column, part)
            if inner is not None:
                columns |= {f"m{number}_{part}_{name}": values for name, values in _arrays(inner).items()}
                told[part] = True
        if column.bins is not None:
            bins = column.bins.merged()
            starts = np.searchsorted(bins.cell, np.arange(size + 1)).astype(np.int32)
            columns |= {
                f"m{number}_bins_{name}": pa.ListArray.from_arrays(starts, pa.array(getattr(bins, name)))
                for name in ("bin", "n", "s1", "s2")
            }
            told["bins"] = True
        facts["metrics"].append(told)  # type: ignore[attr-defined]  # a list, just above
    if reduced.sample is not None:
        arms = {arm: number for number, arm in enumerate(sorted(set(cells.variant.tolist())))}
        facts["arms"] = list(arms)
        _replace(
            path.with_suffix(".units"),
            pa.table({"unit": reduced.sample.unit, "arm": [arms[arm] for arm in reduced.sample.arm.tolist()]}),
        )
    table = pa.table(columns)
    _replace(path, table.replace_schema_metadata({"expnb": json.dumps(facts)}))


def _replace(path: Path, table: pa.Table) -> None:
    """Write under a name of our own, then rename: a reader sees the old file or the new one, never half of one."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - only when rows are needed

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    pq.write_table(table, draft, compression="zstd")
    draft.replace(path)


def _read(path: Path, experiment: Experiment) -> tuple[Reduced, datetime | None] | None:
    """Cells as they were written, and up to when the data were complete; None where there are none that can be read."""
    import pyarrow as pa  # noqa: PLC0415 - only when rows are needed
    import pyarrow.parquet as pq  # noqa: PLC0415

    if not path.is_file():
        return None
    try:
        rows = pq.ParquetFile(path).read(use_threads=False)
        facts = json.loads(rows.schema.metadata[b"expnb"])
        units = pq.ParquetFile(path.with_suffix(".units")).read(use_threads=False) if "arms" in facts else None
        return _parsed(experiment, rows, facts, units)
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError, AttributeError):
        return None  # torn or foreign: read the source again


def _parsed(
    experiment: Experiment, rows: pa.Table, facts: dict[str, Any], units: pa.Table | None
) -> tuple[Reduced, datetime | None]:
    import pyarrow as pa  # noqa: PLC0415 - only when rows are needed

    columns = {name: rows.column(name).combine_chunks() for name in rows.column_names}
    arrays = {
        name: np.asarray(values.to_numpy(zero_copy_only=False))
        for name, values in columns.items()
        if not pa.types.is_list(values.type)
    }
    size = rows.num_rows
    cells = Cells(
        variant=arrays["variant"].astype(np.str_),
        segments={
            name: arrays[f"segment_{number}"].astype(np.str_) for number, name in enumerate(segments_of(experiment))
        },
        day=arrays["day"].astype("datetime64[D]"),
        n=arrays["n"],
        metrics={
            metric.name: _metric(number, told, arrays, columns, size)
            for number, (metric, told) in enumerate(zip(experiment.metrics, facts["metrics"], strict=True))
        },
        checks=(),
        source="",
        broken={name: arrays[f"broken_{number}"] for number, name in enumerate(broken_columns(experiment))},
        epochs=tuple(epoch.start for epoch in experiment.epochs),
    )
    sample = None
    if units is not None:
        hashes = units.column("unit").to_numpy()
        arms = np.array(facts["arms"], dtype=np.str_)[units.column("arm").to_numpy().astype(np.int64)]
        sample = Sample(hashes, arms, np.full(hashes.size, ""))
    until = datetime.fromisoformat(facts["as_of"]) if facts["as_of"] else None
    none = np.zeros(size, dtype=np.int64)
    return Reduced(cells, np.full(size, ""), sample, none, facts["odd"], outside=facts["outside"]), until


def _metric(
    number: int,
    told: dict[str, float],
    arrays: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]],
    columns: dict[str, pa.Array],
    size: int,
) -> MetricCells:
    def named(part: str, names: Sequence[str]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]:
        return {name: arrays[f"m{number}_{part}{name}"] for name in names}

    plain = [entry.name for entry in fields(MetricCells) if f"m{number}_{entry.name}" in arrays]
    cells = MetricCells(q=told["q"], **named("", plain))  # type: ignore[arg-type]  # names of its own fields

    def joint(part: str) -> Joint | None:
        parts = ("shift", "n_missing", "s1", "s2", "cross", "own")
        return Joint(**named(f"{part}_", parts)) if part in told else None  # type: ignore[arg-type]

    logs = Logs(**named("logs_", ("n", "s1", "s2"))) if "logs" in told else None  # type: ignore[arg-type]
    bins = None
    if "bins" in told:
        lists = {name: columns[f"m{number}_bins_{name}"] for name in ("bin", "n", "s1", "s2")}
        lengths = np.diff(lists["bin"].offsets.to_numpy())
        bins = Bins(
            np.repeat(np.arange(size), lengths),
            *(part.flatten().to_numpy(zero_copy_only=False) for part in lists.values()),
        )
    return replace(cells, logs=logs, bins=bins, denominator=joint("denominator"), covariate=joint("covariate"))


def _arrays(part: object) -> dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]:
    return {
        entry.name: value
        for entry in fields(part)  # type: ignore[arg-type]  # a dataclass
        if isinstance(value := getattr(part, entry.name), np.ndarray)
    }
